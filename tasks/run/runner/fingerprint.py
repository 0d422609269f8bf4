"""What kind of machine this is: whatever can explain that a test or a figure comes out differently elsewhere."""

from __future__ import annotations

import glob
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from typing import Any, Dict, List, Set

from . import accelerators
from .records import Json

ISA_FLAGS = (
    "sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni", "avx512_bf16",
    "avx512_fp16", "avx_vnni", "amx_tile", "amx_bf16", "amx_int8", "amx_fp16",
    "asimd", "asimddp", "asimdhp", "bf16", "i8mm", "sve", "sve2", "sme", "vsx", "v",
)  # fmt: skip
TOOLS = (
    "c++",
    "cc",
    "g++",
    "gcc",
    "clang++",
    "cmake",
    "ninja",
    "make",
    "git",
    "nvcc",
    "hipcc",
    "icpx",
    "docker",
    "podman",
)


def fingerprint() -> Json:
    """Processor, memory, system, interpreter, driver. What cannot be found out is None."""
    info = _read("/proc/cpuinfo")
    return {
        "cpu": {
            "model": _field(info, "model name") or _field(info, "Model") or platform.processor() or None,
            "vendor": _field(info, "vendor_id") or _field(info, "CPU implementer"),
            "stepping": _field(info, "stepping"),
            "microcode": _field(info, "microcode"),
            "arch": platform.machine(),
            "isa": isa(info),
            "hypervisor": "hypervisor" in _flags(info),
            "physical_cores": _physical(info),
            "logical_cores": os.cpu_count(),
            "usable_cores": cores(),
            "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip() or None,
        },
        "memory_bytes": _memory(),
        "os": _os_release(),
        "kernel": platform.release(),
        "libc": libc(),
        "python": {"version": platform.python_version(), "implementation": platform.python_implementation()},
        "driver": accelerators.driver(),
    }


def runtime() -> Json:
    """What builds may ask of a host: arch, libc, interpreters by tag, tools that are found."""
    return {
        "arch": platform.machine(),
        "libc": libc(),
        "python": interpreters(),
        "toolchain": [tool for tool in TOOLS if shutil.which(tool)] + _headers(),
    }


def _headers() -> List[str]:
    """`Python.h`, where what is compiled at run time (Inductor's kernels) finds it."""
    header = "Python.h"
    return [header] if os.path.exists(os.path.join(sysconfig.get_paths()["include"], header)) else []


def cores() -> int:
    """Cores that we may use, which may be fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def libc() -> str:
    """`glibc 2.36`, as builds state what they need."""
    name, version = platform.libc_ver()
    return (f"{name} {version}").strip()


def isa(info: str) -> List[str]:
    """The instruction sets that make a difference to numerics or speed."""
    flags = _flags(info)
    return [flag for flag in ISA_FLAGS if flag in flags]


def interpreters() -> Dict[str, str]:
    """Interpreters of this host by tag (`cp311`), 3.9 and newer.

    Of a virtual environment the one behind it: units must not see what is installed for us. Scripts on the path that
    choose an interpreter (pyenv's) are passed over for what they would choose from.
    """
    names = ["python3"] + [f"python3.{minor}" for minor in range(9, 20)]
    programs = [sys.executable] + [path for path in map(shutil.which, names) if path]
    programs += glob.glob(os.path.expanduser("~/.pyenv/versions/3.*/bin/python3"))
    found: Dict[str, str] = {}
    for program in dict.fromkeys(programs):
        if not _is_script(program):
            tag, path = _ask(program)
            if tag:
                found.setdefault(tag, path)
    return found


def _is_script(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(2) == b"#!"
    except OSError:
        return True


def _ask(program: str) -> tuple[str, str]:
    code = (
        "import sys; print('cp%d%d' % sys.version_info[:2]); print(getattr(sys, '_base_executable', sys.executable));"
        "sys.exit(sys.version_info < (3, 9))"
    )
    try:
        told = subprocess.run([program, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=20, check=True)
        tag, path = told.stdout.split("\n")[:2]
    except (OSError, subprocess.SubprocessError, ValueError):
        return "", ""
    return tag, path


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _field(info: str, name: str) -> Any:
    found = re.search(rf"^{re.escape(name)}\s*:\s*(.+)$", info, flags=re.MULTILINE)
    return found.group(1).strip() if found else None


def _flags(info: str) -> Set[str]:
    return set(str(_field(info, "flags") or _field(info, "Features") or _field(info, "isa") or "").split())


def _physical(info: str) -> Any:
    packages = re.findall(r"^physical id\s*:\s*(\d+)", info, flags=re.MULTILINE)
    inner = re.findall(r"^core id\s*:\s*(\d+)", info, flags=re.MULTILINE)
    return len(set(zip(packages, inner))) or None


def _memory() -> Any:
    found = re.search(r"^MemTotal:\s+(\d+) kB", _read("/proc/meminfo"), flags=re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None


def _os_release() -> Json:
    text = _read("/etc/os-release")
    pairs = dict(re.findall(r'^(ID|VERSION_ID|PRETTY_NAME)="?([^"\n]*)"?$', text, flags=re.MULTILINE))
    return {"id": pairs.get("ID"), "version": pairs.get("VERSION_ID"), "name": pairs.get("PRETTY_NAME")}

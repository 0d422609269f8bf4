"""Accelerators: how each class is found on a host, shown to a unit, and what a unit needs beside its devices.

One row per class. `found` lists what a host has; the parsers take the tools' own text, so that they can be tested
on samples from machines that we do not have.
"""

from __future__ import annotations

import glob
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

Device = Dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """A class of accelerators. `{index}` in `nodes` stands for the device's number, `{render}` for its DRM minor.

    `variables` show the chosen devices by the host's numbers. `inner_variables` apply after those have hidden the
    rest, so they count from zero.
    """

    name: str
    variables: Tuple[str, ...]
    nodes: Tuple[str, ...]
    detect: Callable[[], List[Device]]
    shared_nodes: Tuple[str, ...] = ()
    system: Tuple[str, ...] = ()
    inner_variables: Tuple[str, ...] = ()


def visibility(name: str, devices: Sequence[int]) -> Dict[str, str]:
    """The variables that show a process these devices and no other."""
    kind = KINDS.get(name)
    if kind is None:
        return {}
    env = {variable: ",".join(str(index) for index in devices) for variable in kind.variables}
    env.update({variable: ",".join(str(nth) for nth in range(len(devices))) for variable in kind.inner_variables})
    return env


def nodes(name: str, devices: Sequence[int]) -> List[str]:
    """The device files that a process needs for them, of those that this host has."""
    kind = KINDS.get(name)
    if kind is None:
        return []
    wanted = list(kind.shared_nodes)
    wanted += [pattern.format(index=index, render=128 + index) for index in devices for pattern in kind.nodes]
    return [path for pattern in wanted for path in sorted(glob.glob(pattern))]


def system_paths(name: str) -> List[str]:
    """Read-only folders that the class's libraries look into, of those that this host has."""
    kind = KINDS.get(name)
    return [path for pattern in (kind.system if kind else ()) for path in sorted(glob.glob(pattern))]


def found(cores: int) -> List[Dict[str, Any]]:
    """Every class that this host has, with its devices; the processor itself is the first."""
    classes: List[Dict[str, Any]] = [{"class": "cpu", "count": cores}]
    for kind in KINDS.values():
        devices = kind.detect()
        if devices:
            classes.append({"class": kind.name, "count": len(devices), "devices": devices})
    return classes


def _ask(*argv: str) -> str:
    """A tool's output, empty where there is no such tool or it fails (a driver that does not load is no device)."""
    program = shutil.which(argv[0])
    if program is None:
        return ""
    try:
        told = subprocess.run([program, *argv[1:]], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return told.stdout if told.returncode == 0 else ""


def parse_nvidia_smi_list(text: str) -> List[Device]:
    """`nvidia-smi -L`. With MIG on, the instances are named beside their card."""
    devices: List[Device] = []
    for line in text.splitlines():
        card = re.match(r"GPU (\d+): (.+?) \(UUID: ([^)]+)\)", line)
        part = re.match(r"\s+MIG (\S+)\s+Device\s+(\d+): \(UUID: ([^)]+)\)", line)
        if card:
            devices.append({"index": int(card.group(1)), "name": card.group(2), "uuid": card.group(3)})
        elif part and devices:
            devices[-1].setdefault("parts", []).append({"profile": part.group(1), "uuid": part.group(3)})
    return devices


def parse_rocm_smi_json(text: str) -> List[Device]:
    """`rocm-smi --showproductname --json`: `card0`, `card1`, ... (and `system`, which is no card)."""
    try:
        body = json.loads(text)
    except ValueError:
        return []
    devices = []
    for key, card in body.items() if isinstance(body, dict) else ():
        number = re.fullmatch(r"card(\d+)", key)
        if number and isinstance(card, dict):
            name = card.get("Card series") or card.get("Card Series") or card.get("Card model") or card.get("Device ID")
            devices.append({"index": int(number.group(1)), "name": str(name or "AMD GPU")})
    return sorted(devices, key=lambda device: int(device["index"]))


def parse_amd_smi_list(text: str) -> List[Device]:
    """`amd-smi list`: a `GPU: N` line for each, its BDF below."""
    devices: List[Device] = []
    for line in text.splitlines():
        card = re.match(r"GPU: (\d+)\s*$", line)
        place = re.match(r"\s+BDF: (\S+)", line)
        if card:
            devices.append({"index": int(card.group(1)), "name": "AMD GPU"})
        elif place and devices:
            devices[-1]["bdf"] = place.group(1)
    return devices


def parse_xpu_smi_discovery(text: str) -> List[Device]:
    """`xpu-smi discovery`: a table with the number in the first column of a device's first row."""
    devices: List[Device] = []
    for line in text.splitlines():
        row = re.match(r"\|\s*(\d*)\s*\|\s*([^:|]+):\s*(.*?)\s*\|", line)
        if not row:
            continue
        if row.group(1):
            devices.append({"index": int(row.group(1)), "name": "Intel GPU"})
        if devices and row.group(2).strip() == "Device Name":
            devices[-1]["name"] = row.group(3)
    return devices


def parse_hl_smi(text: str) -> List[Device]:
    """`hl-smi`: a row per device that begins with its number, name and persistence mode."""
    rows = re.findall(r"^\|\s+(\d+)\s+(HL-\S+)\s+\S+\s+\|\s+([0-9a-fA-F:.]+)", text, flags=re.MULTILINE)
    return [{"index": int(index), "name": name, "bdf": bdf} for index, name, bdf in rows]


def parse_npu_smi_list(text: str) -> List[Device]:
    """`npu-smi info -l`: `NPU ID : N` for each card, `Chip Count : M` below it (two on some cards)."""
    devices: List[Device] = []
    chips = re.findall(r"NPU ID\s*:\s*(\d+)(?:(?!NPU ID).)*?Chip Count\s*:\s*(\d+)", text, flags=re.DOTALL)
    for card, count in chips:
        for _ in range(int(count)):
            devices.append({"index": len(devices), "name": "Ascend NPU", "card": int(card)})
    return devices


def parse_accel_nodes(paths: Sequence[str]) -> List[Device]:
    """TPU chips by their device files."""
    numbers = [re.fullmatch(r"/dev/accel(\d+)", path) for path in paths]
    return [{"index": index, "name": "TPU"} for index in sorted(int(n.group(1)) for n in numbers if n)]


def _rocm() -> List[Device]:
    return parse_rocm_smi_json(_ask("rocm-smi", "--showproductname", "--json")) or parse_amd_smi_list(
        _ask("amd-smi", "list")
    )


PCI = ("/sys/bus/pci", "/sys/devices/pci*", "/sys/dev/char")
KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "cuda",
            ("CUDA_VISIBLE_DEVICES",),
            ("/dev/nvidia{index}",),
            lambda: parse_nvidia_smi_list(_ask("nvidia-smi", "-L")),
            shared_nodes=("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-caps/*"),
            system=PCI,
        ),
        Kind(
            "rocm",
            ("ROCR_VISIBLE_DEVICES",),
            ("/dev/dri/renderD{render}",),
            _rocm,
            shared_nodes=("/dev/kfd",),
            system=(*PCI, "/sys/class/kfd", "/sys/devices/virtual/kfd", "/sys/class/drm", "/opt/rocm*"),
            inner_variables=("HIP_VISIBLE_DEVICES",),
        ),
        Kind(
            "xpu",
            ("ZE_AFFINITY_MASK",),
            ("/dev/dri/card{index}", "/dev/dri/renderD{render}"),
            lambda: parse_xpu_smi_discovery(_ask("xpu-smi", "discovery")),
            system=(*PCI, "/sys/class/drm", "/opt/intel", "/etc/OpenCL"),
        ),
        Kind(
            "hpu",
            ("HABANA_VISIBLE_MODULES",),
            ("/dev/accel/accel{index}", "/dev/accel/accel_controlD{index}"),
            lambda: parse_hl_smi(_ask("hl-smi")),
            system=(*PCI, "/sys/class/accel", "/opt/habanalabs", "/usr/lib/habanalabs"),
        ),
        Kind(
            "npu",
            ("ASCEND_RT_VISIBLE_DEVICES",),
            ("/dev/davinci{index}",),
            lambda: parse_npu_smi_list(_ask("npu-smi", "info", "-l")),
            shared_nodes=("/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc"),
            system=(*PCI, "/usr/local/Ascend", "/etc/ascend_install.info"),
        ),
        Kind(
            "tpu",
            ("TPU_VISIBLE_CHIPS",),
            ("/dev/accel{index}",),
            lambda: parse_accel_nodes(glob.glob("/dev/accel*")),
            system=(*PCI, "/sys/class/accel"),
        ),
    )
}


def driver() -> Optional[str]:
    """The version of the accelerator's driver, where one says it."""
    for path in ("/proc/driver/nvidia/version", "/sys/module/amdgpu/version", "/sys/module/habanalabs/version"):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                text = file.readline().strip()
        except OSError:
            continue
        version = re.search(r"\b(\d+\.\d+[\w.-]*)\b", text)
        return "{} {}".format(path.split("/")[3], version.group(1) if version else text)
    return None

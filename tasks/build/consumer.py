"""The libtorch consumer: a C++ program, compiled and linked against the wheel as a user of libtorch would do it.

    <catalog>/<folder>/CMakeLists.txt   find_package(Torch) out of the wheel; makes the program `consumer`
    <catalog>/<folder>/model.py         exports a model with AOTInductor: model.pt2 and expected.pt

The result is one tree, `consumer.tar.gz`. Unpacked beside `site/` it finds libtorch in `../site/torch/lib`.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

from blocks.canonical import digest_file, digest_json
from blocks.errors import BuildError
from tasks.build.base import Bench, Wheel
from tasks.build.programs import check, clean_environment, run_program
from tasks.build.runtime import glibc_needed, this_arch

CONFIGURE_SECONDS = 300.0
COMPILE_SECONDS = 1800.0
EXPORT_SECONDS = 900.0

BASELINE = {"x86_64": {"TORCHINDUCTOR_CPP_MARCH": "x86-64-v3", "ATEN_CPU_CAPABILITY": "avx2"}}
"""What compiled models may use of the processor, by architecture. Inductor's own default is this very machine's
instruction set: a package made on a machine with AVX-512 would die on one without."""

_TESTS = re.compile(r"torch/test/|torch/bin/(?!torch_shm_manager$)")
"""130 MB of test programs that nothing is compiled against. (torch_shm_manager must be there for `import torch`.)"""


def compiler_version() -> str:
    """The first line of `c++ --version`; part of a build's key. Raises BuildError where there is no compiler."""
    for program in ("c++", "cmake"):
        if shutil.which(program) is None:
            raise BuildError(
                f"There is no `{program}` on this machine, and the build has a C++ consumer.",
                do="Install a C++ compiler and CMake (Debian, Ubuntu: apt-get install g++ cmake).",
            )
    shown = subprocess.run(["c++", "--version"], capture_output=True, text=True, timeout=30, check=False)
    return (shown.stdout or shown.stderr).partition("\n")[0].strip()


TOOLKIT = "/usr/local/cuda"  # where NVIDIA's own packages put it


def check_toolkit(wheels: Sequence[Wheel]) -> None:
    """Refuse a CUDA build of torch where nothing can be linked against it, before gigabytes of it are fetched.

    PyPI's torch for Linux is such a build, and its `find_package(Torch)` wants the CUDA toolkit: the branch of
    Caffe2Config.cmake in the wheel (2.13.0) that ends with "uses CUDA but I cannot find the CUDA libraries".
    """
    cuda = sorted(wheel.name for wheel in wheels if wheel.name.lower().startswith("nvidia-"))
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), TOOLKIT]
    if not cuda or shutil.which("nvcc") or any(home and Path(home, "bin", "nvcc").is_file() for home in homes):
        return
    raise BuildError(
        f"The index that answered gives a CUDA build of torch (it needs {', '.join(cuda[:3])}, ...), and the build's "
        "C++ consumer cannot be linked against it without the CUDA toolkit: there is no `nvcc` on this machine.",
        kept="Nothing was downloaded.",
        do="Make the first of the build's `indexes` reachable (it gives the CPU build), install the CUDA toolkit, or "
        "leave `consumer` out of the build in the catalog.",
    )


def sources_digest(folder: Path) -> str:
    """One digest over all files of the consumer. Raises BuildError when the folder holds no CMakeLists.txt."""
    if not (folder / "CMakeLists.txt").is_file():
        raise BuildError(
            f"The consumer's folder {folder} has no CMakeLists.txt.",
            do="Correct `consumer` in the catalog: it names a folder relative to the catalog.",
        )
    return digest_json({path.relative_to(folder).as_posix(): digest_file(path) for path in _sources(folder)})


STEP_SECONDS = 0.5


def build_consumer(folder: Path, wheels: Sequence[Path], bench: Bench) -> tuple[Path, tuple[int, int] | None]:
    """Compile, link, export and pack; returns the archive and the newest glibc that its binaries ask for.

    Raises BuildError with the first error of CMake, the compiler or Python.
    """
    bench.progress(f"unpacking {len(wheels)} wheels to compile against")
    site, out = bench.folder / "site", bench.folder / "consumer"
    unpack_wheels(wheels, site)
    out.mkdir()
    note = "compiling the libtorch consumer, exporting a model with AOTInductor"
    stop = threading.Event()
    # Two single-threaded programs that know nothing of each other; an error of one ends the other.
    with ThreadPoolExecutor(2) as pool:
        try:
            jobs = [
                pool.submit(_compile, folder, site, out, bench, stop),
                pool.submit(_export, folder, site, out, bench, stop),
            ]
            running = set(jobs)
            while running and not any(job.done() and job.exception() for job in jobs):
                bench.progress(note)  # raises when the build is cancelled, and `stop` then ends both programs
                running = wait(jobs, timeout=STEP_SECONDS, return_when=FIRST_EXCEPTION).not_done
            failed = [job for job in jobs if job.done() and job.exception()]
            for job in failed:
                job.result()
        finally:
            stop.set()
    # Half a gigabyte that is not written to the disk yet would be, at the first fsync of the store. Gone, it is not.
    shutil.rmtree(site)
    archive = bench.folder / "consumer.tar.gz"
    pack(out, archive)
    return archive, glibc_needed(path.read_bytes() for path in out.iterdir())


def unpack_wheels(wheels: Iterable[Path], site: Path) -> None:
    """Unpack wheels side by side, keeping executable bits, without the tests that they carry."""
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.infolist():
                if _TESTS.match(member.filename):
                    continue
                path = archive.extract(member, site)
                mode = member.external_attr >> 16
                if mode & 0o111 and not member.is_dir():
                    os.chmod(path, 0o755)


def pack(folder: Path, archive: Path) -> None:
    """A tar.gz of the folder's files that depends on nothing but their names, contents and executable bits."""
    with (
        archive.open("wb") as file,
        gzip.GzipFile("", "wb", 6, file, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            info = tarfile.TarInfo(path.relative_to(folder).as_posix())
            info.size = path.stat().st_size
            info.mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
            with path.open("rb") as content:
                tar.addfile(info, content)


def _compile(folder: Path, site: Path, out: Path, bench: Bench, stop: threading.Event) -> None:
    env = clean_environment(bench.folder)
    build = bench.folder / "cmake"
    # __FILE__ and debug paths are cut, so that the same sources give the same program in whatever folder.
    cut = f"-ffile-prefix-map={bench.folder}=. -ffile-prefix-map={folder}=consumer"
    configure = ["cmake", "-S", str(folder), "-B", str(build), "-DCMAKE_BUILD_TYPE=Release", f"-DCMAKE_CXX_FLAGS={cut}"]
    configure.append(f"-DCMAKE_PREFIX_PATH={site / 'torch' / 'share' / 'cmake'}")
    finished = run_program(configure, bench, step="configure", env=env, timeout_seconds=CONFIGURE_SECONDS, stop=stop)
    if not stop.is_set():
        check(finished, bench, "CMake's configuration of the libtorch consumer", f"Correct {folder}, then start again.")
        compile_ = ["cmake", "--build", str(build), "--target", "consumer"]
        finished = run_program(compile_, bench, step="compile", env=env, timeout_seconds=COMPILE_SECONDS, stop=stop)
    if not stop.is_set():
        check(finished, bench, "Compiling the libtorch consumer", f"Correct the sources in {folder}, then start again.")
        shutil.copy2(build / "consumer", out / "consumer")


def _export(folder: Path, site: Path, out: Path, bench: Bench, stop: threading.Event) -> None:
    script = folder / "model.py"
    if not script.is_file():
        return
    env = clean_environment(
        bench.folder,
        {
            "PYTHONPATH": str(site),
            "CXX": "c++",
            "TORCHINDUCTOR_CACHE_DIR": str(bench.folder / "inductor"),
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
            **BASELINE.get(this_arch(), {}),
        },
    )
    # The interpreter outside of our environment, without its site-packages: what is imported comes from the wheels.
    python = getattr(sys, "_base_executable", None) or sys.executable
    argv = [python, "-s", "-S", str(script), str(out)]
    finished = run_program(argv, bench, step="export", env=env, timeout_seconds=EXPORT_SECONDS, stop=stop)
    if not stop.is_set():
        check(finished, bench, "Exporting a model with AOTInductor", f"Look at {script} and at the log.")


def _sources(folder: Path) -> list[Path]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(path for path in found if not {"__pycache__", ".git"} & set(path.relative_to(folder).parts))

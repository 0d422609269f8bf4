"""`source`: a ref of a repository, built by the catalog's command in a clean environment.

    {python}   an interpreter of our version in a fresh environment that holds the build requirements and nothing else
               (pip too only when it is one of them)
    {out}      an empty folder for what is made; the outputs may lie there or anywhere in the checkout

The command inherits nothing but the path, proxies and certificates; HOME and TMPDIR are fresh, the language is English,
and SOURCE_DATE_EPOCH is the commit's time.
"""

from __future__ import annotations

import glob
import os
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from blocks.build import Role
from blocks.catalog.models import SourceBuild
from blocks.errors import BuildError
from tasks.build import consumer
from tasks.build.base import Bench, Ingredient, Inputs, Made, Product, Progress, Wheel
from tasks.build.checkout import check_out, commit_time, location, resolve_ref
from tasks.build.indexes import redacted
from tasks.build.programs import check, clean_environment, run_program
from tasks.build.runtime import glibc_needed, python_tag, runtime_of, this_arch
from tasks.build.wheels import all_exact, canonical, fetch, ingredients, resolve

RECIPE = 1
"""Goes into every key: raise it when the same inputs would make something else than before."""

SAY_SECONDS = 0.5
_KINDS: tuple[tuple[str, Role], ...] = ((".whl", "wheel"), (".tar.gz", "tree"))


def inputs(name: str, spec: SourceBuild, bench: Bench) -> Inputs:
    """What goes in: the commit that the ref is now, and the requirements, resolved unless they are exact pins."""
    commit = resolve_ref(spec.repository, spec.ref, bench)
    body = {
        "recipe": RECIPE,
        "name": name,
        "spec": spec.model_dump(mode="json"),
        "python": python_tag(),
        "arch": this_arch(),
        "compiler": consumer.compiler_version() if "c++" in spec.toolchain else "",
        "commit": commit,
    }
    wheels = build_wheels = None
    if not all_exact([*spec.requirements, *spec.build_requirements]):
        wheels = resolve(spec.requirements, spec.indexes, bench)
        build_wheels = resolve(spec.build_requirements, spec.indexes, bench)
        body["wheels"] = sorted([wheel.filename, wheel.sha256] for wheel in (*wheels, *build_wheels))
    return Inputs(body, wheels, build_wheels, commit)


def make(name: str, spec: SourceBuild, inputs: Inputs, bench: Bench) -> Made:
    """Check out, build, collect the outputs, and fetch what is needed beside them at run time."""
    bench.progress(f"fetching {redacted(spec.repository)} at {inputs.commit[:12]}")
    checkout = check_out(spec.repository, inputs.commit, bench)
    python, build_parts = _interpreter(spec, inputs.build_wheels, bench)
    out = bench.folder / "out"
    out.mkdir()
    _run_command(name, spec, checkout, python, out, bench)
    products = _collect(spec.outputs, checkout, out)
    made = [product.path for product in products if product.role == "wheel"]
    wheels, files = _beside(spec, inputs.wheels, made, bench)
    products += tuple(Product("wheel", file) for file in files)
    runtime = runtime_of(
        [product.name for product in products if product.role == "wheel"],
        python=python_tag(),
        toolchain=spec.toolchain,
        glibc=glibc_needed(_libraries(made)),
    )
    commit = Ingredient(
        uri=f"git+{redacted(location(spec.repository, bench.catalog))}@{spec.ref}",
        digest={"gitCommit": inputs.commit},
        name="source",
    )
    version = made[0].name.split("-")[1] if made else inputs.commit[:12]
    return Made(products, runtime, version, (commit, *build_parts, *ingredients(wheels, files)))


def _interpreter(
    spec: SourceBuild, wheels: Sequence[Wheel] | None, bench: Bench
) -> tuple[Path, tuple[Ingredient, ...]]:
    """A fresh environment with the build requirements, so that the command can install nothing into ours."""
    folder = bench.folder / "environment"
    env = clean_environment(bench.folder)
    argv = [sys.executable, "-m", "venv", "--without-pip", str(folder)]
    finished = run_program(argv, bench, step="environment", env=env)
    check(finished, bench, "Making an environment for the build", "Install Python's venv module (python3-venv).")
    python = folder / "bin" / "python"
    if not spec.build_requirements:
        return python, ()
    bench.progress(f"installing {', '.join(spec.build_requirements)}")
    if wheels is None:
        wheels = resolve(spec.build_requirements, spec.indexes, bench)
    files = fetch(wheels, spec.indexes, bench.folder / "build-wheels", bench)
    argv = [sys.executable, "-m", "pip", "--python", str(python), "--isolated", "install", "--no-index", "--no-deps"]
    finished = run_program([*argv, *map(str, files)], bench, step="requirements", env=env)
    check(finished, bench, "Installing the build requirements", "Correct `build_requirements` in the catalog.")
    return python, ingredients(wheels, files)


def _run_command(name: str, spec: SourceBuild, checkout: Path, python: Path, out: Path, bench: Bench) -> None:
    def filled(text: str) -> str:
        return text.replace("{python}", str(python)).replace("{out}", str(out))

    inherited = clean_environment(bench.folder)
    env = {
        **inherited,
        "PATH": f"{python.parent}{os.pathsep}{inherited['PATH']}",
        "VIRTUAL_ENV": str(python.parent.parent),
        "SOURCE_DATE_EPOCH": commit_time(checkout, bench),
        **{key: filled(value) for key, value in spec.env.items()},
    }
    argv = [filled(word) for word in spec.command]
    bench.progress(f"building {name}: {' '.join(spec.command)[:80]}")
    finished = run_program(
        argv,
        bench,
        step="build",
        env=env,
        cwd=checkout,
        timeout_seconds=spec.timeout_minutes * 60,
        each_line=_now_and_then(bench.progress),
    )
    check(
        finished,
        bench,
        f"The build of {name} at {spec.ref}",
        f"Correct the sources or raise `timeout_minutes` ({spec.timeout_minutes:g})."
        if finished.timed_out
        else "Correct the sources, or `command` in the catalog.",
    )


def _collect(outputs: Sequence[str], checkout: Path, out: Path) -> tuple[Product, ...]:
    """The files that the globs name. Raises BuildError for a glob that names none, or a file that is no artifact."""
    products: dict[str, Product] = {}
    for pattern in outputs:
        found = sorted(glob.glob(pattern.replace("{out}", str(out)), root_dir=checkout, recursive=True))
        if not found:
            raise BuildError(
                f"The build ended well and left nothing that fits {pattern!r}.",
                do="Correct `outputs` in the catalog: globs in the checkout, or `{out}/...`.",
            )
        for path in (checkout / name for name in found):
            role = next((role for suffix, role in _KINDS if path.name.endswith(suffix)), None)
            if role is None or not path.is_file():
                raise BuildError(
                    f"{path.name} is no artifact: wheels (.whl) and trees (.tar.gz) are.",
                    do=f"Narrow the glob {pattern!r} in the catalog, or pack the files.",
                )
            if products.setdefault(path.name, Product(role, path)).path.resolve() != path.resolve():
                raise BuildError(f"The build left two files named {path.name}.", do="Narrow `outputs` in the catalog.")
    return tuple(products.values())


def _beside(
    spec: SourceBuild, wheels: Sequence[Wheel] | None, made: Sequence[Path], bench: Bench
) -> tuple[tuple[Wheel, ...], tuple[Path, ...]]:
    """What is needed at run time beside the outputs. A published wheel of what was just built is left out."""
    if wheels is None:
        wheels = resolve(spec.requirements, spec.indexes, bench)
    own = {canonical(path.name.split("-")[0]) for path in made}
    wheels = tuple(wheel for wheel in wheels if canonical(wheel.name) not in own)
    return wheels, fetch(wheels, spec.indexes, bench.folder / "wheels", bench)


def _libraries(wheels: Iterable[Path]) -> Iterator[bytes]:
    """The shared libraries and programs inside wheels that were compiled here: no manylinux tag vouches for them."""
    for path in wheels:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                with archive.open(member) as file:
                    if file.read(4) == b"\x7fELF":
                        yield b"\x7fELF" + file.read()


def _now_and_then(progress: Progress) -> Callable[[str], None]:
    """Passes on a line at most twice a second: the last ones of a build that prints thousands."""
    said = 0.0

    def each_line(line: str) -> None:
        nonlocal said
        if line.strip() and time.monotonic() - said >= SAY_SECONDS:
            said = time.monotonic()
            progress(line.strip()[:120])

    return each_line

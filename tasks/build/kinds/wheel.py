"""`wheel`: a published wheel with what it needs, and a C++ consumer that is compiled and linked against it."""

from __future__ import annotations

from blocks.catalog.models import WheelBuild
from tasks.build import consumer
from tasks.build.base import Bench, Inputs, Made, Product
from tasks.build.runtime import python_tag, runtime_of, this_arch
from tasks.build.wheels import all_exact, fetch, ingredients, resolve

RECIPE = 1
"""Goes into every key: raise it when the same inputs would make something else than before."""


def inputs(name: str, spec: WheelBuild, bench: Bench) -> Inputs:
    """What goes in. Exact pins are known without asking anybody; anything else is resolved now."""
    body = {
        "recipe": RECIPE,
        "name": name,
        "spec": spec.model_dump(mode="json"),
        "python": python_tag(),
        "arch": this_arch(),
    }
    if spec.consumer:
        body["compiler"] = consumer.compiler_version()
        body["consumer"] = consumer.sources_digest(bench.catalog / spec.consumer)
    if all_exact(spec.requirements):
        return Inputs(body)
    bench.progress(f"resolving {', '.join(spec.requirements)}")
    wheels = resolve(spec.requirements, spec.indexes, bench)
    body["wheels"] = sorted([wheel.filename, wheel.sha256] for wheel in wheels)
    return Inputs(body, wheels)


def make(name: str, spec: WheelBuild, inputs: Inputs, bench: Bench) -> Made:
    """Fetch the wheels; compile the consumer against them where there is one."""
    wheels = inputs.wheels
    if wheels is None:
        bench.progress(f"resolving {', '.join(spec.requirements)}")
        wheels = resolve(spec.requirements, spec.indexes, bench)
    if spec.consumer:
        consumer.check_toolkit(wheels)
    files = fetch(wheels, spec.indexes, bench.folder / "wheels", bench)
    products = [Product("wheel", file) for file in files]
    glibc = None
    if spec.consumer:
        archive, glibc = consumer.build_consumer(bench.catalog / spec.consumer, files, bench)
        products.append(Product("tree", archive))
    runtime = runtime_of([file.name for file in files], python=python_tag(), toolchain=spec.toolchain, glibc=glibc)
    return Made(tuple(products), runtime, wheels[0].version if wheels else "", ingredients(wheels, files))

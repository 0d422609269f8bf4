"""Eager against Inductor on one model: the same answer first, then compile time, memory and time, measured in pairs.

    python bench.py --model mlp --out rows.jsonl [--device cuda] [--quick] [--budget SECONDS]
    python bench.py --list

Each line of the file is one row, written as soon as it is known. A metric:
    {"model", "mode": eager | inductor | paired, "name", "value", "unit", "low", "high", "samples"}
and one result, {"result": {"file", "cls", "name": "correctness", "outcome", "seconds", "message"}}. Names of metrics:
    latency, throughput      inference, one batch (seconds; items per second), per mode
    train_step               forward, backward, SGD step (seconds), per mode
    speedup, train_speedup   eager / inductor of the two above: median of the paired ratios
    compile_time             until the first inference and the first training step were done, from nothing compiled
    peak_memory              of one training step, per mode (bytes)
`low` and `high` are the 95 % interval of the median; `samples` are in order of time, at most 200.

A model that cannot be compiled, or computes something else, is a result (`error`, `failed`) and no further metric; the
exit status is 0 then, as for all that was written down.
"""

from __future__ import annotations

import argparse
import atexit
import copy
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from typing import Any

# Before torch is imported. Compiling must start from nothing to be timed, so the kernels get a cache of their own;
# the precompiled header is kept elsewhere by Inductor and stays. And no pool of compiler processes beside our threads.
_cache = tempfile.mkdtemp(prefix="inductor-")
atexit.register(shutil.rmtree, _cache, ignore_errors=True)
os.environ["TORCHINDUCTOR_CACHE_DIR"] = _cache
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))

import device as devices  # noqa: E402
import timing  # noqa: E402
import torch  # noqa: E402
from models import MODELS, Case  # noqa: E402

SEED = 20260
BUDGET_SECONDS = 8.0
SHORTEST_SAMPLE_SECONDS = 2e-3
"""Calls shorter than this are timed several at a time: a clock's reading and Python's own work must not count."""
RELATIVE_ERROR = 1e-3
"""What the compiled model may differ by: root mean square of the difference over that of eager's values. Orders of
magnitude above float32's rounding in these models, so that TF32 convolutions pass, and far below a wrong kernel."""


class Rows:
    """The file of rows; each is on disk before the next is measured."""

    def __init__(self, path: str, model: str) -> None:
        self.file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - lives as long as the process
        self.model = model

    def write(self, row: dict[str, Any]) -> None:
        self.file.write(json.dumps(row, allow_nan=False) + "\n")
        self.file.flush()
        os.fsync(self.file.fileno())

    def metric(self, mode: str, name: str, value: float, unit: str) -> None:
        self.write({"model": self.model, "mode": mode, "name": name, "value": value, "unit": unit})

    def estimate(self, mode: str, name: str, samples: list[float], unit: str) -> None:
        """A metric with its interval and samples."""
        known = timing.estimate(samples)
        row = {"model": self.model, "mode": mode, "name": name, "value": known.value, "unit": unit}
        if known.low is not None:
            row |= {"low": known.low, "high": known.high}
        self.write(row | {"samples": timing.thinned(samples)})

    def correctness(self, outcome: str, seconds: float, message: str = "") -> None:
        result = {"file": "bench.py", "cls": self.model, "name": "correctness", "outcome": outcome, "seconds": seconds}
        self.write({"result": result | ({"message": message} if message else {})})


class Side:
    """One of the two: eager, or compiled. Each has a copy of the model, so that neither trains the other's."""

    def __init__(self, case: Case, compiled: bool) -> None:
        self.module = copy.deepcopy(case.module)
        self.inputs, self.target = case.inputs, case.target
        self.call = torch.compile(self.module, backend="inductor") if compiled else self.module
        self.optimiser = torch.optim.SGD(self.module.parameters(), lr=1e-4)

    def infer(self) -> torch.Tensor:
        with torch.no_grad():
            return self.call(self.inputs)

    def train(self) -> torch.Tensor:
        self.optimiser.zero_grad(set_to_none=True)
        output = self.call(self.inputs)
        torch.nn.functional.mse_loss(output, self.target).backward()
        self.optimiser.step()
        return output

    def gradients(self) -> dict[str, torch.Tensor]:
        return {name: p.grad for name, p in self.module.named_parameters() if p.grad is not None}


def first_steps(side: Side) -> tuple[dict[str, torch.Tensor], float]:
    """What the first inference and the first training step compute, by name, and the seconds both took."""
    begun = time.perf_counter()
    side.module.eval()
    found = {"inference": side.infer()}
    side.module.train()
    found["training"] = side.train().detach()
    seconds = time.perf_counter() - begun
    return found | {f"gradient of {name}": gradient for name, gradient in side.gradients().items()}, seconds


def disagreements(expected: dict[str, torch.Tensor], actual: dict[str, torch.Tensor]) -> list[str]:
    """A sentence for each tensor that differs by more than `RELATIVE_ERROR`, is missing, or is not finite."""
    found = [f"{name}: on one side only" for name in sorted(expected.keys() ^ actual.keys())]
    for name in sorted(expected.keys() & actual.keys()):
        want, got = expected[name].double(), actual[name].double()
        error = ((want - got).square().mean().sqrt() / want.square().mean().sqrt().clamp_min(1e-12)).item()
        if not error <= RELATIVE_ERROR:  # also when it is NaN
            found.append(f"{name}: relative error {error:.2e}, allowed {RELATIVE_ERROR:.0e}")
    return found


def warm_toolchain(device: str) -> None:
    """Compiles a trifle: what Inductor does once per machine (probing the compiler, its header) is no model's time."""
    torch.compile(lambda x: x + 1, backend="inductor")(torch.zeros(64, device=device))
    torch._dynamo.reset()


def compare(rows: Rows, case: Case, device: str) -> tuple[Side, Side] | None:
    """Both sides, ready and in agreement; None when they are not, with the result written in either case."""
    begun = time.perf_counter()
    try:
        warm_toolchain(device)
        eager, inductor = Side(case, compiled=False), Side(case, compiled=True)
        expected, _ = first_steps(eager)
        actual, compile_seconds = first_steps(inductor)
        wrong = disagreements(expected, actual)
    except Exception:
        rows.correctness("error", time.perf_counter() - begun, traceback.format_exc())
        return None
    rows.correctness("failed" if wrong else "passed", time.perf_counter() - begun, "\n".join(wrong))
    if wrong:  # the time that a wrong answer takes is worth nothing
        return None
    rows.metric("inductor", "compile_time", compile_seconds, "s")
    return eager, inductor


def time_pairs(eager: Any, inductor: Any, device: str, budget: float) -> timing.Pairs:
    """Times both calls in pairs; both do as many calls a sample, so that the faster one still fills the shortest."""
    fastest = min(devices.timer(call, device)() for call in (eager, inductor, eager, inductor))
    calls = max(1, round(SHORTEST_SAMPLE_SECONDS / fastest))
    left, right = devices.timer(eager, device, calls), devices.timer(inductor, device, calls)
    return timing.measure(left, right, budget_seconds=budget, seed=SEED)


def bench(rows: Rows, case: Case, device: str, budget: float) -> None:
    """All rows of one model."""
    sides = compare(rows, case, device)
    if sides is None:
        return
    eager, inductor = sides
    for mode, side in (("eager", eager), ("inductor", inductor)):
        peak = devices.peak_memory_bytes(side.train, device)
        if peak is not None:
            rows.metric(mode, "peak_memory", peak, "bytes")

    trained = time_pairs(eager.train, inductor.train, device, budget)
    rows.estimate("eager", "train_step", list(trained.left), "s")
    rows.estimate("inductor", "train_step", list(trained.right), "s")
    rows.estimate("paired", "train_speedup", trained.ratios, "ratio")

    for side in sides:
        side.module.eval()
    inferred = time_pairs(eager.infer, inductor.infer, device, budget)
    for mode, samples in (("eager", inferred.left), ("inductor", inferred.right)):
        rows.estimate(mode, "latency", list(samples), "s")
        rows.estimate(mode, "throughput", [case.items / seconds for seconds in samples], "1/s")
    rows.estimate("paired", "speedup", inferred.ratios, "ratio")


def main() -> int:
    parser = argparse.ArgumentParser(description="Eager against Inductor on one model.")
    parser.add_argument("--list", action="store_true", help="print the models, one a line")
    parser.add_argument("--model", choices=MODELS)
    parser.add_argument("--out", help="file that rows are appended to")
    parser.add_argument("--device", default="cpu", help="cpu, cuda (also ROCm), xpu, ...")
    parser.add_argument("--quick", action="store_true", help="small sizes and a second per measurement")
    parser.add_argument("--budget", type=float, help=f"most seconds per measurement (default {BUDGET_SECONDS:g})")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(MODELS))
        return 0
    if not (arguments.model and arguments.out):
        parser.error("--model and --out are needed (or --list)")
    devices.use_threads()
    torch.manual_seed(SEED)
    case = MODELS[arguments.model](arguments.quick).to(arguments.device)
    budget = arguments.budget or (1.0 if arguments.quick else BUDGET_SECONDS)
    bench(Rows(arguments.out, arguments.model), case, arguments.device, budget)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What differs between devices: waiting for them, and how much memory a step takes at its peak."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def use_threads() -> int:
    """As many threads as OMP_NUM_THREADS grants (torch's own choice without it), said to torch explicitly."""
    threads = int(os.environ.get("OMP_NUM_THREADS") or torch.get_num_threads())
    torch.set_num_threads(threads)
    return threads


def backend(device: str) -> ModuleType | None:
    """torch's module for the device's kind (`torch.cuda`, also ROCm; `torch.xpu`; ...); None for the CPU."""
    kind = torch.device(device).type
    return None if kind == "cpu" else getattr(torch, kind)


def timer(call: Callable[[], Any], device: str, calls: int = 1) -> Callable[[], float]:
    """A function that does `calls` calls, waits until the device has finished them, and gives the seconds of one."""
    module = backend(device)
    wait = module.synchronize if module else _nothing_to_wait_for

    def sample() -> float:
        wait()
        begun = time.perf_counter()
        for _ in range(calls):
            call()
        wait()
        return (time.perf_counter() - begun) / calls

    return sample


def _nothing_to_wait_for() -> None:
    """A CPU's calls return when they are done."""


def peak_memory_bytes(call: Callable[[], Any], device: str) -> int | None:
    """The most that tensors took at one moment of `call`, beyond what was held before; None where it cannot be told.

    On a device by its allocator's own count. On the CPU by the profiler's record of each allocation and release:
    the same figure each time, where the process's resident memory depends on what malloc has kept from earlier.
    """
    module = backend(device)
    if module is None:
        return _peak_on_cpu(call)
    if not hasattr(module, "max_memory_allocated"):
        return None
    module.synchronize()
    module.reset_peak_memory_stats()
    before = module.memory_allocated()
    call()
    module.synchronize()
    return int(module.max_memory_allocated() - before)


def _peak_on_cpu(call: Callable[[], Any]) -> int | None:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        call()
    held = peak = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak

"""All accelerator classes by name. A new one is a file in this folder and a line here."""

from __future__ import annotations

from typing import Any

from blocks.accelerators.base import Accelerator, node_paths
from blocks.accelerators.cpu import CPU
from blocks.accelerators.cuda import CUDA
from blocks.accelerators.hpu import HPU
from blocks.accelerators.mps import MPS
from blocks.accelerators.npu import NPU
from blocks.accelerators.rocm import ROCM
from blocks.accelerators.tpu import TPU
from blocks.accelerators.xpu import XPU
from blocks.errors import CatalogError

ACCELERATORS: dict[str, Accelerator] = {kind.name: kind for kind in (CPU, CUDA, ROCM, XPU, HPU, NPU, TPU, MPS)}


def accelerator(name: str) -> Accelerator:
    """The accelerator class of that name. Raises CatalogError."""
    if name not in ACCELERATORS:
        raise CatalogError(f"There is no accelerator class `{name}`.", do=f"Known are {', '.join(ACCELERATORS)}.")
    return ACCELERATORS[name]


def for_slot(name: str, slot: int, devices: int = 1) -> dict[str, Any]:
    """What a runner is told for work of accelerator class `name` in lane `slot`, `devices` of them a lane: class,
    devices (indices), env (what makes them visible and tests device-generic), nodes (device files)."""
    kind = accelerator(name)
    indices = [] if name == "cpu" else list(range(slot * devices, (slot + 1) * devices))
    return {
        "class": name,
        "devices": indices,
        "env": {**kind.visible(indices), **kind.test_env},
        "nodes": node_paths(kind, indices),
    }

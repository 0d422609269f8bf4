"""Intel GPUs, through Level Zero."""

from __future__ import annotations

from blocks.accelerators.base import ByIndex

XPU = ByIndex(
    name="xpu",
    torch_device="xpu",
    visibility=("ZE_AFFINITY_MASK",),
    nodes=("/dev/dri/renderD*",),
    told_by=("/sys/module/xe", "/sys/module/i915"),
)

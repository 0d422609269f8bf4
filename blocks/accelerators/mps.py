"""Apple GPUs: one device, always visible, no device file."""

from __future__ import annotations

from blocks.accelerators.base import ByIndex

MPS = ByIndex(
    name="mps",
    torch_device="mps",
    visibility=(),
    nodes=(),
    told_by=("/System/Library/Frameworks/Metal.framework",),
)

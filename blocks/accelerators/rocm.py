"""AMD GPUs. PyTorch calls them `cuda`; what tells them apart is the kernel driver's node."""

from __future__ import annotations

from blocks.accelerators.base import ByIndex

ROCM = ByIndex(
    name="rocm",
    torch_device="cuda",
    # Not ROCR_VISIBLE_DEVICES beside it: HIP counts what that leaves, so both together hide too much.
    visibility=("HIP_VISIBLE_DEVICES",),
    nodes=("/dev/kfd", "/dev/dri/renderD*"),
    told_by=("/dev/kfd",),
)

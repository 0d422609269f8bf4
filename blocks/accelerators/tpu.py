"""Google TPUs, through PyTorch/XLA."""

from __future__ import annotations

from blocks.accelerators.base import ByIndex

TPU = ByIndex(
    name="tpu",
    torch_device="xla",
    visibility=("TPU_VISIBLE_CHIPS",),
    # Older generations have an accel node a chip, newer ones are passed through VFIO.
    nodes=("/dev/accel{device}", "/dev/vfio/{device}", "/dev/vfio/vfio"),
    told_by=("/dev/accel0", "/dev/vfio/0"),
    extra={"PJRT_DEVICE": "TPU"},
)

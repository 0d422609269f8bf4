"""Intel Gaudi."""

from __future__ import annotations

from blocks.accelerators.base import ByIndex

HPU = ByIndex(
    name="hpu",
    torch_device="hpu",
    # HABANA_VISIBLE_DEVICES is read by the container runtime only; processes read modules.
    visibility=("HABANA_VISIBLE_MODULES",),
    nodes=("/dev/accel/accel{device}", "/dev/accel/accel_controlD{device}"),
    told_by=("/sys/module/habanalabs",),
)

"""NVIDIA GPUs."""

from __future__ import annotations

from blocks.accelerators.base import ByIndex

CUDA = ByIndex(
    name="cuda",
    torch_device="cuda",
    visibility=("CUDA_VISIBLE_DEVICES",),
    nodes=("/dev/nvidia{device}", "/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"),
    told_by=("/dev/nvidiactl", "/proc/driver/nvidia/version"),
    # By default CUDA numbers the fastest device 0; device files are numbered by bus.
    extra={"CUDA_DEVICE_ORDER": "PCI_BUS_ID"},
)

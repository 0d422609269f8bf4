"""Huawei Ascend."""

from __future__ import annotations

from blocks.accelerators.base import ByIndex

NPU = ByIndex(
    name="npu",
    torch_device="npu",
    visibility=("ASCEND_RT_VISIBLE_DEVICES",),
    nodes=("/dev/davinci{device}", "/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc"),
    told_by=("/dev/davinci_manager",),
)

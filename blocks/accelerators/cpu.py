"""The processor itself: no devices, and none of a neighbour's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cpu:
    """Every machine has it. A cpu unit on a machine with accelerators sees none of them."""

    name: str = "cpu"
    torch_device: str = "cpu"
    nodes: tuple[str, ...] = ()
    told_by: tuple[str, ...] = ()
    test_env: Mapping[str, str] = field(default_factory=dict)

    def visible(self, devices: Sequence[int]) -> dict[str, str]:
        return {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "-1"}


CPU = Cpu()

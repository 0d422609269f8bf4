"""What the orchestrator knows of an accelerator class. Finding devices is the runner's work, on the machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


class Accelerator(Protocol):
    """The same few facts for every kind; a file of this folder each."""

    @property
    def name(self) -> str:
        """The class, as environments and machines name it."""
        ...

    @property
    def torch_device(self) -> str:
        """PyTorch's name of the device type. ROCm is `cuda` there."""
        ...

    @property
    def nodes(self) -> tuple[str, ...]:
        """Device files that a sandbox must show; `{device}` is the index. May be globs."""
        ...

    @property
    def told_by(self) -> tuple[str, ...]:
        """Paths of which any one says that a machine has such devices."""
        ...

    @property
    def test_env(self) -> Mapping[str, str]:
        """What PyTorch's device-generic tests need to see, so that they are made for this device only."""
        ...

    def visible(self, devices: Sequence[int]) -> dict[str, str]:
        """Environment variables under which a process sees exactly these devices."""
        ...


@dataclass(frozen=True)
class ByIndex:
    """An accelerator whose devices are shown by variables that list their indices."""

    name: str
    torch_device: str
    visibility: tuple[str, ...]
    nodes: tuple[str, ...]
    told_by: tuple[str, ...]
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def test_env(self) -> Mapping[str, str]:
        return {"PYTORCH_TESTING_DEVICE_ONLY_FOR": self.torch_device}

    def visible(self, devices: Sequence[int]) -> dict[str, str]:
        indices = ",".join(str(device) for device in devices)
        return {**dict.fromkeys(self.visibility, indices), **self.extra}


def node_paths(accelerator: Accelerator, devices: Sequence[int]) -> list[str]:
    """The device files (or globs) for these devices, each once."""
    return list(dict.fromkeys(node.format(device=device) for node in accelerator.nodes for device in devices))

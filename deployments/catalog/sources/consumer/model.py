"""Exports a small model, compiles it ahead of time with AOTInductor, and records what eager Python computes.

    python model.py OUT     writes OUT/model.pt2 and OUT/expected.pt

Run by the build's own interpreter with the unpacked wheels on PYTHONPATH; the C++ consumer loads both files. The batch
dimension is dynamic, and the cases hold sizes that were not seen when the model was exported.
"""

import sys
from pathlib import Path

import torch
from torch import nn


class Block(nn.Module):
    """Convolution, normalisation, attention over what it found, and a head: one of each family of kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(4, 16, kernel_size=3, padding=1)
        self.norm = nn.LayerNorm(16)
        self.mix = nn.Linear(16, 48)
        self.head = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = self.norm(torch.relu(self.convolution(x)).transpose(1, 2))
        query, key, value = self.mix(seen).chunk(3, dim=-1)
        attended = nn.functional.scaled_dot_product_attention(query, key, value)
        return torch.softmax(self.head((seen + attended).mean(dim=1)), dim=-1)


def main(out: Path) -> None:
    torch.manual_seed(0)
    model = Block().eval()
    batch = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(model, (torch.randn(8, 4, 20),), dynamic_shapes={"x": {0: batch}})
    torch._inductor.aoti_compile_and_package(exported, package_path=str(out / "model.pt2"))
    inputs = [torch.randn(size, 4, 20) for size in (8, 2, 33)]
    with torch.no_grad():
        outputs = [model(case) for case in inputs]
    torch.save({"inputs": inputs, "outputs": outputs}, out / "expected.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

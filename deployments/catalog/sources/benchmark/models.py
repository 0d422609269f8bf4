"""The models that are measured: representative of what people train, built from `torch.nn` alone.

Sizes are such that a step takes some milliseconds on two slow cores: long enough to time, short enough for hundreds of
pairs. `quick` makes them small, for a look at whether everything works.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Case:
    """A model with one batch: `target` is what training moves the output towards; `items` are in the batch."""

    module: nn.Module
    inputs: torch.Tensor
    target: torch.Tensor
    items: int

    def to(self, device: str) -> Case:
        """The same on a device: made on the CPU first, so that every device gets the same numbers."""
        return Case(self.module.to(device), self.inputs.to(device), self.target.to(device), self.items)


def mlp(quick: bool) -> Case:
    """Linear layers with normalisation and GELU: matrix products with pointwise work and reductions between them."""
    batch, width = (16, 64) if quick else (128, 768)
    layers: list[nn.Module] = []
    for _ in range(4):
        layers += [nn.Linear(width, width), nn.LayerNorm(width), nn.GELU()]
    return _case(nn.Sequential(*layers, nn.Linear(width, 10)), torch.randn(batch, width))


class Residual(nn.Module):
    """Two convolutions with batch normalisation, around which the input goes by."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.body(x))


def convnet(quick: bool) -> Case:
    """A small residual network: convolutions, batch normalisation, pooling."""
    batch, channels, size = (2, 8, 16) if quick else (8, 32, 32)
    module = nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1),
        Residual(channels),
        nn.MaxPool2d(2),
        Residual(channels),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, 10),
    )
    return _case(module, torch.randn(batch, 3, size, size))


def transformer(quick: bool) -> Case:
    """One encoder block: attention and feed-forward. No dropout, so that both sides compute the same."""
    batch, tokens, width = (2, 16, 32) if quick else (4, 128, 256)
    module = nn.TransformerEncoderLayer(
        width, nhead=4, dim_feedforward=4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    return _case(module, torch.randn(batch, tokens, width))


class UnrolledLSTM(nn.Module):
    """An LSTM over a sequence, a cell at a time.

    Dynamo leaves `nn.LSTM` to eager (`torch._dynamo.config.allow_rnn`), so that there would be nothing to compare.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(width, width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = cell = x.new_zeros(x.shape[0], x.shape[2])
        for step in range(x.shape[1]):
            hidden, cell = self.cell(x[:, step], (hidden, cell))
        return self.head(hidden)


def lstm(quick: bool) -> Case:
    """Eight steps of an LSTM: small matrix products in sequence, gates fused or not."""
    batch, steps, width = (2, 4, 32) if quick else (32, 8, 256)
    return _case(UnrolledLSTM(width), torch.randn(batch, steps, width))


MODELS: dict[str, Callable[[bool], Case]] = {"mlp": mlp, "convnet": convnet, "transformer": transformer, "lstm": lstm}


def _case(module: nn.Module, inputs: torch.Tensor) -> Case:
    with torch.no_grad():
        target = torch.randn_like(module(inputs))
    return Case(module, inputs, target, inputs.shape[0])

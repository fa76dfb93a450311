r"""Layers of which the networks are made, residual ones among them.

A residual block adds a correction to its input, :math:`h + f(h)`, with normalisation and
activation before each convolution, so that the sum itself passes untouched. Group normalisation
knows one image alone, in training as in scoring; batch normalisation would not.

References:
    | Identity Mappings in Deep Residual Networks (He et al., 2016),
    | https://arxiv.org/abs/1603.05027
    | Group Normalization (Wu & He, 2018), https://arxiv.org/abs/1803.08494
    | Understanding the difficulty of training deep feedforward neural networks (Glorot & Bengio,
    | 2010), https://proceedings.mlr.press/v9/glorot10a.html
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from vae.model.config import ModelConfig

__all__ = [
    "ACTIVATIONS",
    "ResidualBlock",
    "full_precision",
    "initialize_",
    "residual_down",
    "residual_up",
    "sides",
]

ACTIVATIONS = {"gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh, "relu": nn.ReLU}


class ResidualBlock(nn.Module):
    """Adds to a map what two normalised 3x3 convolutions make of it.

    Args:
        width: The number of channels.
        activation: The non-linearity, by name.
    """

    def __init__(self, width: int, activation: str) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *normalized(width, activation),
            nn.Conv2d(width, width, 3, padding=1),
            *normalized(width, activation),
            nn.Conv2d(width, width, 3, padding=1),
        )
        with torch.no_grad():
            # Near the identity at first: a deep stack then starts as a shallow one.
            self.layers[-1].weight.mul_(0.1)

    def forward(self, h: Tensor) -> Tensor:
        """Maps features :math:`(B, W, H, W')` to features of the same shape."""
        return h + self.layers(h)


def normalized(width: int, activation: str) -> list[nn.Module]:
    """Group normalisation with at least four channels a group, then the activation."""
    groups = math.gcd(width, min(32, max(1, width // 4)))
    return [nn.GroupNorm(groups, width), ACTIVATIONS[activation]()]


def residual_down(config: ModelConfig) -> list[nn.Module]:
    """The encoder's layers for ``resnet``: each width halves the map, then its blocks."""
    layers: list[nn.Module] = []
    for before, after in pairwise((config.image.channels, *config.channels)):
        layers.append(nn.Conv2d(before, after, 4, stride=2, padding=1))
        layers += [ResidualBlock(after, config.activation) for _ in range(config.blocks)]
    return layers + normalized(config.channels[-1], config.activation)


def residual_up(config: ModelConfig) -> list[nn.Module]:
    """The decoder's layers for ``resnet``: blocks, then the nearest neighbours and a convolution.

    Repeating pixels before a convolution leaves no chequerboard, and reaches odd sides.
    """
    layers: list[nn.Module] = []
    widths = (*reversed(config.channels), config.channels[0])
    for (before, after), side in zip(pairwise(widths), sides(config)[-2::-1], strict=True):
        layers += [ResidualBlock(before, config.activation) for _ in range(config.blocks)]
        layers += [nn.Upsample(side), nn.Conv2d(before, after, 3, padding=1)]
    layers += normalized(config.channels[0], config.activation)
    return [*layers, nn.Conv2d(config.channels[0], config.image.channels, 3, padding=1)]


def sides(config: ModelConfig) -> list[tuple[int, int]]:
    """Heights and widths of the maps, from the image to the smallest; halving rounds down."""
    steps = [(config.image.height, config.image.width)]
    for _ in config.channels:
        steps.append((steps[-1][0] // 2, steps[-1][1] // 2))
    return steps


@torch.no_grad()
def initialize_(module: nn.Module) -> None:
    """Sets weights by Xavier's uniform rule and biases to 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)


def full_precision(h: Tensor) -> Tensor:
    """Widens what autocast made narrow: eight significant bits are too few for a density."""
    return h.float() if h.dtype in (torch.bfloat16, torch.float16) else h

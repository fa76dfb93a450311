r"""Encoder and decoder networks, each the mirror of the other.

The encoder returns :math:`q(z \mid x)`, the decoder :math:`p(x \mid z)`, both as distributions.
There is no batch normalisation: the code of one image must not depend on its batch-mates. Group
normalisation knows one image alone, in training as in scoring. A residual block adds a correction
to its input, :math:`h + f(h)`, with normalisation and activation before each convolution, so that
the sum itself passes untouched.

References:
    | Understanding disentangling in beta-VAE (Burgess et al., 2018), for the convolutions,
    | https://arxiv.org/abs/1804.03599
    | Importance Weighted Autoencoders (Burda et al., 2016), for the input centred on the mean
    | image and Xavier's initialisation, https://arxiv.org/abs/1509.00519
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
from torch.distributions import Independent, Normal

from vae.model.config import ModelConfig
from vae.model.likelihoods import Likelihood

__all__ = ["Decoder", "Encoder", "ResidualBlock"]

_ACTIVATIONS = {"gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh, "relu": nn.ReLU}


class Encoder(nn.Module):
    r"""Maps images to :math:`q(z \mid x) = \mathcal{N}(\mu, \operatorname{diag} \sigma^2)`.

    Args:
        config: The model's description.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        activation = _ACTIVATIONS[config.activation]
        trunk, features = [], config.image.pixels
        if config.network == "conv":
            widths = (config.image.channels, *config.channels)
            for before, after in pairwise(widths):
                trunk += [nn.Conv2d(before, after, 4, stride=2, padding=1), activation()]
        elif config.network == "resnet":
            trunk += _residual_down(config)
        if config.network != "mlp":
            height, width = _sides(config)[-1]
            features = config.channels[-1] * height * width
        trunk.append(nn.Flatten())
        for before, after in pairwise((features, *config.hidden)):
            trunk += [nn.Linear(before, after), activation()]
        self.trunk = nn.Sequential(*trunk)
        self.head = nn.Linear(
            config.hidden[-1] if config.hidden else features, 2 * config.latent_dim
        )
        self.sigma_floor = config.sigma_floor
        # A buffer only where it is used: it is stored with the weights.
        self.centred = config.centering == "mean"
        if self.centred:
            self.register_buffer("mean", torch.zeros(config.image.shape))
        if config.initialization == "xavier":
            _initialize_(self)

    def forward(self, x: Tensor) -> Independent:
        r"""Encodes images.

        Args:
            x: Images in [0, 1], with shape :math:`(B, C, H, W)`.

        Returns:
            The posterior, batch shape :math:`(B)`, event shape :math:`(D)`.
        """
        # Centred input: pixels of both signs, about the mean image or in [-1, 1].
        seen = x - self.mean if self.centred else 2 * x - 1
        mu, log_variance = _full_precision(self.head(self.trunk(seen))).chunk(2, dim=-1)
        # A smooth floor keeps a gradient there, and the bounds keep a foreign image finite.
        sigma = torch.sqrt(self.sigma_floor**2 + log_variance.clamp(-30, 20).exp())
        return Independent(Normal(mu, sigma, validate_args=False), 1, validate_args=False)

    @torch.no_grad()
    def centre_at_(self, mean: Tensor) -> None:
        """Sets the mean image :math:`(C, H, W)` that centres the input, where it is used."""
        if self.centred:
            self.mean.copy_(mean)


class Decoder(nn.Module):
    r"""Maps codes to :math:`p(x \mid z)`.

    Args:
        config: The model's description.
        likelihood: Turns the raw output into a distribution.
    """

    def __init__(self, config: ModelConfig, likelihood: Likelihood) -> None:
        super().__init__()
        activation = _ACTIVATIONS[config.activation]
        layers, features = [], config.latent_dim
        for after in reversed(config.hidden):
            layers += [nn.Linear(features, after), activation()]
            features = after
        if config.network == "mlp":
            layers += [
                nn.Linear(features, config.image.pixels),
                nn.Unflatten(1, config.image.shape),
            ]
        else:
            smallest = (config.channels[-1], *_sides(config)[-1])
            layers += [nn.Linear(features, math.prod(smallest)), activation()]
            layers.append(nn.Unflatten(1, smallest))
            layers += _residual_up(config) if config.network == "resnet" else _transposed(config)
        self.layers = nn.Sequential(*layers)
        self.likelihood = likelihood
        if config.initialization == "xavier":
            _initialize_(self)

    def forward(self, z: Tensor) -> Independent:
        r"""Decodes codes.

        Args:
            z: Codes, with shape :math:`(B, D)`.

        Returns:
            The likelihood, batch shape :math:`(B)`, event shape :math:`(C, H, W)`.
        """
        return self.likelihood(_full_precision(self.layers(z)))

    @torch.no_grad()
    def start_at_(self, mean: Tensor) -> None:
        """Sets the last bias so that training starts at the mean image :math:`(C, H, W)`."""
        raw = self.likelihood.raw_of_mean(mean)
        kinds = nn.Linear | nn.Conv2d | nn.ConvTranspose2d
        last = [layer for layer in self.layers if isinstance(layer, kinds)][-1]
        last.bias.copy_(raw.flatten() if isinstance(last, nn.Linear) else raw.mean((1, 2)))


def _transposed(config: ModelConfig) -> list[nn.Module]:
    """The convolutions of ``conv`` on the way back, each of which doubles the image."""
    layers, steps = [], _sides(config)
    widths = (*reversed(config.channels), config.image.channels)
    for (before, after), small, large in zip(
        pairwise(widths), steps[::-1], steps[-2::-1], strict=False
    ):
        # Halving rounds down, so doubling may fall one pixel short of the way back.
        extra = (large[0] - 2 * small[0], large[1] - 2 * small[1])
        layers += [
            nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, output_padding=extra),
            _ACTIVATIONS[config.activation](),
        ]
    return layers[:-1]


class ResidualBlock(nn.Module):
    """Adds to a map what two normalised 3x3 convolutions make of it.

    Args:
        width: The number of channels.
        activation: The non-linearity, by name.
    """

    def __init__(self, width: int, activation: str) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_normalized(width, activation),
            nn.Conv2d(width, width, 3, padding=1),
            *_normalized(width, activation),
            nn.Conv2d(width, width, 3, padding=1),
        )
        with torch.no_grad():
            # Near the identity at first: a deep stack then starts as a shallow one.
            self.layers[-1].weight.mul_(0.1)

    def forward(self, h: Tensor) -> Tensor:
        """Maps features :math:`(B, W, H, W')` to features of the same shape."""
        return h + self.layers(h)


def _normalized(width: int, activation: str) -> list[nn.Module]:
    """Group normalisation with at least four channels a group, then the activation."""
    groups = math.gcd(width, min(32, max(1, width // 4)))
    return [nn.GroupNorm(groups, width), _ACTIVATIONS[activation]()]


def _residual_down(config: ModelConfig) -> list[nn.Module]:
    """The encoder's layers for ``resnet``: each width halves the map, then its blocks."""
    layers: list[nn.Module] = []
    for before, after in pairwise((config.image.channels, *config.channels)):
        layers.append(nn.Conv2d(before, after, 4, stride=2, padding=1))
        layers += [ResidualBlock(after, config.activation) for _ in range(config.blocks)]
    return layers + _normalized(config.channels[-1], config.activation)


def _residual_up(config: ModelConfig) -> list[nn.Module]:
    """The decoder's layers for ``resnet``: blocks, then the nearest neighbours and a convolution.

    Repeating pixels before a convolution leaves no chequerboard, and reaches odd _sides.
    """
    layers: list[nn.Module] = []
    widths = (*reversed(config.channels), config.channels[0])
    for (before, after), side in zip(pairwise(widths), _sides(config)[-2::-1], strict=True):
        layers += [ResidualBlock(before, config.activation) for _ in range(config.blocks)]
        layers += [nn.Upsample(side), nn.Conv2d(before, after, 3, padding=1)]
    layers += _normalized(config.channels[0], config.activation)
    return [*layers, nn.Conv2d(config.channels[0], config.image.channels, 3, padding=1)]


def _sides(config: ModelConfig) -> list[tuple[int, int]]:
    """Heights and widths of the maps, from the image to the smallest; halving rounds down."""
    steps = [(config.image.height, config.image.width)]
    for _ in config.channels:
        steps.append((steps[-1][0] // 2, steps[-1][1] // 2))
    return steps


@torch.no_grad()
def _initialize_(module: nn.Module) -> None:
    """Sets weights by Xavier's uniform rule and biases to 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)


def _full_precision(h: Tensor) -> Tensor:
    """Widens what autocast made narrow: eight significant bits are too few for a density."""
    return h.float() if h.dtype in (torch.bfloat16, torch.float16) else h

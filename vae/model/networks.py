r"""Encoder and decoder networks, each the mirror of the other.

The encoder returns :math:`q(z \mid x)`, the decoder :math:`p(x \mid z)`, both as distributions.
There is no batch normalisation: the code of one image must not depend on its batch-mates.

References:
    | Understanding disentangling in beta-VAE (Burgess et al., 2018), for the convolutions,
    | https://arxiv.org/abs/1804.03599
    | Importance Weighted Autoencoders (Burda et al., 2016), for the input centred on the mean
    | image and Xavier's initialisation, https://arxiv.org/abs/1509.00519
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from vae.model.config import ModelConfig
from vae.model.layers import (
    ACTIVATIONS,
    full_precision,
    initialize_,
    residual_down,
    residual_up,
    sides,
)
from vae.model.likelihoods import Likelihood

__all__ = ["Decoder", "Encoder"]


class Encoder(nn.Module):
    r"""Maps images to :math:`q(z \mid x) = \mathcal{N}(\mu, \operatorname{diag} \sigma^2)`.

    Args:
        config: The model's description.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        activation = ACTIVATIONS[config.activation]
        trunk, features = [], config.image.pixels
        if config.network == "conv":
            widths = (config.image.channels, *config.channels)
            for before, after in pairwise(widths):
                trunk += [nn.Conv2d(before, after, 4, stride=2, padding=1), activation()]
        elif config.network == "resnet":
            trunk += residual_down(config)
        if config.network != "mlp":
            height, width = sides(config)[-1]
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
            initialize_(self)

    def forward(self, x: Tensor) -> Independent:
        r"""Encodes images.

        Args:
            x: Images in [0, 1], with shape :math:`(B, C, H, W)`.

        Returns:
            The posterior, batch shape :math:`(B)`, event shape :math:`(D)`.
        """
        # Centred input: pixels of both signs, about the mean image or in [-1, 1].
        seen = x - self.mean if self.centred else 2 * x - 1
        mu, log_variance = full_precision(self.head(self.trunk(seen))).chunk(2, dim=-1)
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
        activation = ACTIVATIONS[config.activation]
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
            smallest = (config.channels[-1], *sides(config)[-1])
            layers += [nn.Linear(features, math.prod(smallest)), activation()]
            layers.append(nn.Unflatten(1, smallest))
            layers += residual_up(config) if config.network == "resnet" else _transposed(config)
        self.layers = nn.Sequential(*layers)
        self.likelihood = likelihood
        if config.initialization == "xavier":
            initialize_(self)

    def forward(self, z: Tensor) -> Independent:
        r"""Decodes codes.

        Args:
            z: Codes, with shape :math:`(B, D)`.

        Returns:
            The likelihood, batch shape :math:`(B)`, event shape :math:`(C, H, W)`.
        """
        return self.likelihood(full_precision(self.layers(z)))

    @torch.no_grad()
    def start_at_(self, mean: Tensor) -> None:
        """Sets the last bias so that training starts at the mean image :math:`(C, H, W)`."""
        raw = self.likelihood.raw_of_mean(mean)
        kinds = nn.Linear | nn.Conv2d | nn.ConvTranspose2d
        last = [layer for layer in self.layers if isinstance(layer, kinds)][-1]
        last.bias.copy_(raw.flatten() if isinstance(last, nn.Linear) else raw.mean((1, 2)))


def _transposed(config: ModelConfig) -> list[nn.Module]:
    """The convolutions of ``conv`` on the way back, each of which doubles the image."""
    layers, steps = [], sides(config)
    widths = (*reversed(config.channels), config.image.channels)
    for (before, after), small, large in zip(
        pairwise(widths), steps[::-1], steps[-2::-1], strict=False
    ):
        # Halving rounds down, so doubling may fall one pixel short of the way back.
        extra = (large[0] - 2 * small[0], large[1] - 2 * small[1])
        layers += [
            nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, output_padding=extra),
            ACTIVATIONS[config.activation](),
        ]
    return layers[:-1]

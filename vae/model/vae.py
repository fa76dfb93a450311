r"""The variational autoencoder: :math:`q(z \mid x)`, :math:`p(x \mid z)`, :math:`p(z)`.

References:
    | Auto-Encoding Variational Bayes (Kingma & Welling, 2014), https://arxiv.org/abs/1312.6114
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from vae.data.spec import ImageSpec
from vae.model.config import ModelConfig
from vae.model.likelihoods import LikelihoodFacts, facts_of, make_likelihood
from vae.model.networks import Decoder, Encoder
from vae.model.noise import image_uniforms

__all__ = ["VAE", "Described", "observe"]


class Described:
    r"""What the face of a model (:mod:`vae.model.face`) says by its config alone.

    Attributes:
        config: The model's description: image, latent dimensions, likelihood, ...
    """

    config: Any

    @property
    def image(self) -> ImageSpec:
        """The shape and levels of its images."""
        return self.config.image

    @property
    def latent_dim(self) -> int:
        """The number :math:`D` of latent dimensions."""
        return self.config.latent_dim

    @property
    def likelihood(self) -> LikelihoodFacts:
        r"""What :math:`p(x \mid z)` is."""
        return facts_of(self.config.likelihood)

    @property
    def prior(self) -> Independent:
        """The prior :math:`p(z) = N(0, I)`, event shape :math:`(D)`."""
        zeros = torch.zeros(self.latent_dim)
        return Independent(Normal(zeros, torch.ones_like(zeros), validate_args=False), 1)

    def observe(self, levels: np.ndarray, seed: int = 0) -> Tensor:
        r"""What the model sees of images; see :meth:`vae.model.face.LatentModel.observe`."""
        return observe(self.config, levels, seed)


class VAE(Described, nn.Module):
    r"""Creates a VAE with a diagonal Gaussian posterior and a standard normal prior.

    Args:
        config: The model's description.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config, make_likelihood(config))

    def encode(self, x: Tensor) -> Independent:
        r"""The posterior :math:`q(z \mid x)`, batch :math:`(B)`, event :math:`(D)`."""
        return self.encoder(x)

    def decode(self, z: Tensor) -> Independent:
        r"""The likelihood :math:`p(x \mid z)`, batch :math:`(B)`, event :math:`(C, H, W)`."""
        return self.decoder(z)


def observe(config: ModelConfig, levels: np.ndarray, seed: int = 0) -> Tensor:
    r"""What the model sees of images: their values in [0, 1], binarised where it asks for that.

    Args:
        config: The model's description.
        levels: Integer levels of the data, ``uint8``, with shape :math:`(B, C, H, W)`.
        seed: The seed of dynamic binarisation; the noise follows from (seed, image).

    Returns:
        The images :math:`x`, ``float32``, with shape :math:`(B, C, H, W)`.
    """
    x = config.image.from_levels(levels)
    if config.binarize == "threshold":
        x = (x >= 0.5).astype(np.float32)
    elif config.binarize == "dynamic":
        x = (image_uniforms(levels, seed) < x).astype(np.float32)
    return torch.from_numpy(x)

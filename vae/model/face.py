r"""The face of a model: all that anything above this floor asks of one.

A VAE trained here wears it, a checkpoint wears it, and so does any other model that is opened.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from vae.data.spec import ImageSpec
from vae.model.likelihoods import LikelihoodFacts

__all__ = ["LatentModel", "greatest_log_likelihood", "pixel_log_likelihood"]


class LatentModel(Protocol):
    """A model of images with a latent code."""

    @property
    def image(self) -> ImageSpec:
        """The shape and levels of its images."""

    @property
    def latent_dim(self) -> int:
        """The number :math:`D` of latent dimensions."""

    @property
    def likelihood(self) -> LikelihoodFacts:
        r"""What :math:`p(x \mid z)` is."""

    @property
    def prior(self) -> Distribution:
        """The prior :math:`p(z)`, event shape :math:`(D)`."""

    def observe(self, levels: np.ndarray, seed: int = 0) -> Tensor:
        r"""What the model sees of images: values in [0, 1], binarised where it asks for that.

        Args:
            levels: Integer levels of the data, ``uint8``, with shape :math:`(B, C, H, W)`.
            seed: The seed of dynamic binarisation; the noise follows from (seed, image).

        Returns:
            The images :math:`x`, ``float32``, with shape :math:`(B, C, H, W)`.
        """

    def encode(self, x: Tensor) -> Distribution:
        r"""The posterior :math:`q(z \mid x)`, batch :math:`(B)`, event :math:`(D)`."""

    def decode(self, z: Tensor) -> Independent:
        r"""The likelihood :math:`p(x \mid z)`, batch :math:`(B)`, event :math:`(C, H, W)`."""


def pixel_log_likelihood(likelihood: Independent, x: Tensor) -> Tensor:
    r"""The log-likelihood of each pixel, :math:`\log p(x \mid z)` before it is summed.

    Args:
        likelihood: :math:`p(x \mid z)`, independent over its event :math:`(C, H, W)`.
        x: The images, with shape :math:`(*, C, H, W)`.

    Returns:
        Nats, with shape :math:`(*, C, H, W)`.
    """
    return likelihood.base_dist.log_prob(x)


def greatest_log_likelihood(likelihood: Independent) -> Tensor:
    r"""The greatest :math:`\log p(x \mid z)` that any image has, in nats, with shape :math:`(*)`.

    Each of our densities is greatest at its mean or at an end of the pixels' range.
    """
    pixels = likelihood.base_dist
    ends = [torch.zeros_like(pixels.mean), torch.ones_like(pixels.mean), pixels.mean]
    best = torch.stack([pixels.log_prob(end) for end in ends]).amax(0)
    return best.flatten(-3).double().sum(-1)

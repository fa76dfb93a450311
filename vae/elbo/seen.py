r"""Images as a model sees them, each with its own :math:`q(z \mid x)`: made once, passed down."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vae.elbo.terms import standard_normal_kl
from vae.elbo.tiles import encode_tiled
from vae.model.face import LatentModel
from vae.model.noise import Purpose, image_normals

__all__ = ["Seen", "see"]

# Bound the memory of one step, in codes and in their coordinates; they never change a number.
_CODES_AT_ONCE = 200_000
_COORDINATES_AT_ONCE = 2**18


@dataclass(frozen=True, eq=False)
class Seen:
    r"""Some images, what a model sees of them, and what its encoder says of each.

    Attributes:
        model: The model that sees them.
        levels: Their integer levels, ``uint8``, with shape :math:`(B, C, H, W)`.
        seed: The seed of their noise, which follows from (seed, image).
        x: What the model sees, in [0, 1], ``float32``, with shape :math:`(B, C, H, W)`.
        mu: The means of :math:`q(z \mid x)`, ``float64``, with shape :math:`(B, D)`.
        sigma: Its standard deviations, ``float64``, with shape :math:`(B, D)`.
    """

    model: LatentModel
    levels: np.ndarray
    seed: int
    x: Tensor
    mu: Tensor
    sigma: Tensor

    def __len__(self) -> int:
        return len(self.levels)

    def __getitem__(self, rows: slice) -> Seen:
        """Some of the images, which needn't be seen anew."""
        return replace(
            self,
            levels=self.levels[rows],
            x=self.x[rows],
            mu=self.mu[rows],
            sigma=self.sigma[rows],
        )

    def __iter__(self) -> Iterator[Seen]:
        """The images one by one."""
        return (self[n : n + 1] for n in range(len(self)))

    @property
    def dims(self) -> int:
        """The number :math:`D` of latent dimensions."""
        return self.mu.shape[-1]

    @property
    def kl_per_dim(self) -> Tensor:
        """The KL of each image and latent dimension to the prior in nats, with shape (B, D)."""
        return standard_normal_kl(self.mu, 2 * self.sigma.log())

    def normals(self, purpose: Purpose, count: int) -> Tensor:
        """So many standard normals of each image's own, float64, with shape (B, count, D)."""
        return torch.from_numpy(image_normals(self.levels, self.seed, purpose, (count, self.dims)))

    def codes(self, e: Tensor) -> Tensor:
        r"""The codes :math:`\mu + \sigma e`, (B, S, D), of normals e, (S, D) or (B, S, D)."""
        return self.mu[:, None] + self.sigma[:, None] * e

    def parts(self, codes: int) -> Iterator[Seen]:
        """The images in parts, of which each with so many codes an image fits into memory."""
        size = max(1, min(_CODES_AT_ONCE, _COORDINATES_AT_ONCE // self.dims) // codes)
        return (self[start : start + size] for start in range(0, len(self), size))


@torch.inference_mode()
def see(model: LatentModel, levels: np.ndarray, seed: int = 0) -> Seen:
    r"""Shows images to a model: binarised where it asks for that, and encoded.

    Args:
        model: The model.
        levels: Integer levels of the data, ``uint8``, :math:`(B, C, H, W)`, :math:`B \ge 1`.
        seed: The seed of their noise.

    Returns:
        What it sees.
    """
    x = model.observe(levels, seed)
    mu, sigma = encode_tiled(model, x)
    return Seen(model, levels, seed, x, mu, sigma)

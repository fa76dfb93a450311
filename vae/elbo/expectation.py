r"""The ELBO of each image, its error, and its receipt.

For :math:`D \le 2` the expectation under q is taken by quadrature, with no sampling noise and with
its numerical error; for :math:`D > 2` it is a mean over draws whose noise follows from (seed,
image). The same nodes give the sum for the score and the terms for the receipt, so the two agree.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vae.elbo.lattice import expect, lattice_nodes
from vae.elbo.seen import Seen
from vae.elbo.terms import Terms
from vae.elbo.tiles import decode_means, decoder_rows, map_tiles, node_log_likelihoods, row_sums
from vae.model.face import LatentModel, pixel_log_likelihood

__all__ = ["DRAWS", "Elbo", "Receipt", "draws_used", "estimate_elbo", "take_apart", "uncertainty"]

DRAWS = 64


class Elbo(NamedTuple):
    r"""The ELBO of each image, and what it may be off.

    Attributes:
        terms: The expected log-likelihood :math:`(B,)` and KL :math:`(B, D)`, float64.
        standard_error: 0 by quadrature, NaN from a single draw, with shape :math:`(B,)`.
        error: The numerical error by quadrature, NaN from draws, with shape :math:`(B,)`.
        level: The lattice behind it (:func:`vae.elbo.lattice.lattice_nodes`), ``int64``, (B,).
        draws: The number of draws; 0 by quadrature.
    """

    terms: Terms
    standard_error: Tensor
    error: Tensor
    level: Tensor
    draws: int

    @property
    def value(self) -> Tensor:
        """The ELBO in nats, with shape (B,)."""
        return self.terms.elbo

    @property
    def uncertainty(self) -> Tensor:
        """What it may be off, numerically or by its draws, in nats, (B,)."""
        return uncertainty(self.error, self.standard_error)

    def of(self, rows: slice) -> Elbo:
        """The ELBOs of some of the images."""
        terms = Terms(*(column[rows] for column in self.terms))
        return Elbo(terms, *(column[rows] for column in self[1:4]), self.draws)


class Receipt(NamedTuple):
    r"""One image's ELBO, taken apart without remainder.

    Attributes:
        x: The image as the model sees it, with shape :math:`(C, H, W)`.
        reconstruction: The mean of :math:`p(x \mid z = \mu)`, with shape :math:`(C, H, W)`.
        pixels: Each pixel's expected log-likelihood in nats, with shape :math:`(C, H, W)`.
        kl_per_dim: The KL in nats, with shape :math:`(D,)`.
        mu: The posterior mean, with shape :math:`(D,)`.
        sigma: The posterior standard deviation, with shape :math:`(D,)`.
        elbo: The ELBO as the score states it, in nats.
        elbo_se: Its standard error; 0 by quadrature, NaN from a single draw.
        elbo_error: Its numerical error by quadrature, NaN from draws.
    """

    x: np.ndarray
    reconstruction: np.ndarray
    pixels: np.ndarray
    kl_per_dim: np.ndarray
    mu: np.ndarray
    sigma: np.ndarray
    elbo: float
    elbo_se: float
    elbo_error: float

    @property
    def elbo_uncertainty(self) -> float:
        """What the ELBO may be off, numerically or by its draws, in nats; NaN where unknown."""
        return self.elbo_se if math.isnan(self.elbo_error) else self.elbo_error

    @property
    def expected_log_likelihood(self) -> float:
        """The sum over pixels, in nats."""
        return float(self.pixels.sum())

    @property
    def kl(self) -> float:
        """The sum over latent dimensions, in nats."""
        return float(self.kl_per_dim.sum())

    @property
    def residual(self) -> float:
        """What the parts leave unexplained of the ELBO, in nats."""
        return self.elbo - (self.expected_log_likelihood - self.kl)


def uncertainty(error: Tensor, standard_error: Tensor) -> Tensor:
    """What a number may be off: its numerical error, or where it has none its standard error."""
    return torch.where(error.isnan(), standard_error, error)


def draws_used(model: LatentModel, draws: int) -> int:
    """The draws behind an ELBO: as many as asked for, or 0 where quadrature needs none."""
    return 0 if model.latent_dim <= 2 else draws


@torch.inference_mode()
def estimate_elbo(seen: Seen, draws: int = DRAWS) -> Elbo:
    r"""Takes the ELBO of images, each by itself.

    Args:
        seen: The images.
        draws: Draws from q for :math:`D > 2`; more draws begin with the fewer.

    Returns:
        The ELBOs.

    Raises:
        ValueError: If ``draws`` is out of range.
    """
    if not 1 <= draws <= 100_000:
        raise ValueError(f"draws must lie in 1..100000, not {draws}.")
    if seen.dims <= 2:
        value, error, level = expect(
            seen.model, seen.x, lambda rows, e: seen.mu[rows, None] + seen.sigma[rows, None] * e
        )
        return Elbo(Terms(value, seen.kl_per_dim), torch.zeros_like(value), error, level, 0)
    means, errors = [], []
    for part in seen.parts(draws):
        codes = part.codes(part.normals("draws", draws))
        values = node_log_likelihoods(part.model, part.x, codes)
        mean = row_sums(values) / draws
        squares = row_sums((values - mean[:, None]).square())
        means.append(mean)
        # 0 / 0 for a single draw, which has no standard error.
        errors.append(torch.sqrt(squares / ((draws - 1) * draws)))
    mean = torch.cat(means)
    level = torch.zeros(len(seen), dtype=torch.int64)
    nan = torch.full_like(mean, math.nan)
    return Elbo(Terms(mean, seen.kl_per_dim), torch.cat(errors), nan, level, draws)


@torch.inference_mode()
def take_apart(seen: Seen, elbo: Elbo) -> Receipt:
    r"""Takes one image's ELBO apart, over the very nodes that it averages.

    Args:
        seen: One image.
        elbo: Its ELBO.

    Returns:
        The receipt; its parts sum to the ELBO.
    """
    nodes, weights = _nodes(seen, elbo)
    rows_at_once = decoder_rows(seen.model.image)
    pixels = torch.zeros(seen.x.shape[1:], dtype=torch.float64)
    # Tile by tile: a foreign image may take more nodes than pictures fit into memory.
    for codes, masses in zip(
        nodes.to(seen.x.dtype).split(rows_at_once), weights.split(rows_at_once), strict=True
    ):

        def tile(rows: Tensor, codes: Tensor = codes) -> Tensor:
            one = seen.x.expand(len(rows), *seen.x.shape[1:])
            return pixel_log_likelihood(seen.model.decode(codes[rows]), one).double()

        values = map_tiles(rows_at_once, len(codes), tile)
        pixels += torch.einsum("s,schw->chw", masses, values)
    return Receipt(
        x=seen.x[0].numpy(),
        reconstruction=decode_means(seen.model, seen.mu)[0].numpy(),
        pixels=pixels.numpy(),
        kl_per_dim=elbo.terms.kl_per_dim[0].numpy(),
        mu=seen.mu[0].numpy(),
        sigma=seen.sigma[0].numpy(),
        elbo=float(elbo.value[0]),
        elbo_se=float(elbo.standard_error[0]),
        elbo_error=float(elbo.error[0]),
    )


def _nodes(seen: Seen, elbo: Elbo) -> tuple[Tensor, Tensor]:
    """Codes (S, D) and weights (S,) whose weighted mean is one image's expectation under q."""
    if elbo.draws:
        e = seen.normals("draws", elbo.draws)[0]
        weights = torch.full((elbo.draws,), 1 / elbo.draws, dtype=torch.float64)
    else:
        e, weights = lattice_nodes(seen.dims, int(elbo.level[0]))
    return seen.codes(e)[0], weights

r"""The log-likelihood of images at many codes, and the nodes of a rule for polynomials."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vae.elbo.terms import log_likelihood
from vae.elbo.tiles import decoder_rows, map_tiles, row_sums
from vae.model.face import LatentModel

__all__ = ["hermite_nodes", "log_joint", "log_sum_exp", "node_log_likelihoods"]


def hermite_nodes(dims: int, nodes: int = 12) -> tuple[Tensor, Tensor]:
    r"""Gauss-Hermite nodes for an expectation under a standard normal.

    Args:
        dims: The number :math:`D` of dimensions, 1 or 2.
        nodes: The number of nodes a dimension.

    Returns:
        The nodes, with shape :math:`(S, D)`, and their weights, which sum to 1, :math:`(S,)`.
    """
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    weights = weights / weights.sum()
    grid = [torch.from_numpy(points)] * dims
    masses = [torch.from_numpy(weights)] * dims
    return (
        torch.cartesian_prod(*grid).reshape(-1, dims),
        torch.cartesian_prod(*masses).reshape(-1, dims).prod(-1),
    )


def node_log_likelihoods(model: LatentModel, x: Tensor, z: Tensor) -> Tensor:
    r"""The log-likelihood of each image at each of its own codes.

    Args:
        model: The model.
        x: The images, with shape :math:`(B, C, H, W)`.
        z: The codes, with shape :math:`(B, S, D)`.

    Returns:
        :math:`\log p(x_b \mid z_{bs})` in nats, float64, with shape :math:`(B, S)`.
    """
    images, draws, dims = z.shape
    codes = z.reshape(-1, dims).to(x.dtype)

    def tile(rows: Tensor) -> Tensor:
        first, last = int(rows[0]) // draws, int(rows[-1]) // draws
        # A tile within one image needs no copy of it for each row.
        images_of = x[first] if first == last else x.index_select(0, rows // draws)
        return log_likelihood(model.decode(codes.index_select(0, rows)), images_of)

    return map_tiles(decoder_rows(model.image), images * draws, tile).reshape(images, draws)


def log_joint(model: LatentModel, image: Tensor, z: Tensor) -> Tensor:
    r""":math:`\log p(x, z)` of one image :math:`(C, H, W)` at codes :math:`(N, D)`, (N,)."""
    return node_log_likelihoods(model, image[None], z[None])[0] + model.prior.log_prob(z)


def log_sum_exp(values: Tensor) -> Tensor:
    r"""The log of the sum of exponentials along the last axis, by :func:`row_sums`."""
    most = values.amax(-1, keepdim=True)
    return row_sums(torch.exp(values - most)).log() + most[..., 0]

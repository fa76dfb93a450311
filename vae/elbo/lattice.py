r"""The expectation of :math:`\log p(x \mid z)` under one image's q, where :math:`D \le 2`.

By the trapezoidal rule on lattices of which each holds the one before, so that nothing is decoded
twice. For a smooth decoder its error falls exponentially with the lattice's spacing, however wide
q is; Gauss-Hermite rules, made for polynomials, stay wrong by nats where a foreign image gets a
wide q, and two of them can agree by chance.

References:
    | The Exponentially Convergent Trapezoidal Rule (Trefethen & Weideman, 2014), section 5,
    | https://doi.org/10.1137/130932132
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from vae.elbo.tiles import node_log_likelihoods, row_sums
from vae.model.face import LatentModel

__all__ = ["FIRST_LEVEL", "Expectation", "expect", "lattice_nodes"]

# In standard deviations of q. The mass beyond the reach is 2e-8.
_SPACING = 1.25
_REACH = 6.0
# The first level with two changes to judge it by.
FIRST_LEVEL = 2
_TOLERANCE = 1e-3
# How much of the last changes counts as error, the latest first.
_SHARES = torch.tensor([1.0, 1.0, 1 / 16], dtype=torch.float64)
# Bound the work for one image, in pixels decoded, and the memory of one step, in codes.
_PIXELS = 2**24
_CODES_AT_ONCE = 200_000


class Expectation(NamedTuple):
    r"""Expectations under Gaussians, one for each image.

    Attributes:
        value: In nats, with shape :math:`(B,)`.
        error: What the value may be off, numerically, in nats, with shape :math:`(B,)`: the last
            two changes, a sixteenth of the one before, and what float32 may round.
        level: The lattice of each, for :func:`lattice_nodes`, ``int64``, with shape :math:`(B,)`.
    """

    value: Tensor
    error: Tensor
    level: Tensor


def expect(
    model: LatentModel, x: Tensor, codes: Callable[[Tensor, Tensor], Tensor]
) -> Expectation:
    r"""Takes :math:`E_q[\log p(x \mid z)]`, on finer lattices for the images that need them.

    An image is done once the last two doublings of the nodes, and a sixteenth of the one before,
    together moved its value by at most 1e-3 nat: a change can be small by chance, and two in a row
    were on one image in ten thousand. Where 2^24 decoded pixels don't suffice, as
    for a q far wider than the prior, the value stands with the error that is left.

    Args:
        model: A model with :math:`D \le 2`.
        x: The images, with shape :math:`(B, C, H, W)`.
        codes: Maps some images' numbers, :math:`(R,)`, and standard normal nodes, :math:`(S, D)`,
            to codes of these images' Gaussians, :math:`(R, S, D)`.

    Returns:
        The expectations.
    """
    dims, count = model.latent_dim, len(x)
    total = torch.zeros(count, dtype=torch.float64)
    value, error = total.clone(), total.clone()
    changes = torch.zeros(3, count, dtype=torch.float64)  # the latest first
    level = torch.zeros(count, dtype=torch.int64)
    active, mass = torch.arange(count), 0.0
    for at in range(_last_level(model) + 1):
        nodes, weights = _new_nodes(dims, at)
        mass += float(weights.sum())
        for rows in active.split(max(1, _CODES_AT_ONCE // len(nodes))):
            values = node_log_likelihoods(model, x[rows], codes(rows, nodes))
            total[rows] += row_sums(values * weights)
        before = value[active]
        value[active] = total[active] / mass
        changes[1:, active] = changes[:-1, active]
        # The first lattice has none before it.
        changes[0, active] = (value[active] - before).abs() if at else 0.0
        error[active] = _SHARES @ changes[:, active]
        level[active] = at
        if at >= FIRST_LEVEL:
            active = active[~(error[active] <= _TOLERANCE)]
        if not len(active):
            break
    return Expectation(value, error + torch.finfo(torch.float32).eps * value.abs(), level)


def lattice_nodes(dims: int, level: int) -> tuple[Tensor, Tensor]:
    """All nodes of a lattice, (S, D), and their weights, which sum to 1, (S,)."""
    parts = [_new_nodes(dims, at) for at in range(level + 1)]
    nodes, weights = (torch.cat(part) for part in zip(*parts, strict=True))
    return nodes, weights / weights.sum()


@lru_cache(maxsize=64)
def _new_nodes(dims: int, level: int) -> tuple[Tensor, Tensor]:
    """The nodes (S, D) that a level adds to those before, and their densities up to a factor."""
    spacing = _SPACING / 2 ** -(-level // dims)
    most = int(_REACH / spacing)
    index = torch.cartesian_prod(*[torch.arange(-most, most + 1)] * dims).reshape(-1, dims)
    if level:
        # In the plane first the middles of the squares, then those of the new lattice's squares.
        odd = 2 if dims == 2 and level % 2 else 1
        index = index[(index % 2).sum(-1) == odd]
    nodes = index.double() * spacing
    nodes = nodes[nodes.square().sum(-1) <= _REACH**2]
    return nodes, torch.exp(-0.5 * nodes.square().sum(-1))


def _last_level(model: LatentModel) -> int:
    """The finest lattice that the work for one image allows."""
    level = FIRST_LEVEL
    nodes = sum(len(_new_nodes(model.latent_dim, at)[0]) for at in range(level + 1))
    while 2 * nodes * model.image.pixels <= _PIXELS:
        nodes, level = 2 * nodes, level + 1
    return level

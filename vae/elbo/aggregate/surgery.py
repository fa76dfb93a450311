r"""ELBO surgery: what the mean KL is made of, over a set of N images.

With the aggregate posterior :math:`\bar q(z) = \frac1N \sum_n q(z \mid x_n)`,

.. math::
    \frac1N \sum_n KL(q_n \| p) = I + KL(\bar q \| p), \quad
    I = \frac1N \sum_n E_{q_n}\!\left[\log \frac{q_n}{\bar q}\right] \in [0, \log N]

and image by image :math:`KL_n = E_{q_n}[\log q_n / \bar q] + E_{q_n}[\log \bar q / p]`, where the
first share lies in :math:`[0, \log N]` and the second, which is no KL, can be negative. Further
:math:`KL(\bar q \| p) = TC(\bar q) + \sum_d KL(\bar q_d \| p_d)`.

I is information about *which of these N images* it was. Where the mean KL exceeds
:math:`\log N`, I is pinned there and the rest shows as misfit: an artefact of a finite set.

References:
    | ELBO surgery (Hoffman & Johnson, 2016), section 3,
    | http://approximateinference.org/accepted/HoffmanJohnson2016.pdf
    | Isolating Sources of Disentanglement in VAEs (Chen et al., 2018), eq. 2,
    | https://arxiv.org/abs/1802.04942
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vae.elbo.aggregate.density import aggregate_log_density
from vae.elbo.terms import log_density, standard_normal_kl, standard_normal_log_density

__all__ = ["Surgery", "marginal_kl", "surgery"]

# Beyond so many standard deviations a component's mass, 2e-17, is below double precision.
_REACH = 8.5
# Nodes per smallest standard deviation: the trapezoid rule is then exact for the Gaussians.
_FINENESS = 2
_MOST_NODES = 2**22
_MOST_MARGINAL_NODES = 2**16
_NODES_AT_ONCE = 2**18
_MOST_PAIRS = 2**26
_COORDINATES_AT_ONCE = 2**19


class Surgery(NamedTuple):
    r"""The parts of the mean KL. Nats; a standard error of 0 means quadrature.

    Attributes:
        kl: Each image's KL, with shape :math:`(N,)`.
        information: Each image's :math:`E_{q_n}[\log q_n / \bar q]`, with shape :math:`(N,)`.
        information_se: Its standard error, with shape :math:`(N,)`.
        misfit: Each image's :math:`E_{q_n}[\log \bar q / p]`, ``kl - information``, (N,).
        mean_kl: The mean of ``kl``, with shape :math:`()`.
        mean_information: The index information I, with shape :math:`()`.
        mean_information_se: Its standard error, with shape :math:`()`.
        log_size: :math:`\log N`, the ceiling of the information.
        aggregate_kl: :math:`KL(\bar q \| p)`, ``mean_kl - mean_information``, of its error, ().
        residual: A direct estimate of :math:`KL(\bar q \| p)` minus ``aggregate_kl``, ().
        residual_se: The standard error of the residual, with shape :math:`()`.
        dimension_kl: :math:`KL(\bar q_d \| p_d)` by quadrature, with shape :math:`(D,)`.
        total_correlation: :math:`TC(\bar q)`, with the error of ``aggregate_kl``, ().
        pinned: Whether the mean KL exceeds :math:`\log N`.
    """

    kl: Tensor
    information: Tensor
    information_se: Tensor
    misfit: Tensor
    mean_kl: Tensor
    mean_information: Tensor
    mean_information_se: Tensor
    log_size: float
    aggregate_kl: Tensor
    residual: Tensor
    residual_se: Tensor
    dimension_kl: Tensor
    total_correlation: Tensor
    pinned: bool


def surgery(mu: Tensor, sigma: Tensor, draws: int | None = None, seed: int = 0) -> Surgery:
    r"""Takes the mean KL of a set of images apart.

    For :math:`D \le 2` by quadrature on one grid that resolves the narrowest component; where
    that grid would be too large, or :math:`D > 2`, by draws from each :math:`q_n`. Every draw's
    :math:`\log q_n / \bar q` is at most :math:`\log N`, so no estimate can exceed it.

    Args:
        mu: Posterior means, with shape :math:`(N, D)`.
        sigma: Posterior standard deviations, with shape :math:`(N, D)`.
        draws: Draws for each image; 0 by quadrature. Where not given, quadrature if it is
            affordable, else as many as a few seconds allow, 64 at most.
        seed: The seed of the draws.

    Returns:
        The parts.

    Raises:
        ValueError: If the shapes differ, a sigma isn't positive, or one draw is asked for.
    """
    if mu.shape != sigma.shape or mu.dim() != 2 or not len(mu):
        raise ValueError(f"mu and sigma must both be (N, D), not {mu.shape} and {sigma.shape}.")
    if not (sigma > 0).all():
        raise ValueError("sigma must be positive.")
    mu, sigma = mu.double(), sigma.double()
    count, dims = mu.shape
    axes = _axes(mu, sigma) if dims <= 2 and not draws else None
    if draws is None:
        draws = 0 if axes else max(2, min(64, _MOST_PAIRS // count**2))
    if draws == 1 or (not draws and axes is None):
        raise ValueError("draws must be at least 2 where the quadrature isn't affordable.")
    kl = standard_normal_kl(mu, 2 * sigma.log()).sum(-1)
    if draws:
        information, error, direct, direct_se = _by_draws(mu, sigma, draws, seed)
    else:
        information, direct = _by_quadrature(mu, sigma, axes)
        error, direct_se = torch.zeros_like(kl), torch.zeros((), dtype=torch.float64)
    mean_error = error.square().sum().sqrt() / count
    aggregate_kl = kl.mean() - information.mean()
    dimension_kl = marginal_kl(mu, sigma)
    return Surgery(
        kl=kl,
        information=information,
        information_se=error,
        misfit=kl - information,
        mean_kl=kl.mean(),
        mean_information=information.mean(),
        mean_information_se=mean_error,
        log_size=math.log(count),
        aggregate_kl=aggregate_kl,
        residual=direct - aggregate_kl,
        residual_se=direct_se,
        dimension_kl=dimension_kl,
        total_correlation=aggregate_kl - dimension_kl.sum(),
        pinned=bool(kl.mean() > math.log(count)),
    )


def marginal_kl(mu: Tensor, sigma: Tensor) -> Tensor:
    r"""The KL to N(0, 1) of the aggregate's marginals, by quadrature.

    Each component is added up where it has mass only, so the cost doesn't grow with how narrow
    the narrowest is.

    Args:
        mu: Posterior means, with shape :math:`(N, D)`.
        sigma: Posterior standard deviations, with shape :math:`(N, D)`.

    Returns:
        :math:`KL(\bar q_d \| p_d)` in nats, with shape :math:`(D,)`.
    """
    results = []
    for means, widths in zip(mu.double().T, sigma.double().T, strict=True):
        low = float((means - _REACH * widths).min())
        span = float((means + _REACH * widths).max()) - low
        step = max(float(widths.min()) / _FINENESS, span / _MOST_MARGINAL_NODES)
        density = torch.zeros(math.ceil(span / step) + 2, dtype=torch.float64)
        first = ((means - _REACH * widths - low) / step).floor().long()
        lengths = (2 * _REACH * widths / step).ceil().long() + 1
        for some in _pieces(lengths, _NODES_AT_ONCE):
            owners = some.repeat_interleave(lengths[some])
            starts = lengths[some].cumsum(0) - lengths[some]
            offsets = torch.arange(len(owners)) - starts.repeat_interleave(lengths[some])
            nodes = (first[owners] + offsets).clamp_max(len(density) - 1)
            places = (low + step * nodes.double())[:, None]
            values = log_density(means[owners, None], widths[owners, None], places).exp()
            density.index_add_(0, nodes, values / len(means))
        places = (low + step * torch.arange(len(density), dtype=torch.float64))[:, None]
        log_prior = standard_normal_log_density(places)
        # Where the density vanishes so does its share: x log x goes to 0.
        entropy = torch.special.entr(density)
        results.append(-step * (entropy + density * log_prior).sum())
    return torch.stack(results)


def _pieces(lengths: Tensor, most: int) -> list[Tensor]:
    """Numbers of components in pieces of at most about ``most`` nodes."""
    piece = (lengths.cumsum(0) - 1) // most
    return [torch.nonzero(piece == k)[:, 0] for k in piece.unique()]


def _axes(mu: Tensor, sigma: Tensor) -> list[Tensor] | None:
    """A regular axis of nodes for each dimension; none where the grid would be too large."""
    low = (mu - _REACH * sigma).amin(0)
    high = (mu + _REACH * sigma).amax(0)
    steps = sigma.amin(0) / _FINENESS
    counts = ((high - low) / steps).ceil() + 1
    if counts.prod() > _MOST_NODES or len(mu) * counts.prod() > _MOST_PAIRS * 2**7:
        return None
    return [
        start + step * torch.arange(int(number), dtype=torch.float64)
        for start, step, number in zip(low, steps, counts, strict=True)
    ]


def _by_quadrature(mu: Tensor, sigma: Tensor, axes: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Each image's information (N,), and KL(q̄ || p) summed over the grid ()."""
    count = len(mu)
    masses, log_q = [], torch.zeros(count, dtype=torch.float64)
    for d, axis in enumerate(axes):
        logs = log_density(mu[:, None, d, None], sigma[:, None, d, None], axis[:, None])
        share = torch.softmax(logs, -1)
        # The components are products, so E[log q_n] is a sum of one-dimensional integrals.
        log_q += (share * logs).sum(-1)
        masses.append(share)
    # A lone dimension is a plane whose second axis is one node.
    second = masses[1] if len(axes) == 2 else torch.ones(count, 1, dtype=torch.float64)
    cell = math.prod(float(axis[1] - axis[0]) for axis in axes)
    log_priors = [standard_normal_log_density(axis[:, None]) for axis in axes]
    prior_second = log_priors[1] if len(axes) == 2 else torch.zeros(1, dtype=torch.float64)
    log_aggregate = torch.zeros(count, dtype=torch.float64)
    direct = torch.zeros((), dtype=torch.float64)
    for rows in torch.arange(len(axes[0])).split(max(1, _NODES_AT_ONCE // second.shape[1])):
        first = masses[0][:, rows]
        mass = first.T @ second / count
        # The floor stands where no component has any mass to weigh it.
        logs = torch.log(mass.clamp_min(1e-300)) - math.log(cell)
        log_aggregate += ((first @ logs) * second).sum(-1)
        log_prior = log_priors[0][rows, None] + prior_second
        direct += (mass * (logs - log_prior)).sum()
    return log_q - log_aggregate, direct


def _by_draws(
    mu: Tensor, sigma: Tensor, draws: int, seed: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Information (N,) with its error (N,), and KL(q̄ || p) () with its error less the former's."""
    count, dims = mu.shape
    generator = torch.Generator().manual_seed(seed)
    e = torch.randn(count, draws, dims, generator=generator, dtype=torch.float64)
    ratios, directs = [], []
    # A block of images at a time, since each draw has D coordinates.
    for rows in torch.arange(count).split(max(1, _COORDINATES_AT_ONCE // (draws * dims))):
        z = mu[rows, None] + sigma[rows, None] * e[rows]
        log_q = log_density(mu[rows, None], sigma[rows, None], z)
        log_prior = standard_normal_log_density(z)
        owners = rows.repeat_interleave(draws)
        log_aggregate = aggregate_log_density(mu, sigma, z.flatten(0, 1), owners)
        log_aggregate = log_aggregate.reshape(log_q.shape)
        ratios.append(log_q - log_aggregate)
        directs.append(log_aggregate - log_prior)
    ratio, direct = torch.cat(ratios), torch.cat(directs)
    # The residual is the mean over draws of log q_n / p less its closed form, the KL.
    total = ratio + direct
    error = ratio.std(-1) / math.sqrt(draws)
    residual_error = (total.std(-1) / math.sqrt(draws)).square().sum().sqrt() / count
    return ratio.mean(-1), error, direct.mean(), residual_error

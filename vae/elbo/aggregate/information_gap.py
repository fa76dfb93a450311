r"""How well single latent dimensions hold single factors, where the factors are known.

For a factor :math:`v_k` and a dimension :math:`z_d`, with the aggregate posterior over a set of
images,

.. math:: I(z_d; v_k) = H(z_d) - E_{v_k}[H(z_d \mid v_k)], \qquad
    \mathrm{MIG} = \frac1K \sum_k \frac{I(z_{d_1(k)}; v_k) - I(z_{d_2(k)}; v_k)}{H(v_k)}

where :math:`d_1(k)` and :math:`d_2(k)` are the two most informative dimensions about the factor.
It is 1 where every factor has a dimension of its own and 0 where none stands out. The densities
are mixtures of the images' own Gaussians, so the integrals are quadratures without sampling noise;
what remains is that of the set of images, which lifts every information a little.

References:
    | Isolating Sources of Disentanglement in VAEs (Chen et al., 2018), eq. 6 and appendix B,
    | https://arxiv.org/abs/1802.04942
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vae.elbo.terms import log_density

__all__ = ["InformationGap", "mutual_information_gap"]

# Beyond so many standard deviations there is no mass to speak of, 1e-15.
_REACH = 8.0
_FINENESS = 2
_MOST_NODES = 2**12
_NODES_AT_ONCE = 2**20


class InformationGap(NamedTuple):
    r"""The mutual information gap and what it is made of.

    Attributes:
        value: The gap, in [0, 1], with shape :math:`()`.
        per_factor: The gap of each factor, in [0, 1], with shape :math:`(K,)`.
        information: :math:`I(z_d; v_k)` in nats, with shape :math:`(K, D)`.
        entropy: :math:`H(v_k)` in nats, with shape :math:`(K,)`.
    """

    value: Tensor
    per_factor: Tensor
    information: Tensor
    entropy: Tensor


def mutual_information_gap(mu: Tensor, sigma: Tensor, factors: Tensor) -> InformationGap:
    r"""Computes the mutual information gap of a set of codes.

    Args:
        mu: Posterior means, with shape :math:`(N, D)`.
        sigma: Posterior standard deviations, with shape :math:`(N, D)`.
        factors: The index of each factor's value, integers, with shape :math:`(N, K)`.

    Returns:
        The gap and its parts.

    Raises:
        ValueError: If the shapes don't fit, or a factor has the same value everywhere.
    """
    if mu.shape != sigma.shape or mu.dim() != 2 or factors.shape[:1] != mu.shape[:1]:
        raise ValueError(
            f"mu and sigma must be (N, D) and factors (N, K), not {tuple(mu.shape)}, "
            f"{tuple(sigma.shape)} and {tuple(factors.shape)}."
        )
    mu, sigma = mu.double(), sigma.double()
    # One row for each value of each factor: which images have it, as weights that sum to 1.
    rows, shares, owners = [], [], []
    for k, column in enumerate(factors.T):
        values, codes, counts = column.unique(return_inverse=True, return_counts=True)
        if len(values) < 2:
            raise ValueError(f"factor {k} has the same value in every image.")
        member = torch.nn.functional.one_hot(codes, len(values)).T.double()
        rows.append(member / counts[:, None])
        shares.append(counts.double() / len(column))
        owners += [k] * len(values)
    weights, share, owner = torch.cat(rows), torch.cat(shares), torch.tensor(owners)
    count = factors.shape[1]
    entropy = torch.zeros(count, dtype=torch.float64).index_add_(
        0, owner, torch.special.entr(share)
    )
    columns = []
    for means, widths in zip(mu.T, sigma.T, strict=True):
        whole, given = _entropies(means, widths, weights)
        # The entropy that remains when the factor is known, on average over its values.
        rest = torch.zeros(count, dtype=torch.float64).index_add_(0, owner, share * given)
        columns.append((whole - rest).clamp_min(0))
    information = torch.stack(columns, 1)
    # A lone dimension has no rival.
    rivals = torch.nn.functional.pad(information, (0, 1)).topk(2, -1).values
    per_factor = (rivals[:, 0] - rivals[:, 1]) / entropy
    return InformationGap(per_factor.mean(), per_factor, information, entropy)


def _entropies(means: Tensor, widths: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Entropies in nats of the mixture of all components () and of weighted ones (V,)."""
    low = float((means - _REACH * widths).min())
    high = float((means + _REACH * widths).max())
    step = max(float(widths.min()) / _FINENESS, (high - low) / _MOST_NODES)
    nodes = torch.arange(low, high + step, step, dtype=torch.float64)
    every = torch.full((1, len(means)), 1 / len(means), dtype=torch.float64)
    weights = torch.cat((every, weights))
    parts = []
    for some in nodes.split(max(1, _NODES_AT_ONCE // len(means))):
        densities = log_density(means[:, None, None], widths[:, None, None], some[:, None]).exp()
        parts.append(weights @ densities)
    mass = torch.cat(parts, 1) * step
    # Where the step had to be coarse the masses don't quite sum to 1.
    mass = mass / mass.sum(-1, keepdim=True)
    entropies = torch.special.entr(mass).sum(-1) + torch.log(torch.tensor(step))
    return entropies[0], entropies[1:]

r"""Where the search for an image's best Gaussian starts, and the draws that it climbs on."""

from __future__ import annotations

import torch
from torch import Tensor

from vae.elbo.evidence.bounds import importance_draws
from vae.elbo.evidence.posterior import moments
from vae.elbo.evidence.quadrature import Quadrature
from vae.elbo.gap.gaussian_fit import Gaussians
from vae.elbo.seen import Seen
from vae.elbo.terms import log_density

__all__ = ["balanced_draws", "posterior_starts", "scouted_starts"]

_SCOUTS = 512


def posterior_starts(encoder: Gaussians, found: Quadrature) -> Gaussians:
    r"""The encoder's answer, and what the true posterior on the grid suggests.

    Args:
        encoder: The encoder's Gaussian, with :math:`R = 1`.
        found: The posterior's nodes.

    Returns:
        The encoder's Gaussian; the posterior's moments; those of its two halves, cut across its
        longest axis, for it may have two peaks; and its mode.
    """
    if found.log_evidence.isnan():
        return encoder
    nodes, masses = found.nodes, found.masses
    mean, covariance = moments(nodes, masses)
    longest = torch.linalg.eigh(covariance).eigenvectors[:, -1]
    upper = (nodes - mean) @ longest > 0
    mus, sigmas = [encoder.mu[0]], [encoder.tril[0].diagonal()]
    for part in (torch.ones_like(upper), upper, ~upper):
        share = masses[part] / masses[part].sum().clamp_min(1e-300)
        centre, spread = moments(nodes[part], share)
        spread = spread + torch.eye(len(centre)).double() * (found.step / 2) ** 2
        mus.append(centre)
        # The best diagonal Gaussian of a Gaussian posterior has the precision's diagonal.
        sigmas.append(torch.linalg.inv(spread).diagonal().rsqrt())
    mus.append(nodes[found.log_joint.argmax()])
    sigmas.append(sigmas[1])
    return Gaussians(torch.stack(mus), torch.diag_embed(torch.stack(sigmas)))


def scouted_starts(seen: Seen, encoder: Gaussians) -> Gaussians:
    r"""The encoder's answer, and its width about the likeliest of some draws.

    Args:
        seen: The image.
        encoder: The encoder's Gaussian, with :math:`R = 1`.

    Returns:
        Two Gaussians.
    """
    z, log_weights = importance_draws(seen, _SCOUTS)
    log_joint = log_weights + log_density(seen.mu[:, None], seen.sigma[:, None], z)
    peak = z[0, log_joint[0].argmax()]
    return Gaussians(torch.cat((encoder.mu, peak[None])), encoder.tril.repeat(2, 1, 1))


def balanced_draws(seen: Seen, draws: int) -> tuple[Tensor, Tensor]:
    r"""Fixed draws in pairs of opposite sign and of unit variance.

    Over them the mean of a quadratic without cross terms is exact.

    Args:
        seen: The image.
        draws: The even number S of draws.

    Returns:
        The draws, with shape :math:`(S, D)`, and their equal weights, :math:`(S,)`.
    """
    half = seen.normals("fit", draws // 2)[0]
    half = half / half.square().mean(0).sqrt()
    weights = torch.full((draws,), 1 / draws, dtype=torch.float64)
    return torch.cat((half, -half)), weights

r"""Annealed importance sampling: an estimate of :math:`\log p(x)` beyond two dimensions.

Chains walk from a Gaussian that is known to :math:`p(x, z)` through the bridges

.. math:: \log f_t(z) = (1 - \beta_t) \log q_0(z) + \beta_t \log p(x, z), \quad
    0 = \beta_0 < \dots < \beta_T = 1

each with one Hamiltonian step that leaves its bridge as it is. The weights
:math:`\log w = \sum_t (\beta_t - \beta_{t-1}) [\log p(x, z_{t-1}) - \log q_0(z_{t-1})]` are
unbiased for :math:`p(x)`, so the log of their mean is at most :math:`\log p(x)` in expectation,
however short the chains. Unlike plain importance weights they may start at a q that misses mass:
the chains carry it there, unless a valley lies between. No standard error can tell of a peak that
no chain has seen. Therefore half of the chains start at the prior, and :math:`q_0` is the mixture
(a defensive mixture: Owen & Zhou, 2000).

References:
    | Annealed importance sampling (Neal, 2001), eq. 3 and 11, https://arxiv.org/abs/physics/9803008
    | On the Quantitative Analysis of Decoder-Based Generative Models (Wu et al., 2017), section 3,
    | https://arxiv.org/abs/1611.04273
    | Safe and Effective Importance Sampling (Owen & Zhou, 2000), section 3
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from vae.elbo.evidence.bounds import importance_bound
from vae.elbo.gradients import log_likelihood_gradients, log_prior_gradients
from vae.elbo.seen import Seen
from vae.elbo.terms import log_density, standard_normal_log_density
from vae.model.face import LatentModel
from vae.model.noise import image_generator

__all__ = ["Annealed", "Start", "annealed_evidence", "annealing_schedule"]

Start = Literal["mixture", "posterior", "prior"]

_PILOT_CHAINS = 16
_TARGET = 0.8
_FIRST_STEP = 0.3


class Annealed(NamedTuple):
    r"""The annealed estimate of each image.

    Attributes:
        log_evidence: The estimate of :math:`\log p(x)` in nats, with shape :math:`(B,)`.
        standard_error: Its standard error by the delta method, with shape :math:`(B,)`.
        effective_samples: The effective number of chains, with shape :math:`(B,)`.
        acceptance: The mean share of accepted steps, with shape :math:`(B,)`.
        z: Where the chains end, with shape :math:`(B, K, D)`.
        log_weights: Their log-weights; with them ``z`` stands for :math:`p(z|x)`, (B, K).
    """

    log_evidence: Tensor
    standard_error: Tensor
    effective_samples: Tensor
    acceptance: Tensor
    z: Tensor
    log_weights: Tensor


class _Start(NamedTuple):
    r"""Where chains start: a Gaussian, of which a share may be the prior instead."""

    mu: Tensor
    sigma: Tensor
    prior_share: float

    def draw(self, chains: int, noise: np.random.Generator) -> Tensor:
        """Codes (K, D), the shares of the mixture filled exactly."""
        e = torch.from_numpy(noise.standard_normal((chains, len(self.mu))))
        own = chains - round(self.prior_share * chains)
        return torch.cat((self.mu + self.sigma * e[:own], e[own:]))

    def look(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The log-density (K,) and its slope (K, D)."""
        own, slope = log_density(self.mu, self.sigma, z), (self.mu - z) / self.sigma.square()
        if not self.prior_share:
            return own, slope
        own = own + math.log(1 - self.prior_share)
        prior = standard_normal_log_density(z) + math.log(self.prior_share)
        share = torch.sigmoid(own - prior)[:, None]
        return torch.logaddexp(own, prior), share * slope - (1 - share) * z


class _State(NamedTuple):
    """Chains (K, D) with what both ends of the bridge say about them, and the slopes of that."""

    z: Tensor
    log_start: Tensor
    log_joint: Tensor
    start_slope: Tensor
    joint_slope: Tensor

    def log_bridge(self, beta: float) -> Tensor:
        return (1 - beta) * self.log_start + beta * self.log_joint

    def slope(self, beta: float) -> Tensor:
        return (1 - beta) * self.start_slope + beta * self.joint_slope

    def where(self, keep: Tensor, other: _State) -> _State:
        pairs = zip(self, other, strict=True)
        return _State(
            *(torch.where(keep.reshape(-1, *[1] * (a.dim() - 1)), a, b) for a, b in pairs)
        )


def annealing_schedule(temperatures: int) -> Tensor:
    r"""The sigmoid schedule of Wu et al.: slow at both ends.

    Args:
        temperatures: The number :math:`T \ge 1` of bridges after the start.

    Returns:
        :math:`\beta_0 = 0` to :math:`\beta_T = 1`, with shape :math:`(T + 1,)`.
    """
    curve = torch.sigmoid(torch.linspace(-4, 4, temperatures + 1, dtype=torch.float64))
    return (curve - curve[0]) / (curve[-1] - curve[0])


def annealed_evidence(
    seen: Seen,
    *,
    start: Start = "mixture",
    chains: int = 64,
    temperatures: int = 100,
    leapfrog: int = 5,
    widen: float = 1.0,
    progress: Callable[[float], object] | None = None,
) -> Annealed:
    r"""Estimates each image's :math:`\log p(x)` by annealing, each image by itself.

    A pilot of a few chains goes first and only sets the step size of each bridge; the chains that
    count are fresh, so the estimate stays unbiased. Memory grows with the number of chains alone.

    Args:
        seen: The images.
        start: Whether chains start at :math:`q(z \mid x)` (``posterior``), at the ``prior``, or
            half and half (``mixture``).
        chains: The number K of chains.
        temperatures: The number T of bridges.
        leapfrog: Gradients taken in one Hamiltonian step; 1 makes it Metropolis-adjusted Langevin.
        widen: Multiplies the standard deviations of q at the start.
        progress: Called after every bridge with the share of the work that is done, in (0, 1];
            what it raises ends the work.

    Returns:
        The estimates.

    Raises:
        ValueError: If a count is out of range or the start unknown.
    """
    counts = {"chains": (chains, 2, 10_000), "temperatures": (temperatures, 1, 100_000)}
    counts["leapfrog"] = (leapfrog, 1, 1_000)
    for name, (value, least, most) in counts.items():
        if not least <= value <= most:
            raise ValueError(f"{name} must lie in {least}..{most}, not {value}.")
    if start not in get_args(Start):
        raise ValueError(f"start must be one of {', '.join(get_args(Start))}, not {start!r}.")
    with torch.inference_mode():
        mu, sigma = seen.mu, seen.sigma
        if start == "prior":
            mu, sigma, widen = torch.zeros_like(mu), torch.ones_like(sigma), 1.0
        betas = annealing_schedule(temperatures)
        parts = []
        for n in range(len(seen)):

            def done(share: float, n: int = n) -> None:
                if progress is not None:
                    progress((n + share) / len(seen))

            noise = image_generator(seen.levels[n], seen.seed, "annealing")
            first = _Start(mu[n], widen * sigma[n], 0.5 if start == "mixture" else 0.0)
            look = _looker(seen.model, seen.x[n], first)
            sizes = _pilot(look, first, betas, leapfrog, noise)
            parts.append(_anneal(look, first, betas, sizes, leapfrog, chains, noise, done))
        log_weights, z, acceptance = (torch.stack(part) for part in zip(*parts, strict=True))
        bound = importance_bound(log_weights)
    return Annealed(*bound, acceptance, z, log_weights)


def _looker(model: LatentModel, image: Tensor, start: _Start) -> Callable[[Tensor], _State]:
    """Evaluates both ends of the bridge at codes."""

    def look(z: Tensor) -> _State:
        values, slopes = log_likelihood_gradients(model, image, z)
        log_prior, prior_slopes = log_prior_gradients(model, z)
        log_start, start_slope = start.look(z)
        return _State(z, log_start, values + log_prior, start_slope, slopes + prior_slopes)

    return look


def _pilot(
    look: Callable[[Tensor], _State],
    start: _Start,
    betas: Tensor,
    leapfrog: int,
    noise: np.random.Generator,
) -> Tensor:
    """Step sizes (T, D) from a few chains that walk over every third bridge."""
    few = torch.cat((betas[:-1:3], betas[-1:]))
    state = look(start.draw(_PILOT_CHAINS, noise))
    width, length, sizes = start.sigma.clone(), _FIRST_STEP, []
    for beta in few[1:].tolist():
        sizes.append(length * width)
        state, chance = _hamiltonian(look, state, beta, sizes[-1], leapfrog, noise)
        length *= float(torch.exp(chance.mean() - _TARGET))
        length = min(max(length, 1e-3), 1.5)
        # The chains' own spread, in the long run, tells which dimensions are narrow by now.
        width = width**0.7 * state.z.std(0).clamp_min(1e-6) ** 0.3
    return torch.stack(sizes).repeat_interleave(3, 0)[: len(betas) - 1]


def _anneal(
    look: Callable[[Tensor], _State],
    start: _Start,
    betas: Tensor,
    sizes: Tensor,
    leapfrog: int,
    chains: int,
    noise: np.random.Generator,
    done: Callable[[float], None],
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-weights (K,), where the chains end (K, D), and the mean acceptance ()."""
    state = look(start.draw(chains, noise))
    log_weights = torch.zeros(chains, dtype=torch.float64)
    accepted = torch.zeros((), dtype=torch.float64)
    bridges = zip(betas[1:].tolist(), betas.diff().tolist(), sizes, strict=True)
    for number, (beta, rise, size) in enumerate(bridges, 1):
        log_weights += rise * (state.log_joint - state.log_start)
        state, chance = _hamiltonian(look, state, beta, size, leapfrog, noise)
        accepted += chance.mean() / len(sizes)
        done(number / len(sizes))
    return log_weights, state.z, accepted


def _hamiltonian(
    look: Callable[[Tensor], _State],
    state: _State,
    beta: float,
    size: Tensor,
    leapfrog: int,
    noise: np.random.Generator,
) -> tuple[_State, Tensor]:
    """One step that leaves a bridge as it is, of about the sizes (D,), and its chances (K,)."""
    # Lengths of their own keep chains from walking in circles on a Gaussian bridge.
    size = size * torch.from_numpy(noise.uniform(0.6, 1.2, (len(state.z), 1)))
    momentum = torch.from_numpy(noise.standard_normal(tuple(state.z.shape)))
    new, moved = state, momentum + 0.5 * size * state.slope(beta)
    for k in range(leapfrog):
        new = look(new.z + size * moved)
        # Half a kick at the end, for half a kick stood at the beginning.
        moved = moved + (0.5 if k == leapfrog - 1 else 1.0) * size * new.slope(beta)
    energy = 0.5 * (momentum.square().sum(-1) - moved.square().sum(-1))
    log_ratio = new.log_bridge(beta) - state.log_bridge(beta) + energy
    chance = log_ratio.nan_to_num(-torch.inf).clamp(max=0).exp()
    return new.where(torch.from_numpy(noise.random(len(chance))) < chance, state), chance

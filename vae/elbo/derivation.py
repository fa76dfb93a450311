r"""The derivation of the ELBO, each line with both of its sides computed for one image.

The two sides of a line never come from one computation, so that each line can fail: an integral
by Gauss-Hermite nodes stands against a closed form, a grid about q against those nodes, and a
quadrature over the whole plane against importance sampling.

References:
    | Auto-Encoding Variational Bayes (Kingma & Welling, 2014), section 2.2 and appendix B,
    | https://arxiv.org/abs/1312.6114
    | Importance Weighted Autoencoders (Burda et al., 2016), https://arxiv.org/abs/1509.00519
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vae.elbo.crosscheck import SampledEvidence, sampled_evidence
from vae.elbo.ladder import bound_ladder
from vae.elbo.quadrature import (
    CoarseScan,
    Quadrature,
    hermite_nodes,
    node_log_likelihoods,
    quadrature,
)
from vae.elbo.scoring import SampleScores, posterior_nodes, sample_scores
from vae.elbo.terms import log_density
from vae.model.vae import LatentModel, observe

__all__ = [
    "Estimate",
    "Line",
    "closed_forms",
    "derivation",
    "divergence_to_posterior",
    "grid_elbo",
    "score_elbo",
    "split_line",
]

# Sampled sides may differ by so many standard errors: once in two million lines by chance.
_ERRORS = 5
# Networks compute in float32.
_ROUNDING = 1e-4


class Estimate(NamedTuple):
    """A number in nats, and how far it may be off."""

    value: float
    error: float


class Line(NamedTuple):
    """One line of the derivation, evaluated.

    Attributes:
        key: A short name.
        formula: The line in LaTeX.
        why: What allows it, in a sentence.
        relation: Whether the left side equals the right one or is at least as large.
        left: The left side in nats.
        right: The right side in nats.
        error: How far the sides may differ by numerical or sampling error, in nats.
    """

    key: str
    formula: str
    why: str
    relation: Literal["=", "≥"]
    left: float
    right: float
    error: float

    @property
    def slack(self) -> float:
        """The left side minus the right one, in nats."""
        return self.left - self.right

    @property
    def holds(self) -> bool:
        """Whether the numbers agree with the claim."""
        if self.relation == "=":
            return abs(self.slack) <= self.error
        return self.slack >= -self.error


@torch.inference_mode()
def derivation(
    model: LatentModel,
    levels: np.ndarray,
    draws: int = 64,
    seed: int = 0,
    scan: CoarseScan | None = None,
) -> list[Line]:
    r"""Evaluates the derivation for one image.

    Args:
        model: The model.
        levels: One image's levels, ``uint8``, with shape :math:`(C, H, W)`.
        draws: Draws from q where :math:`D > 2`, where it takes 2 to tell their error.
        seed: The seed of every draw.
        scan: The model's decoded coarse cells, for a caller that keeps them.

    Returns:
        The lines in order; those that need the exact evidence are there for :math:`D \le 2` only,
        and only for an image within reach of the quadrature.
    """
    batch, draws = levels[None], max(2, draws)
    x = observe(model.config, batch, seed)
    scores = sample_scores(model, batch, draws=draws, seed=seed)
    mu, sigma = scores.mu, scores.sigma
    elbo, ladder = score_elbo(scores), bound_ladder(model, levels, seed=seed)
    k = ladder.rungs[-1]
    bound = Estimate(float(ladder.values[-1]), _ERRORS * float(ladder.standard_errors[-1]))
    lines = []
    if model.config.latent_dim <= 2:
        grid = grid_elbo(model, x, mu, sigma)
        ratio, ratio_error = grid.value, grid.error + elbo.error
        ratio_why = "Left: the log-ratio summed over a grid about q. Right: the score."
        found = quadrature(model, x[0], mu[0], scan=scan)
        if not found.log_evidence.isnan():
            sampled = sampled_evidence(model, x[0], found, seed)
            to_posterior = divergence_to_posterior(sampled, grid)
            lines += _evidence_lines(found, elbo, to_posterior, bound, k)
    else:
        z, weights = posterior_nodes(model.config, batch, mu, sigma, draws, seed)
        log_q, log_prior = _integrals(mu[0], sigma[0])
        mean = float((node_log_likelihoods(model, x, z)[0] * weights).sum())
        ratio, ratio_error = mean + log_prior - log_q, _ROUNDING
        ratio_why = (
            "Left: log p(z) − log q(z|x) integrated by nodes. Right: the score, with the closed "
            f"form. The mean of log p(x|z) is over the same {draws} draws on both sides."
        )
    lines += [
        Line(
            "jensen",
            r"\log E_{q}\!\left[\frac{p(x,z)}{q(z|x)}\right] \ge "
            r"E_{q}\!\left[\log \frac{p(x,z)}{q(z|x)}\right]",
            f"Jensen's inequality: the log is concave. Left: the log of a mean over {k:,} draws "
            "of q. Right: the score, which has not seen them.",
            "≥", bound.value, elbo.value, bound.error + elbo.error,
        ),
        Line(
            "two-forms",
            r"E_{q}\!\left[\log \frac{p(x,z)}{q(z|x)}\right] = E_{q}[\log p(x|z)] - "
            r"KL(q(z|x) \,\|\, p(z))",
            f"Split p(x,z) = p(x|z) p(z). {ratio_why}",
            "=", ratio, elbo.value, ratio_error,
        ),
    ]  # fmt: skip
    return lines + closed_forms(mu[0], sigma[0], float(scores.terms.kl[0]))


def closed_forms(mu: Tensor, sigma: Tensor, kl: float) -> list[Line]:
    r"""The lines from the two integrals of the KL to its closed form, which need no image.

    Args:
        mu: The mean of q, with shape :math:`(D,)`.
        sigma: Its standard deviation, with shape :math:`(D,)`.
        kl: The KL to check, in nats.

    Returns:
        Three lines.
    """
    log_q, log_prior = _integrals(mu, sigma)
    return [
        Line(
            "entropy",
            r"E_{q}[\log q(z|x)] = -\tfrac12 \sum_d (1 + \log 2\pi + \log \sigma_d^2)",
            "The mean of (z − μ)²/σ² under q is 1. Left: integrated by nodes.",
            "=", log_q,
            -0.5 * float((1 + math.log(2 * math.pi) + 2 * sigma.log()).sum()), _ROUNDING,
        ),
        Line(
            "cross-entropy",
            r"E_{q}[\log p(z)] = -\tfrac12 \sum_d (\log 2\pi + \mu_d^2 + \sigma_d^2)",
            "The mean of z² under q is μ² + σ². Left: integrated by nodes.",
            "=", log_prior,
            -0.5 * float((math.log(2 * math.pi) + mu.square() + sigma.square()).sum()), _ROUNDING,
        ),
        Line(
            "closed-form",
            r"KL(q(z|x) \,\|\, p(z)) = "
            r"\tfrac12 \sum_d (\mu_d^2 + \sigma_d^2 - 1 - \log \sigma_d^2)",
            "The difference of the last two lines; log 2π cancels. Left: of the two integrals.",
            "=", log_q - log_prior, kl, _ROUNDING,
        ),
    ]  # fmt: skip


def split_line(found: Quadrature, elbo: Estimate, to_posterior: Estimate) -> Line:
    r"""The identity :math:`\log p(x) = \mathrm{ELBO} + KL(q \| p(z|x))` for one image.

    Args:
        found: The quadrature that the left side comes from.
        elbo: The score's ELBO.
        to_posterior: The divergence, with a normaliser of its own.

    Returns:
        The line.
    """
    return Line(
        "split",
        r"\log p(x) = \mathrm{ELBO}(x) + KL(q(z|x) \,\|\, p(z|x))",
        "Write p(x) = p(x,z) / p(z|x), take logs, add and subtract log q(z|x), and take the mean "
        "over q for this one x. Left: quadrature over the plane. Right: the score, and a "
        "divergence whose p(x) is sampled.",
        "=", float(found.log_evidence), elbo.value + to_posterior.value,
        float(found.error) + elbo.error + to_posterior.error,
    )  # fmt: skip


def _evidence_lines(
    found: Quadrature, elbo: Estimate, to_posterior: Estimate, bound: Estimate, k: int
) -> list[Line]:
    log_evidence, error = float(found.log_evidence), float(found.error)
    return [
        split_line(found, elbo, to_posterior),
        Line(
            "gibbs",
            r"KL(q(z|x) \,\|\, p(z|x)) \ge 0",
            "Gibbs' inequality, which Jensen's proves.",
            "≥", to_posterior.value, 0.0, to_posterior.error,
        ),
        Line(
            "bound",
            r"\log p(x) \ge \mathrm{ELBO}(x)",
            "What was split off is not negative; it is the whole gap.",
            "≥", log_evidence, elbo.value, error + elbo.error,
        ),
        Line(
            "importance",
            r"\log p(x) \ge E\!\left[\log \frac1k \sum_{i=1}^{k} "
            r"\frac{p(x,z_i)}{q(z_i|x)}\right]",
            "The second route: multiplying and dividing by q makes p(x) a mean of weights under "
            f"q. The log of a mean over k = {k:,} draws falls short of log p(x) on average, and "
            "by more where q misses mass of the posterior.",
            "≥", log_evidence, bound.value, error + bound.error,
        ),
    ]  # fmt: skip


def score_elbo(scores: SampleScores) -> Estimate:
    """The ELBO that a score of one image states, with what its expectation may be off."""
    exact = float(scores.elbo_error[0])
    error = _ERRORS * float(scores.elbo_se[0]) if scores.draws else exact
    return Estimate(float(scores.terms.elbo[0]), error)


def divergence_to_posterior(sampled: SampledEvidence, grid: Estimate) -> Estimate:
    r"""The divergence of q from the true posterior, :math:`E_q[\log q(z|x) - \log p(z|x)]`.

    Args:
        sampled: The normaliser of :math:`p(z|x) = p(x, z) / p(x)`, apart from the quadrature.
        grid: The mean of :math:`\log p(x, z) - \log q(z|x)` under q.

    Returns:
        Nats.
    """
    error = _ERRORS * sampled.standard_error + grid.error
    return Estimate(sampled.log_evidence - grid.value, error)


def grid_elbo(model: LatentModel, x: Tensor, mu: Tensor, sigma: Tensor) -> Estimate:
    r"""The mean of :math:`\log p(x, z) - \log q(z|x)` under q by the trapezoid rule.

    Args:
        model: A model with :math:`D \le 2`.
        x: One image, with shape :math:`(1, C, H, W)`.
        mu: The mean of q, with shape :math:`(1, D)`.
        sigma: Its standard deviation, with shape :math:`(1, D)`.

    Returns:
        Nats, from a grid over :math:`\mu \pm 6 \sigma`; the error is the change from twice its
        step.
    """
    dims = mu.shape[-1]
    axis = torch.linspace(-6, 6, 41, dtype=torch.float64)
    e = torch.cartesian_prod(*[axis] * dims).reshape(-1, dims)
    z = mu + sigma * e
    log_q = log_density(mu, sigma, z)
    log_prior = log_density(torch.zeros(1), torch.ones(1), z)
    ratio = node_log_likelihoods(model, x, z[None])[0] + log_prior - log_q
    share = torch.exp(log_q) * sigma.prod() * float(axis[1] - axis[0]) ** dims * ratio
    value = float(share.sum())
    # Every second node of each axis is the same rule with twice the step.
    coarse = share.reshape([len(axis)] * dims)[(slice(None, None, 2),) * dims]
    error = abs(value - 2**dims * float(coarse.sum()))
    return Estimate(value, error + max(_ROUNDING, 1e-6 * abs(value)))


def _integrals(mu: Tensor, sigma: Tensor) -> tuple[float, float]:
    """The means of log q(z|x) and of log p(z) under q, (D,), one dimension after the other."""
    e, weights = hermite_nodes(1)
    z = mu[:, None] + sigma[:, None] * e[:, 0]
    log_q = log_density(mu[:, None, None], sigma[:, None, None], z[..., None])
    log_prior = log_density(torch.zeros(1), torch.ones(1), z[..., None])
    return float((log_q @ weights).sum()), float((log_prior @ weights).sum())

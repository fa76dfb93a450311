r"""The derivation of the ELBO, each line with both of its sides computed for one image.

The two sides of a line never come from one computation: an expectation by Gauss-Hermite nodes
stands against a closed form, a sum over a grid against a quadrature over the whole plane.

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

from vae.elbo.evidence import exact_evidence
from vae.elbo.ladder import bound_ladder
from vae.elbo.quadrature import CoarseScan, node_log_likelihoods
from vae.elbo.scoring import posterior_nodes, sample_scores
from vae.elbo.terms import log_density
from vae.model.vae import LatentModel, observe

__all__ = ["Line", "derivation", "divergence_to_posterior"]


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
        draws: Draws from q where :math:`D > 2`.
        seed: The seed of every draw.
        scan: The model's decoded coarse cells, for a caller that keeps them.

    Returns:
        The lines in order; those that need the exact evidence are there for :math:`D \le 2` only.
    """
    batch = levels[None]
    x = observe(model.config, batch, seed)
    scores = sample_scores(model, batch, draws=draws, seed=seed)
    mu, sigma = scores.mu, scores.sigma
    z, weights = posterior_nodes(model.config, batch, mu, sigma, draws, seed)
    exact = model.config.latent_dim <= 2

    def expectation(values: Tensor) -> tuple[float, float]:
        """The mean of values (1, S) under q, with what it may be off."""
        mean = float((values[0] * weights).sum())
        # Quadrature of a quadratic is exact to rounding; draws leave a standard error.
        return mean, 1e-3 if exact else 5 * float(values[0].std()) / math.sqrt(draws) + 1e-6

    log_q = log_density(mu[:, None], sigma[:, None], z)
    log_prior = log_density(torch.zeros(1), torch.ones(1), z)
    log_likelihood = node_log_likelihoods(model, x, z)
    elbo, kl = float(scores.terms.elbo[0]), float(scores.terms.kl[0])
    mean_log_q, error_q = expectation(log_q)
    mean_log_prior, error_prior = expectation(log_prior)
    mean_ratio, error_ratio = expectation(log_likelihood + log_prior - log_q)
    mean_kl, error_kl = expectation(log_q - log_prior)
    closed_log_q = -0.5 * float((1 + math.log(2 * math.pi) + 2 * sigma.log()).sum())
    closed_log_prior = -0.5 * float((math.log(2 * math.pi) + mu.square() + sigma.square()).sum())

    lines = []
    ladder = bound_ladder(model, levels, seed=seed)
    if exact:
        evidence = exact_evidence(model, x, mu, scan=scan)
        log_evidence, error = float(evidence.log_evidence[0]), float(evidence.error[0])
        to_posterior = divergence_to_posterior(model, x, mu, sigma, log_evidence)
        lines += [
            Line(
                "split",
                r"\log p(x) = \mathrm{ELBO}(x) + KL(q(z|x) \,\|\, p(z|x))",
                "Write p(x) = p(x,z) / p(z|x), take logs, add and subtract log q(z|x), and take "
                "the mean over q for this one x.",
                "=", log_evidence, elbo + to_posterior, 2e-3 + error,
            ),
            Line(
                "gibbs",
                r"KL(q(z|x) \,\|\, p(z|x)) \ge 0",
                "Gibbs' inequality, which Jensen's proves.",
                "≥", to_posterior, 0.0, 1e-6,
            ),
            Line(
                "bound",
                r"\log p(x) \ge \mathrm{ELBO}(x)",
                "What was split off is not negative; it is the whole gap.",
                "≥", log_evidence, elbo, 1e-3 + error,
            ),
            Line(
                "importance",
                r"\log p(x) = \log E_{q}\!\left[\frac{p(x,z)}{q(z|x)}\right]",
                "The second route: multiply and divide by q. Right: 5,000 draws, which fall short "
                "where q misses mass of the posterior.",
                "≥", log_evidence, float(ladder.values[-1]),
                4 * float(ladder.standard_errors[-1]),
            ),
        ]  # fmt: skip
    lines += [
        Line(
            "jensen",
            r"\log E_{q}\!\left[\frac{p(x,z)}{q(z|x)}\right] \ge "
            r"E_{q}\!\left[\log \frac{p(x,z)}{q(z|x)}\right]",
            "Jensen's inequality: the log is concave. Both sides from the same 5,000 draws.",
            "≥", float(ladder.values[-1]), float(ladder.values[0]), 0.0,
        ),
        Line(
            "two-forms",
            r"E_{q}\!\left[\log \frac{p(x,z)}{q(z|x)}\right] = E_{q}[\log p(x|z)] - "
            r"KL(q(z|x) \,\|\, p(z))",
            "Split p(x,z) = p(x|z) p(z). Left: the mean of the log-ratio. Right: the closed form.",
            "=", mean_ratio, elbo, error_ratio,
        ),
        Line(
            "entropy",
            r"E_{q}[\log q(z|x)] = -\tfrac12 \sum_d (1 + \log 2\pi + \log \sigma_d^2)",
            "The mean of (z − μ)²/σ² under q is 1.",
            "=", mean_log_q, closed_log_q, error_q,
        ),
        Line(
            "cross-entropy",
            r"E_{q}[\log p(z)] = -\tfrac12 \sum_d (\log 2\pi + \mu_d^2 + \sigma_d^2)",
            "The mean of z² under q is μ² + σ².",
            "=", mean_log_prior, closed_log_prior, error_prior,
        ),
        Line(
            "closed-form",
            r"KL(q(z|x) \,\|\, p(z)) = "
            r"\tfrac12 \sum_d (\mu_d^2 + \sigma_d^2 - 1 - \log \sigma_d^2)",
            "The difference of the last two lines; log 2π cancels.",
            "=", mean_kl, kl, error_kl,
        ),
    ]  # fmt: skip
    return lines


def divergence_to_posterior(
    model: LatentModel, x: Tensor, mu: Tensor, sigma: Tensor, log_evidence: float
) -> float:
    r"""The divergence of q from the true posterior by the trapezoid rule, apart from other sums.

    Args:
        model: A model with :math:`D \le 2`.
        x: One image, with shape :math:`(1, C, H, W)`.
        mu: The mean of q, with shape :math:`(1, D)`.
        sigma: Its standard deviation, with shape :math:`(1, D)`.
        log_evidence: :math:`\log p(x)` in nats.

    Returns:
        Nats, from a grid over :math:`\mu \pm 6 \sigma`.
    """
    dims = mu.shape[-1]
    # Steps of 0.3 standard deviations: finer ones change less than float32 sums do, 1e-6 nat.
    axis = torch.linspace(-6, 6, 41, dtype=torch.float64)
    e = torch.cartesian_prod(*[axis] * dims).reshape(-1, dims)
    z = mu + sigma * e
    log_q = log_density(mu, sigma, z)
    log_joint = node_log_likelihoods(model, x, z[None])[0]
    log_joint = log_joint + log_density(torch.zeros(1), torch.ones(1), z)
    mass = torch.exp(log_q) * sigma.prod() * float(axis[1] - axis[0]) ** dims
    return float((mass * (log_q - log_joint + log_evidence)).sum())

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

from vae.elbo.evidence.bounds import Ladder, bound_ladder
from vae.elbo.evidence.crosscheck import SampledEvidence, sampled_evidence
from vae.elbo.evidence.quadrature import Quadrature, quadrature
from vae.elbo.expectation import Elbo, estimate_elbo
from vae.elbo.seen import Seen
from vae.elbo.terms import log_density, standard_normal_log_density
from vae.elbo.tiles import log_joint, node_log_likelihoods

__all__ = [
    "Estimate",
    "Line",
    "closed_forms",
    "derivation",
    "divergence_to_posterior",
    "grid_elbo",
    "hermite_nodes",
    "split_line",
    "stated",
]

# Sampled sides may differ by so many standard errors: once in two million lines by chance.
_ERRORS = 5
# Networks compute in float32.
_ROUNDING = 1e-4
_GRID_TOLERANCE = 1e-3
# Bounds the work of a grid, in pixel values decoded.
_GRID_PIXELS = 2**27


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
    seen: Seen,
    elbo: Elbo | None = None,
    ladder: Ladder | None = None,
    found: Quadrature | None = None,
) -> list[Line]:
    r"""Evaluates the derivation for one image.

    Args:
        seen: The image.
        elbo: Its ELBO, for a caller that has it, as for the rest.
        ladder: Its nested bounds.
        found: Its quadrature where :math:`D \le 2`.

    Returns:
        The lines in order; those that need the exact evidence are there for :math:`D \le 2` only,
        and only for an image within reach of the quadrature.
    """
    estimated = estimate_elbo(seen) if elbo is None else elbo
    if estimated.draws == 1:  # it takes 2 to tell their error
        estimated = estimate_elbo(seen, 2)
    draws, elbo = estimated.draws, stated(estimated)
    ladder = bound_ladder(seen) if ladder is None else ladder
    k = ladder.rungs[-1]
    bound = Estimate(float(ladder.values[-1]), _ERRORS * float(ladder.standard_errors[-1]))
    lines = []
    if seen.dims <= 2:
        grid = grid_elbo(seen)
        ratio, ratio_error = grid.value, grid.error + elbo.error
        ratio_why = "Left: the log-ratio summed over a grid about q. Right: the score."
        found = quadrature(seen.model, seen.x[0], seen.mu[0]) if found is None else found
        if not found.log_evidence.isnan():
            sampled = sampled_evidence(seen.model, seen.x[0], found, seen.seed)
            to_posterior = divergence_to_posterior(sampled, grid)
            lines += _evidence_lines(found, elbo, to_posterior, bound, k)
    else:
        log_q, log_p = _integrals(seen.mu[0], seen.sigma[0])
        z = seen.codes(seen.normals("draws", draws))
        mean = float(node_log_likelihoods(seen.model, seen.x, z).mean())
        ratio, ratio_error = mean + log_p - log_q, _ROUNDING
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
    return lines + closed_forms(seen.mu[0], seen.sigma[0], float(estimated.terms.kl[0]))


def closed_forms(mu: Tensor, sigma: Tensor, kl: float) -> list[Line]:
    r"""The lines from the two integrals of the KL to its closed form, which need no image.

    Args:
        mu: The mean of q, with shape :math:`(D,)`.
        sigma: Its standard deviation, with shape :math:`(D,)`.
        kl: The KL to check, in nats.

    Returns:
        Three lines.
    """
    log_q, log_p = _integrals(mu, sigma)
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
            "=", log_p,
            -0.5 * float((math.log(2 * math.pi) + mu.square() + sigma.square()).sum()), _ROUNDING,
        ),
        Line(
            "closed-form",
            r"KL(q(z|x) \,\|\, p(z)) = "
            r"\tfrac12 \sum_d (\mu_d^2 + \sigma_d^2 - 1 - \log \sigma_d^2)",
            "The difference of the last two lines; log 2π cancels. Left: of the two integrals.",
            "=", log_q - log_p, kl, _ROUNDING,
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


def stated(elbo: Elbo) -> Estimate:
    """The ELBO of one image, with what its expectation may be off."""
    error = _ERRORS * elbo.standard_error if elbo.draws else elbo.error
    return Estimate(float(elbo.value[0]), float(error[0]))


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


def grid_elbo(seen: Seen) -> Estimate:
    r"""The mean of :math:`\log p(x, z) - \log q(z|x)` under q by the trapezoid rule.

    Args:
        seen: One image, of a model with :math:`D \le 2`.

    Returns:
        Nats, from a grid over :math:`\mu \pm 6 \sigma` whose step is halved until the result
        stays, as far as 2^27 decoded pixel values go; the error is the last change, and a
        sixteenth of the one before, since a change can be small by chance.
    """
    dims, mu, sigma = seen.dims, seen.mu, seen.sigma
    values: list[float] = []
    error, parts = math.inf, 20
    while error > _GRID_TOLERANCE:
        axis = torch.linspace(-6, 6, parts + 1, dtype=torch.float64)
        e = torch.cartesian_prod(*[axis] * dims).reshape(-1, dims)
        if len(values) > 2 and len(e) * seen.model.image.pixels > _GRID_PIXELS:
            break
        z = mu + sigma * e
        log_q = log_density(mu, sigma, z)
        ratio = log_joint(seen.model, seen.x[0], z) - log_q
        share = torch.exp(log_q) * sigma.prod() * (12 / parts) ** dims * ratio
        values.append(float(share.sum()))
        if len(values) > 2:
            first, second, third = values[-3:]
            error = abs(third - second) + abs(second - first) / 16
        parts *= 2
    return Estimate(values[-1], error + max(_ROUNDING, 1e-6 * abs(values[-1])))


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


def _integrals(mu: Tensor, sigma: Tensor) -> tuple[float, float]:
    """The means of log q(z|x) and of log p(z) under q, (D,), one dimension after the other."""
    e, weights = hermite_nodes(1)
    z = mu[:, None] + sigma[:, None] * e[:, 0]
    log_q = log_density(mu[:, None, None], sigma[:, None, None], z[..., None])
    return float((log_q @ weights).sum()), float(
        (standard_normal_log_density(z[..., None]) @ weights).sum()
    )

r"""What holds of a model: small checks, each a number with its error and what follows from it.

Any model that wears the face can be checked, whether trained here or elsewhere. A check compares
two separate computations, so that each can fail; where it has nothing to go by, it says so.

The weight of the KL (:func:`weight_of_kl`) is measured from the model alone: where an encoder has
converged, the mean gradient of its loss with respect to each log-variance is zero,

.. math::
    \frac1N \sum_n \Big[ \frac{\partial D_n}{\partial \log \sigma_{nd}^2}
    + \beta \, \tfrac12 (\sigma_{nd}^2 - 1) \Big] = 0, \qquad D_n = -E_{q_n}[\log p(x_n \mid z)],

which every dimension solves for :math:`\beta` by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch

from vae.elbo.aggregate.surgery import marginal_kl
from vae.elbo.evidence.bounds import bound_ladder
from vae.elbo.gradients import log_likelihood_gradients
from vae.elbo.seen import Seen, see
from vae.elbo.terms import log_density

__all__ = ["Check", "Outcome", "WeightOfKl", "check_model", "weight_of_kl"]

Outcome = Literal["holds", "does not hold", "undetermined", "not applicable"]

_ERRORS = 4.0
_DRAWS = 8
# A dimension whose posterior is the prior on average carries nothing to measure a weight by.
_LEAST_CARRIED = 0.01
_TOLERANCE = 0.1


@dataclass(frozen=True)
class Check:
    """One thing asked of a model.

    Args:
        id: Its short name.
        question: What is asked, in plain words.
        outcome: The answer.
        value: The number found; none where there is none.
        error: Its error; none where it has none.
        threshold: What the number is held against, in words.
        sentence: What was found, as a sentence.
        consequence: What follows from it for whoever uses the model.
    """

    id: str
    question: str
    outcome: Outcome
    value: float | None
    error: float | None
    threshold: str
    sentence: str
    consequence: str


class WeightOfKl(NamedTuple):
    r"""The weight that an encoder gives to its KL.

    Attributes:
        value: The weight :math:`\beta`, pooled over dimensions by inverse variance.
        error: Its standard error over images, widened where dimensions disagree.
        spread: :math:`\chi^2` of the dimensions about it for each degree of freedom.
        dims: The number of dimensions that carry enough to tell.
    """

    value: float
    error: float
    spread: float
    dims: int


def check_model(seen: Seen) -> tuple[Check, ...]:
    """Runs every check on held-out images.

    Args:
        seen: Some hundred images that the model was not trained on, as it sees them.
    """
    basis = finite(seen), deterministic(seen)
    if any(check.outcome != "holds" for check in basis):
        return basis
    return *basis, *(check(seen) for check in _CHECKS)


def finite(seen: Seen) -> Check:
    """Whether codes and reconstructions are finite, also of images that no data set holds."""
    shape, most = seen.levels.shape[1:], seen.model.image.levels - 1
    strange = np.zeros((4, *shape), np.uint8)
    strange[1] = most
    strange[2] = np.indices(shape).sum(0) % 2 * most
    strange[3] = np.random.default_rng(0).integers(0, most + 1, shape)
    foreign = see(seen.model, strange)
    z = torch.cat((seen.mu[:8], foreign.mu, torch.full((1, seen.dims), 4.0)))
    with torch.inference_mode():
        means = seen.model.decode(z.to(seen.x.dtype)).mean
    sound = all(
        bool(torch.isfinite(one).all())
        for one in (seen.mu, seen.sigma, foreign.mu, foreign.sigma, means)
    )
    sound = sound and bool((seen.sigma > 0).all())
    return Check(
        "finite",
        "Are all its numbers finite, for black, white, checkered and noisy images too?",
        "holds" if sound else "does not hold",
        None,
        None,
        "every number is finite, and every spread above 0",
        "All are." if sound else "Some means, spreads or pictures are infinite or no numbers.",
        "" if sound else "Images without a score will be met; the model cannot be relied on.",
    )


def deterministic(seen: Seen) -> Check:
    """Whether the same image gives the same code twice."""
    again = see(seen.model, seen.levels, seen.seed)
    largest = float(((seen.mu - again.mu).abs() + (seen.sigma - again.sigma).abs()).max())
    return Check(
        "deterministic",
        "Does the same image give the same code twice?",
        "holds" if largest == 0 else "does not hold",
        largest,
        None,
        "the same to the last bit",
        "It does." if largest == 0 else f"Its codes differ by up to {largest:.2g}.",
        "" if largest == 0 else "Its scores cannot be repeated.",
    )


def batch_mates(seen: Seen) -> Check:
    """Whether an image's code depends on the images that it is encoded with."""
    few = seen[:32]
    with torch.inference_mode():
        alone = [
            seen.model.encode(few.x[n : n + 1].expand(8, -1, -1, -1)) for n in range(len(few))
        ]
        mu = torch.stack([q.mean[0] for q in alone]).double()
        sigma = torch.stack([q.stddev[0] for q in alone]).double()
    moved = ((mu - few.mu) / few.sigma).abs().amax()
    widened = (sigma / few.sigma).log().abs().amax()
    largest = float(torch.maximum(moved, widened))
    holds = largest < 1e-3
    return Check(
        "batch-mates",
        "Is an image's code its own, whatever other images are encoded with it?",
        "holds" if holds else "does not hold",
        largest,
        None,
        "moves by less than 0.001 of its spread",
        f"In other company a code moves by up to {largest:.2g} of its spread.",
        ""
        if holds
        else "It normalises over the batch (BatchNorm in training mode?), so no image has a score "
        "of its own.",
    )


def weight_of_kl(seen: Seen, draws: int = _DRAWS, seed: int = 0) -> WeightOfKl:
    """Measures the weight of the KL that the encoder was trained with; see above.

    Args:
        seen: Images that it was not trained on.
        draws: Draws of each image's q.
        seed: Their seed.
    """
    generator = torch.Generator().manual_seed(seed)
    slope = torch.zeros_like(seen.mu)
    for _ in range(draws):
        e = torch.randn(seen.mu.shape, generator=generator, dtype=torch.float64)
        _, gradient = log_likelihood_gradients(seen.model, seen.x, seen.mu + seen.sigma * e)
        # d z / d log sigma^2 = sigma e / 2.
        slope -= gradient * 0.5 * seen.sigma * e / draws
    charge = 0.5 * (seen.sigma.square() - 1)
    carries = charge.mean(0) < -_LEAST_CARRIED
    if not carries.any():
        return WeightOfKl(math.nan, math.nan, math.nan, 0)
    slope, charge = slope[:, carries], charge[:, carries]
    beta = -slope.mean(0) / charge.mean(0)
    error = (slope + beta * charge).std(0) / (charge.mean(0).abs() * len(seen) ** 0.5)
    weights = error.square().reciprocal()
    value = float((weights * beta).sum() / weights.sum())
    degrees = max(1, int(carries.sum()) - 1)
    spread = float((weights * (beta - value).square()).sum()) / degrees
    pooled = float(weights.sum().rsqrt()) * max(1.0, spread) ** 0.5
    return WeightOfKl(value, pooled, spread, int(carries.sum()))


def weight(seen: Seen) -> Check:
    """Whether the encoder behaves as if its KL had the weight 1."""
    found = weight_of_kl(seen)
    question = "Was its encoder trained with the KL of the ELBO, at weight 1?"
    threshold = "1, within 3 standard errors or a tenth"
    if not found.dims or not found.error < 0.5 * max(1.0, abs(found.value)):
        return Check(
            "weight",
            question,
            "undetermined",
            found.value if found.dims else None,
            found.error if found.dims else None,
            threshold,
            "Its codes carry too little to tell.",
            "",
        )
    holds = abs(found.value - 1) <= max(_TOLERANCE, 3 * found.error)
    return Check(
        "weight",
        question,
        "holds" if holds else "does not hold",
        found.value,
        found.error,
        threshold,
        f"It behaves as if the KL had the weight {found.value:.3g} ± {found.error:.1g}, measured "
        f"on held-out images over {found.dims} dimensions.",
        ""
        if holds
        else "Its ELBO is true, but it was not what the model was trained for; codes are "
        + ("narrower" if found.value < 1 else "wider")
        + " than the ELBO asks for, and its bound is looser than it could be.",
    )


def closed_form(seen: Seen) -> Check:
    """Whether the KL in closed form is that of the model's own distributions, by draws."""
    few = seen[:16]
    e = torch.randn(
        (4_096, seen.dims), generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    z = few.codes(e)
    ratio = log_density(few.mu[:, None], few.sigma[:, None], z) - few.model.prior.log_prob(z)
    closed = few.kl_per_dim.sum(-1)
    off = (ratio.mean(1) - closed).abs() / (ratio.std(1) / len(e) ** 0.5).clamp_min(1e-9)
    largest = float(off.max())
    return Check(
        "closed-form",
        "Is the KL in closed form that of its own q and prior?",
        "holds" if largest <= 5 else "does not hold",
        largest,
        None,
        "the mean of 4,096 draws within 5 standard errors, on 16 images",
        f"The two differ by at most {largest:.1f} standard errors.",
        "" if largest <= 5 else "Its prior is another one; its KL cannot be relied on.",
    )


def prior(seen: Seen) -> Check:
    """Whether the codes of images follow the prior."""
    divergence = marginal_kl(seen.mu, seen.sigma)
    largest = float(divergence.max())
    holds = largest <= 0.5
    return Check(
        "prior",
        "Do the codes of images follow the prior?",
        "holds" if holds else "does not hold",
        largest,
        None,
        "no dimension's aggregate is more than 0.5 nats away from N(0, 1)",
        f"The dimension that is farthest off is {largest:.2f} nats away.",
        "" if holds else "Pictures decoded from draws of the prior mean little.",
    )


def active(seen: Seen) -> Check:
    """Whether dimensions have collapsed onto the prior."""
    kl = seen.kl_per_dim.mean(0)
    dead = int((kl < 0.01).sum())
    return Check(
        "active",
        "Does every dimension of its code say something?",
        "holds" if dead == 0 else "does not hold",
        float(dead),
        None,
        "every dimension costs more than 0.01 nats on average",
        f"{seen.dims - dead} of {seen.dims} dimensions do.",
        ""
        if dead == 0
        else "The others are ignored by the decoder; a fixed spread of pixels that is too wide is "
        "a common cause."
        if dead == seen.dims
        else "The others can be left out.",
    )


def rising(seen: Seen) -> Check:
    """Whether the importance-weighted bounds of the same draws rise, as Jensen asks."""
    ladder = bound_ladder(seen[:1])
    steps = np.diff(np.asarray(ladder.values))
    holds = bool((steps >= -1e-9).all())
    return Check(
        "rising",
        "Do the importance-weighted bounds of the same draws rise?",
        "holds" if holds else "does not hold",
        float(steps.min()),
        None,
        "no step is below 0",
        "They do." if holds else "One falls, which no draws can make it do.",
        "" if holds else "This is a fault of the program.",
    )


def slope(seen: Seen) -> Check:
    """Whether the gradient of the log-likelihood is the slope that differences show."""
    z, image = seen.mu[:1], seen.x[0]
    generator = torch.Generator().manual_seed(2)
    way = torch.randn((8, seen.dims), generator=generator, dtype=torch.float64)
    way = way / way.norm(dim=1, keepdim=True)
    step = 1e-2
    both, _ = log_likelihood_gradients(
        seen.model, image, torch.cat((z + step * way, z - step * way))
    )
    _, gradient = log_likelihood_gradients(seen.model, image, z)
    by_difference = (both[:8] - both[8:]) / (2 * step)
    by_gradient = (gradient * way).sum(1)
    size = float(gradient.norm()) + 1e-3 * float(both.abs().max())
    largest = float((by_difference - by_gradient).abs().max()) / size
    holds = largest < 0.05
    return Check(
        "slope",
        "Is the gradient of its decoder the slope that small steps show?",
        "holds" if holds else "does not hold",
        largest,
        None,
        "within 5 % of its length, in 8 directions",
        f"They differ by at most {100 * largest:.1f} %.",
        ""
        if holds
        else "What goes by gradients (the best Gaussian, regret, annealing) cannot be relied on.",
    )


_CHECKS: tuple[Callable[[Seen], Check], ...] = (
    batch_mates,
    closed_form,
    rising,
    slope,
    weight,
    prior,
    active,
)

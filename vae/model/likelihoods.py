r"""The likelihoods :math:`p(x \mid z)`, each a ``torch.distributions.Distribution`` per pixel.

A likelihood is an ``nn.Module`` that maps the decoder's raw output to a distribution with batch
shape :math:`(*)` and event shape :math:`(C, H, W)`. Its constants (a sigma, a scale) are part of
the model: stored with the weights and never recomputed on the data that are being scored.

References:
    | The continuous Bernoulli (Loaiza-Ganem & Cunningham, 2019), https://arxiv.org/abs/1907.06845
    | PixelCNN++ (Salimans et al., 2017), https://arxiv.org/abs/1701.05517
    | Simple and Effective VAE Training with Calibrated Decoders (Rybkin et al., 2021),
    | https://arxiv.org/abs/2006.13202
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent, Laplace, Normal

from vae.model.config import ModelConfig

__all__ = [
    "BernoulliLogits",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "Likelihood",
    "LikelihoodFacts",
    "facts_of",
    "make_likelihood",
    "softplus",
]


def softplus(x: Tensor) -> Tensor:
    r""":math:`\log(1 + e^x)`, element by element.

    torch's own takes ``log1p``, which on one processor cost 1.3 ns an element at some times and
    12.8 at others, compiled or not; this costs 2.5 at all times, as
    :math:`\max(x, 0) + \log(1 + e^{-|x|})`. In float32 an element is off by at most 6e-8 more than
    a unit in its last place.
    """
    return _Softplus.apply(x)


class _Softplus(torch.autograd.Function):
    """:func:`softplus` with its gradient, the logistic function."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ANN401
        """The values."""
        ctx.save_for_backward(x)
        # In place: one buffer to fetch rather than four.
        return x.abs().neg_().exp_().add_(1).log_().add_(x.clamp_min(0))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401
        """The gradient with respect to the input."""
        (x,) = ctx.saved_tensors
        return torch.sigmoid(x).mul_(gradient)


class ContinuousBernoulli(Distribution):
    r"""Creates a continuous Bernoulli density on [0, 1], stable for every logit.

    .. math:: \log p(x) = x \ell - \mathrm{softplus}(\ell) + \log \frac{\ell}{\tanh(\ell / 2)}

    torch's own version loses its normalisation in float32 at large logits (the integral is 0.80
    at logit 20), because it forms :math:`1 - 2\lambda`; this one never leaves the logit.

    Args:
        logits: The logit :math:`\ell`, with shape :math:`(*)`.
    """

    arg_constraints = {}
    support = torch.distributions.constraints.unit_interval

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=False)

    @property
    def log_normalizer(self) -> Tensor:
        r"""The log of :math:`\ell / \tanh(\ell/2)`, with shape :math:`(*)`."""
        size = self.logits.abs()
        square = self.logits.square()
        # The quotient is 0/0 at 0; its Taylor series is exact to float32 below 0.5.
        series = math.log(2) + torch.log1p(
            square * (1 / 12 - square * (1 / 720 - square * (1 / 30240 - square / 1209600)))
        )
        safe = torch.where(size < 0.5, torch.ones_like(size), size)
        return torch.where(size < 0.5, series, torch.log(safe / torch.tanh(safe / 2)))

    def log_prob(self, value: Tensor) -> Tensor:
        r"""The log-density at ``value``, with shape :math:`(*)`."""
        return value * self.logits - softplus(self.logits) + self.log_normalizer

    @property
    def mean(self) -> Tensor:
        r"""The mean :math:`1 / (1 - e^{-\ell}) - 1/\ell`, which is not :math:`\lambda`."""
        logits = self.logits
        near = logits.abs() < 0.1
        safe = torch.where(near, torch.ones_like(logits), logits)
        series = 0.5 + logits / 12 - logits**3 / 720 + logits**5 / 30240
        return torch.where(near, series, -1 / torch.expm1(-safe) - 1 / safe)


class BernoulliLogits(Bernoulli):
    r"""A Bernoulli whose log-probability takes fewer passes over the pixels than torch's.

    .. math:: \log p(x) = x \ell - \mathrm{softplus}(\ell)

    Linear in :math:`x`, it extends to grey pixels as torch's does.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        r"""The log-probability of ``value``, broadcast against the logits, :math:`(*)`."""
        # In place: one buffer less to fetch for a step that waits for memory.
        return (value * self.logits).sub_(softplus(self.logits))


class DiscretizedLogistic(Distribution):
    r"""Creates a logistic distribution rounded to the levels :math:`x = k / (L - 1)`.

    .. math::
        p(x) = \sigma(a) - \sigma(b), \quad
        a = \frac{x + h - \mu}{s}, \quad b = \frac{x - h - \mu}{s}, \quad h = \frac{1}{2 (L - 1)}

    The first and the last level take the tails, so the :math:`L` probabilities sum to 1. The log
    is formed as :math:`\log \sigma(a) + \log \sigma(-b) + \log(1 - e^{-(a - b)})`, which never
    subtracts two near-equal numbers.

    Args:
        loc: The location :math:`\mu`, unbounded, with shape :math:`(*)`.
        scale: The scale :math:`s > 0`, broadcastable to :math:`(*)`.
        levels: The number :math:`L` of levels.
    """

    arg_constraints = {}
    support = torch.distributions.constraints.unit_interval

    def __init__(self, loc: Tensor, scale: Tensor, levels: int) -> None:
        self.loc = loc
        self.scale = scale
        self.levels = levels
        super().__init__(loc.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        r"""The log-probability of the level at ``value``, with shape :math:`(*)`."""
        half = 0.5 / (self.levels - 1)
        reach = half / self.scale
        centred = (value - self.loc) / self.scale
        # Beyond the outermost levels there is nothing: the end bins own the whole tail.
        first, last = value < half, value > 1 - half
        below = torch.where(last, 0.0, -softplus(-centred - reach))
        above = torch.where(first, 0.0, -softplus(centred - reach))
        # In the shape of the scale: where all pixels share it, this is one number.
        inner = torch.log(-torch.expm1(-2 * reach))
        return below + above + torch.where(first | last, 0.0, inner)

    @property
    def mean(self) -> Tensor:
        r"""The mean of the pmf, :math:`\frac{1}{L-1} \sum_k P(x > x_k)`, in [0, 1]."""
        steps = self.levels - 1
        total = torch.zeros_like(self.loc)
        for k in range(steps):
            total += torch.sigmoid((self.loc - (k + 0.5) / steps) / self.scale)
        return total / steps


@dataclass(frozen=True)
class LikelihoodFacts:
    """What a likelihood is, in plain words.

    Args:
        title: Its name for people.
        is_pmf: Whether it is a probability of the pixel levels (bits per dimension make sense).
        is_normalized: Whether it sums or integrates to 1 over the data's pixel values.
        has_scale: Whether it has a spread beside its mean.
        valid_for: What data it is valid for, as a sentence.
    """

    title: str
    is_pmf: bool
    is_normalized: bool
    has_scale: bool
    valid_for: str


_FACTS = {
    "bernoulli": LikelihoodFacts(
        "Bernoulli", True, True, False, "A probability of binary pixels: each is 0 or 1."
    ),
    "bernoulli_grey": LikelihoodFacts(
        "Bernoulli on grey pixels",
        False,
        False,
        False,
        "Not a density of grey pixels: its value is the mean, over all ways to binarise the "
        "image, of a bound on the binary image's log-probability. For teaching only.",
    ),
    "continuous_bernoulli": LikelihoodFacts(
        "Continuous Bernoulli", False, True, False, "A density of grey pixels in [0, 1]."
    ),
    "gaussian": LikelihoodFacts("Gaussian", False, True, True, "A density of real-valued pixels."),
    "laplace": LikelihoodFacts("Laplace", False, True, True, "A density of real-valued pixels."),
    "discretized_logistic": LikelihoodFacts(
        "Discretised logistic", True, True, True, "A probability of integer pixel levels."
    ),
}


def facts_of(name: str) -> LikelihoodFacts:
    """The facts about a likelihood by name.

    Raises:
        ValueError: If the name is unknown; the message lists the valid ones.
    """
    if name not in _FACTS:
        raise ValueError(f"Unknown likelihood {name!r}. Choose one of: {', '.join(_FACTS)}.")
    return _FACTS[name]


class Likelihood(nn.Module, ABC):
    r"""Maps the decoder's raw output to :math:`p(x \mid z)`. Abstract.

    Attributes:
        adapts: Whether training has to call :meth:`adapt_`.
    """

    adapts = False

    @abstractmethod
    def pixel(self, raw: Tensor) -> Distribution:
        """The distribution of each pixel, batch shape :math:`(*, C, H, W)`, from raw output."""

    @abstractmethod
    def raw_of_mean(self, mean: Tensor) -> Tensor:
        """The raw output whose distribution has roughly this mean; it starts the last bias."""

    def forward(self, raw: Tensor) -> Independent:
        r"""The distribution of an image, batch :math:`(*)`, event :math:`(C, H, W)`."""
        return Independent(self.pixel(raw), 3, validate_args=False)

    @torch.no_grad()
    def adapt_(self, squared_error: Tensor) -> None:
        r"""Refits constants that have a closed-form optimum; training calls it after each step.

        Args:
            squared_error: The mean over a batch's pixels of :math:`(x - \hat x)^2`, a scalar.
        """


class _Bernoulli(Likelihood):
    def pixel(self, raw: Tensor) -> Distribution:
        return BernoulliLogits(logits=raw, validate_args=False)

    def raw_of_mean(self, mean: Tensor) -> Tensor:
        return torch.logit(mean, eps=1e-3)


class _ContinuousBernoulli(Likelihood):
    # With exact 0 and 1 in the data an unbounded logit makes the density unbounded.
    bound = 20.0

    def pixel(self, raw: Tensor) -> Distribution:
        return ContinuousBernoulli(self.bound * torch.tanh(raw / self.bound))

    def raw_of_mean(self, mean: Tensor) -> Tensor:
        # The mean rises with the logit but has no inverse in closed form.
        low, high = torch.full_like(mean, -self.bound), torch.full_like(mean, self.bound)
        for _ in range(24):
            middle = (low + high) / 2
            below = self.pixel(middle).mean < mean
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        # Short of the bounds, where the tanh would leave no gradient.
        return ((low + high) / 2).clamp(-0.5 * self.bound, 0.5 * self.bound)


class _Gaussian(Likelihood):
    floor = 1e-3

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.adapts = config.gaussian_sigma == "optimal"
        log_sigma = torch.tensor(math.log(config.sigma))
        if config.gaussian_sigma == "learned":
            self.log_sigma = nn.Parameter(log_sigma)
        else:
            self.register_buffer("log_sigma", log_sigma)

    @property
    def sigma(self) -> Tensor:
        r"""The standard deviation :math:`\sigma`, a scalar, bounded below."""
        return self.log_sigma.exp().clamp_min(self.floor)

    def pixel(self, raw: Tensor) -> Distribution:
        return Normal(raw, self.sigma.expand_as(raw), validate_args=False)

    def raw_of_mean(self, mean: Tensor) -> Tensor:
        return mean

    @torch.no_grad()
    def adapt_(self, squared_error: Tensor) -> None:
        # The sigma that maximises the likelihood is the root mean squared error; an average over
        # batches keeps it a constant of the model rather than a function of one batch.
        if self.adapts:
            self.log_sigma.lerp_(squared_error.sqrt().clamp_min(self.floor).log(), 0.01)


class _Laplace(Likelihood):
    floor = 1e-3

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(0.1)))

    def pixel(self, raw: Tensor) -> Distribution:
        scale = self.log_scale.exp() + self.floor
        return Laplace(raw, scale.expand_as(raw), validate_args=False)

    def raw_of_mean(self, mean: Tensor) -> Tensor:
        return mean


class _DiscretizedLogistic(Likelihood):
    floor = 1e-3

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.levels = config.levels
        shape = config.image.shape if config.spread == "pixel" else ()
        self.log_scale = nn.Parameter(torch.full(shape, math.log(0.1)))

    @property
    def scale(self) -> Tensor:
        r"""The scale :math:`s`, a scalar or :math:`(C, H, W)`, bounded below."""
        return self.log_scale.exp() + self.floor

    def pixel(self, raw: Tensor) -> Distribution:
        return DiscretizedLogistic(raw, self.scale, self.levels)

    def raw_of_mean(self, mean: Tensor) -> Tensor:
        return mean


def make_likelihood(config: ModelConfig) -> Likelihood:
    """Builds the likelihood that a config names."""
    match config.likelihood:
        case "bernoulli" | "bernoulli_grey":
            return _Bernoulli()
        case "continuous_bernoulli":
            return _ContinuousBernoulli()
        case "gaussian":
            return _Gaussian(config)
        case "laplace":
            return _Laplace()
        case "discretized_logistic":
            return _DiscretizedLogistic(config)

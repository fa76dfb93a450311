r"""Ways in which people reduce the KL to one number, each with the :math:`\beta` it amounts to.

The loss of a VAE is the mean over images of (minus log-likelihood summed over pixels) plus (KL
summed over latent dimensions). Every other choice of sums and means is, up to an overall scale,
the same loss with another weight on the KL:

.. math:: \text{loss} \propto \frac1B \sum_b \left( -\log p(x_b \mid z_b) + \beta \, KL_b \right)

A list of errors must also acquit: two of these look wrong and are right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

__all__ = ["REDUCTIONS", "Reduction", "Shapes", "Verdict"]

Verdict = Literal["right", "another β", "no KL at all"]


@dataclass(frozen=True)
class Shapes:
    """The sizes that decide an effective weight.

    Args:
        batch: Images in a batch, B.
        dims: Latent dimensions, D.
        pixels: Pixel values of an image, P.
        images: Images in the data set, N.
    """

    batch: int
    dims: int
    pixels: int
    images: int


@dataclass(frozen=True)
class Reduction:
    r"""One way to write the loss.

    Args:
        name: What it does, in words.
        code: How it is written.
        where: Where it was seen; empty for the textbook's own.
        verdict: What it is.
        explanation: Why, in a sentence.
        loss: The loss in its own scale, from minus log-likelihoods :math:`(B, P)` and KLs
            :math:`(B, D)` in nats.
        effective_beta: The weight :math:`\beta` of the KL that it amounts to.
    """

    name: str
    code: str
    where: str
    verdict: Verdict
    explanation: str
    loss: Callable[[np.ndarray, np.ndarray, Shapes], float]
    effective_beta: Callable[[Shapes], float]


REDUCTIONS: tuple[Reduction, ...] = (
    Reduction(
        "Sum over dimensions, then mean over images",
        "(nll.sum(1) + kl.sum(1)).mean()",
        "",
        "right",
        "Each image pays for its own pixels and its own code; the batch is averaged last.",
        lambda nll, kl, s: float((nll.sum(1) + kl.sum(1)).mean()),
        lambda s: 1.0,
    ),
    Reduction(
        "Sum over everything",
        "nll.sum() + kl.sum()",
        "y0ast/VAE-Torch and many others",
        "right",
        "B times the right loss: only the learning rate feels it.",
        lambda nll, kl, s: float(nll.sum() + kl.sum()),
        lambda s: 1.0,
    ),
    Reduction(
        "Element-wise mean, and the KL divided by B times P",
        "nll.mean() + kl.sum() / (B * P)",
        "pytorch/examples before 2018 (#234, #290, #294)",
        "right",
        "It looks wrong and is right: both terms are divided by the same B·P. Acquitted.",
        lambda nll, kl, s: float(nll.mean() + kl.sum() / (s.batch * s.pixels)),
        lambda s: 1.0,
    ),
    Reduction(
        "Mean over images first, then sum over dimensions",
        "nll.sum(1).mean() + kl.mean(0).sum()",
        "YannDubs/disentangling-vae",
        "right",
        "The same number, since sums commute. But the B per-sample KLs are gone before anyone can "
        "look at them. Acquitted as a loss, not as a report.",
        lambda nll, kl, s: float(nll.sum(1).mean() + kl.mean(0).sum()),
        lambda s: 1.0,
    ),
    Reduction(
        "Mean over dimensions as well",
        "nll.sum(1).mean() + kl.mean()",
        "SeldonIO/alibi, autoencoder.py (alibi-detect#90)",
        "another β",
        "The mean over D divides the KL by D, and by nothing else.",
        lambda nll, kl, s: float(nll.sum(1).mean() + kl.mean()),
        lambda s: 1 / s.dims,
    ),
    Reduction(
        "Mean over pixels, sum over dimensions",
        "nll.mean() + kl.sum(1).mean()",
        "many tutorials; keras-team/keras#6015 circles it",
        "another β",
        "The mean over P makes the image P times cheaper, so the KL weighs P times as much: codes "
        "collapse to the prior.",
        lambda nll, kl, s: float(nll.mean() + kl.sum(1).mean()),
        lambda s: float(s.pixels),
    ),
    Reduction(
        "Mean over pixels and mean over dimensions",
        "nll.mean() + kl.mean()",
        "AntixK/PyTorch-VAE#11 and #56 discuss it",
        "another β",
        "Two means do not cancel: P and D differ.",
        lambda nll, kl, s: float(nll.mean() + kl.mean()),
        lambda s: s.pixels / s.dims,
    ),
    Reduction(
        "Mean over pixels, and the KL times batch over data set",
        "nll.mean() + (B / N) * kl.sum(1).mean()",
        "AntixK/PyTorch-VAE, kld_weight",
        "another β",
        "The weight depends on the batch size and on the size of the data set: change the loader "
        "and you train another model.",
        lambda nll, kl, s: float(nll.mean() + s.batch / s.images * kl.sum(1).mean()),
        lambda s: s.pixels * s.batch / s.images,
    ),
    Reduction(
        "KL summed over the batch, likelihood averaged",
        "nll.sum(1).mean() + kl.sum()",
        "unnir/cVAE#1 asks about it",
        "another β",
        "One term is B times too large: doubling the batch doubles β.",
        lambda nll, kl, s: float(nll.sum(1).mean() + kl.sum()),
        lambda s: float(s.batch),
    ),
    Reduction(
        "KL summed over the batch, averaged over dimensions, times 5",
        "nll.sum() + 5 * kl.sum(0).mean()",
        "masato-ka/airc-rl-agent#44",
        "another β",
        "The axes are swapped: the sum runs over images and the mean over dimensions.",
        lambda nll, kl, s: float(nll.sum() + 5 * kl.sum(0).mean()),
        lambda s: 5 / s.dims,
    ),
    Reduction(
        "Batch mean clamped to a capacity of 0",
        "nll.sum(1).mean() + kl.sum(1).mean().clamp(0, capacity)",
        "PyOD, models/vae.py with its default capacity=0.0 (#184)",
        "no KL at all",
        "The clamp acts on the batch's mean and cuts it to 0: no image pays anything, and σ is "
        "free to vanish.",
        lambda nll, kl, s: float(nll.sum(1).mean() + min(max(kl.sum(1).mean(), 0.0), 0.0)),
        lambda s: 0.0,
    ),
)

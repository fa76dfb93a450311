r"""What would make an image pass: the smallest latent move into the accepted region.

The move starts at the encoder's mean :math:`\mu` and is measured in prior units, the distance
:math:`\|z - \mu\|` where the prior has standard deviation 1 in every direction. A code z lies in
the accepted region if the image that it decodes to (the mean of :math:`p(x \mid z)`, rounded to
the data's levels and scored like any upload) has an ELBO that reaches the threshold. It walks
outward from :math:`\mu` along straight lines, a shell at a time, and halves the last step: the
result is the nearest accepted *decoded* image on these lines, not a repair of the image sent.
Decoded images are smoother than real ones and pass easily; often :math:`\mu` itself passes.

References:
    | Counterfactual Explanations without Opening the Black Box (Wachter et al., 2017),
    | https://arxiv.org/abs/1711.00399, for the smallest accepted change
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vae.elbo.expectation import DRAWS, estimate_elbo
from vae.elbo.seen import see
from vae.elbo.tiles import decode_means
from vae.model.face import LatentModel

__all__ = ["AcceptedMove", "nearest_accepted"]

_STEP = 0.25
# Where an ELBO takes many draws, shells grow by half each, and more halvings make up for it.
_FIRST_SHELL, _GROWTH = 0.5, 1.5
_HALVINGS = 6
_ANGLES = 24


class AcceptedMove(NamedTuple):
    r"""The nearest accepted decoded image that was found.

    Attributes:
        passes: Whether one was found at all; if not, the rest describes :math:`\mu` itself.
        distance: The length of the move in prior standard deviations; 0 if :math:`\mu` passes.
        z: The code, with shape :math:`(D,)`.
        decoded: The image that it decodes to, at the data's levels, in [0, 1], (C, H, W).
        elbo: The ELBO of that image in nats.
        directions: The number of lines searched.
    """

    passes: bool
    distance: float
    z: np.ndarray
    decoded: np.ndarray
    elbo: float
    directions: int


@torch.inference_mode()
def nearest_accepted(
    model: LatentModel,
    mu: np.ndarray,
    threshold: float,
    targets: np.ndarray,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> AcceptedMove:
    r"""Searches for the smallest move from a code into the accepted region.

    Args:
        model: The model.
        mu: The encoder's mean of the image in question, with shape :math:`(D,)`.
        threshold: The ELBO in nats from which on an image passes.
        targets: Codes to walk towards, such as those of accepted images, with shape
            :math:`(T, D)`. The prior's mean is always one more; in two dimensions 24 even
            directions are as well.
        draws: Draws behind each ELBO where :math:`D > 2`.
        seed: The seed of the draws.

    Returns:
        The move.
    """
    start = torch.as_tensor(mu, dtype=torch.float64)
    image, elbo = _score(model, start[None], draws, seed)
    lines, reach = _directions(start, torch.as_tensor(targets, dtype=torch.float64))
    here = AcceptedMove(
        bool(elbo[0] >= threshold), 0.0, start.numpy(), image[0], float(elbo[0]), len(lines)
    )
    if here.passes:
        return here
    inner = 0.0
    for outer in _shells(len(start), reach):
        _, elbos = _score(model, start + outer * lines, draws, seed)
        passing = elbos >= threshold
        if passing.any():
            break
        inner = outer
    else:
        return here
    # On these lines the shell before still fails.
    lines = lines[passing]
    low, high = (torch.full((len(lines),), r, dtype=torch.float64) for r in (inner, outer))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        _, elbos = _score(model, start + middle[:, None] * lines, draws, seed)
        high = torch.where(elbos >= threshold, middle, high)
        low = torch.where(elbos >= threshold, low, middle)
    nearest = int(high.argmin())
    z = start + high[nearest] * lines[nearest]
    image, elbo = _score(model, z[None], draws, seed)
    return AcceptedMove(
        True, float(high[nearest]), z.numpy(), image[0], float(elbo[0]), here.directions
    )


def _shells(dims: int, reach: float) -> list[float]:
    """The radii to look at, up to the first beyond ``reach``."""
    radii = [_STEP if dims <= 2 else _FIRST_SHELL]
    while radii[-1] < reach:
        radii.append(radii[-1] + _STEP if dims <= 2 else _GROWTH * radii[-1])
    return radii


def _directions(start: Tensor, targets: Tensor) -> tuple[Tensor, float]:
    """Unit directions (T, D), and how far the farthest target is."""
    ways = (
        torch.cat((targets.reshape(-1, len(start)), torch.zeros(1, len(start)).double())) - start
    )
    lengths = ways.norm(dim=1)
    lines = ways[lengths > 1e-9] / lengths[lengths > 1e-9, None]
    if len(start) == 2:
        angles = torch.arange(_ANGLES).double() * (2 * math.pi / _ANGLES)
        lines = torch.cat((lines, torch.stack((angles.cos(), angles.sin()), 1)))
    return lines, float(lengths.max())


def _score(model: LatentModel, codes: Tensor, draws: int, seed: int) -> tuple[np.ndarray, Tensor]:
    """The decoded images at the data's levels in [0, 1], and their ELBOs (N,) in nats."""
    spec = model.image
    levels = spec.to_levels(decode_means(model, codes).numpy())
    return spec.from_levels(levels), estimate_elbo(see(model, levels, seed), draws).value

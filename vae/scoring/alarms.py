r"""What an alarm catches: strange images of known kinds, and the share of each that is flagged.

Every kind is made from held-out images that neither training nor calibration has seen, so that
"untouched" shows the false alarms as they are. An opinion is a number for each image with a
conformal p-value against the calibration images; at one rate of false alarms all are compared on
equal terms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vae.data.sets.datasets import open_data
from vae.data.sets.image_data import ImageData
from vae.data.sets.sprites import FACTORS, factors_of, render
from vae.data.spec import ImageSpec
from vae.elbo.evidence.quadrature import exact_evidence
from vae.elbo.expectation import estimate_elbo
from vae.elbo.seen import see
from vae.scoring.calibration import typicality
from vae.scoring.calibration_sets import calibration_of
from vae.scoring.complexity import code_lengths, complexity_excess, excess_tie
from vae.scoring.evaluation import calibration_evidence
from vae.store.checkpoint import Checkpoint
from vae.store.originals import own_data

__all__ = ["KINDS", "AlarmRates", "alarm_rates", "letters", "strange_images"]


class AlarmRates(NamedTuple):
    """How often each opinion flags each kind of image.

    Attributes:
        rate: The rate of false alarms at which all opinions stand, rank / (n + 1).
        low: The lower end of its 95 % interval.
        high: Its upper end.
        images: The number of images of each kind.
        shares: By kind, then by opinion: the share of images flagged.
    """

    rate: float
    low: float
    high: float
    images: dict[str, int]
    shares: dict[str, dict[str, float]]


def strange_images(levels: np.ndarray, spec: ImageSpec, seed: int = 0) -> dict[str, np.ndarray]:
    """Makes images that a model of ordinary ones should find strange.

    Args:
        levels: Ordinary images, ``uint8``, with shape :math:`(B, C, H, W)`.
        spec: Their kind.
        seed: The seed of noise, shuffling and letters.

    Returns:
        By kind, as many images each, ``uint8``, with shape :math:`(B, C, H, W)`.
    """
    rng, most = np.random.default_rng(seed), spec.levels - 1
    grid = levels.reshape(*levels.shape[:2], -1)
    shuffled = np.stack([image[:, rng.permutation(image.shape[1])] for image in grid])
    paper = spec.background or 0.0
    half = spec.to_levels(paper + (spec.from_levels(levels) - paper) / 2)
    square = spec.height == spec.width
    return {
        "noise": rng.integers(0, spec.levels, levels.shape, dtype=np.uint8),
        "inverted": (most - levels).astype(np.uint8),
        "shuffled pixels": shuffled.reshape(levels.shape),
        **({"rotated by 90°": np.rot90(levels, axes=(2, 3)).copy()} if square else {}),
        "upside-down": np.rot90(levels, 2, axes=(2, 3)).copy(),
        **({"half contrast": half} if spec.levels > 2 else {}),
        "blank": np.full_like(levels[:1], round(paper * most)),
        "letters": letters(len(levels), spec, rng),
    }


KINDS = (
    "untouched", "noise", "inverted", "shuffled pixels", "rotated by 90°", "upside-down",
    "half contrast", "blank", "letters", "sprites", "digits",
)  # fmt: skip


def letters(count: int, spec: ImageSpec, rng: np.random.Generator) -> np.ndarray:
    """Random capital letters that no digit looks like, filling the frame as digits do.

    Returns:
        Levels, ``uint8``, with shape :math:`(B, C, H, W)`.
    """
    font, shapes = ImageFont.load_default(96), []
    for letter in rng.choice(list("ACEFGHKMNPRTVWXY"), count):
        canvas = Image.new("L", (160, 160), 0)
        ImageDraw.Draw(canvas).text((80, 80), str(letter), 255, font, anchor="mm")
        turned = canvas.rotate(rng.uniform(-15, 15), Image.Resampling.BILINEAR)
        shapes.append(_fitted(turned.crop(turned.getbbox()), spec))
    return np.stack(shapes)


def alarm_rates(
    checkpoint: Checkpoint,
    rate: float | None = None,
    limit: int = 500,
    seed: int = 0,
    evidence: bool = True,
) -> AlarmRates:
    """Measures what alarms at one rate of false alarms catch.

    Args:
        checkpoint: The model.
        rate: The rate of false alarms; 1 %, or the smallest that is supported, when not given.
        limit: The most images of each kind.
        seed: The seed that makes the strange images.
        evidence: Whether log p(x) is one of the opinions, where it is exact.

    Returns:
        The shares of each kind that each opinion flags.

    Raises:
        ValueError: If the calibration set does not support the rate.
        DataMissing: If the model's data set isn't there.
    """
    calibration = calibration_of(checkpoint)
    rate = max(0.01, calibration.smallest_p_value) if rate is None else rate
    alarms = calibration.false_alarms(rate)
    data = own_data(checkpoint)
    spec = checkpoint.image
    ordinary = data.read(data.splits.validation[:limit])
    kinds = {"untouched": ordinary, **strange_images(ordinary, spec, seed)}
    kinds |= _other_sets(data, len(ordinary))
    opinions = _opinions(checkpoint, data, evidence)
    shares = {
        kind: {
            name: float((p <= rate + 1e-12).mean()) for name, p in opinions(kinds[kind]).items()
        }
        for kind in KINDS
        if kind in kinds
    }
    images = {kind: len(kinds[kind]) for kind in shares}
    return AlarmRates(alarms.rate, alarms.low, alarms.high, images, shares)


def _opinions(
    checkpoint: Checkpoint, data: ImageData, evidence: bool
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """The p-values (B,) of each opinion on images, all against the calibration images."""
    calibration, reference = calibration_of(checkpoint), checkpoint.reference
    exact = evidence and checkpoint.latent_dim <= 2
    rows = reference.of_split("calibration")
    own = checkpoint.observe(data.read(reference.indices[rows])).numpy()
    elbos = reference.elbo[rows]
    kls = reference.expected_log_likelihood[rows] - elbos
    excesses = complexity_excess(elbos, code_lengths(own).bits)

    def of(levels: np.ndarray) -> dict[str, np.ndarray]:
        seen = see(checkpoint.model, levels)
        estimated = estimate_elbo(seen, max(1, calibration.draws))
        elbo, kl = estimated.value.numpy(), estimated.terms.kl.numpy()
        places = calibration.typicality(elbo)
        opinions = {"ELBO": places.low, "ELBO, two-sided": places.two_sided}
        if exact:
            found = exact_evidence(seen.model, seen.x, seen.mu).log_evidence.numpy()
            values = np.nan_to_num(found, nan=-np.inf)
            opinions["log p(x)"] = typicality(calibration_evidence(checkpoint), values).low
        opinions["KL, two-sided"] = typicality(kls, kl).two_sided
        excess = complexity_excess(elbo, code_lengths(seen.x.numpy()).bits)
        opinions["complexity"] = typicality(excesses, excess, excess_tie(elbo)).high
        return opinions

    return of


def _other_sets(data: ImageData, count: int) -> dict[str, np.ndarray]:
    """Images of the other embedded data set, brought to this one's frame."""
    spec = data.spec
    if data.name != "sprites":
        sizes = [len(factor.values) for factor in FACTORS]
        drawn = np.random.default_rng(1).choice(int(np.prod(sizes)), count, replace=False)
        shapes = [
            _fitted(Image.fromarray(image[0] * np.uint8(255)).crop(_box(image[0])), spec)
            for image in render(factors_of(drawn))
        ]
        return {"sprites": np.stack(shapes)}
    digits = open_data("digits")
    shapes = [
        _fitted(Image.fromarray(image[0] * np.uint8(15)), spec)
        for image in digits.read(np.resize(digits.splits.validation, count))
    ]
    return {"digits": np.stack(shapes)}


def _box(image: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _fitted(shape: Image.Image, spec: ImageSpec) -> np.ndarray:
    """A bright shape as large as the frame allows, in its middle, as levels (C, H, W)."""
    scale = min(spec.width / shape.width, spec.height / shape.height)
    size = max(1, round(shape.width * scale)), max(1, round(shape.height * scale))
    frame = Image.new("L", (spec.width, spec.height), 0)
    place = ((spec.width - size[0]) // 2, (spec.height - size[1]) // 2)
    frame.paste(shape.resize(size, Image.Resampling.BOX), place)
    x = np.asarray(frame, dtype=np.float32) / 255
    if spec.background == 1:
        x = 1 - x
    return np.repeat(spec.to_levels(x)[None], spec.channels, axis=0)

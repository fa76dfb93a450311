"""What a score means: percentiles and conformal p-values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vae.data.datasets import open_data
from vae.elbo.calibration import Calibration
from vae.elbo.scoring import calibration_of

BY_HAND = Calibration(np.array([-3.0, -1.0, -2.0, -2.0]), draws=0)


@pytest.mark.parametrize(
    ("elbo", "percentile", "p_value"),
    [
        (-9.0, 0, 1 / 5),
        (-3.0, 0, 2 / 5),
        (-2.5, 25, 2 / 5),
        (-2.0, 25, 4 / 5),
        (-1.5, 75, 4 / 5),
        (-1.0, 75, 1),
        (0.0, 100, 1),
    ],
)
def test_by_hand(elbo: float, percentile: float, p_value: float) -> None:
    assert BY_HAND.percentile(np.array([elbo])).tolist() == [pytest.approx(percentile)]
    assert BY_HAND.p_value(np.array([elbo])).tolist() == [pytest.approx(p_value)]


def test_order_does_not_matter_and_shape_is_kept() -> None:
    sorted_ones = Calibration(np.sort(BY_HAND.elbo), draws=0)
    places = np.linspace(-4, 0, 12).reshape(3, 4)
    for method in ("percentile", "p_value"):
        found = getattr(BY_HAND, method)(places)
        assert found.shape == (3, 4)
        assert np.array_equal(found, getattr(sorted_ones, method)(places))
        assert (np.diff(found.ravel()) >= 0).all()


def test_the_smallest_p_value_is_that_of_the_worst_image() -> None:
    assert BY_HAND.smallest_p_value == BY_HAND.p_value(np.array([-math.inf]))[0] == 1 / 5


@pytest.mark.parametrize("ties", [False, True])
def test_p_values_of_exchangeable_images_are_super_uniform(ties: bool) -> None:
    rng, trials, n = np.random.default_rng(0), 4_000, 39
    scores = rng.standard_normal((trials, n + 1))
    scores = np.round(scores) if ties else scores
    p = np.array([Calibration(row[1:], 0).p_value(row[:1])[0] for row in scores])
    for alpha in np.arange(1, n + 1) / (n + 1):
        error = math.sqrt(alpha * (1 - alpha) / trials)
        share = (p <= alpha + 1e-12).mean()
        assert share <= alpha + 4 * error
        if not ties:
            # Without ties nothing is given away either: P(p <= k / (n + 1)) = k / (n + 1).
            assert share >= alpha - 4 * error


@pytest.mark.parametrize("name", ["digits-2d", "digits-10d", "digits-binary-2d"])
def test_calibration_images_were_used_for_nothing_else(name: str, checkpoint) -> None:
    model = checkpoint(name)
    reference, splits = model.reference, open_data("digits").splits
    calibration = reference.indices[reference.of_split("calibration")]
    assert set(calibration.tolist()) == set(splits.calibration.tolist())
    for other in (splits.train, splits.validation):
        assert not np.intersect1d(calibration, other).size
    assert len(calibration_of(model).elbo) == len(calibration) == 499
    assert calibration_of(model).smallest_p_value == 1 / 500
    assert calibration_of(model).draws == (64 if name == "digits-10d" else 0)

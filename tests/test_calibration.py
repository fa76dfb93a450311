"""What a score means: percentiles and conformal p-values."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import CHECKPOINTS

import vae
from vae.data.images.adaptation import Adaptation
from vae.data.sets.datasets import open_data
from vae.scoring.calibration import Calibration, typicality
from vae.scoring.calibration_sets import (
    calibration_of,
    calibration_set,
    calibrations,
    write_calibration,
)
from vae.scoring.scores import score_levels

SHIPPED = sorted(path.parent.name for path in CHECKPOINTS.glob("*/manifest.json"))
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


def test_what_machines_may_differ_by_moves_no_image() -> None:
    """An image that the calibration set holds too ranks with it, on either side of rounding."""
    for scale in (1.0, 1e3):
        calibration = Calibration(scale * np.array([-30.0, -20.0, -20.0, -10.0]), draws=0)
        near = scale * -20.0 + 9e-5 * max(1.0, scale / 100) * np.array([-1.0, 0.0, 1.0])
        assert calibration.percentile(near).tolist() == [25.0] * 3
        assert calibration.p_value(near).tolist() == [4 / 5] * 3


@pytest.mark.parametrize("name", SHIPPED)
def test_one_formula_gives_every_p_value(name: str, checkpoint) -> None:
    """Also of an image that the set holds too, whose ELBO another machine rounds otherwise."""
    reference, calibration = checkpoint(name).reference, calibration_of(checkpoint(name))
    for elbo in (reference.elbo, reference.elbo * (1 + 1e-9), reference.elbo * (1 - 1e-9)):
        places = typicality(calibration.elbo, elbo)
        assert np.array_equal(places.low, calibration.p_value(elbo))
        # An image either lies above a calibration image, or counts as no higher.
        n, percentile = len(calibration.elbo), calibration.percentile(elbo)
        assert places.high == pytest.approx((1 + n - percentile * n / 100) / (n + 1))
        assert np.array_equal(places.two_sided, typicality(-calibration.elbo, -elbo).two_sided)


@pytest.mark.parametrize("off", [-9e-5, 0.0, 9e-5])
def test_what_counts_as_equal_makes_a_p_value_larger_on_both_sides(off: float) -> None:
    places = typicality(np.array([-30.0, -20.0, -20.0, -10.0]), np.array([-20.0 + off]))
    assert (places.low[0], places.high[0]) == (4 / 5, 4 / 5)


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


# --- False alarms -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "p_value", "rank", "low", "high"),
    # The intervals are those of the published tables for a nominal 1 %.
    [
        (499, 0.01, 5, 0.0033, 0.0204),
        (999, 0.01, 10, 0.0048, 0.0170),
        (499, 0.002, 1, 5e-5, 0.0074),
    ],
)
def test_false_alarms_and_their_interval(n, p_value, rank, low, high) -> None:
    alarms = Calibration(np.arange(n, dtype=float), 0).false_alarms(p_value)
    assert alarms.rank == rank and alarms.rate == rank / (n + 1)
    assert (alarms.low, alarms.high) == pytest.approx((low, high), abs=1e-4)
    assert alarms.smallest == 1 / (n + 1)


@pytest.mark.parametrize("p_value", [0.0, 0.0019, 1.0, -1.0, math.nan])
def test_a_threshold_that_n_does_not_support_is_refused(p_value: float) -> None:
    with pytest.raises(ValueError, match=r"must lie in \[0\.002, 1\).*499 calibration images"):
        Calibration(np.arange(499.0), 0).false_alarms(p_value)


def test_the_threshold_flags_what_the_p_value_flags() -> None:
    rng = np.random.default_rng(0)
    calibration = Calibration(np.round(rng.standard_normal(199), 1), 0)  # with ties
    elbo = np.round(rng.standard_normal(500), 1)
    for p_value in (0.005, 0.01, 0.05, 0.3):
        alarms = calibration.false_alarms(p_value)
        assert np.array_equal(elbo < alarms.threshold, calibration.p_value(elbo) <= p_value)


def test_the_interval_covers_the_true_rate() -> None:
    rng, n, trials = np.random.default_rng(1), 199, 2_000
    covered = []
    for _ in range(trials):
        # Scores uniform on [0, 1]: the true rate of a threshold is the threshold itself.
        calibration = Calibration(rng.random(n), 0)
        covered.append(calibration.elbo[10 - 1])
    alarms = calibration.false_alarms(10 / (n + 1))
    inside = np.mean((alarms.low <= np.array(covered)) & (np.array(covered) <= alarms.high))
    assert inside == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / trials))
    assert np.mean(covered) == pytest.approx(alarms.rate, rel=0.05)


@pytest.mark.parametrize(
    "name", sorted(path.parent.name for path in CHECKPOINTS.glob("*/m*.json"))
)
def test_calibration_and_validation_images_score_alike(name: str, checkpoint) -> None:
    """Two-sample: p-values that share one calibration set are no independent sample."""
    from scipy.stats import ks_2samp

    reference = checkpoint(name).reference
    calibration = reference.elbo[reference.of_split("calibration")]
    validation = reference.elbo[reference.of_split("validation")]
    assert ks_2samp(calibration, validation).pvalue > 0.01
    # And it can fail: half a standard deviation would be seen.
    assert ks_2samp(calibration, validation - validation.std() / 2).pvalue < 0.01


@pytest.mark.parametrize(
    "name", sorted(path.parent.name for path in CHECKPOINTS.glob("*/m*.json"))
)
def test_the_stated_false_alarms_hold_on_untouched_images(name: str, checkpoint) -> None:
    from scipy.stats import betabinom

    model = checkpoint(name)
    calibration, reference = calibration_of(model), model.reference
    p = calibration.p_value(reference.elbo[reference.of_split("validation")])
    n = len(calibration.elbo)
    for rate in (0.01, 0.05, 0.2):
        rank = calibration.false_alarms(rate).rank
        count = int((p <= rate).sum())
        low, high = betabinom.ppf([0.001, 0.999], len(p), rank, n + 1 - rank)
        assert low <= count <= high


# --- Named sets -------------------------------------------------------------------------------

GOOD = {"draws": 64, "seed": 3, "adaptation": Adaptation(crop="no"), "source": "good ones"}


@pytest.fixture
def copy(tmp_path: Path) -> vae.Checkpoint:
    """A checkpoint of its own, to write beside."""
    shutil.copytree(CHECKPOINTS / "digits-10d", tmp_path / "digits-10d")
    return vae.load(tmp_path / "digits-10d")


def test_a_named_set_comes_back(copy) -> None:
    assert calibrations(copy) == ()
    elbo = np.random.default_rng(0).normal(-90, 9, 30)
    made = write_calibration(copy, "mine", elbo, **GOOD)
    write_calibration(copy, "other-1", elbo - 1, **GOOD)
    again = vae.load(copy.path)
    assert calibrations(again) == ("mine", "other-1")
    found = calibration_set(again, "mine")
    assert np.array_equal(found.elbo, np.sort(elbo)) and np.array_equal(made.elbo, found.elbo)
    assert (found.draws, found.seed, found.adaptation) == (64, 3, Adaptation(crop="no"))
    assert found.weights_sha256 == copy.weights_sha256 and found.source == "good ones"
    assert calibration_of(again, "mine").elbo.tolist() == sorted(elbo.tolist())
    assert len(calibration_of(again).elbo) == 499


def test_scores_take_their_place_in_the_named_set(copy) -> None:
    levels = copy.reference.levels[:30]
    elbo = np.array([row.elbo for row in score_levels(copy, levels)])
    write_calibration(copy, "mine", elbo, **GOOD)
    rows = score_levels(copy, levels, draws=16, calibration="mine")
    expected = Calibration(elbo, 64)
    assert [row.p_value for row in rows] == expected.p_value(elbo).tolist()
    assert [row.percentile for row in rows] == expected.percentile(elbo).tolist()
    assert min(row.p_value for row in rows) == 2 / 31


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", "ü", ".x", "x" * 65, "a\n", "-x"])
def test_a_name_is_no_path(name: str, copy) -> None:
    with pytest.raises(ValueError, match="up to 64 letters"):
        write_calibration(copy, name, np.arange(30.0), **GOOD)
    with pytest.raises(vae.CheckpointError, match="E-CKPT-09"):
        calibration_of(copy, name)
    assert vae.load(copy.path)


def test_nothing_is_replaced_unasked_and_a_few_are_too_few(copy) -> None:
    write_calibration(copy, "mine", np.arange(30.0), **GOOD)
    with pytest.raises(FileExistsError, match="--overwrite"):
        write_calibration(copy, "mine", np.arange(40.0), **GOOD)
    write_calibration(copy, "mine", np.arange(40.0), overwrite=True, **GOOD)
    assert len(calibration_of(copy, "mine").elbo) == 40
    for elbo in (np.arange(19.0), np.append(np.arange(30.0), np.nan)):
        with pytest.raises(ValueError, match="at least 20 images"):
            write_calibration(copy, "few", elbo, **GOOD)
    assert [path.name for path in (copy.path / "calibrations").iterdir()] == ["mine.json"]


def test_a_damaged_or_foreign_set_is_refused(copy) -> None:
    write_calibration(copy, "mine", np.arange(30.0), **GOOD)
    file = copy.path / "calibrations" / "mine.json"
    document = json.loads(file.read_text())
    damages = (
        "", "[]", "{}", '"x"', json.dumps(document)[:-9],
        *(
            json.dumps({**document, **wrong})
            for wrong in (
                {"format": 2}, {"draws": "64"}, {"draws": -1}, {"name": "other"}, {"more": 1},
                {"elbo": [0.0] * 5}, {"elbo": [2.0, 1.0] * 15}, {"elbo": None},
                {"elbo": [0.0] * 29 + [1e999]}, {"adaptation": {"crop": "maybe"}},
            )
        ),
    )  # fmt: skip
    for damage in damages:
        file.write_text(damage)
        with pytest.raises(vae.CheckpointError, match="E-CKPT-10"):
            calibration_of(copy, "mine")
    file.write_text(json.dumps({**document, "weights_sha256": "0" * 64}))
    with pytest.raises(vae.CheckpointError, match="E-CKPT-11"):
        calibration_of(copy, "mine")

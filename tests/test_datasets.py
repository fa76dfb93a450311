"""Data sets: fixed, disjoint splits, levels in range, and images found again by index."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from conftest import CHECKPOINTS

import vae
from vae.data.sets.datasets import open_data
from vae.data.sets.image_data import DataMissing, Splits, label_text, shuffled, split_indices
from vae.store.originals import originals

SIZES = {"digits": (1_098, 200, 499), "sprites": (30_000, 1_000, 999)}


@pytest.mark.parametrize("name", SIZES)
def test_splits_are_disjoint_and_sized(name: str) -> None:
    splits = open_data(name).splits
    assert tuple(len(split) for split in splits) == SIZES[name]
    every = np.concatenate(splits)
    assert every.dtype == np.int64
    assert len(np.unique(every)) == len(every)
    if name == "digits":
        assert np.array_equal(np.sort(every), np.arange(1_797))


@pytest.mark.parametrize("name", SIZES)
def test_opening_again_gives_the_same(name: str) -> None:
    one, other = open_data(name), open_data(name)
    rows = one.splits.validation[:50]
    for split, again in zip(one.splits, other.splits, strict=True):
        assert np.array_equal(split, again)
    assert np.array_equal(one.read(rows), other.read(rows))
    assert np.array_equal(one.labels_of(rows), other.labels_of(rows))


@pytest.mark.parametrize("name", SIZES)
def test_images_fit_their_spec(name: str) -> None:
    data = open_data(name)
    rows = np.concatenate([split[:100] for split in data.splits])
    levels, labels = data.read(rows), data.labels_of(rows)
    assert levels.dtype == np.uint8 and levels.shape == (len(rows), *data.spec.shape)
    assert levels.min() == 0 and levels.max() == data.spec.levels - 1
    assert labels.dtype == np.int64 and labels.shape == rows.shape
    assert set(labels.tolist()) == set(range(len(data.label_names)))
    assert np.array_equal(data.spec.to_levels(data.spec.from_levels(levels)), levels)


def test_each_split_holds_every_class() -> None:
    data = open_data("digits")
    for split in data.splits:
        shares = np.bincount(data.labels_of(split), minlength=10) / len(split)
        assert shares.min() > 0.05


@pytest.mark.parametrize(
    "name", ["digits-2d", "digits-10d", "digits-binary-2d", "digits-binary-2d-batch-moment"]
)
def test_checkpoints_recorded_these_splits_and_images(name: str, checkpoint) -> None:
    model, data = checkpoint(name), open_data("digits")
    reference = model.reference
    for split in ("validation", "calibration"):
        rows = reference.of_split(split)
        assert np.array_equal(reference.indices[rows], getattr(data.splits, split))
    assert np.array_equal(originals(model, np.arange(reference.size)), reference.levels)
    assert np.array_equal(data.read(reference.indices), reference.levels)
    assert np.array_equal(data.labels_of(reference.indices), reference.labels)
    for split, recorded in model.card.data.recorded["splits"].items():
        indices = getattr(data.splits, split)
        digest = hashlib.sha256(indices.tobytes()).hexdigest()
        assert recorded == {"images": len(indices), "sha256": digest}


def test_redrawn_originals_are_the_scored_ones() -> None:
    if not (CHECKPOINTS / "sprites-10d" / "manifest.json").exists():
        pytest.skip("there is no checkpoint of sprites")
    model = vae.load(CHECKPOINTS / "sprites-10d")
    assert model.reference.levels is None
    rows = np.array([0, 5, model.reference.size - 1, 5])
    levels = originals(model, rows)
    assert np.array_equal(levels, open_data("sprites").read(model.reference.indices[rows]))
    scored = vae.score(model, model.config.image.from_levels(levels))
    np.testing.assert_allclose(
        [row.elbo for row in scored], model.reference.elbo[rows], rtol=1e-6, atol=1e-4
    )


def splitmix64(index: int, seed: int) -> int:
    """The finaliser of SplitMix64 in exact integers, from the published constants."""
    mask = 2**64 - 1
    v = (index + seed * 0x9E3779B97F4A7C15) & mask
    v = ((v ^ (v >> 30)) * 0xBF58476D1CE4E5B9) & mask
    v = ((v ^ (v >> 27)) * 0x94D049BB133111EB) & mask
    return v ^ (v >> 31)


@pytest.mark.parametrize("seed", [0, 1, 12_345])
@pytest.mark.parametrize("count", [0, 1, 2, 1_797])
def test_shuffled_sorts_by_splitmix64(count: int, seed: int) -> None:
    order = shuffled(count, seed)
    assert order.dtype == np.int64
    assert order.tolist() == sorted(range(count), key=lambda index: splitmix64(index, seed))


def test_shuffled_has_a_known_answer() -> None:
    # 0 is a fixed point of the finaliser, so it comes first under seed 0.
    assert splitmix64(0, 0) == 0
    assert splitmix64(1, 0) == 0x5692161D100B05E5
    assert shuffled(8, 0)[0] == 0
    assert shuffled(8, 0).tolist() != shuffled(8, 1).tolist()


def test_split_indices_cut_without_remainder() -> None:
    splits = split_indices(shuffled(20, 3), validation=5, calibration=4)
    assert isinstance(splits, Splits)
    assert [len(split) for split in splits] == [11, 5, 4]
    assert sorted(np.concatenate(splits).tolist()) == list(range(20))


@pytest.mark.parametrize("name", ["mnist5", "", "Digits", "folder"])
def test_an_unknown_name_lists_the_valid(name: str) -> None:
    valid = "Choose one of: digits, sprites, mnist, .*folder:PATH"
    with pytest.raises(ValueError, match=valid) as caught:
        open_data(name)
    assert repr(name) in str(caught.value)
    assert not isinstance(caught.value, DataMissing)


def test_labels_have_names() -> None:
    data = open_data("sprites")
    assert data.label_names == ("square", "ellipse", "heart")
    assert label_text(2, data.label_names) == "heart"
    assert label_text(-1, data.label_names) == label_text(7, ()) == "unlabelled"

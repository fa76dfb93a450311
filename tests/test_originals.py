"""A checkpoint whose images stay with the user: with them, without them, and with other ones."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from published_files import TEST, write_idx

import vae
from vae.cli.main import main
from vae.data.sets import cache
from vae.data.sets.datasets import open_data
from vae.data.sets.image_data import DataMissing, ImageData
from vae.scoring.evaluation import evaluate
from vae.store.checkpoint import Checkpoint
from vae.store.originals import files_of, originals
from vae.training.commit import commit
from vae.training.config import TrainConfig
from vae.training.fit import fit

CONFIG = TrainConfig(
    hidden=(8,), latent_dim=3, likelihood="bernoulli", binarize="dynamic", steps=4,
    batch_size=16, evaluate_every=4, draws=2, importance_samples=2, device="cpu",
)  # fmt: skip


class Trained(NamedTuple):
    model: Checkpoint
    data: ImageData
    levels: np.ndarray


@pytest.fixture
def mnist(tmp_path, monkeypatch) -> Trained:
    """A model of a small MNIST, committed while its files are there."""
    monkeypatch.setenv("ELBOSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ELBOSCOPE_DATA", str(tmp_path / "data"))
    write_idx(tmp_path / "data" / "MNIST" / "raw", packed=True)
    return trained("mnist:full", tmp_path / "model")


def trained(name: str, path: Path, **size: int) -> Trained:
    data = open_data(name, **size)
    config = replace(CONFIG, data=name)
    fitted = fit(config, data, progress=False)
    commit(path, config, data, fitted, "python -m vae train", progress=False)
    model = vae.load(path)
    return Trained(model, data, data.read(model.reference.indices))


def rows_of(model: Checkpoint) -> np.ndarray:
    return np.arange(model.reference.size)


def forget(path: Path) -> None:
    shutil.rmtree(path)
    cache._open.cache_clear()


def test_the_splits_and_the_digest_are_recorded(mnist):
    entry, reference = mnist.model.card.data, mnist.model.reference
    assert entry.name == "mnist:full" and entry.digest == mnist.data.digest
    assert entry.images == {
        "train": 200, "validation": 6, "calibration": 15, "test": TEST,
    }  # fmt: skip
    for split in ("validation", "calibration"):
        indices = reference.indices[reference.of_split(split)]
        np.testing.assert_array_equal(indices, getattr(mnist.data.splits, split))
    assert reference.levels is None


@pytest.mark.parametrize("left", ["files", "cache", "both"])
def test_originals_come_from_the_files_or_from_what_was_decoded(mnist, tmp_path, left):
    if left == "files":
        forget(tmp_path / "cache")
    elif left == "cache":
        forget(tmp_path / "data")
    np.testing.assert_array_equal(originals(mnist.model, rows_of(mnist.model)), mnist.levels)


def test_without_its_data_a_model_still_opens(mnist, tmp_path):
    forget(tmp_path / "data")
    forget(tmp_path / "cache")
    model = vae.load(tmp_path / "model")
    np.testing.assert_array_equal(model.reference.elbo, mnist.model.reference.elbo)
    with pytest.raises(DataMissing, match="python -m vae data mnist"):
        originals(model, rows_of(model))


def test_other_files_of_the_same_names_are_noticed(mnist, tmp_path):
    forget(tmp_path / "cache")
    write_idx(tmp_path / "data" / "MNIST" / "raw", packed=True, seed=1)
    with pytest.raises(DataMissing, match="no longer those that 'model' was trained on"):
        originals(mnist.model, rows_of(mnist.model))


def test_test_images_are_evaluated(mnist, tmp_path, capsys):
    metrics = evaluate(mnist.model, "test", draws=2, importance_samples=2, progress=False)
    assert (metrics["split"], metrics["images"]) == ("test", TEST)
    x = mnist.model.config.image.from_levels(mnist.data.read(mnist.data.test))
    scores = vae.score(mnist.model, x, draws=2, importance_samples=2)
    assert metrics["elbo"] == pytest.approx(np.mean([row.elbo for row in scores]))
    assert metrics["iwae_bound"] == pytest.approx(np.mean([row.iwae_bound for row in scores]))
    # The validation images are among them here, and their stored scores are these.
    reference = mnist.model.reference
    validation = reference.indices[reference.of_split("validation")] - mnist.data.test[0]
    np.testing.assert_allclose(
        [scores[i].elbo for i in validation], reference.elbo[reference.of_split("validation")]
    )
    flags = ("--split", "test", "--limit", "5", "--draws", "2", "--importance-samples", "2")
    assert main(["evaluate", str(tmp_path / "model"), *flags]) == 0
    assert "model: 5 test images" in capsys.readouterr().out


def test_test_images_that_are_missing_end_in_one_sentence(mnist, tmp_path, capsys):
    forget(tmp_path / "data")
    assert main(["evaluate", str(tmp_path / "model"), "--split", "test"]) == 66
    (line,) = capsys.readouterr().err.splitlines()
    assert "python -m vae data mnist" in line


def test_a_set_without_test_images_says_so(capsys):
    assert main(["evaluate", "digits-2d", "--split", "test"]) == 2
    assert "'digits' has no test images of its own" in capsys.readouterr().err


# --- A folder of one's own --------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Trained:
    monkeypatch.setenv("ELBOSCOPE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "photos").mkdir()
    generator = np.random.default_rng(0)
    for number in range(60):
        pixels = generator.integers(0, 255, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number:02}.png")
    return trained(f"folder:{tmp_path / 'photos'}", tmp_path / "model", image_size=8, channels=1)


def test_a_folder_may_be_touched_or_moved(photos, tmp_path):
    for file in (tmp_path / "photos").iterdir():
        os.utime(file, (1, 1))
    cache._open.cache_clear()
    np.testing.assert_array_equal(originals(photos.model, rows_of(photos.model)), photos.levels)
    forget(tmp_path / "cache")
    # Decoded anew, and recognised.
    np.testing.assert_array_equal(originals(photos.model, rows_of(photos.model)), photos.levels)
    (tmp_path / "photos").rename(tmp_path / "elsewhere")
    cache._open.cache_clear()
    np.testing.assert_array_equal(originals(photos.model, rows_of(photos.model)), photos.levels)
    forget(tmp_path / "cache")
    with pytest.raises(DataMissing, match="There is no folder"):
        originals(photos.model, rows_of(photos.model))


def test_a_replaced_image_is_noticed(photos, tmp_path):
    Image.new("L", (8, 8), 9).save(tmp_path / "photos" / "07.png")
    # What was decoded before is there still, and it is what the model was trained on.
    np.testing.assert_array_equal(originals(photos.model, rows_of(photos.model)), photos.levels)
    forget(tmp_path / "cache")
    with pytest.raises(DataMissing, match="no longer those that 'model' was trained on"):
        originals(photos.model, rows_of(photos.model))


def test_the_file_of_each_image_is_known_while_the_cache_knows_it(photos, tmp_path):
    folder = tmp_path / "photos"
    files = files_of(photos.model)
    for name, levels in zip(files, photos.levels, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(folder / name)), levels[0])
    # Renamed, as the folder's next opening learns.
    (folder / "scans").mkdir()
    for file in folder.glob("*.png"):
        file.rename(folder / "scans" / file.name)
    assert files_of(photos.model) == files
    open_data(f"folder:{folder}", image_size=8, channels=1)
    assert files_of(photos.model) == [f"scans/{name}" for name in files]
    forget(tmp_path / "cache")
    assert files_of(photos.model) is None


def test_images_that_are_no_files_of_a_folder_have_no_names(mnist, checkpoint):
    assert files_of(mnist.model) is None and files_of(checkpoint("digits-2d")) is None


def test_pruning_on_the_command_line(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ELBOSCOPE_CHECKPOINTS", str(tmp_path))
    for number in range(3):
        Image.new("L", (8, 8), number).save(tmp_path / "photos" / f"new-{number}.png")
        last = open_data(photos.data.name, image_size=8, channels=1)
    assert main(["data", "--prune"]) == 0
    *removed, total = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in sorted(removed)] == ["61", "62"]
    assert all("the folder 'photos'" in line and "MB" in line for line in removed)
    assert "MB freed in" in total
    cache._open.cache_clear()
    # The model's own images, and the folder's newest.
    np.testing.assert_array_equal(originals(photos.model, rows_of(photos.model)), photos.levels)
    assert files_of(photos.model) is not None
    assert cache.find(last.digest, last.spec) is not None
    assert main(["data", "--prune"]) == 0
    assert capsys.readouterr().out.startswith("0.0 MB freed in")
    assert main(["data", "mnist", "--prune"]) == 2

"""A folder of images as a data set, and files as things to score."""

import numpy as np
import pytest
from PIL import Image

from vae.data import folder as folder_module
from vae.data.datasets import DataMissing, open_data


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.setenv("ELBOSCOPE_CACHE", str(tmp_path / "cache"))
    generator = np.random.default_rng(0)
    for number in range(60):
        kind = ("cats", "dogs")[number % 2]
        (tmp_path / "photos" / kind).mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 255, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / kind / f"{number:03}.png")
    return tmp_path / "photos"


def test_a_folder_opens_with_splits_and_labels(photos):
    data = open_data(f"folder:{photos}", image_size=16, channels=3)
    parts = [set(split.tolist()) for split in data.splits]
    assert [len(part) for part in parts] == [39, 6, 15]
    assert set().union(*parts) == set(range(60))
    levels = data.read(data.splits.train[:5])
    assert levels.shape == (5, 3, 16, 16)
    assert levels.dtype == np.uint8
    assert data.label_names == ("cats", "dogs")
    assert data.labels_of(np.arange(60)).tolist() == [0] * 30 + [1] * 30


def test_the_second_opening_decodes_nothing(photos, monkeypatch):
    first = open_data(f"folder:{photos}", image_size=16, channels=1)
    before = first.read(np.arange(60))

    def fail(*_):
        raise AssertionError("decoded again")

    monkeypatch.setattr(folder_module, "read_image", fail)
    again = open_data(f"folder:{photos}", image_size=16, channels=1)
    np.testing.assert_array_equal(again.read(np.arange(60)), before)


def test_a_changed_file_is_decoded_again(photos):
    before = open_data(f"folder:{photos}", image_size=16, channels=1).read(np.arange(60))
    Image.new("RGB", (20, 24), "white").save(photos / "cats" / "000.png", compress_level=0)
    after = open_data(f"folder:{photos}", image_size=16, channels=1).read(np.arange(60))
    changed = np.flatnonzero((before != after).any((1, 2, 3)))
    assert changed.tolist() == [0]


def test_an_unreadable_file_is_left_out_and_named(photos, capsys):
    (photos / "cats" / "broken.png").write_bytes(b"no image")
    data = open_data(f"folder:{photos}", image_size=16, channels=1)
    assert sum(len(split) for split in data.splits) == 60
    assert "broken.png" in capsys.readouterr().err


@pytest.mark.parametrize("files", [None, 0, 3])
def test_too_few_images_are_refused_in_one_sentence(tmp_path, files):
    folder = tmp_path / "few"
    if files is not None:
        folder.mkdir()
        for number in range(files):
            Image.new("L", (8, 8)).save(folder / f"{number}.png")
    with pytest.raises(DataMissing) as error:
        open_data(f"folder:{folder}")
    assert str(folder) in str(error.value)

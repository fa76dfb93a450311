"""A folder of images as a data set, and files as things to score."""

import numpy as np
import pytest
from PIL import Image

from vae.data import folder as folder_module
from vae.data.datasets import DataMissing, open_data
from vae.data.images import encode_png
from vae.elbo.files import image_files, score_files, write_rows
from vae.elbo.rows import to_csv


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


def test_names_are_relative_to_the_argument(photos, tmp_path):
    files = image_files([photos, photos / "dogs" / "001.png"])
    assert len(files) == 61
    assert files[0].name == "cats/000.png"
    assert files[-1].name == "001.png"
    with pytest.raises(FileNotFoundError, match="nowhere"):
        image_files([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no image"):
        image_files([tmp_path / "empty"])


def test_a_refused_file_is_a_row_and_the_others_are_scored(checkpoint, tmp_path):
    model = checkpoint("digits-2d")
    levels = model.reference.levels[:3, 0].astype(np.float64)
    for number, image in enumerate(levels):
        pixels = np.rint(image / 16 * 255).astype(np.uint8)
        (tmp_path / f"{number}.png").write_bytes(encode_png(pixels))
    (tmp_path / "1b.png").write_bytes(b"junk")
    rows = score_files(model, image_files([tmp_path]))
    assert [row.name for row in rows] == ["0.png", "1.png", "1b.png", "2.png"]
    assert [row.error_code for row in rows] == [None, None, "E-IMG-03", None]
    assert rows[2].elbo is None
    expected = model.reference.elbo[[0, 1, 2]]
    np.testing.assert_allclose([rows[i].elbo for i in (0, 1, 3)], expected, atol=1e-4)

    target = tmp_path / "scores.csv"
    write_rows(rows, target)
    assert target.read_bytes() == to_csv(rows)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_file_beyond_the_limit_is_never_read_whole(checkpoint, tmp_path):
    from vae.data.images import Limits

    big = tmp_path / "big.png"
    with big.open("wb") as file:
        file.truncate(10 * 2**30)  # sparse: ten gigabytes that take no room
    rows = score_files(checkpoint("digits-2d"), image_files([big]), limits=Limits(bytes=1_000))
    assert rows[0].error_code == "E-IMG-02"

"""A folder of images as a data set, and files as things to score."""

import os
import shutil
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
from PIL import Image
from process_ending import FATAL, end_process

import vae
from vae.cli.program import Stop
from vae.cli.train import train
from vae.data.images import many as bulk
from vae.data.images.adaptation import preprocess
from vae.data.images.decoding import Limits, read_image
from vae.data.sets import file_set
from vae.data.sets.datasets import open_data
from vae.data.sets.file_set import FileSet
from vae.data.sets.image_data import DataMissing, Reading, copies_of
from vae.data.sets.published import face_square
from vae.data.spec import ImageSpec
from vae.scoring.files import prepare
from vae.store.originals import own_data


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

    monkeypatch.setattr(bulk.Decoder, "__call__", fail)
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


def test_several_processes_decode_as_one_does(photos, monkeypatch):
    (photos / "dogs" / "0.png").write_bytes(b"no image")
    alone = open_data(f"folder:{photos}", image_size=16, channels=3)
    several_processes(monkeypatch)
    monkeypatch.setenv("ELBOSCOPE_CACHE", os.environ["ELBOSCOPE_CACHE"] + "-2")
    together = open_data(f"folder:{photos}", image_size=16, channels=3)
    assert together.digest == alone.digest
    np.testing.assert_array_equal(together.labels_of(np.arange(60)), [0] * 30 + [1] * 30)


def several_processes(monkeypatch):
    monkeypatch.setattr(file_set, "_WORTH_PROCESSES", 0)
    monkeypatch.setattr(file_set, "_PART_BYTES", 7 * 3 * 16 * 16)
    monkeypatch.setattr(file_set, "cores", lambda: 2)


def test_what_is_cut_first_is_cut_in_other_processes_too(photos, monkeypatch):
    spec = ImageSpec(channels=3, height=20, width=20)
    files = sorted(map(str, photos.rglob("*.png")))
    several_processes(monkeypatch)
    levels = np.concatenate(list(FileSet(files, spec, trim=face_square)))
    expected = [np.asarray(Image.open(file))[:, 2:22].transpose(2, 0, 1) for file in files]
    np.testing.assert_array_equal(levels, expected)


def test_a_file_that_ends_its_process_is_left_out_alone(photos, monkeypatch, capsys):
    files = sorted(map(str, photos.rglob("*.png")))
    Image.new("RGB", (20, 24), (FATAL,) * 3).save(files[9])
    several_processes(monkeypatch)
    images = FileSet(files, ImageSpec(channels=1, height=8, width=8), trim=end_process)
    assert sum(map(len, images)) == 59
    assert images.kept == [i for i in range(60) if i != 9]
    assert f"left out {files[9]}: The file ended the program" in capsys.readouterr().err


def test_what_is_no_regular_file_is_passed_over(photos):
    os.mkfifo(photos / "pipe.png")  # to read it would wait for ever
    (photos / "nowhere.png").symlink_to(photos / "gone.png")
    (photos / "folder.png").mkdir()
    data = open_data(f"folder:{photos}", image_size=8, channels=1)
    assert sum(map(len, data.splits)) == 60


def test_images_are_those_of_an_upload(photos):
    data = open_data(f"folder:{photos}", image_size=16, channels=3)
    file = sorted(photos.rglob("*.png"))[7]
    prepared = preprocess(read_image(file.read_bytes()), data.spec)
    np.testing.assert_array_equal(data.read(np.array([7]))[0], prepared.levels)


@pytest.mark.parametrize(
    "text",
    [
        "file,label\n{rows}",
        "\ufefflabel, file, note\r\n{swapped}",
        "file,label\n{rows}gone.png,9\n\n",
    ],
)
def test_labels_come_from_a_table(photos, text):
    names = [f"{('cats', 'dogs')[i % 2]}/{i:03}.png" for i in range(60)]
    rows = "".join(f"{name},{(i % 3) * 5}\n" for i, name in enumerate(names))
    swapped = "".join(f'"{(i % 3) * 5}", {name}, "a, b"\r\n' for i, name in enumerate(names))
    table = text.format(rows=rows, swapped=swapped)
    (photos / "labels.csv").write_bytes(table.encode())
    data = open_data(f"folder:{photos}", image_size=8, channels=1)
    # In the order of the numbers, not of their digits.
    assert data.label_names == ("0", "5", "10")
    numbers = [*range(0, 60, 2), *range(1, 60, 2)]
    assert data.labels_of(np.arange(60)).tolist() == [i % 3 for i in numbers]


def test_a_table_may_leave_some_out(photos, capsys):
    before = open_data(f"folder:{photos}", image_size=8, channels=1)
    (photos / "labels.csv").write_text("file,label\n./cats/000.png,old\ndogs/001.png,\n")
    data = open_data(f"folder:{photos}", image_size=8, channels=1)
    assert data.label_names == ("old",)
    assert data.labels_of(np.arange(60)).tolist() == [0] + [-1] * 59
    assert "no label for 59" in capsys.readouterr().err
    # Labels are no part of what is decoded.
    assert data.digest == before.digest


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_table_of_a_spreadsheet(photos, separator) -> None:
    rows = [f"{('cats', 'dogs')[i % 2]}/{i:03}.png" for i in range(60)]
    lines = [f'"{name}"{separator}{i % 2},5{separator}"a, b"' for i, name in enumerate(rows)]
    head = separator.join(("file", "label", "note"))
    (photos / "labels.csv").write_text("\n".join([head, *lines]))
    data = open_data(f"folder:{photos}", image_size=8, channels=1)
    assert data.label_names == ("0,5", "1,5")
    assert (data.labels_of(np.arange(60)) >= 0).all()


@pytest.mark.parametrize(("on_disk", "written"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_letters_may_be_composed_or_not(photos, on_disk, written) -> None:
    def named(form: str, i: int) -> str:
        return normalize(form, f"café/größe{i}.png")

    (photos / named(on_disk, 0)).parent.mkdir()
    for i, path in enumerate(sorted(photos.rglob("*.png"))):
        path.rename(photos / named(on_disk, i))
    data = open_data(f"folder:{photos}", image_size=8, channels=1)
    assert data.label_names == ("café",) == (normalize("NFC", "café"),)
    table = "".join(f"{named(written, i)},{normalize(written, 'groß, né')[:2]}{i % 2}é\n"
                    for i in range(60))  # fmt: skip
    (photos / "labels.csv").write_text(f"file,label\n{table}", "utf-8")
    data = open_data(f"folder:{photos}", image_size=8, channels=1)
    assert data.label_names == tuple(normalize("NFC", f"gr{i}é") for i in (0, 1))
    assert np.bincount(data.labels_of(np.arange(60))).tolist() == [30, 30]


def test_a_class_whose_name_is_not_utf_8_trains(photos, tmp_path) -> None:
    (photos / "cats").rename(os.fsdecode(bytes(photos) + b"/caf\xe9"))
    arguments = ["--data", f"folder:{photos}", "--image-size", "8", "--image-channels", "1",
                 "--network", "mlp", "--steps", "5", "--importance-samples", "0", "--draws", "2",
                 "--quiet", "--latent-dim", "3"]  # fmt: skip
    assert train([*arguments, "--out", str(tmp_path / "model")]) == 0
    model = vae.load(tmp_path / "model")
    assert model.label_names == ("caf\ufffd", "dogs")
    assert set(model.reference.labels.tolist()) == {0, 1}
    # What cannot be told apart, or written down, is refused before the first step.
    (photos / "dogs").rename(os.fsdecode(bytes(photos) + b"/caf\xe8"))
    with pytest.raises(Stop, match="cannot be told apart"):
        train([*arguments, "--out", str(tmp_path / "other")])
    bad = os.fsdecode(b"caf\xe9")
    photos.rename(tmp_path / bad)
    for words in (["--data", f"folder:{tmp_path / bad}"], ["--title", bad]):
        with pytest.raises(Stop, match="'[^']*caf\ufffd' is not UTF-8"):
            train([*arguments, *words, "--out", str(tmp_path / "other")])
    (tmp_path / "photos").symlink_to(tmp_path / bad)
    with pytest.raises(Stop, match="caf\ufffd' is not UTF-8|photos' is not UTF-8"):
        train([*arguments, "--out", str(tmp_path / "other")])
    assert not (tmp_path / "other").exists()


def test_litter_and_what_cannot_be_read_are_said(photos, capsys) -> None:
    before = open_data(f"folder:{photos}", image_size=8, channels=1)
    (photos / ".ipynb_checkpoints").mkdir()
    for name in (".ipynb_checkpoints/000-checkpoint.png", "._000.png", "cats/._000.png"):
        Image.new("L", (8, 8)).save(photos / name)
    (photos / "notes.txt").write_text("about")
    (photos / "labels.csv").write_text("file,label\ncats/000.png,a\n")
    (photos / "gone.png").symlink_to(photos / "nowhere.png")
    capsys.readouterr()
    data = open_data(f"folder:{photos}", image_size=8, channels=1)
    assert data.digest == before.digest
    told = capsys.readouterr().err
    assert "left out of the folders: 1 no image by name (.txt 1); 3 hidden" in told
    assert "cannot be read: 'gone.png' (No such file or directory)" in told
    assert ".csv" not in told.replace("labels.csv has", "")


def test_a_folder_that_cannot_be_listed_is_said(photos, unlistable, capsys) -> None:
    for i in range(50):
        Image.new("L", (8, 8), i).save(photos / f"{i}.png")
    unlistable("dogs")
    data = open_data(f"folder:{photos}", image_size=8, channels=1)
    assert sum(map(len, data.splits)) == 80
    assert "cannot be read: 'dogs' (it is no file, or cannot be read)" in capsys.readouterr().err


def test_proportions_bits_and_tiff_are_chosen_for_training_as_for_scoring(tmp_path, monkeypatch,
                                                                          capsys):  # fmt: skip
    monkeypatch.setenv("ELBOSCOPE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "scans"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for i in range(60):
        values = generator.integers(0, 4096, (15, 20), dtype=np.uint16)
        Image.fromarray(values).save(folder / f"{i:02}.{('png', 'tif')[i % 2]}")
    with pytest.raises(DataMissing, match="Only 30 of the 60"):
        open_data(f"folder:{folder}", image_size=8, channels=1)
    capsys.readouterr()
    usual = open_data(f"folder:{folder}", 8, 1, Reading(allow_tiff=True))
    told = capsys.readouterr().err
    assert "images adapted to 8×8 pixels: padded 60 (to other proportions; see --fit), " in told
    assert "unscaled 60 (16-bit files whose greys have fewer bits; --bits scales them)" in told
    out = tmp_path / "model"
    assert train(["--data", f"folder:{folder}", "--image-size", "8", "--image-channels", "1",
                  "--network", "mlp", "--steps", "5", "--importance-samples", "0", "--draws", "2",
                  "--quiet", "--latent-dim", "3", "--fit", "cut", "--bits", "12", "--allow-tiff",
                  "--out", str(out)]) == 0  # fmt: skip
    assert "8×8 pixels: cut 60, resized 60, scaled 60" in capsys.readouterr().err
    model = vae.load(out)
    data = own_data(model)
    assert data.digest == model.card.data.digest != usual.digest
    # A file that is scored is brought to the model just as when it was trained.
    for i in (0, 1):
        path = sorted(folder.iterdir())[i]
        sent = prepare(model, path.read_bytes(), limits=Limits(formats=("PNG", "TIFF")))
        np.testing.assert_array_equal(sent.levels, data.read(np.array([i]))[0])
        assert [step.split()[0] for step in sent.steps] == ["Scaled", "Cut", "Resized"]
    # The spare width of a frame that isn't square.
    wide = open_data(f"folder:{folder}", (15, 20), 1, Reading(bits="12", allow_tiff=True))
    assert wide.read(np.arange(2)).shape == (2, 1, 15, 20)
    first = np.asarray(Image.open(folder / "00.png"))
    np.testing.assert_array_equal(wide.read(np.arange(1))[0, 0], np.rint(first * (255 / 4095)))


@pytest.mark.parametrize(
    ("table", "named"),
    [
        (b"image,label\na.png,1\n", "lacks the column 'file'"),
        (b"", "lacks the column 'file'"),
        (b"file|label\na.png|1\n", "semicolons or tabs.*file|label"),
        (b"file,label\nother/1.png,1\n", "No file"),
        (b"file,label\n\xff\xfe,1\n", "UTF-8"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_sentence(photos, table, named):
    (photos / "labels.csv").write_bytes(table)
    with pytest.raises(DataMissing, match=named) as error:
        open_data(f"folder:{photos}", image_size=8, channels=1)
    assert "labels.csv" in str(error.value)


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


def flattened(photos: Path) -> list[str]:
    """Moves all images up into the folder itself; their names in order."""
    for file in sorted(photos.rglob("*.png")):
        file.rename(photos / file.name)
    for kind in ("cats", "dogs"):
        (photos / kind).rmdir()
    return sorted(file.name for file in photos.iterdir())


def test_files_sorted_into_classes_later_get_their_labels(photos):
    names = flattened(photos)
    before = open_data(f"folder:{photos}", image_size=8, channels=1)
    assert before.label_names == ()
    # In the order that they had, so that the decoded images are the same, byte for byte.
    for place, name in enumerate(names):
        kind = photos / ("ants" if place < 20 else "bees")
        kind.mkdir(exist_ok=True)
        (photos / name).rename(kind / name)
    after = open_data(f"folder:{photos}", image_size=8, channels=1)
    assert after.digest == before.digest and after.label_names == ("ants", "bees")
    assert after.labels_of(np.arange(60)).tolist() == [0] * 20 + [1] * 40
    # And sorted once more, otherwise.
    for place, name in enumerate(names[:30]):
        (photos / ("ants" if place < 20 else "bees") / name).rename(photos / "ants" / f"x{name}")
    again = open_data(f"folder:{photos}", image_size=8, channels=1)
    assert np.bincount(again.labels_of(np.arange(60))).tolist() == [30, 30]


def test_renamed_files_are_found_in_a_new_table(photos):
    names = flattened(photos)
    before = open_data(f"folder:{photos}", image_size=8, channels=1)
    for name in names:
        (photos / name).rename(photos / f"scan-{name}")
    rows = "".join(f"scan-{name},{place % 4}\n" for place, name in enumerate(names))
    (photos / "labels.csv").write_text(f"file,label\n{rows}")
    after = open_data(f"folder:{photos}", image_size=8, channels=1)
    assert after.digest == before.digest
    assert after.labels_of(np.arange(60)).tolist() == [place % 4 for place in range(60)]


def in_parts(photos: Path, *parts: str) -> None:
    """Moves the images below sub-folders in turn, with the classes below them."""
    for place, file in enumerate(sorted(photos.rglob("*.png"))):
        target = photos / parts[place % len(parts)] / file.parent.name
        target.mkdir(parents=True, exist_ok=True)
        file.rename(target / file.name)
    for kind in ("cats", "dogs"):
        (photos / kind).rmdir()


@pytest.fixture
def more_photos(photos):
    generator = np.random.default_rng(1)
    for number in range(60, 240):
        kind = ("cats", "dogs")[number % 2]
        pixels = generator.integers(0, 255, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / kind / f"{number:03}.png")
    return photos


@pytest.mark.parametrize("parts", [("train", "test"), ("training", "val", "Test")])
def test_a_split_of_the_folder_s_own_is_used(more_photos, parts, capsys):
    in_parts(more_photos, *parts)
    data = open_data(f"folder:{more_photos}", image_size=8, channels=1)
    said = capsys.readouterr().err
    assert "brings its own split" in said and "test images" in said
    assert data.label_names == ("cats", "dogs")
    # Training images first, test images last.
    files = [str(file) for part in parts for file in sorted((more_photos / part).rglob("*.png"))]
    np.testing.assert_array_equal(
        data.read(np.arange(240)), np.concatenate(list(FileSet(files, data.spec)))
    )
    size = 240 // len(parts)
    assert data.test.tolist() == list(range(240 - size, 240))
    assert all(len(split) for split in data.splits)
    assert sorted(np.concatenate(data.splits)) == list(range(240 - size))
    if len(parts) == 3:
        assert data.splits.train.tolist() == list(range(size))
    with pytest.raises(DataMissing, match="--keep-copies-together"):
        open_data(f"folder:{more_photos}", 8, 1, Reading(keep_copies_together=True))


@pytest.mark.parametrize("beside", ["cats/a.png", "a.png", None])
def test_test_images_are_not_trained_on_in_silence(photos, beside, capsys):
    in_parts(photos, "train" if beside else "foxes", "test")
    if beside:
        (photos / beside).parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8)).save(photos / beside)
    data = open_data(f"folder:{photos}", image_size=8, channels=1)
    said = capsys.readouterr().err
    assert "test: not kept apart as parts of the set, but trained on" in said
    assert not len(data.test)


def test_a_split_of_the_folder_s_own_has_to_be_large_enough(photos):
    in_parts(photos, *["train"] * 9, "val")
    with pytest.raises(DataMissing, match="54 training and 6 validation images"):
        open_data(f"folder:{photos}", image_size=8, channels=1)


@pytest.fixture
def tripled(photos):
    """60 images, each three times."""
    for file in sorted(photos.rglob("*.png")):
        for number in (1, 2):
            shutil.copy(file, file.with_stem(f"{file.stem}-{number}"))
    return photos


def test_copies_across_the_splits_are_counted(tripled):
    data = open_data(f"folder:{tripled}", image_size=8, channels=1)
    levels = data.read(np.arange(180)).reshape(180, -1)
    train, validation, calibration = (
        {levels[i].tobytes() for i in split} for split in data.splits
    )
    copies = copies_of(data)
    assert copies.validation == sum(levels[i].tobytes() in train for i in data.splits.validation)
    assert copies.calibration == sum(
        levels[i].tobytes() in train | validation for i in data.splits.calibration
    )
    assert copies.calibration >= 30 and copies.validation >= 10 and copies.test == 0


def test_copies_come_into_one_split_on_request(tripled):
    data = open_data(f"folder:{tripled}", 8, 1, Reading(keep_copies_together=True))
    assert copies_of(data) == (0, 0, 0)
    assert [len(split) for split in data.splits] == [117, 18, 45]
    assert sorted(np.concatenate(data.splits)) == list(range(180))


def test_without_copies_nothing_changes(photos):
    usual = open_data(f"folder:{photos}", 8, 1)
    together = open_data(f"folder:{photos}", 8, 1, Reading(keep_copies_together=True))
    for one, other in zip(usual.splits, together.splits, strict=True):
        np.testing.assert_array_equal(one, other)
    assert copies_of(usual) == (0, 0, 0)


def test_too_few_different_images_are_refused(photos):
    for file in sorted(photos.rglob("*.png"))[:20]:
        Image.new("L", (8, 8)).save(file)
    with pytest.raises(DataMissing, match="Only 41 of the 60 images"):
        open_data(f"folder:{photos}", 8, 1, Reading(keep_copies_together=True))

"""Published data sets: read from small files of their own formats, fetched only when asked."""

from __future__ import annotations

import socket
import threading
from functools import partial
from hashlib import md5
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from published_files import TEST, TRAIN, write_celeba, write_cifar, write_idx, write_svhn

from vae.cli.main import main
from vae.data.sets.cache import CacheUnwritable
from vae.data.sets.datasets import PUBLISHED, open_data
from vae.data.sets.download import download
from vae.data.sets.image_data import DataMissing, ImageData
from vae.data.sets.published import SETS

IDX = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ELBOSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ELBOSCOPE_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def any_md5(monkeypatch):
    """torchvision compares files with the published checksums, which ours cannot have."""
    monkeypatch.setattr("torchvision.datasets.utils.check_md5", lambda *_, **__: True)


def everything(data: ImageData) -> np.ndarray:
    return np.sort(np.concatenate([*data.splits, data.test]))


def check(data: ImageData, images: np.ndarray, labels: np.ndarray) -> None:
    rows = np.arange(len(images))
    np.testing.assert_array_equal(data.read(rows), images)
    np.testing.assert_array_equal(data.labels_of(rows), labels)
    assert data.read(rows[:1]).dtype == np.uint8 and data.labels_of(rows).dtype == np.int64
    assert len(data.label_names) == 10 and not data.embeds
    assert data.test.tolist() == list(range(TRAIN, TRAIN + TEST))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", IDX)
def test_the_mnist_family(home, name, packed):
    images, labels = write_idx(home / IDX[name] / "raw", packed)
    data = open_data(name)
    check(data, images[:, None], labels)
    assert data.spec.shape == (1, 28, 28)
    assert (data.spec.levels, data.spec.background) == (256, 0.0)


def test_cifar(home, any_md5):
    images, labels = write_cifar(home / "cifar-10-batches-py")
    check(open_data("cifar10"), images, labels)
    assert open_data("cifar10").spec.background is None
    assert open_data("cifar10").label_names[6] == "frog"


def test_svhn(home, any_md5):
    images, labels = write_svhn(home)
    check(open_data("svhn"), images, labels)


@pytest.mark.parametrize("packed", [True, False])
def test_celeba(home, any_md5, packed):
    colours, smiles = write_celeba(home / "celeba", packed)
    data = open_data("celeba", image_size=16)
    levels = data.read(np.arange(100))
    # Only the face is left, in its colour up to the JPEG's loss, from edge to edge.
    expected = np.broadcast_to(np.array(colours)[:, :, None, None], levels.shape)
    assert np.abs(levels[:, :, 1:-1, 1:-1].astype(int) - expected[:, :, 1:-1, 1:-1]).max() <= 3
    np.testing.assert_array_equal(data.labels_of(np.arange(100)), smiles)
    assert data.label_names == ("not smiling", "smiling")
    # The set's own parts: nobody of the training part is in another.
    assert data.splits.train.tolist() == list(range(40))
    assert set(np.concatenate(data.splits[1:])) <= set(range(40, 80))
    assert data.test.tolist() == list(range(80, 100))
    grey = open_data("celeba", image_size=8, channels=1)
    assert grey.read(np.arange(2)).shape == (2, 1, 8, 8)


def test_a_damaged_face_is_left_out_and_the_parts_shrink(home, any_md5, capsys):
    _, smiles = write_celeba(home / "celeba", packed=False)
    partition = (home / "celeba" / "list_eval_partition.txt").read_text().split()
    first = partition[partition.index("0") - 1]
    (home / "celeba" / "img_align_celeba" / first).write_bytes(b"no face")
    data = open_data("celeba", image_size=8)
    assert data.splits.train.tolist() == list(range(39)) and data.test[-1] == 98
    np.testing.assert_array_equal(data.labels_of(np.arange(99)), smiles[1:])
    assert first in capsys.readouterr().err


def test_validation_and_calibration_leave_the_test_images_alone(home):
    write_idx(home / "MNIST" / "raw", packed=False)
    data = open_data("mnist")
    assert [len(split) for split in data.splits] == [130, 20, 50]
    assert everything(data).tolist() == list(range(TRAIN + TEST))
    assert data.validation_chooses


def test_full_trains_on_all_and_its_validation_chooses_nothing(home):
    write_idx(home / "MNIST" / "raw", packed=False)
    data, parts = open_data("mnist:full"), open_data("mnist")
    assert data.name == "mnist:full" and not data.validation_chooses
    assert data.splits.train.tolist() == list(range(TRAIN))
    held_out = np.concatenate(data.splits[1:])
    assert [len(split) for split in data.splits[1:]] == [6, 15]
    assert len(set(held_out)) == len(held_out) and set(held_out) <= set(data.test)
    np.testing.assert_array_equal(data.test, parts.test)
    # The same images under either name, found in the same place.
    assert data.digest == parts.digest


def test_real_sizes_give_the_sizes_that_are_promised():
    from vae.data.sets.published import _splits

    for full, sizes in ((False, (58_001, 1_000, 999)), (True, (60_000, 1_000, 999))):
        splits, test = _splits(60_000, 0, 10_000, full)
        assert tuple(map(len, splits)) == sizes
        assert len(np.unique(np.concatenate(splits))) == sum(sizes)
        assert test.tolist() == list(range(60_000, 70_000))
        assert not set(splits.train) & set(test)
    # Fixed once: another order would make figures of other images out of the same names.
    splits, _ = _splits(60_000, 0, 10_000, full=True)
    assert splits.validation[:4].tolist() == [60000, 62472, 65453, 62327]


def test_the_second_opening_needs_no_torchvision(home, monkeypatch):
    images, _ = write_idx(home / "MNIST" / "raw", packed=False)
    open_data("mnist")
    monkeypatch.setitem(__import__("sys").modules, "torchvision", None)
    np.testing.assert_array_equal(open_data("mnist").read(np.arange(5))[:, 0], images[:5])


@pytest.mark.parametrize("name", PUBLISHED)
def test_files_that_are_missing_are_named(home, name):
    with pytest.raises(DataMissing) as caught:
        open_data(name)
    sentence = str(caught.value)
    assert f"python -m vae data {name}" in sentence and str(home) in sentence
    assert Path(SETS[name].files[0]).name in sentence and sentence.count(". ") == 0


@pytest.mark.parametrize("damage", ["short", "text", "one file"])
def test_damaged_files_are_one_sentence(home, damage):
    raw = home / "MNIST" / "raw"
    write_idx(raw, packed=False)
    file = raw / "t10k-images-idx3-ubyte"
    if damage == "short":
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == "text":
        file.write_text("<html>Not found</html>")
    else:
        file.unlink()
    with pytest.raises(DataMissing, match="python -m vae data mnist"):
        open_data("mnist")


def test_a_pickle_is_not_opened_unless_it_is_the_published_one(home):
    write_cifar(home / "cifar-10-batches-py")
    with pytest.raises(DataMissing, match="CIFAR-10.*damaged or incomplete"):
        open_data("cifar10")


# --- Downloads --------------------------------------------------------------------------------


@pytest.fixture
def mirror(tmp_path, monkeypatch, any_md5):
    """A mirror of MNIST on this machine, with our own files."""
    from torchvision.datasets import MNIST

    write_idx(tmp_path / "mirror", packed=True)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "mirror"))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    yield tmp_path / "mirror"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_download_is_for_the_asking(home, mirror, capsys):
    with pytest.raises(DataMissing):
        open_data("mnist")
    assert main(["data", "mnist"]) == 0
    assert str(home / "MNIST") in capsys.readouterr().out
    assert len(open_data("mnist").test) == TEST
    assert [path.name for path in home.iterdir()] == ["MNIST"]
    before = socket.getdefaulttimeout()
    assert download("mnist") == home / "MNIST"
    assert socket.getdefaulttimeout() == before


def test_a_download_cut_short_leaves_nothing(home, mirror, monkeypatch):
    (mirror / "t10k-labels-idx1-ubyte.gz").write_bytes(b"")
    checksum = md5(b"what it should be").hexdigest()
    monkeypatch.setattr(
        "torchvision.datasets.utils.check_md5",
        lambda path, *_, **__: Path(path).stat().st_size > 0 or checksum == "",
    )
    with pytest.raises(DataMissing, match="did not arrive whole: try again"):
        download("mnist")
    assert list(home.iterdir()) == []


def test_no_connection_is_one_sentence(home, monkeypatch, capsys):
    from torchvision.datasets import KMNIST

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(KMNIST, "mirrors", [f"http://127.0.0.1:{closed.getsockname()[1]}/"])
        assert main(["data", "kmnist"]) == 66
    err = capsys.readouterr().err
    (line,) = [line for line in err.splitlines() if line.startswith("vae data")]
    assert "cannot be reached" in line and "check the connection" in line
    assert str(home / "KMNIST" / "raw") in line
    assert list(home.iterdir()) == []


def test_a_place_that_cannot_be_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ELBOSCOPE_DATA", str(tmp_path / "file"))
    with pytest.raises(CacheUnwritable, match="ELBOSCOPE_DATA"):
        download("mnist")


@pytest.mark.parametrize("kind", ["none", "a file", "read-only"])
def test_a_home_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch, capsys, kind):
    for name in ("ELBOSCOPE_DATA", "ELBOSCOPE_CACHE", "HOME"):
        monkeypatch.delenv(name, raising=False)
    # A user without an entry, as in containers.
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    (tmp_path / "file").write_text("")
    if kind != "none":
        monkeypatch.setenv("HOME", str(tmp_path / "file") if kind == "a file" else "/proc/nowhere")
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(50):
        Image.new("L", (8, 8), number).save(photos / f"{number}.png")
    assert main(["data"]) == 0  # a list of what is here needs no place to write
    assert capsys.readouterr().out.count("not here") == len(PUBLISHED)
    folder = ["train", "--data", f"folder:{photos}", "--image-size", "8", "--image-channels", "1"]
    for words in (["data", "mnist"], [*folder, "--out", str(tmp_path / "model")]):
        assert main(words) == 74
        (sentence,) = capsys.readouterr().err.splitlines()
        assert "ELBOSCOPE_CACHE" in sentence and sentence.endswith(".")
    assert not (tmp_path / "model").exists()


def test_celeba_without_gdown_says_what_to_do(home, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(DataMissing, match="gdown.*list_attr_celeba.txt.*celeba'"):
        download("celeba")


def test_the_list_tells_what_is_here(home, capsys):
    write_idx(home / "FashionMNIST" / "raw", packed=True)
    assert main(["data"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert set(lines) == set(PUBLISHED)
    assert str(home / "FashionMNIST") in lines["fashion_mnist"]
    assert "not here" in lines["mnist"]


def test_an_unknown_name_is_refused(capsys):
    assert main(["data", "imagenet"]) == 2
    assert "mnist, fashion_mnist" in capsys.readouterr().err

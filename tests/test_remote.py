"""Files and rows at addresses: a store of objects and a web server on this machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest
from conftest import CHECKPOINTS
from test_cli import run as run_in_here

from vae.data.images.encoding import encode_png, to_image
from vae.data.images.listing import LeftOut, image_files
from vae.data.remote import is_url, read_urls
from vae.scoring import files as files_module
from vae.scoring.parts import Parts

ROOT = Path(__file__).parents[1]
MODEL = CHECKPOINTS / "digits-10d"
run = run_in_here  # a fixture


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, checkpoint) -> Path:
    """Some digits, and what else lies in folders."""
    root, model = tmp_path_factory.mktemp("files"), checkpoint("digits-10d")
    for i in range(20):
        (root / f"{i // 8}").mkdir(exist_ok=True)
        png = encode_png(to_image(model.reference.levels[i], model.image))
        (root / f"{i // 8}" / f"{i:02d}.png").write_bytes(png)
    for name in ("0/empty.png", "1/._junk.png", "notes.txt"):
        (root / name).write_bytes(b"")
    (root / "2" / "junk.png").write_bytes(b"junk" * 100)
    return root


@pytest.fixture(scope="module")
def rows(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The rows of the folder on the disk."""
    from vae.cli.main import main

    out = tmp_path_factory.mktemp("rows") / "rows.csv"
    assert main(["score", str(MODEL), str(folder), "--out", str(out)]) == 0
    return out.read_bytes()


@pytest.fixture
def memory(folder: Path) -> Iterator[str]:
    fs = fsspec.filesystem("memory")
    fs.put(f"{folder}/", "/bucket/scans/", recursive=True)
    yield "memory://bucket"
    fs.rm("/bucket", recursive=True)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_module, "_SCORED_AT_ONCE", 4)


@pytest.fixture(scope="module")
def s3(folder: Path) -> Iterator[str]:
    """A bucket of the files, in a server of objects on this machine."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    moto = pytest.importorskip("moto.server", reason="moto is not installed")
    server = moto.ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    _, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "y", "AWS_DEFAULT_REGION": "us-east-1",
        }.items():  # fmt: skip
            patch.setenv(name, value)
        fs = fsspec.filesystem("s3")
        fs.mkdir("bucket")
        fs.put(f"{folder}/", "bucket/scans/", recursive=True)
        yield "s3://bucket"
    server.stop()
    fsspec.filesystem("s3").clear_instance_cache()


@pytest.fixture
def web(folder: Path) -> Iterator[str]:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("path", "is_address"),
    [("s3://a/b.png", True), ("gs://a", True), ("a/b.png", False), ("/a", False), ("C:/a", False)],
)
def test_an_address_is_no_path(path: str, is_address: bool) -> None:
    assert is_url(path) == is_address


def test_listing_an_address_is_listing_a_folder(folder: Path, memory: str) -> None:
    here, there = LeftOut(), LeftOut()
    names = [file.name for file in image_files([folder], here)]
    found = list(image_files([f"{memory}/scans"], there))
    assert [file.name for file in found] == names and here == there
    assert all(file.stamp is not None and file.stamp[0] >= 0 for file in found)
    assert [file.name for file in image_files([f"{memory}/scans/"])] == names
    assert [file.name for file in image_files([f"{memory}/scans/1/*.png"])] == [
        f"{i:02d}.png" for i in range(8, 16)
    ]
    assert len(list(image_files([f"{memory}/scans/**/*.png"]))) == len(names)
    both = [file.name for file in image_files([f"{memory}/scans/0", f"{memory}/scans/2"])]
    assert both == [name for name in names if name[0] in "02"]
    assert [file.name for file in image_files([f"{memory}/scans/0/00.png"])] == ["00.png"]
    with pytest.raises(FileNotFoundError, match="there is no file or folder 'memory:"):
        image_files([f"{memory}/nowhere"])
    with pytest.raises(FileNotFoundError, match="matches no image"):
        image_files([f"{memory}/scans/*.gif"])


def test_what_cannot_be_read_is_an_error_of_its_own(memory: str) -> None:
    urls = [f"{memory}/scans/0/{name}.png" for name in ("00", "gone", "empty")]
    first, gone, empty = read_urls(urls, 100_000)
    assert first.startswith(b"\x89PNG") and isinstance(gone, OSError) and empty == b""
    (start,) = read_urls(urls[:1], 5)
    assert start == first[:5]


def test_rows_from_and_to_memory(run, memory: str, rows: bytes) -> None:
    pytest.importorskip("upath", reason="universal-pathlib is not installed")
    out = f"{memory}/out/rows.csv"
    done = run("score", MODEL, f"{memory}/scans", "--out", out)
    assert done.code == 0, done.err
    fs = fsspec.filesystem("memory")
    assert fs.cat(out) == rows and fs.ls("/bucket/out", detail=False) == ["/bucket/out/rows.csv"]


def test_an_interrupted_run_at_an_address(run, memory, rows, small_parts, monkeypatch) -> None:
    pytest.importorskip("upath", reason="universal-pathlib is not installed")
    out, put, fs = f"{memory}/out/rows.csv", Parts.put, fsspec.filesystem("memory")

    def dying(self: Parts, part) -> None:
        if part.number == 3:
            raise KeyboardInterrupt
        put(self, part)

    words = ("score", MODEL, f"{memory}/scans", "--out", out)
    with monkeypatch.context() as patch:
        patch.setattr(Parts, "put", dying)
        assert run(*words).code == 130
    other = run(*words, "--draws", "9")
    assert other.code == 2 and "draws 64, not 9" in other.sentence()
    # A file that is replaced meanwhile is scored anew, and so are the others of its part.
    fs.pipe_file("/bucket/scans/0/05.png", fs.cat_file("/bucket/scans/0/05.png"))
    done = run(*words)
    assert done.code == 0 and "went on after 8 finished rows" in done.err
    assert fs.cat(out) == rows and len(fs.ls("/bucket/out")) == 1


def test_rows_from_and_to_a_bucket(run, s3: str, rows: bytes, small_parts) -> None:
    for suffix in (".csv", ".parquet"):
        done = run("score", MODEL, f"{s3}/scans", "--out", f"{s3}/out/rows{suffix}")
        assert done.code == 0, done.err
    fs = fsspec.filesystem("s3", use_listings_cache=False)
    assert fs.cat(f"{s3}/out/rows.csv") == rows
    assert len(fs.ls(f"{s3}/out")) == 2
    told = run("score", MODEL, f"{s3}/scans", "--json", "--workers", "1")
    found = {row["name"]: row["error_code"] for row in json.loads(told.out)}
    assert len(found) == 22
    assert (found["0/empty.png"], found["2/junk.png"]) == ("E-IMG-01", "E-IMG-03")
    missing = run("score", MODEL, f"{s3}/scans", "--out", "s3://no-such-bucket/rows.csv")
    assert missing.code in (73, 74) and "no-such-bucket/rows.csv" in missing.sentence()


def test_rows_from_the_web(run, web: str, rows: bytes, tmp_path: Path) -> None:
    done = run("score", MODEL, f"{web}/", "--out", tmp_path / "rows.csv")
    assert done.code == 0, done.err
    assert (tmp_path / "rows.csv").read_bytes() == rows
    one = run("score", MODEL, f"{web}/0/00.png", "--json")
    assert json.loads(one.out)[0]["name"] == "00.png"
    refused = run("score", MODEL, f"{web}/0/00.png", "--out", f"{web}/rows.csv")
    assert refused.code in (73, 74) and "cannot write" in refused.sentence()


def test_what_is_missing_is_said_in_one_sentence(run, folder: Path) -> None:
    for path in ("gs://bucket/scans", "cellar://wine"):
        outcome = run("score", MODEL, path)
        assert outcome.code == 66 and path in outcome.sentence()
        assert "pip install 'elboscope[remote]'" in outcome.sentence()
        outcome = run("score", MODEL, folder, "--out", f"{path}/rows.csv")
        assert outcome.code == 74 and f"cannot write '{path}/rows.csv'" in outcome.sentence()


@pytest.mark.parametrize("scheme", ["s3", "http"])
def test_an_address_where_nobody_answers(scheme: str, folder: Path) -> None:
    pytest.importorskip({"s3": "s3fs", "http": "aiohttp"}[scheme])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        path = {"s3": "s3://bucket/scans", "http": f"http://127.0.0.1:{port}/scans"}[scheme]
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "vae", "score", str(MODEL), path],
            cwd=ROOT, capture_output=True, text=True, timeout=100,
            env={**os.environ, **dict.fromkeys(names, "x"),
                 "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"},
        )  # fmt: skip
        assert time.monotonic() - start < 60
    assert done.returncode == 66 and done.stderr.count("\n") == 1, done.stderr
    assert f"cannot read '{path}'" in done.stderr

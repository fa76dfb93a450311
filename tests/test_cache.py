"""The cache of decoded images: found by content, never half, one sentence when it fails."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from vae.data import cache
from vae.data.cache import CacheUnwritable, cached, find, key_of
from vae.data.datasets import DataMissing
from vae.data.spec import ImageSpec

ROOT = Path(__file__).parents[1]
SPEC = ImageSpec(channels=1, height=4, width=5)
PARTS = [np.full((3, 1, 4, 5), value, np.uint8) for value in (1, 2)]

# Fills a cache slowly, so that a test can come between.
SLOW = textwrap.dedent("""
    import sys, time
    import numpy as np
    from vae.data.cache import cached
    from vae.data.spec import ImageSpec

    def decode():
        for value in range(20):
            print(value, flush=True)
            time.sleep(0.05)
            yield np.full((3, 1, 4, 5), value, np.uint8)

    found = cached("key", ImageSpec(1, 4, 5), "stripes", 60, decode, dict)
    print("done", len(found.levels), found.levels[::3].reshape(-1, 20)[:, 0].tolist(), flush=True)
""")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ELBOSCOPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "decoded"


def fill(decode: Callable = lambda: PARTS, key: str = "key", facts: dict | None = None):
    return cached(key, SPEC, "stripes", 6, decode, lambda: facts or {})


def never() -> Iterator:
    raise AssertionError("decoded again")
    yield


def entries(home: Path) -> set[str]:
    return {path.name for path in home.iterdir()} - {"by-key"}


def test_what_was_decoded_is_found_again(home):
    first = fill(facts={"names": ["a", "ü\udcff"]})
    again = fill(never)
    for found in (first, again, find(first.digest, SPEC)):
        np.testing.assert_array_equal(found.levels, np.concatenate(PARTS))
        assert found.digest == first.digest
    assert first.facts == again.facts == {"names": ["a", "ü\udcff"]}
    # Names belong to the files, and the same images may have been decoded of others.
    assert find(first.digest, SPEC).facts == {}
    assert not first.levels.flags.writeable
    assert entries(home) == {first.digest[:32]}


def test_the_same_images_of_other_files_are_one_entry(home):
    one, other = fill(key="one"), fill(key="other")
    assert one.digest == other.digest and len(entries(home)) == 1
    assert fill(lambda: PARTS[::-1], key="third").digest != one.digest
    assert len(entries(home)) == 2


def test_another_shape_is_another_set():
    digest = fill().digest
    assert find(digest, ImageSpec(channels=1, height=5, width=4)) is None
    assert find("0" * 64, SPEC) is None


@pytest.mark.parametrize("change", [("b.png", 1, 2), ("a.png", 9, 2), ("a.png", 1, 9)])
def test_the_key_follows_name_size_and_time(change):
    key = key_of(SPEC, "folder", [("a.png", 1, 2)])
    assert key == key_of(SPEC, "folder", [("a.png", 1, 2)])
    assert key != key_of(SPEC, "folder", [change])
    assert key != key_of(SPEC, "faces", [("a.png", 1, 2)])
    assert key != key_of(ImageSpec(3, 4, 5), "folder", [("a.png", 1, 2)])


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, DataMissing])
def test_an_interrupted_decoding_leaves_nothing(home, error):
    def decode() -> Iterator[np.ndarray]:
        yield PARTS[0]
        raise error("enough")

    with pytest.raises(error, match="enough"):
        fill(decode)
    assert entries(home) == set()
    assert len(fill().levels) == 6


def test_a_killed_decoding_is_begun_again(home):
    with subprocess.Popen(
        [sys.executable, "-c", SLOW], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "0\n"
        process.kill()
    (left,) = entries(home)
    assert left.startswith(".tmp-")
    digest = fill().digest
    assert entries(home) == {digest[:32]}


def test_two_processes_decode_once(home):
    both = [
        subprocess.Popen(
            [sys.executable, "-c", SLOW], cwd=ROOT, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    outcomes = [process.communicate() for process in both]
    expected = f"done 60 {list(range(20))}"
    assert [out.splitlines()[-1] for out, _ in outcomes] == [expected, expected]
    assert sorted(out.count("\n") for out, _ in outcomes) == [1, 21]
    assert sum("waiting" in err for _, err in outcomes) == 1
    assert len(entries(home)) == 1


@pytest.mark.parametrize("damage", ["levels.uint8", "contents.json", "gone"])
def test_a_damaged_entry_is_made_anew(home, damage):
    digest = fill().digest
    entry = home / digest[:32]
    cache._open.cache_clear()
    if damage == "gone":
        (entry / "contents.json").unlink()
    else:
        data = (entry / damage).read_bytes()
        (entry / damage).write_bytes(data[:-7])
    assert find(digest, SPEC) is None
    again = fill()
    np.testing.assert_array_equal(again.levels, np.concatenate(PARTS))
    assert again.digest == digest and entries(home) == {digest[:32]}


def test_too_little_room_is_known_before_decoding(home, monkeypatch):
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: SimpleNamespace(free=119))
    with pytest.raises(CacheUnwritable, match="stripes.*make room there.*ELBOSCOPE_CACHE"):
        fill(never)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: SimpleNamespace(free=120))
    assert len(fill().levels) == 6


def test_a_disk_that_fills_up_is_one_sentence(tmp_path):
    """With a limit on the size of a file, which fails in the middle of a write as a disk does."""
    code = SLOW.replace("time.sleep(0.05)", "pass").replace("(3, 1, 4, 5)", "(999, 1, 4, 5)")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )  # fmt: skip
    assert done.returncode == 1
    sentence = done.stderr.splitlines()[-1]
    assert "CacheUnwritable: The decoded images of stripes cannot be kept" in sentence
    assert entries(tmp_path / "cache" / "decoded") == set()


def test_a_place_that_cannot_be_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ELBOSCOPE_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(CacheUnwritable, match="Not a directory.*ELBOSCOPE_CACHE"):
        fill()


def test_a_cache_of_no_images_is_whole():
    assert fill(lambda: []).levels.shape == (0, 1, 4, 5)


def test_the_home_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("ELBOSCOPE_CACHE", "~/here")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_home() == tmp_path / "here"
    monkeypatch.delenv("ELBOSCOPE_CACHE")
    assert os.fspath(cache.cache_home()) == f"{tmp_path}/.cache/elboscope"

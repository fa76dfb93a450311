"""The cache of decoded images: found by content, never half, one sentence when it fails."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from vae.data.disk import (
    flush_folder,
    locked,
    machine_mark,
    replace_file,
    replacing,
    temporary_folder,
)
from vae.data.sets import cache
from vae.data.sets.cache import CacheUnwritable, cached, facts_of, find, key_of, prune
from vae.data.sets.image_data import DataMissing
from vae.data.spec import ImageSpec

ROOT = Path(__file__).parents[1]
SPEC = ImageSpec(channels=1, height=4, width=5)
PARTS = [np.full((3, 1, 4, 5), value, np.uint8) for value in (1, 2)]

# Fills a cache slowly, so that a test can come between.
SLOW = textwrap.dedent("""
    import sys, time
    import numpy as np
    from vae.data.sets.cache import cached
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


def fill(
    decode: Callable = lambda: PARTS,
    key: str = "key",
    facts: dict | None = None,
    source: str = "",
):
    return cached(key, SPEC, "stripes", 6, decode, lambda: facts or {}, source)


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


def test_what_is_noted_belongs_to_the_files_and_not_to_the_images(home):
    flat = fill(key="flat", facts={"names": ["a.png"]}, source="folder:/flat")
    # The same images of other files, by another process, and sorted anew in the same folder.
    copied = fill(key="copied", facts={"names": ["cats/a.png"]}, source="folder:/copied")
    assert flat.digest == copied.digest and len(entries(home)) == 1
    assert (flat.facts, copied.facts) == ({"names": ["a.png"]}, {"names": ["cats/a.png"]})
    fill(key="sorted", facts={"names": ["dogs/a.png"]}, source="folder:/flat")
    assert fill(never, key="flat").facts == {"names": ["a.png"]}
    assert facts_of(flat.digest, "folder:/flat") == {"names": ["dogs/a.png"]}
    assert facts_of(flat.digest, "folder:/copied") == {"names": ["cats/a.png"]}
    assert facts_of(flat.digest, "folder:/elsewhere") is None
    assert facts_of("0" * 64, "folder:/flat") is None


def of(value: int) -> Callable:
    return lambda: [np.full((value + 1, 1, 4, 5), value, np.uint8)]


def test_pruning_keeps_the_newest_of_each_source_and_what_a_model_shows(home):
    grown = [fill(of(i), f"grown-{i}", {"names": [str(i)]}, "folder:/grown") for i in range(5)]
    other = fill(of(7), "other", source="folder:/other")
    drawn = fill(of(8), "drawn")
    size = (home / grown[0].digest[:32] / "contents.json").stat().st_size
    removed = prune({grown[1].digest})
    assert [(one.title, one.count) for one in sorted(removed, key=lambda one: one.count)] == [
        ("stripes", 1), ("stripes", 3), ("stripes", 4),
    ]  # fmt: skip
    assert min(one.size for one in removed) == 20 + size
    left = {grown[1].digest, grown[4].digest, other.digest, drawn.digest}
    assert entries(home) == {digest[:32] for digest in left}
    cache._open.cache_clear()
    for i in (1, 4):
        assert fill(never, f"grown-{i}").facts == {"names": [str(i)]}
    assert len(fill(of(0), "grown-0", source="folder:/grown").levels) == 1
    # What was mapped before stays readable.
    assert (grown[3].levels == 3).all()


def test_pruning_leaves_alone_what_is_being_made_and_removes_remains(home):
    digest = fill(key="old", source="folder:/a").digest
    note = home / "by-key" / "old.json"
    note.unlink()
    # Another process has put the images in their place and is about to note it.
    assert prune(()) == [] and entries(home) == {digest[:32]}
    os.utime(home / digest[:32] / "contents.json", (0, 0))
    # As older versions noted.
    note.write_text(f'{{"digest": "{digest}"}}')
    (home / ".tmp-abc-0123456789ab-1").mkdir()
    (one,) = prune(())
    assert one.count == 6 and entries(home) == {".tmp-abc-0123456789ab-1"}
    assert not list((home / "by-key").glob("*.json"))


def no_locks(*_: object) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


def test_a_disk_without_locks_is_used_without(home, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", no_locks)
    first = fill()
    np.testing.assert_array_equal(fill(never).levels, first.levels)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP])
def test_locks_hold_where_there_are_any(tmp_path, monkeypatch, code, capsys):
    path = tmp_path / "lock"
    path.write_text("kept")
    with locked(path):
        # By flock a second description of the same file is a stranger, also in one process.
        with pytest.raises(BlockingIOError):
            locked(path)
        with monkeypatch.context() as patch:

            def refuse(*_: object) -> None:
                raise OSError(code, "as a disk without locks says")

            patch.setattr(fcntl, "flock", refuse)
            locked(path).close()
            locked(path, "waiting").close()
        assert capsys.readouterr().err == ""

        def denied(*_: object) -> None:
            raise PermissionError(errno.EACCES, "as some network disks say of a held lock")

        with monkeypatch.context() as patch:
            patch.setattr(fcntl, "flock", denied)
            with pytest.raises(BlockingIOError):
                locked(path)
    with locked(path) as file:
        file.seek(0)
        assert file.read() == b"kept"

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(OSError, match="Input/output"):
        locked(path)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.EBADF])
def test_a_disk_that_flushes_no_folders_is_used_all_the_same(tmp_path, monkeypatch, code):
    honest = os.fsync

    def only_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        honest(descriptor)

    monkeypatch.setattr(os, "fsync", only_files)
    flush_folder(tmp_path)
    replace_file(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"

    def broken(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output"):
        flush_folder(tmp_path)


@pytest.mark.parametrize("lasting", [True, False])
def test_a_place_is_taken_by_what_is_whole(tmp_path, monkeypatch, lasting):
    flushed, path = [], tmp_path / "file"
    monkeypatch.setattr(os, "fsync", flushed.append)
    with replacing(path, lasting) as file:
        file.write(b"old")
        assert not path.exists()
    assert path.read_bytes() == b"old" and len(flushed) == (2 if lasting else 0)
    with pytest.raises(KeyboardInterrupt), replacing(path, lasting) as file:
        file.write(b"half of the ne")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_temporary_folder_goes_in_the_end_with_those_of_the_dead(tmp_path):
    dead = tmp_path / f".x-abc-{machine_mark()}-{2**22 + 1}"
    elsewhere = tmp_path / ".x-abc-0123456789ab-1"
    for folder in (dead, elsewhere):
        (folder / "deep").mkdir(parents=True)
        (folder / "deep" / "file").write_text("x")
    # Written to deep inside only, as a download is.
    os.utime(elsewhere, (0, 0))
    os.utime(elsewhere / "deep", (0, 0))
    with pytest.raises(ValueError, match="enough"), temporary_folder(tmp_path, ".x-") as place:
        (place / "file").write_text("x")
        assert not dead.exists() and elsewhere.exists()
        raise ValueError("enough")
    assert list(tmp_path.iterdir()) == [elsewhere]
    with temporary_folder(tmp_path, ".x-") as place:
        place.rename(tmp_path / "whole")
    assert (tmp_path / "whole").is_dir()
    os.utime(elsewhere / "deep" / "file", (0, 0))
    with temporary_folder(tmp_path, ".x-"):
        assert not elsewhere.exists()

"""Folder scoring: listing, decoding beside scoring, parts that survive, gates, calibration."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from conftest import CHECKPOINTS, Tiny
from image_corpus import CASES
from PIL import Image
from process_ending import FATAL, end_process
from test_cli import run as run_in_here

import vae
from vae.data.images import many as bulk
from vae.data.images.adaptation import Adaptation, preprocess
from vae.data.images.decoding import ImageRefused, Limits, read_image
from vae.data.images.encoding import encode_png, to_image
from vae.data.images.listing import ImageFile, LeftOut, image_files
from vae.data.images.many import Decoder, decoded
from vae.data.spec import ImageSpec
from vae.scoring import files as files_module
from vae.scoring.calibration_sets import calibration_of, calibration_set, calibrations
from vae.scoring.files import prepare, score_bytes, score_files
from vae.scoring.parts import Parts
from vae.scoring.rows import FORMATS
from vae.scoring.scorer import ScoreSettings
from vae.scoring.scores import score_levels

ROOT = Path(__file__).parents[1]
run = run_in_here  # a fixture


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, checkpoint) -> Path:
    """300 digits as PNG in three folders, and three files that are refused."""
    root = tmp_path_factory.mktemp("files")
    model = checkpoint("digits-10d")
    for i in range(300):
        part = root / f"{i // 100}"
        part.mkdir(exist_ok=True)
        png = encode_png(to_image(model.reference.levels[i], model.config.image))
        (part / f"{i:04d}.png").write_bytes(png)
    for name, data in (("0/junk.png", b"junk"), ("1/empty.png", b""), ("2/z.tif", b"II*\0")):
        (root / name).write_bytes(data)
    return root


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files_module, "_SCORED_AT_ONCE", 32)
    monkeypatch.setattr(files_module, "_DECODED_AT_ONCE", 5)


# --- Listing ----------------------------------------------------------------------------------


def test_names_are_relative_to_what_holds_everything_and_sorted(
    folder: Path, tmp_path: Path
) -> None:
    files = list(image_files([folder, folder / "2" / "z.tif"]))
    assert len(files) == 304
    assert files[0] == ImageFile("0/0000.png", str(folder / "0" / "0000.png"))
    assert files[-1].name == "2/z.tif" and files[100].name == "0/junk.png"
    paths = [Path(file.path) for file in files[:-1]]
    assert paths == sorted(paths)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        image_files([folder, tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no image"):
        image_files([tmp_path / "empty"])


@pytest.mark.parametrize(
    ("pattern", "count", "first"),
    [
        ("0/*.png", 101, "0000.png"),
        ("*/000[0-4].png", 5, "0/0000.png"),
        ("[12]", 202, "1/0100.png"),
        ("**", 303, "0/0000.png"),
        ("**/*.png", 302, "0/0000.png"),
    ],
)
def test_patterns(folder: Path, pattern: str, count: int, first: str) -> None:
    files = list(image_files([folder / pattern]))
    assert (len(files), files[0].name) == (count, first)
    assert len({file.path for file in files}) == count
    with pytest.raises(FileNotFoundError, match="matches no image"):
        image_files([folder / f"{pattern}.none"])


def test_a_name_with_brackets_is_a_name_first(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a[1].png")
    assert [file.name for file in image_files([tmp_path / "a[1].png"])] == ["a[1].png"]


@pytest.mark.parametrize(
    ("named", "names"),
    [
        (["good", "bad"], ["good/0.png", "good/1.png", "bad/0.png", "bad/1.png"]),
        (["good/"], ["0.png", "1.png"]),
        (["good/0.png", "bad/0.png"], ["good/0.png", "bad/0.png"]),
        (["good/0.png", "good/1.png"], ["0.png", "1.png"]),
        (["good/*.png", "bad"], ["good/0.png", "good/1.png", "bad/0.png", "bad/1.png"]),
        (["good/*1.png", "x/good/*"], ["good/1.png", "x/good/0.png", "x/good/1.png"]),
    ],
)
def test_files_of_one_name_in_several_folders_stay_apart(named, names, tmp_path, monkeypatch):
    for name in ("good/0", "good/1", "bad/0", "bad/1", "x/good/0", "x/good/1"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    assert [file.name for file in image_files(named)] == names
    absolute = [str(tmp_path / name) for name in named]
    assert [file.name for file in image_files(absolute)] == names
    assert all(os.path.exists(file.path) for file in image_files(named))


LITTER = (
    ".ipynb_checkpoints/0-checkpoint.png", ".Trash-1000/files/0.png", "cats/._0.png",
    "__MACOSX/cats/0.png", "cats/@eaDir/0.jpg/thumb.png", "Thumbs.db", "cats/desktop.ini",
)  # fmt: skip


@pytest.mark.parametrize("pattern", ["", "**", "*", "**/*.png"])
def test_what_other_programs_leave_is_passed_over_and_counted(tmp_path: Path, pattern) -> None:
    for name in ("cats/0.png", "dogs/0.png", *LITTER):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / name, "PNG")
    left_out = LeftOut()
    files = image_files([tmp_path / pattern], left_out)
    assert [file.name for file in files] == ["cats/0.png", "dogs/0.png"]
    if not pattern:  # Python's own patterns never see a dot
        assert left_out.hidden == len(LITTER) and not left_out.others
        assert f"{left_out}" == "left out of the folders: 7 hidden or another system's own."
    # What is named is meant.
    hidden = tmp_path / ".ipynb_checkpoints"
    assert [file.name for file in image_files([hidden])] == ["0-checkpoint.png"]


def test_content_tells_where_no_suffix_does(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 8), "red")
    for name, kind in {
        "a.jfif": "JPEG", "b.jpe": "JPEG", "c": "PNG", "scan.001": "BMP", "e.PNG": "PNG",
        "f": "WEBP", "g": "GIF", "h": "TIFF",
    }.items():  # fmt: skip
        image.save(tmp_path / name, kind)
    for name in ("LICENSE", "x.heic", "y.HEIC", "notes.txt"):
        (tmp_path / name).write_bytes(b"neither of them")
    os.mkfifo(tmp_path / "pipe")
    left_out = LeftOut()
    names = [file.name for file in image_files([tmp_path], left_out)]
    assert names == ["a.jfif", "b.jpe", "c", "e.PNG", "f", "g", "h", "scan.001"]
    assert left_out.others == {".heic": 2, ".txt": 1, "no suffix": 2}
    assert "5 no image by name (no suffix 2, .heic 2, .txt 1)" in f"{left_out}"


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    for name in ("all/a/0.png", "all/.store/s/1.png", "other/deep/2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / name)
    links = {
        "all/away": tmp_path / "other", "all/again": tmp_path / "other" / "deep",
        "all/b": tmp_path / "all" / "a", "all/up": tmp_path, "all/root": Path("/"),
        "all/stored": tmp_path / "all" / ".store" / "s", "other/deep/back": tmp_path / "other",
        "all/zz": tmp_path / "other",
    }  # fmt: skip
    for link, target in links.items():
        (tmp_path / link).symlink_to(target)
    (tmp_path / "all" / "ring").symlink_to("ring")
    left_out = LeftOut()
    names = [file.name for file in image_files([tmp_path / "all"], left_out)]
    assert names == ["a/0.png", "again/2.png", "ring", "stored/1.png"]
    # away/deep, again/back, b, root, up, zz
    assert left_out.links == 6


def test_listing_is_lazy_and_links_to_folders_are_left(tmp_path: Path, monkeypatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("L", (8, 8)).save(tmp_path / name / "x.png")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    scanned, scan = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: scanned.append(path) or scan(path))
    files = image_files([tmp_path])
    scanned.clear()
    assert next(iter(files)).name == "a/x.png"
    assert scanned == [str(tmp_path), str(tmp_path / "a")]
    assert [file.name for file in files] == ["b/x.png"]


# --- Decoding ---------------------------------------------------------------------------------

SPECS = (
    ImageSpec(1, 28, 28, levels=256, background=0.0),
    ImageSpec(1, 28, 28, levels=17, background=0.0),
    ImageSpec(3, 40, 56, levels=256),
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("corpus")
    paths = []
    for number, case in enumerate(CASES):
        paths.append(str(root / f"{number:03d}.png"))
        Path(paths[-1]).write_bytes(case.data)
    return paths


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("adaptation", [Adaptation(), Adaptation("yes", "yes"), Adaptation("no")])
def test_the_short_way_is_the_long_one(spec, adaptation, corpus, monkeypatch) -> None:
    limits = Limits()
    short = 0
    decoder = Decoder(spec, adaptation, limits, "mnist")
    for case in CASES:
        try:
            levels, words = decoder.levels_of(case.data)
        except ImageRefused as error:
            with pytest.raises(ImageRefused) as other:
                read_image(case.data, limits)
            assert (other.value.code, other.value.message) == (error.code, error.message)
            continue
        raster = read_image(case.data, limits)
        prepared = preprocess(raster, spec, adaptation, "mnist")
        assert np.array_equal(levels, prepared.levels), case.id
        assert words == bulk.first_words((*raster.notes, *prepared.steps)), case.id
        untouched = raster.pixels.shape == (spec.height, spec.width, spec.channels)
        short += untouched and not raster.notes
    assert short > 5  # the corpus has files for which there is a short way


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_damaged_files_go_the_same_way(mode: str) -> None:
    rng, flips = np.random.default_rng(0), random.Random(0)
    shape = (9, 7, len(mode))
    decoder = Decoder(ImageSpec(len(mode), 9, 7), Adaptation("no", "no"))
    taken = 0
    for number in range(600):
        pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        # Sorted ones make the encoder choose other filters.
        pixels = np.sort(pixels, axis=number % 2) if number % 3 else pixels
        content = io.BytesIO()
        Image.fromarray(pixels.squeeze()).save(content, "PNG", compress_level=number % 10)
        data = bytearray(content.getvalue())
        assert np.array_equal(decoder.levels_of(bytes(data))[0], pixels.transpose(2, 0, 1))
        for _ in range(flips.choice((1, 2))):
            place = flips.randrange(len(data))
            match flips.randrange(3):
                case 0:
                    data[place] ^= 1 << flips.randrange(8)
                case 1:
                    data[place:place] = bytes([flips.randrange(256)])
                case 2 if len(data) > 37:
                    length = int.from_bytes(data[33:37], "big") + flips.choice((-1, 1))
                    data[33:37] = (length % 2**32).to_bytes(4, "big")
        try:
            raster = read_image(bytes(data))
        except ImageRefused as error:
            with pytest.raises(ImageRefused) as other:
                decoder.levels_of(bytes(data))
            assert other.value.args == error.args
            continue
        taken += 1
        expected = preprocess(raster, decoder.spec, decoder.adaptation).levels
        assert np.array_equal(decoder.levels_of(bytes(data))[0], expected)
    assert 20 < taken < 600


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (Limits(bytes=20), "E-IMG-02"),
        (Limits(formats=("JPEG",)), "E-IMG-03"),
        (Limits(side=20), "E-IMG-07"),
        (Limits(pixels=99), "E-IMG-06"),
    ],
)
def test_the_short_way_keeps_the_limits(limits: Limits, code: str) -> None:
    content = encode_png(np.zeros((28, 28), np.uint8))
    for read in (read_image, Decoder(SPECS[0], limits=limits).levels_of):
        with pytest.raises(ImageRefused) as refused:
            read(content, limits) if read is read_image else read(content)
        assert refused.value.code == code


def test_processes_decode_as_this_one_does(corpus: list[str]) -> None:
    decoder = Decoder(SPECS[0], Adaptation(), Limits(), "mnist")
    # Those that tests refuse and users don't, since here warnings are errors, are left out.
    sure = [path for path, case in zip(corpus, CASES, strict=True) if case.expected != "AR"]
    chunks = [sure[i : i + 7] for i in range(0, len(sure), 7)]
    alone = [decoder(chunk) for chunk in chunks]
    with decoded(decoder, chunks, workers=2, ahead=5) as results:
        together = list(results)
    assert len(alone) == len(together)
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one.levels, other.levels)
        assert one[1:] == other[1:]


def test_a_decoding_process_knows_no_torch() -> None:
    # Published sets bring a function along, so their module is imported there too.
    modules = "vae.data.images.many, vae.data.sets.published"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_file_that_ends_its_process_costs_one_row(tmp_path: Path) -> None:
    files = [str(tmp_path / f"{i}.png") for i in range(12)]
    for i, file in enumerate(files):
        Image.new("L", (8, 8), FATAL if i in (3, 9) else i).save(file)
    decoder = Decoder(SPECS[1], trim=end_process)
    with decoded(decoder, [files[:8], files[8:], files[:2]], workers=2) as results:
        first, second, third = results
    assert {i: code for i, (code, _) in first.refused.items()} == {3: "E-FILE-02"}
    assert {i: code for i, (code, _) in second.refused.items()} == {1: "E-FILE-02"}
    assert first.stamps[3] == (-1, -1) and len(first.stamps) == 8
    expected = decoder([files[i] for i in (0, 1, 2, 4, 5, 6, 7)])
    assert np.array_equal(first.levels, expected.levels) and not third.refused
    assert len(second.levels) == 3 and len(third.levels) == 2


@pytest.mark.slow
def test_processes_killed_from_outside_are_replaced(corpus: list[str]) -> None:
    decoder = Decoder(SPECS[0], Adaptation(), Limits(), "mnist")
    with decoded(decoder, [corpus[:4]] * 6, workers=1, ahead=1) as results:
        found = [next(results)]
        for process in multiprocessing.active_children():
            process.kill()
        found += results
    assert len(found) == 6
    for one in found:
        assert np.array_equal(one.levels, found[0].levels) and one[1:] == found[0][1:]
    assert multiprocessing.active_children() == []


def test_decoding_processes_end_with_their_parent(corpus: list[str]) -> None:
    code = (
        "import sys, time, pickle, multiprocessing\n"
        "from vae.data.images.many import decoded\n"
        "decoder = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "with decoded(decoder, [sys.argv[2:]] * 3, 1) as results:\n"
        "    next(results)\n"
        "    print(multiprocessing.active_children()[0].pid, flush=True)\n"
        "    time.sleep(60)"
    )
    decoder = pickle.dumps(Decoder(SPECS[0])).hex()
    parent = subprocess.Popen(
        [sys.executable, "-c", code, decoder, *corpus[:2]], cwd=ROOT, stdout=subprocess.PIPE
    )
    child = int(parent.stdout.readline())
    os.kill(child, 0)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(200):
        if not _lives(child):
            break
        time.sleep(0.05)
    assert not _lives(child)


def test_a_script_without_a_guard_is_told_so(corpus: list[str], tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from vae.data.images.many import Decoder, decoded\n"
        "from vae.data.spec import ImageSpec\n"
        f"with decoded(Decoder(ImageSpec(1, 8, 8)), [{corpus[:2]!r}], 1) as results:\n"
        "    list(results)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "guards its main part" in done.stderr


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.parametrize("kind", ["pipe", "folder", "gone", "link to nothing"])
def test_what_is_no_file_is_a_row(kind: str, checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "link to nothing":
        path.symlink_to(tmp_path / "nothing")
    (part,) = score_files(checkpoint("digits-2d"), [ImageFile("x.png", str(path))])
    assert part.rows[0].error_code == "E-FILE-01" and part.rows[0].elbo is None


def test_a_file_beyond_the_limit_is_never_read_whole(checkpoint, tmp_path: Path) -> None:
    big = tmp_path / "big.png"
    with big.open("wb") as file:
        file.truncate(10 * 2**30)  # sparse: ten gigabytes that take no room
    settings = ScoreSettings(limits=Limits(bytes=1_000))
    (part,) = score_files(checkpoint("digits-2d"), image_files([big]), settings)
    assert part.rows[0].error_code == "E-IMG-02"


# --- Scoring ----------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_are_those_of_the_images(workers: int, folder: Path, checkpoint, small_parts) -> None:
    model = checkpoint("digits-10d")
    parts = list(score_files(model, image_files([folder]), workers=workers))
    assert [part.number for part in parts] == list(range(10))
    assert {len(part.rows) for part in parts[:-1]} == {32}
    rows = [row for part in parts for row in part.rows]
    assert [row.name for row in rows] == [file.name for file in image_files([folder])]
    refused = {row.name: row.error_code for row in rows if row.error}
    assert refused == {
        "0/junk.png": "E-IMG-03", "1/empty.png": "E-IMG-01", "2/z.tif": "E-IMG-04"
    }  # fmt: skip
    names = [row.name for row in rows if not row.error]
    assert [row for row in rows if not row.error] == score_levels(
        model, model.reference.levels[:300], names=names
    )
    for part in parts:
        assert part.stamps == [
            ((status := os.stat(file.path)).st_size, status.st_mtime_ns) for file in part.files
        ]


def test_reading_runs_no_further_ahead_than_it_must(checkpoint, folder, small_parts) -> None:
    taken = []

    def listing():
        for file in image_files([folder]):
            taken.append(file)
            yield file

    parts = score_files(checkpoint("digits-10d"), listing(), workers=1)
    next(parts)
    assert len(taken) <= 3 * 32
    parts.close()


# --- The data set's own framing ---------------------------------------------------------------


def test_digits_are_cut_to_their_content_and_sprites_are_not(checkpoint) -> None:
    x = np.zeros((128, 128), np.uint8)
    x[10:40, 20:40] = 255
    png = encode_png(x)
    digit = prepare(checkpoint("digits-2d"), png)
    assert any(step.startswith("Cropped to the content, 20×30") for step in digit.steps)
    sprite = prepare(checkpoint("sprites-10d"), png)
    assert sprite.steps == ("Resized from 128×128 to 64×64 with antialiasing.",)
    assert sprite.levels[0, 5:20, 10:20].all() and sprite.levels.sum() == 15 * 10
    forced = prepare(checkpoint("sprites-10d"), png, Adaptation(crop="yes"))
    assert any(step.startswith("Cropped") for step in forced.steps)


@pytest.mark.parametrize(("data", "margin"), [("mnist", 4), ("", 4), ("fashion_mnist", 0)])
def test_the_makers_margin(data: str, margin: int) -> None:
    x = np.zeros((100, 100), np.uint8)
    x[10:50, 10:30] = 255
    spec = ImageSpec(1, 28, 28, background=0.0)
    levels = preprocess(read_image(encode_png(x)), spec, data=data).levels[0]
    rows = np.flatnonzero(levels.max(1) > 127)
    assert (rows.min(), rows.max()) == (margin, 27 - margin)


# --- Parts that survive -----------------------------------------------------------------------


def run_all(run, folder: Path, out: Path, *flags: object):
    return run("score", CHECKPOINTS / "digits-10d", folder, "--out", out, *flags)


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory, checkpoint) -> dict[str, bytes]:
    """The bytes of an uninterrupted run in each format."""
    model = checkpoint("digits-10d")
    rows = [row for part in score_files(model, image_files([folder])) for row in part.rows]
    return {suffix: write(rows) for suffix, write in FORMATS.items()}


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_interrupted_run_is_gone_on_with(
    suffix: str,
    run,
    folder: Path,
    tmp_path: Path,
    whole,
    small_parts,
    monkeypatch,
) -> None:
    out, put, scored = tmp_path / f"rows{suffix}", Parts.put, []

    def dying(self: Parts, part) -> None:
        scored.append(part.number)
        if len(scored) == 4:
            raise KeyboardInterrupt
        put(self, part)

    monkeypatch.setattr(Parts, "put", dying)
    stopped = run_all(run, folder, out)
    assert stopped.code == 130 and "goes on from here" in stopped.sentence()
    assert not out.exists()
    done = run_all(run, folder, out)
    assert done.code == 0 and "went on after 96 finished rows" in done.err
    assert sorted(scored) == [0, 1, 2, 3, *range(3, 10)]
    assert list(tmp_path.iterdir()) == [out]
    if suffix == ".parquet":  # up to sixteen parts in a group of rows
        assert pyarrow.parquet.ParquetFile(out).num_row_groups == 1
        uninterrupted = pyarrow.parquet.read_table(io.BytesIO(whole[suffix]))
        assert pyarrow.parquet.read_table(out).equals(uninterrupted)
        before = out.read_bytes()
        run_all(run, folder, out)
        assert out.read_bytes() == before
    else:
        assert out.read_bytes() == whole[suffix]


@pytest.fixture
def half(run, folder: Path, tmp_path: Path, small_parts, monkeypatch) -> Path:
    """A run that was interrupted after three parts; where its rows were to go."""
    out, put = tmp_path / "rows.csv", Parts.put

    def dying(self: Parts, part) -> None:
        if part.number == 3:
            raise KeyboardInterrupt
        put(self, part)

    with monkeypatch.context() as patch:
        patch.setattr(Parts, "put", dying)
        assert run_all(run, folder, out).code == 130
    return out


def test_other_settings_are_refused_and_named(half: Path, run, folder: Path) -> None:
    for flags, named in (
        (("--draws", "9"), "draws 64, not 9"),
        (("--seed", "1"), "seed 0, not 1"),
        (("--invert", "yes"), "adaptation"),
        (("--max-megabytes", "1"), "limits"),
    ):
        outcome = run_all(run, folder, half, *flags)
        assert outcome.code == 2
        assert named in outcome.sentence() and "--restart" in outcome.sentence()
    other = run("score", CHECKPOINTS / "digits-2d", folder, "--out", half)
    assert other.code == 2 and "weights" in other.sentence()
    assert not half.exists()
    done = run_all(run, folder, half, "--seed", "1", "--restart", "--draws", "2")
    assert done.code == 0 and "went on" not in done.err and half.exists()


def test_a_file_that_changed_meanwhile_is_scored_anew(
    half: Path,
    run,
    folder: Path,
    tmp_path: Path,
    whole,
    checkpoint,
) -> None:
    changed = folder / "0" / "0040.png"  # in the second part
    before = changed.read_bytes()
    try:
        changed.write_bytes((folder / "0" / "0041.png").read_bytes() + b" ")
        done = run_all(run, folder, half)
        assert "went on after 64 finished rows" in done.err
        lines = half.read_text().splitlines()
        assert lines[41].split(",")[1:5] == lines[42].split(",")[1:5]
        assert lines[41] != whole[".csv"].decode().splitlines()[41]
    finally:
        changed.write_bytes(before)


def test_a_torn_or_forged_part_is_scored_anew(half: Path, run, folder: Path, whole) -> None:
    parts = sorted(half.parent.glob(".rows.csv.parts/*.part"))
    assert [part.name for part in parts] == [f"{i:08d}.part" for i in range(3)]
    parts[0].write_bytes(parts[0].read_bytes()[:-20])
    parts[1].write_bytes(b"")
    parts[2].write_bytes(parts[0].read_bytes())
    done = run_all(run, folder, half)
    assert done.code == 0 and "went on" not in done.err
    assert half.read_bytes() == whole[".csv"]


def test_two_runs_at_once_are_kept_apart(half: Path, run, folder: Path) -> None:
    holder = Parts(half, {}, 10)
    holder._occupy()
    outcome = run_all(run, folder, half)
    assert outcome.code == 2 and "another process is making 'rows.csv'" in outcome.sentence()
    holder.close()
    assert run_all(run, folder, half).code == 0


def test_a_full_disk_keeps_what_is_finished(half: Path, run, folder, whole, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("vae.scoring.parts._write", full)
        outcome = run_all(run, folder, half)
    assert outcome.code == 74 and "What is finished is kept" in outcome.sentence()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert run_all(run, folder, half).code == 74
    assert not half.exists()
    done = run_all(run, folder, half)
    assert "went on after 303" in done.err
    assert half.read_bytes() == whole[".csv"]


# --- kill -9 ----------------------------------------------------------------------------------

SMALL_PARTS = """
from vae.scoring import files
files._SCORED_AT_ONCE, files._DECODED_AT_ONCE = 16, 4
"""
# Pays for its imports once: each line of input becomes a process of its own, forked before torch
# has started a thread.
FORKS = (
    SMALL_PARTS
    + """
import json, os, sys, warnings
import torch.distributed, pyarrow.parquet, scipy.stats
from vae.cli.main import main
for line in sys.stdin:
    variables, arguments = json.loads(line)
    if not (pid := os.fork()):
        os.environ.update(variables)
        code = 70
        try:
            code = main(arguments)
        finally:
            os._exit(code)
    print(pid, flush=True)
    # Waits without a word, so that the next line can come in the meantime.
    if not variables:
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
while True:
    try:
        print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
    except ChildProcessError:
        break
"""
)


class Runs:
    """Runs of the command as processes of their own."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", FORKS],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip

    def start(self, folder: Path, out: Path, *flags: str, **variables: str) -> int:
        words = ["score", str(CHECKPOINTS / "digits-10d"), str(folder), "--out", str(out), *flags]
        print(json.dumps([variables, words]), file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())

    def code(self) -> int:
        return int(self.process.stdout.readline())

    def end(self) -> tuple[list[int], str]:
        """The exit codes not asked for yet, and what all runs said on standard error."""
        codes, error = self.process.communicate()
        return [int(code) for code in codes.split()], error


def kill_and_resume(folder: Path, out: Path, kills: int, seed: int) -> int:
    """Kills a run at random instants, goes on after each, and lets the last one finish.

    Returns:
        How many of the kills met a run at work.
    """
    rng, met, runs = random.Random(seed), 0, Runs()
    parts = out.with_name(f".{out.name}.parts")
    for _ in range(10 * kills):
        before = len(list(parts.glob("*.part")))
        pid = runs.start(folder, out, "--workers", "1")
        # From the first new part on, an instant in the time that the rest takes.
        while _lives(pid) and len(list(parts.glob("*.part"))) <= before:
            time.sleep(0.001)
        time.sleep(rng.random() * 0.05)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        met += runs.code() == -signal.SIGKILL
        if met == kills:
            break
        # A run that was sooner done than killed: begin anew.
        out.unlink(missing_ok=True)
    runs.start(folder, out, "--workers", "1")
    assert runs.code() == 0, runs.end()
    runs.end()
    return met


def check_killed(folder: Path, tmp_path: Path, whole: dict[str, bytes], kills: int, seed: int):
    out = tmp_path / "rows.csv"
    met = kill_and_resume(folder, out, kills, seed)
    assert out.read_bytes() == whole[".csv"]
    assert list(tmp_path.iterdir()) == [out]
    assert met == kills


def test_kill_9_loses_no_row(folder: Path, tmp_path: Path, whole) -> None:
    check_killed(folder, tmp_path, whole, kills=3, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 21))
def test_kill_9_loses_no_row_long(seed: int, folder: Path, tmp_path: Path, whole) -> None:
    check_killed(folder, tmp_path, whole, kills=1 + seed % 3, seed=seed)


def test_two_ranks_make_one_file(folder: Path, tmp_path: Path, whole) -> None:
    out, runs = tmp_path / "rows.csv", Runs()
    for rank in ("0", "1"):
        runs.start(
            folder, out, "--fail-below", "0.5", WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", RANK=rank,
            LOCAL_RANK=rank, MASTER_ADDR="127.0.0.1", MASTER_PORT="8731",
        )  # fmt: skip
    codes, error = runs.end()
    assert out.read_bytes() == whole[".csv"], error
    # The first rank alone speaks, and closes the gate.
    assert sorted(codes) == [0, 1] and error.count("images were refused") == 1
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow
def test_torchrun_makes_one_file(folder: Path, tmp_path: Path, whole) -> None:
    driver, out = tmp_path / "driver.py", tmp_path / "rows.csv"
    driver.write_text(
        f"{SMALL_PARTS}\nimport sys\nfrom vae.cli.main import main\nsys.exit(main(sys.argv[1:]))"
    )
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port",
        "8732", str(driver), "score", str(CHECKPOINTS / "digits-10d"), str(folder), "--out",
        str(out),
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0 and out.read_bytes() == whole[".csv"], done.stderr
    assert not list(tmp_path.glob(".*"))


def test_several_processes_need_a_file(run, folder: Path, monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    outcome = run("score", "digits-10d", folder)
    assert outcome.code == 2 and "--out" in outcome.sentence()


# --- The gate ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory, checkpoint) -> Path:
    """Twenty ordinary digits, and one image of noise."""
    root = tmp_path_factory.mktemp("strange")
    model = checkpoint("digits-2d")
    rows = model.reference.of_split("calibration")
    best = rows[np.argsort(model.reference.elbo[rows])[-20:]]
    for i in best:
        png = encode_png(to_image(model.reference.levels[i], model.config.image))
        (root / f"{i:04d}.png").write_bytes(png)
    noise = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    (root / "noise.png").write_bytes(encode_png(noise))
    return root


def test_the_gate_closes_for_one(run, strange: Path, tmp_path: Path) -> None:
    flags = ("--no-evidence", "--fail-below", "0.01", "--out", tmp_path / "rows.csv")
    closed = run("score", "digits-2d", strange, *flags)
    assert closed.code == 1
    assert "1 of 21 images have a p-value of 0.01 or less: noise.png (0.002)." in closed.err
    # n = 499: k = 5, rate 5/500, Beta(5, 495).
    assert "expect 0.2 false alarms (95 %: 0.1 to 0.4), a rate of 1.00 % (0.33 to 2.04)" in (
        closed.err
    )
    assert "the smallest rate that the calibration set supports is 0.20 %" in closed.err
    (strange / "noise.png").rename(tmp_path / "noise.png")
    try:
        opened = run("score", "digits-2d", strange, *flags)
    finally:
        (tmp_path / "noise.png").rename(strange / "noise.png")
    assert opened.code == 0 and "0 of 20 images have a p-value of 0.01 or less. Of" in opened.err


@pytest.mark.parametrize("threshold", ["0.001", "0", "1", "2", "nan", "-1"])
def test_a_gate_that_n_does_not_support(run, strange: Path, threshold: str) -> None:
    outcome = run("score", "digits-2d", strange, "--fail-below", threshold)
    assert outcome.code == 2
    assert "must lie in [0.002, 1)" in outcome.sentence()
    assert "499 calibration images" in outcome.sentence()


@pytest.fixture
def locked(tmp_path: Path, unlistable) -> Path:
    """Two folders of good digits, one of which cannot be listed."""
    for name in ("good/0", "good/1", "locked/0", "locked/1"):
        path = tmp_path / "all" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 99).save(path)
    unlistable("locked")
    return tmp_path / "all"


@pytest.mark.parametrize("command", ["score", "calibrate"])
def test_a_folder_that_cannot_be_read_is_a_refused_file(run, locked: Path, command, copied):
    (locked / "good" / "gone").symlink_to(locked / "nowhere")  # say, of a disk that isn't there
    if command == "calibrate":
        for i in range(20):
            Image.new("L", (8, 8), i * 9).save(locked / "good" / f"{i}.png")
        told = run("calibrate", str(copied), str(locked), "--out", "good").err
        assert "2 of 22 files were refused" in told
        return
    assert run("score", "digits-2d", str(locked)).code == 0
    result = run("score", "digits-2d", str(locked), "--strict", "--fail-below", "0.002", "--json")
    assert result.code == 1 and "2 of 4 images were refused" in result.err
    rows = {row["name"]: row["error"] for row in json.loads(result.out)}
    assert list(rows) == ["good/0.png", "good/1.png", "good/gone", "locked"]
    assert "No such file" in rows["good/gone"] and "folder cannot be read" in rows["locked"]
    result = run("score", "digits-2d", str(locked / "locked"), "--strict")
    assert result.code == 1 and "1 of 1 images were refused" in result.err


def test_what_was_passed_over_is_told(run, locked: Path, tmp_path: Path, copied) -> None:
    good = locked / "good"
    for i in range(20):
        Image.new("L", (8, 8), i * 9).save(good / f"{i}.png")
    (good / "._0.png").write_bytes(b"Mac")
    (good / "photo.heic").write_bytes(b"phone")
    said = "1 no image by name (.heic 1); 1 hidden or another system's own."
    result = run("score", "digits-2d", str(good), "--strict", "--out", str(tmp_path / "r.csv"))
    assert result.code == 0 and f"vae score: left out of the folders: {said}" in result.err
    assert said in run("calibrate", str(copied), str(good), "--out", "good").err


def test_limits_are_flags(run, tmp_path: Path) -> None:
    Image.new("L", (60, 30)).save(tmp_path / "wide.png")
    Image.new("L", (60, 30)).save(tmp_path / "scan.tif")

    def codes(*flags: str) -> list[str | None]:
        outcome = run("score", "digits-2d", tmp_path, "--no-evidence", "--json", *flags)
        return [row["error_code"] for row in json.loads(outcome.out)]

    assert codes() == ["E-IMG-04", None]
    assert codes("--allow-tiff") == [None, None]
    assert codes("--allow-tiff", "--max-side", "59") == ["E-IMG-07"] * 2
    assert codes("--allow-tiff", "--max-megapixels", "0.0017") == ["E-IMG-06"] * 2
    assert codes("--allow-tiff", "--max-megabytes", "0.00001") == ["E-IMG-02"] * 2
    for flag, value in (("--max-side", "1"), ("--max-megapixels", "500"), ("--workers", "-1")):
        outcome = run("score", "digits-2d", tmp_path, flag, value)
        assert outcome.code == 2 and flag in outcome.sentence()


def test_what_was_done_to_files_is_told(run, tmp_path: Path) -> None:
    image = np.full((60, 60), 255, np.uint8)
    image[10:50, 20:30] = 0
    (tmp_path / "a.png").write_bytes(encode_png(image))
    outcome = run("score", "digits-2d", tmp_path, "--no-evidence")
    assert "images adapted to the model: cropped 1, inverted 1, resized 1" in (outcome.err)


def test_the_table_and_json_are_printed_part_by_part(run, folder, small_parts, whole) -> None:
    rows = json.loads(run("score", "digits-10d", folder, "--json").out)
    assert rows == json.loads(whole[".json"])
    lines = run("score", "digits-10d", folder).out.splitlines()
    assert len(lines) == 1 + 303 and sum(line.startswith("name ") for line in lines) == 1


# --- calibrate --------------------------------------------------------------------------------


@pytest.fixture
def copied(tmp_path: Path, tiny: Tiny) -> Path:
    target = tmp_path / "tiny"
    target.mkdir()
    for file in tiny.path.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def test_calibrating_on_good_images(run, copied: Path, folder: Path) -> None:
    made = run("calibrate", copied, folder / "0", "--out", "good", "--seed", "5")
    assert made.code == 0 and "calibration set 'good' of 100 images" in made.out
    assert "1 of 101 files were refused and left out" in made.err
    assert "support no false-alarm rate" not in made.err  # 1 / 101 is less than 1 %
    model = vae.load(copied)
    assert calibrations(model) == ("good",)
    found = calibration_set(model, "good")
    assert (found.draws, found.seed, found.source, found.refused) == (4, 5, "0", 1)

    flags = ("--calibration", "good", "--seed", "5", "--draws", "4", "--json")
    rows = json.loads(run("score", copied, folder / "0", *flags).out)
    scored = np.array([row["elbo"] for row in rows if row["error"] is None])
    assert np.array_equal(np.sort(scored), found.elbo)
    p = calibration_of(model, "good").p_value(scored)
    assert [row["p_value"] for row in rows if row["error"] is None] == p.tolist()
    told = run("score", copied, folder / "0" / "0000.png", "--calibration", "good", "--crop", "no")
    assert "was made with --invert auto --crop auto" in told.err


def test_calibrating_says_what_few_images_support(run, copied: Path, folder: Path) -> None:
    made = run("calibrate", copied, folder / "0/000*.png", folder / "1/010*.png",
               folder / "2/020*.png", "--out", "few")  # fmt: skip
    assert made.code == 0 and "of 30 images" in made.out
    assert "30 images support no false-alarm rate below 3.2 %" in made.err
    gate = run("score", copied, folder / "2", "--calibration", "few", "--fail-below", "0.01")
    assert gate.code == 2 and "30 calibration images" in gate.sentence()


@pytest.mark.parametrize(
    ("flags", "code", "named"),
    [
        (("0/000*.png", "--out", "x"), 2, "at least 20 images"),
        (("0", "--out", "a/b"), 2, "up to 64 letters"),
        (("0", "--out", "x", "--draws", "-1"), 2, "draws must lie in"),
        (("nowhere", "--out", "x"), 66, "nowhere"),
    ],
)
def test_calibrating_what_cannot_be(run, copied, folder, flags, code, named) -> None:
    outcome = run("calibrate", copied, folder / flags[0], *flags[1:])
    assert outcome.code == code and named in outcome.sentence()
    assert calibrations(vae.load(copied)) == ()


def test_a_set_is_not_replaced_unasked(run, copied: Path, folder: Path) -> None:
    for _ in range(2):
        outcome = run("calibrate", copied, folder / "0", "--out", "good")
    assert outcome.code == 73 and "--overwrite" in outcome.sentence()
    assert run("calibrate", copied, folder / "0", "--out", "good", "--overwrite").code == 0
    missing = run("score", copied, folder / "0", "--calibration", "better")
    assert missing.code == 66 and "there are: good" in missing.sentence()


# --- Names and repetitions --------------------------------------------------------------------

NAMES = (
    "../../e.png", "a\0b.png", "x" * 4096, "\u202egnp.exe", "🙂.png", "e\u0301\u0302\u0303.png",
    "CON.png", "<img onerror=alert(1)>.png", "[x](javascript:alert(1)).png", "=1+1.png",
)  # fmt: skip


def test_a_name_is_only_ever_a_name(folder: Path, checkpoint, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = (folder / "0" / "0000.png").read_bytes()
    scored = score_bytes(checkpoint("digits-10d"), [(name, content) for name in NAMES])
    rows = [one.row for one in scored]
    assert [row.name for row in rows] == list(NAMES)
    assert len({row._replace(name="") for row in rows}) == 1
    for suffix, write in FORMATS.items():
        data = write(rows)
        if suffix == ".json":
            assert [row["name"] for row in json.loads(data)] == list(NAMES)
        elif suffix == ".csv":
            assert b"\n'=1+1.png," in data
    assert not list(tmp_path.iterdir())


def test_a_file_sent_a_hundred_times_scores_the_same(folder: Path, checkpoint) -> None:
    content = (folder / "1" / "0101.png").read_bytes()
    scored = score_bytes(checkpoint("digits-10d"), [("x", content)] * 100)
    assert len({one.row for one in scored}) == 1

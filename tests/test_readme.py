"""The README and its like: what they name exists, and what they show is so."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
from functools import cache
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from checkpoint_table import README as CHECKPOINTS_README
from checkpoint_table import manifests, tables, without_times, written
from PIL import Image, ImageDraw

from vae.cli.main import main
from vae.data.images.encoding import encode_png, to_image
from vae.model.config import LikelihoodName
from vae.training.presets import PRESETS
from vae.ui.screens import SCREENS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "SECURITY.md", CHECKPOINTS_README,
         ROOT / "CONTRIBUTING.md"]  # fmt: skip
PAGES_IDS = [str(page.relative_to(ROOT)) for page in PAGES]
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
NUMBER = re.compile(r"-?\d+\.\d+")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, *languages: str) -> list[str]:
    return [body for language, body in CODE.findall(text_of(page)) if language in languages]


def code_lines(page: Path) -> list[str]:
    """Every line of shell, in blocks and in the text, continued lines joined."""
    shell = "\n".join(blocks(page, "sh", "console")).replace("\\\n", " ").splitlines()
    prose = CODE.sub("", text_of(page))
    return shell + INLINE.findall(prose)


def commands(page: Path) -> list[list[str]]:
    """The words of every call of the command line, from the command on; comments left out."""
    calls = [line.split("-m vae ", 1)[1] for line in code_lines(page) if "-m vae " in line]
    return [shlex.split(call, comments=True) for call in calls]


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", CODE.sub("", text_of(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@cache
def flags_of(command: str) -> frozenset[str]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main([command, "--help"])
    return frozenset(re.findall(r"--[a-z][a-z-]*", out.getvalue()))


@pytest.mark.parametrize("page", PAGES, ids=PAGES_IDS)
def test_every_local_link_leads_somewhere(page):
    links = [link for link in LINK.findall(text_of(page)) if "://" not in link]
    assert links or page != ROOT / "README.md"
    for link in links:
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=PAGES_IDS)
def test_every_file_named_is_there(page):
    """Words in backticks that look like a path of the project."""
    rooms = "|".join(sorted(entry.name for entry in ROOT.iterdir() if entry.is_dir()))
    path = re.compile(rf"(?:(?:{rooms})/[\w./-]*|[\w-]+\.(?:py|md|toml|txt))")
    named = {word for word in INLINE.findall(CODE.sub("", text_of(page))) if path.fullmatch(word)}
    for word in named:
        near = [ROOT / word, ROOT / "vae" / word, page.parent / word]
        assert any(place.exists() for place in near), word


def test_the_map_of_the_house_is_complete():
    (tree,) = (body for body in blocks(ROOT / "README.md", "text") if body.startswith("app.py"))
    above, named = [], set()
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        for name in re.match(r"\s*((?:\S+/ ?)+|\S+)", line)[1].split():
            above[depth:] = [name]
            named.add(full := "".join(above))
            assert (ROOT / full).exists(), full
    rooms = {f"{path.parent.relative_to(ROOT)}/" for path in ROOT.glob("vae/**/__init__.py")}
    assert {"app.py", "pages/", "vae/", "checkpoints/", "tests/", *rooms} <= named


@pytest.mark.parametrize("page", PAGES, ids=PAGES_IDS)
def test_every_make_target_named_is_in_the_makefile(page):
    makefile = text_of(ROOT / "Makefile")
    targets = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    variables = set(re.findall(r"^([A-Z_]+) +\?=", makefile, re.MULTILINE))
    for line in code_lines(page):
        found = re.match(r"make ([a-z-]+)((?: [A-Z_]+=)?)", line)
        if found:
            assert found[1] in targets, line
            assert not found[2] or found[2].strip(" =") in variables, line


@pytest.mark.parametrize("page", PAGES, ids=PAGES_IDS)
def test_every_flag_named_is_one_of_its_command(page):
    for words in commands(page):
        given = {word.split("=")[0] for word in words[1:] if word.startswith("--")}
        assert given - {"--help"} <= flags_of(words[0]), words
        if words[0] == "train" and len(words) > 1 and not words[1].startswith("-"):
            assert words[1] in PRESETS, words


def test_flags_in_the_text_belong_to_some_command():
    commands = (
        "train",
        "evaluate",
        "score",
        "calibrate",
        "data",
        "app",
        "import",
        "check",
        "alarms",
    )
    known = set().union(*map(flags_of, commands))
    # Flags of pip, which install what the commands need.
    known |= {
        "--nproc-per-node",
        "--extra-index-url",
        "--index-url",
        "--force-reinstall",
        "--no-deps",
        "--readme",
    }
    for line in code_lines(ROOT / "README.md"):
        assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", line)) - {"--help"} <= known, line


def test_every_preset_and_shipped_model_is_named():
    text = text_of(ROOT / "README.md")
    assert {name for name in PRESETS if f"`{name}`" not in text} == set()
    assert set(manifests()) <= set(PRESETS)


def test_the_tour_is_the_navigation():
    """A screen that isn't in the navigation is not promised, and none that is goes untold."""
    rows = re.findall(
        r"^\| *(\w*) *\| \*\*(.+?)\*\* \|", text_of(ROOT / "README.md"), re.MULTILINE
    )
    section, tour = "", []
    for named, title in rows:
        section = named or section
        tour.append((section, title))
    assert tour == [
        (section, title) for section, screens in SCREENS.items() for title in screens.values()
    ]


def test_the_table_of_likelihoods_is_complete():
    part = text_of(ROOT / "README.md").split("\n## Likelihoods\n")[1].split("\n## ")[0]
    named = re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE)
    assert sorted(named) == sorted(get_args(LikelihoodName))


def test_the_python_lines_print_what_the_readme_says(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    ((source, expected),) = re.findall(
        r"```python\n(.*?)```\s+```text\n(.*?)```", text_of(ROOT / "README.md"), re.DOTALL
    )
    exec(compile(source, "README.md", "exec"), {})  # noqa: S102
    printed = capsys.readouterr().out
    assert NUMBER.sub("n", printed) == NUMBER.sub("n", expected)
    said, is_so = ([float(one) for one in NUMBER.findall(text)] for text in (expected, printed))
    assert is_so == pytest.approx(said, abs=1e-3)


def test_the_scores_shown_are_those_of_such_files(tmp_path, monkeypatch, capsys, checkpoint):
    folder, model = tmp_path / "my-files", checkpoint("digits-2d")
    folder.mkdir()
    for i in (17, 42):
        png = encode_png(to_image(model.reference.levels[i], model.image))
        (folder / f"digit-{i}.png").write_bytes(png)
    seven = Image.new("L", (64, 64))
    ImageDraw.Draw(seven).line([(16, 12), (48, 12), (30, 54)], fill=255, width=10)
    seven.save(folder / "my-seven.png")
    noise = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    monkeypatch.chdir(tmp_path)
    assert main(["score", "digits-2d", "my-files"]) == 0
    said = capsys.readouterr()
    printed = [*said.out.splitlines(), *said.err.splitlines()]
    (shown,) = (body for body in blocks(ROOT / "README.md", "console") if "my-files\n" in body)
    expected = shown.splitlines()[1:]
    assert [NUMBER.sub("n", line) for line in printed] == [
        NUMBER.sub("n", line) for line in expected
    ]
    for one, other in zip(printed, expected, strict=True):
        numbers = ([float(n) for n in NUMBER.findall(line)] for line in (one, other))
        assert next(numbers) == pytest.approx(next(numbers), abs=2e-3)


def test_the_evaluation_shown_is_that_of_the_checkpoint():
    metrics = manifests()["digits-2d"]["metrics"]
    (shown,) = (body for body in blocks(ROOT / "README.md", "console") if " evaluate " in body)
    rows = dict(re.findall(r"^  (\S.*?) {2,}(-?\d+\.\d+ ± \d+\.\d+) nats$", shown, re.MULTILINE))
    names = {
        "ELBO": "elbo",
        "rate (KL)": "rate",
        "distortion (-E log p(x|z))": "distortion",
        f"importance-weighted bound, k = {metrics['importance_samples']}": "iwae_bound",
        "log p(x), exact": "log_evidence",
    }
    shown_values = {text: float(row.split()[0]) for text, row in rows.items()}
    errors = {text: row.split()[2] for text, row in rows.items()}
    assert errors == {text: f"{metrics[f'{name}_se']:.3f}" for text, name in names.items()}
    # Rounded, but for the two terms, which add up to minus the ELBO as they stand there.
    terms = [shown_values.pop(text) for text in ("rate (KL)", "distortion (-E log p(x|z))")]
    assert terms == pytest.approx([metrics["rate"], metrics["distortion"]], abs=1e-3)
    assert sum(terms) == pytest.approx(-shown_values["ELBO"], abs=1e-9)
    assert shown_values == {text: round(metrics[names[text]], 3) for text in shown_values}
    assert f"--importance-samples {metrics['importance_samples']}\n" in shown
    assert f"{metrics['bits_per_dim']:.4f}" in shown


def test_the_calibration_sizes_are_those_of_the_checkpoints():
    text = " ".join(text_of(ROOT / "README.md").split())
    found = manifests()
    for name, words in (("digits-2d", "for the digits"), ("sprites-10d", "for the sprites")):
        n = found[name]["data"]["splits"]["calibration"]["images"]
        assert f"{1 / (n + 1):.3f} {words} (n = {n})" in text


def test_the_tables_of_checkpoints_are_up_to_date():
    is_so, said = tables(manifests()), written(text_of(CHECKPOINTS_README))
    assert without_times(said) == without_times(is_so), (
        "run `python -m tests.checkpoint_table`: a manifest has changed"
    )


def test_the_tables_follow_the_manifests(tmp_path):
    """The check above can fail: another number is another table, another wall time is not."""
    found = json.loads(json.dumps(manifests()))
    before = tables(found)
    found["digits-2d"]["training"]["seconds"] += 1_000
    assert tables(found) != before
    assert without_times(tables(found)) == without_times(before)
    found["digits-2d"]["metrics"]["elbo"] += 0.01
    assert without_times(tables(found)) != without_times(before)
    assert manifests(tmp_path) == {}


def test_a_lost_marker_is_named():
    with pytest.raises(ValueError, match="marker"):
        written("# Checkpoints")


def test_the_pictures_are_small_and_described():
    found = re.findall(r"!\[(.*?)\]\((.+?)\)", text_of(ROOT / "README.md"), re.DOTALL)
    assert len(found) == 2
    for described, name in found:
        assert len(described) > 40
        assert (ROOT / name).stat().st_size <= 200_000
        with Image.open(ROOT / name) as picture:
            assert picture.size == (1440, 900)


@pytest.mark.parametrize("page", PAGES, ids=PAGES_IDS)
def test_the_pages_speak_of_the_project_alone(page):
    """No place of one machine, no other index of packages than torch's own, no pictograms."""
    text = text_of(page)
    hosts = set(re.findall(r"https?://([\w.-]+)", text))
    assert hosts <= {
        "localhost", "127.0.0.1", "download.pytorch.org", "doi.org", "creativecommons.org",
        "keepachangelog.com", "semver.org",
    }  # fmt: skip
    assert not re.search(r"(?<![\w.])/(?:home|root|work|tmp|Users)/", text)
    assert not [letter for letter in text if ord(letter) > 0x2BFF]

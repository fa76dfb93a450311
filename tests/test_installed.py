"""What pip installs: every file is in the wheel, and it works away from the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from browser import CHROMIUM, ROOT, app_process, settle
from packaging.requirements import Requirement

import vae
from vae.data.images.encoding import encode_png, to_image

# What a wheel is made of; a copy of it, without what tools left behind, is as a clean clone.
SOURCES = ["vae", "pages", "checkpoints", ".streamlit", "app.py", "setup.py", "pyproject.toml"]
SOURCES += ["requirements.txt", "README.md", "LICENSE"]
LEFTOVERS = shutil.ignore_patterns("__pycache__", ".run", ".*.tmp-*", "calibrations")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The built wheel."""
    clone, out = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, clone / name, ignore=LEFTOVERS)
        else:
            shutil.copy(ROOT / name, clone / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*pip, "--wheel-dir", out, clone], check=True)
    (found,) = out.iterdir()
    return found


def test_every_file_is_in_the_wheel(wheel):
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
        (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        needs = Parser().parsestr(archive.read(metadata).decode()).get_all("Requires-Dist")
    package = {path for path in (ROOT / "vae").rglob("*.*") if "__pycache__" not in path.parts}
    beside = {ROOT / "app.py", ROOT / ".streamlit" / "config.toml", ROOT / "checkpoints/README.md"}
    beside |= {*(ROOT / "pages").glob("*.py"), *(ROOT / "checkpoints").glob("*/[!.]*.*")}
    assert {path.suffix for path in package} >= {".py", ".js", ".css", ".html", ".svg"}
    assert inside == {str(path.relative_to(ROOT)) for path in package} | {
        f"vae/_app/{path.relative_to(ROOT)}" for path in beside
    }
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    said = [line.split("#")[0] for line in lines if not line.startswith("#")]
    needs = list(map(Requirement, needs))
    assert [need for need in needs if not need.marker] == list(map(Requirement, said))
    # The extras are what the tests run on.
    tried = (ROOT / "requirements-dev.txt").read_text().splitlines()
    tried = {line.split("#")[0].strip() for line in tried if not line.startswith("-r")}
    extras = {str(need).split(";")[0] for need in needs if need.marker}
    assert extras and extras <= {str(Requirement(line)) for line in tried if line}


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The programs of an empty environment with the wheel, which borrows what it needs."""
    home = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    python = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--quiet", wheel], check=True)
    (library,) = home.glob("lib/python*/site-packages")
    (library / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"])
    return home / "bin"


def outside(command: list[str | Path], folder: Path) -> str:
    """What a command prints in a folder from which nothing leads to the checkout."""
    alone = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(command, cwd=folder, env=alone, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_package_and_the_command_work_anywhere(installed, checkpoint, tmp_path):
    code = "import vae; print(vae.__file__); print(vae.load('digits-2d').weights_sha256)"
    where, weights = outside([installed / "python", "-c", code], tmp_path).splitlines()
    assert Path(where).is_relative_to(installed.parent)
    model = checkpoint("digits-2d")
    assert weights == model.weights_sha256

    image = to_image(model.reference.levels[0], model.config.image)
    (tmp_path / "x.png").write_bytes(encode_png(image))
    printed = outside([installed / "elboscope", "score", "digits-2d", "x.png"], tmp_path)
    (row,) = vae.score(model, model.config.image.from_levels(model.reference.levels[:1]))
    assert printed.splitlines()[1].split()[:2] == ["x.png", f"{row.elbo:.4f}"]


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_every_screen_works_anywhere(installed, page, tmp_path):
    program = [str(installed / "elboscope")]
    with app_process(program=program, folder=tmp_path, PYTHONPATH="") as (address, _):
        for path in sorted((ROOT / "pages").glob("*.py")):
            page.goto(f"{address}/{'' if path.stem == 'overview' else path.stem}")
            page.get_by_role("heading", level=1).first.wait_for()
            settle(page)
            assert page.get_by_test_id("stException").count() == 0, path.stem
        # Nothing may be trained into the package.
        page.goto(f"{address}/train")
        page.get_by_text("start the app with --checkpoints FOLDER").wait_for()
        assert page.get_by_role("button", name="Train", exact=True).is_disabled()

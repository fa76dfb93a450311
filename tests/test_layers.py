"""The floors of the house: who may import whom. A checker, and the proof that it can fail."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import vae

ROOT = Path(__file__).parents[1]
# A file imports from its own room and from lower floors; rooms on one floor are strangers.
FLOORS = {
    "paths": 0, "data": 1, "figures": 1, "model": 2, "processes": 2, "store": 3, "elbo": 3,
    "scoring": 4, "explore": 5, "training": 5, "importing": 5, "ui": 6, "cli": 7, "app": 7,
    "pages": 7, "__main__": 8,
}  # fmt: skip
STREAMLIT_IN = {"ui", "app", "pages"}
NO_TORCH_IN = {"data", "figures", "pages"}
INSIDE_FUNCTIONS = {"torchvision", "sklearn"}
OF_THE_TESTS = {"tests", *(path.stem for path in (ROOT / "tests").iterdir())}


def violations(root: Path) -> list[str]:
    """What breaks the rules below a project's root, one line each."""
    files = [*(root / "vae").rglob("*.py"), *(root / "pages").rglob("*.py"), root / "app.py"]
    found = []
    for file in sorted(file for file in files if file.exists()):
        parts = file.relative_to(root).with_suffix("").parts
        for module, inside in imports(ast.parse(file.read_text()), parts):
            if reason := broken_rule(room_of(parts), module, inside):
                found.append(f"{file.relative_to(root)}: {module}: {reason}")
    return found


def room_of(parts: tuple[str, ...]) -> str:
    if parts[0] != "vae":
        return parts[0]
    return parts[1] if len(parts) > 1 else "vae"


def imports(tree: ast.AST, parts: tuple[str, ...], inside: bool = False) -> Iterator:
    """The absolute names of imported modules, and whether a function surrounds the import."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = parts[: len(parts) - node.level] if node.level else ()
            module = ".".join((*base, *(node.module or "").split("."))).strip(".")
            for alias in node.names:
                # From the package itself a name is a room, or a public name that has a home.
                home = vae._HOMES.get(alias.name) if module == "vae" else None
                yield home or f"{module}.{alias.name}", inside
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from imports(node, parts, inside or is_function)


def broken_rule(room: str, module: str, inside: bool) -> str | None:
    top, *rest = module.split(".")
    if top == "streamlit" and room not in STREAMLIT_IN:
        return "streamlit belongs to ui, app.py and pages"
    if top == "torch" and room in NO_TORCH_IN:
        return f"torch has no business in {room}"
    if top in INSIDE_FUNCTIONS and not inside:
        return "import it inside the function that needs it"
    if top in ("app", "pages"):
        return "nothing imports a screen"
    if top in OF_THE_TESTS:
        return "the product does not need its tests and benchmarks"
    if top != "vae" or not rest or rest[0] == "__version__":
        return None
    if rest[0] not in FLOORS or room not in FLOORS:
        return None if room == rest[0] else "an unknown room"
    if room != rest[0] and FLOORS[rest[0]] >= FLOORS[room]:
        return f"{rest[0]} is no lower floor than {room}"
    return None


def test_the_house_keeps_its_floors() -> None:
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("vae/data/x.py", "import vae.model.config"),
        ("vae/data/x.py", "from ..model import config"),
        ("vae/model/x.py", "from vae.elbo.terms import Terms"),
        ("vae/elbo/x.py", "def f():\n    from vae.training import fit"),
        ("vae/training/x.py", "from vae.explore.traversals import traverse"),
        ("vae/explore/x.py", "from vae.training.fit import fit"),
        ("vae/figures/x.py", "from vae import ui"),
        ("vae/model/x.py", "from vae import score"),
        ("vae/elbo/x.py", "from vae.store.checkpoint import Checkpoint"),
        ("vae/elbo/x.py", "from vae.scoring.rows import ScoreRow"),
        ("vae/ui/x.py", "import vae.cli"),
        ("vae/ui/x.py", "import pages.overview"),
        ("vae/elbo/x.py", "from vae.cellar import wine"),
        ("vae/cellar/x.py", "from vae.data import spec"),
        ("vae/elbo/x.py", "import streamlit as st"),
        ("vae/cli/x.py", "def f():\n    from streamlit.web import cli"),
        ("vae/data/x.py", "def f():\n    import torch"),
        ("vae/figures/x.py", "from torch import Tensor"),
        ("pages/x.py", "if True:\n    import torch.nn"),
        ("vae/training/x.py", "import torchvision"),
        ("vae/cli/x.py", "def f():\n    from bench import score"),
        (
            "vae/data/x.py",
            "try:\n    from sklearn.datasets import load_digits\nfinally:\n    pass",
        ),
    ],
)
def test_the_checker_catches(tmp_path: Path, file: str, source: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert len(violations(tmp_path)) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("vae/data/x.py", "from .spec import ImageSpec\nimport vae\nfrom vae import __version__"),
        ("vae/model/x.py", "import torch\nfrom vae.data import spec\nfrom vae.model import vae"),
        ("vae/training/x.py", "def f():\n    import torchvision\n    import sklearn"),
        ("vae/figures/x.py", "from vae.figures.palette import GREY"),
        (
            "vae/scoring/x.py",
            "from vae import ImageSpec\nimport vae.elbo.seen",
        ),
        ("vae/cli/x.py", "from vae.ui.server.serve import serve"),
        ("vae/__main__.py", "from vae.cli.main import main"),
        ("pages/x.py", "import streamlit\nimport vae.ui.frame"),
        ("app.py", "import streamlit\nfrom vae.ui import frame"),
    ],
)
def test_the_checker_allows(tmp_path: Path, file: str, source: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    assert violations(tmp_path) == []


# What a model is made of is asked of its face (vae/model/face.py), above the rooms that make it.
BEHIND_THE_FACE = re.compile(
    r"base_dist|\.config\.(network|hidden|channels|blocks|image|latent_dim|likelihood|binarize)\b"
)
MAKERS = {"model", "training", "importing", "cli"}


def behind_the_face(root: Path) -> list[str]:
    """Lines above vae/model that ask a model for more than its face, or write out N(0, I)."""
    written_out = re.compile(r"Normal\((torch\.)?zeros|log_density\(torch\.zeros")
    found = []
    for file in sorted([*root.rglob("vae/**/*.py"), *root.rglob("pages/*.py")]):
        parts = file.relative_to(root).parts
        if room_of(parts) in MAKERS:
            continue
        for number, line in enumerate(file.read_text().splitlines(), 1):
            is_home = parts == ("vae", "elbo", "terms.py")
            if BEHIND_THE_FACE.search(line) or (written_out.search(line) and not is_home):
                found.append(f"{file.relative_to(root)}:{number}: {line.strip()}")
    return found


def test_a_model_is_asked_by_its_face_alone(tmp_path: Path) -> None:
    assert behind_the_face(ROOT) == []
    (tmp_path / "vae" / "elbo").mkdir(parents=True)
    lines = ["p.base_dist.mean", "model.config.latent_dim", "Normal(torch.zeros(2), 1)"]
    (tmp_path / "vae" / "elbo" / "x.py").write_text("\n".join(lines))
    assert len(behind_the_face(tmp_path)) == 3


def circle(root: Path) -> list[str]:
    """The files, or else the sub-rooms of one room, that import each other in a circle."""
    files = {
        ".".join(file.relative_to(root).with_suffix("").parts): file
        for file in (root / "vae").rglob("*.py")
    }
    graph: dict[str, set[str]] = {name: set() for name in files}
    rooms: dict[str, set[str]] = {}
    for name, file in files.items():
        for imported, _ in imports(ast.parse(file.read_text()), tuple(name.split("."))):
            # A name inside a module stands for the module.
            there = imported if imported in files else imported.rpartition(".")[0]
            if there in files:
                graph[name].add(there)
                here, other = name.rpartition(".")[0], there.rpartition(".")[0]
                if here != other and here.count(".") == other.count(".") == 2:
                    rooms.setdefault(here, set()).add(other)
    for edges in (graph, rooms):
        try:
            TopologicalSorter(edges).prepare()
        except CycleError as error:
            return error.args[1]
    return []


def test_nothing_imports_in_a_circle() -> None:
    assert circle(ROOT) == []


@pytest.mark.parametrize(
    "sources",
    [
        {"data/x": "from vae.data.y import f", "data/y": "from vae.data import x"},
        {"data/x": "import vae.data.y", "data/y": "def f():\n    from vae.data.x import g"},
        {"ui/a/x": "import vae.ui.b.x", "ui/b/x": "", "ui/b/y": "from vae.ui.a.y import f",
         "ui/a/y": ""},
    ],
)  # fmt: skip
def test_a_circle_is_found(tmp_path: Path, sources: dict[str, str]) -> None:
    for name, source in sources.items():
        path = tmp_path / "vae" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    assert circle(tmp_path)


def long_functions(root: Path, most: int = 60) -> list[str]:
    """Functions of more lines than that, docstring excluded, without a reason written above."""
    found = []
    for file in sorted([*root.rglob("vae/**/*.py"), *root.rglob("pages/*.py")]):
        source = file.read_text()
        lines = source.splitlines()
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            first = node.body[1:] if ast.get_docstring(node) else node.body
            above = min([node, *node.decorator_list], key=lambda one: one.lineno).lineno - 2
            explained = above >= 0 and lines[above].lstrip().startswith("#")
            if first and node.end_lineno - first[0].lineno + 1 > most and not explained:
                found.append(f"{file.relative_to(root)}: {node.name}")
    return found


def test_functions_are_short_or_say_why(tmp_path: Path) -> None:
    assert long_functions(ROOT) == []
    pages = {page.name: page.read_text().count("\n") for page in (ROOT / "pages").glob("*.py")}
    assert {name: lines for name, lines in pages.items() if lines > 60} == {}
    (tmp_path / "vae").mkdir()
    body = "def f():\n" + "    pass\n" * 61
    (tmp_path / "vae" / "x.py").write_text(f"{body}\n# Why.\n{body}")
    assert long_functions(tmp_path) == ["vae/x.py: f"]


def second_hand(root: Path) -> list[str]:
    """Imports from a module that has the name from elsewhere itself, one line each."""
    found = []
    for file in sorted([*root.rglob("vae/**/*.py"), *root.rglob("pages/*.py")]):
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("vae."):
                continue
            home = root.joinpath(*node.module.split(".")).with_suffix(".py")
            if not home.exists():
                continue
            there = ast.parse(home.read_text()).body
            lent = {a.asname or a.name for n in there if isinstance(n, ast.ImportFrom)
                    for a in n.names}  # fmt: skip
            found += [f"{file.relative_to(root)}: {node.module}.{alias.name}"
                      for alias in node.names if alias.name in lent]  # fmt: skip
    return found


def test_every_name_is_imported_from_its_home(tmp_path: Path) -> None:
    assert second_hand(ROOT) == []
    room = tmp_path / "vae" / "data"
    room.mkdir(parents=True)
    (room / "home.py").write_text("def f(): pass")
    (room / "lender.py").write_text("from vae.data.home import f\ndef g(): pass")
    (room / "x.py").write_text("from vae.data.home import f\nfrom vae.data.lender import f, g")
    assert second_hand(tmp_path) == ["vae/data/x.py: vae.data.lender.f"]


@pytest.mark.parametrize("modules", ["vae vae.data.spec vae.data.sets.datasets", "figures"])
def test_a_room_does_not_import_the_house(modules: str) -> None:
    if modules == "figures":
        names = (ROOT / "vae" / "figures").rglob("*.py")
        modules = " ".join(f"vae.figures.{name.stem}" for name in names if name.stem[0] != "_")
    code = (
        "import sys, importlib\n"
        f"for name in {modules.split()!r}: importlib.import_module(name)\n"
        "heavy = {'torch', 'torchvision', 'sklearn', 'streamlit'}\n"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, [], "")


@pytest.mark.parametrize("name", vae.__all__)
def test_public_names_resolve_and_are_documented(name: str) -> None:
    value = getattr(vae, name)
    if name != "__version__":
        assert value.__module__ == vae._HOMES[name]
        assert value.__name__ == name
        assert value.__doc__ and value.__doc__.strip()[0].isupper()
    assert name in dir(vae)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        vae.nonsense  # noqa: B018

"""What may be compared with what, and which models form a ladder."""

from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest

from vae.figures.compare import ModelPoint, rate_distortion
from vae.model.registry import Entry
from vae.training.presets import PRESETS
from vae.ui import compare, honesty


def manifest_of(preset: str, **changes: object) -> dict:
    config = asdict(PRESETS[preset]) | changes
    image = {"channels": 1, "height": 8, "width": 8, "levels": 17, "background": 0.0}
    model = {"image": image, "likelihood": config["likelihood"], "binarize": config["binarize"]}
    return copy.deepcopy({"config": config, "model": model, "data": {"name": config["data"]}})


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict]:
    found = {
        "digits-2d": manifest_of("digits-2d"),
        "beta-3": manifest_of("digits-2d-beta-3"),
        "beta-0.1": manifest_of("digits-2d-beta-0.1", title="Another title"),
        "other-seed": manifest_of("digits-2d-beta-3", seed=1),
        "warmed-up": manifest_of("digits-2d-beta-3", beta_schedule="warm_up"),
        "digits-10d": manifest_of("digits-10d"),
        "mistaken": manifest_of("digits-2d", objective="batch_moment_kl"),
        "binary": manifest_of("digits-binary-2d"),
        "density": manifest_of("digits-2d", likelihood="continuous_bernoulli"),
        "sprites": manifest_of("sprites-10d"),
        "from-the-future": manifest_of("digits-2d", nobody_knows=1),
    }
    entries = {name: Entry(name, Path(name), one) for name, one in found.items()}
    entries["broken"] = Entry("broken", Path("broken"), None, "It is damaged.")
    monkeypatch.setattr(compare.access, "entries", lambda: entries)
    return found


def test_only_what_speaks_of_the_same_pixels_is_compared(models: dict[str, dict]) -> None:
    same = compare.comparable(SimpleNamespace(manifest=models["digits-2d"]))
    assert set(models) - set(same) == {"binary", "density", "sprites"}
    assert set(compare.comparable(SimpleNamespace(manifest=models["binary"]))) == {"binary"}


def test_the_same_images_are_known_by_what_they_hold(models: dict[str, dict]) -> None:
    mine = models["digits-2d"]["data"]
    splits = {"train": {"images": 9, "sha256": "a"}}
    mine |= {"name": "folder:/photos", "digest": "before", "splits": splits}
    # The folder has grown since; the same folder elsewhere; the same images split otherwise.
    models["beta-3"]["data"] = {**mine, "digest": "after"}
    models["beta-0.1"]["data"] = {**mine, "name": "folder:/copy"}
    models["other-seed"]["data"] = {**mine, "splits": {"train": {"images": 9, "sha256": "b"}}}
    same = compare.comparable(SimpleNamespace(manifest=models["digits-2d"]))
    assert set(same) == {"digits-2d", "beta-0.1"}


def test_a_proper_likelihood_is_named_of_the_same_images_only(
    models: dict[str, dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(honesty.access, "entries", compare.access.entries)
    model = manifest_of("digits-2d", likelihood="bernoulli_grey")
    model["data"] = {"name": "folder:/photos", "digest": "before"}
    models["digits-2d"]["data"] = {"name": "folder:/photos", "digest": "after"}
    for name in set(models) - {"digits-2d"}:
        models[name]["data"] = {"name": "another", "digest": "another"}
    assert "train with" in honesty._proper(SimpleNamespace(manifest=model))
    models["digits-2d"]["data"] = {"name": "folder:/moved", "digest": "before"}
    assert "The model digits-2d has" in honesty._proper(SimpleNamespace(manifest=model))


def test_a_ladder_differs_in_beta_alone(models: dict[str, dict]) -> None:
    model = SimpleNamespace(manifest=models["digits-2d"])
    ladder = compare.ladder_of(model, compare.comparable(model))
    assert ladder == {0.1: "beta-0.1", 1.0: "digits-2d", 3.0: "beta-3"}
    assert list(ladder) == sorted(ladder)
    lonely = SimpleNamespace(manifest=models["from-the-future"])
    assert compare.ladder_of(lonely, compare.comparable(lonely)) == {}


def test_names_on_the_plane_keep_out_of_each_others_way() -> None:
    def places(*models: tuple[str, float, float], ladder: tuple[str, ...] = ()) -> list[str]:
        points = [ModelPoint(name, name, "mlp", r, 0.1, d, 0.1) for name, r, d in models]
        return list(rate_distortion(points, "", ladder).data[-1].textposition)

    near = (("plane", 7.0, 128.0), ("the-best", 23.9, 65.9), ("the-other", 25.9, 64.7))
    assert places(*near) == ["top right", "top left", "bottom left"]
    assert places(*near[::-1]) == ["bottom left", "top left", "top right"]
    # At the far end a name would leave the plane, and to the upper left it would cross the line.
    ends = (("weighty", 15.0, 80.0), ("usual-one", 30.0, 41.0))
    assert places(*ends) == ["top right", "top left"]
    assert places(*ends, ladder=("weighty", "usual-one")) == ["top right", "bottom left"]
    # The longest leave it either way, and the least to the left.
    assert places(("short", 4.0, 15.0), ("x" * 29, 9.1, 14.0))[1] == "top left"

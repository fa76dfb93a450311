"""What may be compared with what, and which models form a ladder."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from vae.figures.compare import ModelPoint, codes, rate_distortion
from vae.store.card import Card, card_of
from vae.store.registry import Entry
from vae.training.presets import PRESETS
from vae.ui import badges as honesty
from vae.ui.models import compare

ROOT = Path(__file__).parents[1]


def card_like(
    preset: str, data: dict | None = None, elbo: float = -90.0, **changes: object
) -> Card:
    """The card of a model of a preset, with some settings changed, of some images and ELBO."""
    manifest = json.loads((ROOT / "checkpoints" / "digits-2d" / "manifest.json").read_text())
    config = asdict(PRESETS[preset]) | changes
    manifest["config"] = config
    manifest["model"] |= {name: config[name] for name in ("likelihood", "binarize")}
    if config["data"] == "sprites":
        manifest["model"]["image"] |= {"height": 64, "width": 64, "levels": 2}
    manifest["data"] |= {"name": config["data"], **(data or {})}
    manifest["metrics"]["elbo"] = elbo
    return card_of(json.dumps(manifest).encode(), preset)


def opened(models: dict[str, Card], name: str) -> SimpleNamespace:
    return SimpleNamespace(name=name, card=models[name])


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> dict[str, Card]:
    found = {
        "digits-2d": card_like("digits-2d"),
        "beta-3": card_like("digits-2d-beta-3"),
        "beta-0.1": card_like("digits-2d-beta-0.1", title="Another title"),
        "other-seed": card_like("digits-2d-beta-3", seed=1),
        "warmed-up": card_like("digits-2d-beta-3", beta_schedule="warm_up"),
        "digits-10d": card_like("digits-10d"),
        "mistaken": card_like("digits-2d", objective="batch_moment_kl"),
        "binary": card_like("digits-binary-2d"),
        "density": card_like("digits-2d", likelihood="continuous_bernoulli"),
        "sprites": card_like("sprites-10d"),
        "from-the-future": card_like("digits-2d", nobody_knows=1),
    }

    def entries() -> dict[str, Entry]:
        usable = {name: Entry(name, Path(name), card) for name, card in found.items()}
        return usable | {"broken": Entry("broken", Path("broken"), None, "It is damaged.")}

    monkeypatch.setattr(compare.access, "entries", entries)
    return found


def test_only_what_speaks_of_the_same_pixels_is_compared(models: dict[str, Card]) -> None:
    same = compare.comparable(opened(models, "digits-2d"))
    assert set(models) - set(same) == {"binary", "density", "sprites"}
    assert set(compare.comparable(opened(models, "binary"))) == {"binary"}


def test_the_same_images_are_known_by_what_they_hold(models: dict[str, Card]) -> None:
    splits = dict.fromkeys(("train", "validation", "calibration"), {"images": 9, "sha256": "a"})
    mine = {"name": "folder:/photos", "digest": "before", "splits": splits}
    others = splits | {"train": {"images": 9, "sha256": "b"}}
    models["digits-2d"] = card_like("digits-2d", mine)
    # The folder has grown since; the same folder elsewhere; the same images split otherwise.
    models["beta-3"] = card_like("digits-2d-beta-3", {**mine, "digest": "after"})
    models["beta-0.1"] = card_like("digits-2d-beta-0.1", {**mine, "name": "folder:/copy"})
    models["other-seed"] = card_like("digits-2d-beta-3", {**mine, "splits": others})
    same = compare.comparable(opened(models, "digits-2d"))
    assert set(same) == {"digits-2d", "beta-0.1"}


def test_a_proper_likelihood_is_named_of_the_same_images_only(
    models: dict[str, Card], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(honesty.access, "entries", compare.access.entries)
    photos = {"name": "folder:/photos", "digest": "before"}
    model = SimpleNamespace(card=card_like("digits-2d", photos, likelihood="bernoulli_grey"))
    for name in models:
        models[name] = card_like("digits-2d", {"name": "another", "digest": "another"})
    models["digits-2d"] = card_like("digits-2d", photos | {"digest": "after"})
    assert "train with" in honesty._proper(model)
    models["digits-2d"] = card_like("digits-2d", photos | {"name": "folder:/moved"})
    assert "The model digits-2d has" in honesty._proper(model)


def test_a_ladder_differs_in_beta_alone(models: dict[str, Card]) -> None:
    model = opened(models, "digits-2d")
    ladder = compare.ladder_of(model, compare.comparable(model))
    assert ladder == {0.1: "beta-0.1", 1.0: "digits-2d", 3.0: "beta-3"}
    assert list(ladder) == sorted(ladder)
    lonely = opened(models, "from-the-future")
    assert compare.ladder_of(lonely, compare.comparable(lonely)) == {}


def test_of_models_trained_alike_the_chosen_one_stands_on_the_ladder(
    models: dict[str, Card],
) -> None:
    for name, elbo in (("again", -80.0), ("worse-3", -99.0)):
        beta = "digits-2d" if name == "again" else "digits-2d-beta-3"
        models[name] = card_like(beta, elbo=elbo)
    names = {}
    for name in ("digits-2d", "again"):
        names[name] = compare.ladder_of(opened(models, name), models)
        assert names[name][1.0] == name
    # Of two others with one weight the better one.
    assert names["again"][3.0] == "beta-3"


def test_standing_says_it_plainly(models: dict[str, Card]) -> None:
    best = card_like("digits-2d-beta-3", elbo=-12.5)
    three = {"digits-2d": models["digits-2d"], "beta-3": best, "a<b": models["digits-2d"]}
    model = opened(models, "digits-2d")
    alone = compare.standing(model, {"digits-2d": models["digits-2d"]})
    assert "no other model of the same images" in alone
    assert "1 model" not in alone
    assert "3 models" in compare.standing(model, three)
    assert "beta-3" in compare.standing(model, three)
    assert "this one" in compare.standing(opened(models, "beta-3"), three)
    three["a<b"] = card_like("digits-2d", elbo=-1.0)
    assert "a&lt;b" in compare.standing(model, three)


def test_class_names_on_the_map_of_codes_do_not_overlap() -> None:
    generator = np.random.default_rng(0)
    middles = np.array([[0, 0], [0.1, 0.05], [0.05, 0.1], [2, 2]])
    labels = np.repeat(np.arange(4), 50)
    mu = middles[labels] + generator.normal(0, 0.01, (200, 2))
    found = codes(mu, np.full((200, 2), 0.1), labels, ["one", "two", "three", "<four>"])
    shown = {one.text: np.array([one.x, one.y]) for one in found.layout.annotations}
    assert {"<b>one</b>", "<b>&lt;four&gt;</b>"} <= set(shown)
    # Two lines of text on a figure of 380 pixels for 7.2 units lie 0.48 units apart.
    places = list(shown.values())
    for k, place in enumerate(places):
        assert all((np.abs(place - other) > (0.5, 0.45)).any() for other in places[:k])


def test_a_lone_model_has_room_for_its_error_bars() -> None:
    point = ModelPoint("one", "one", "mlp", 1.2, 0.1, 2_500.0, 240.0)
    low, high = rate_distortion([point], "one", []).layout.yaxis.range
    assert low < 2_260 < 2_740 < high


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

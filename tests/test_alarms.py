"""What alarms catch, and the command that measures it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_cli import run as run_in_here

from vae.data.sets.datasets import open_data
from vae.data.spec import ImageSpec
from vae.scoring.alarms import KINDS, alarm_rates, letters, strange_images

run = run_in_here  # a fixture


@pytest.mark.parametrize("name", [pytest.param("digits-2d", marks=pytest.mark.slow), "digits-10d"])
def test_what_is_no_image_is_flagged(name: str, checkpoint) -> None:
    found = alarm_rates(checkpoint(name), evidence=False)
    assert found.rate == 0.01 and (found.low, found.high) == pytest.approx(
        (0.0033, 0.0204), abs=1e-4
    )
    for kind in ("noise", "inverted", "shuffled pixels"):
        assert found.shares[kind]["ELBO"] >= 0.99
    # And normal images are not: the stated rate holds on those that nothing has seen.
    assert found.shares["untouched"]["ELBO"] <= 0.045  # P(more than 9 of 200) < 0.001
    assert set(found.shares) == set(KINDS) - {"digits"} == set(found.images)
    assert all(0 <= share <= 1 for kind in found.shares.values() for share in kind.values())


def test_strange_images_are_what_they_are_called() -> None:
    data = open_data("digits")
    levels, spec = data.read(data.splits.validation[:50]), data.spec
    kinds = strange_images(levels, spec)
    assert np.array_equal(kinds["inverted"], 16 - levels)
    # Turned by half a turn: first row from the right is last row from the left, nothing mirrored.
    assert np.array_equal(kinds["upside-down"], levels[:, :, ::-1, ::-1])
    assert np.array_equal(kinds["rotated by 90°"][:, :, 0], levels[..., -1])
    assert np.array_equal(
        np.sort(kinds["shuffled pixels"].reshape(50, -1)), np.sort(levels.reshape(50, -1))
    )
    assert kinds["half contrast"].max() == 8 and kinds["blank"].max() == 0
    assert abs(kinds["noise"].mean() - 8) < 0.5
    for kind, images in kinds.items():
        assert images.dtype == np.uint8 and images.shape[1:] == spec.shape, kind
        assert images.max() < spec.levels, kind
        assert kind in KINDS
    again = strange_images(levels, spec)
    assert all(np.array_equal(again[kind], kinds[kind]) for kind in kinds)


@pytest.mark.parametrize("background", [0.0, 1.0])
def test_letters_fill_the_frame(background: float) -> None:
    spec = ImageSpec(3, 20, 30, 256, background)
    drawn = letters(9, spec, np.random.default_rng(0))
    assert drawn.shape == (9, 3, 20, 30) and len(np.unique(drawn.reshape(9, -1), axis=0)) > 5
    ink = drawn if background == 0 else 255 - drawn
    assert (ink.max((1, 2, 3)) > 200).all() and (np.median(ink, (1, 2, 3)) < 128).all()
    assert (ink.any((1, 3)).mean(-1) > 0.9).all()  # on nearly every row


def test_the_table(run) -> None:
    flags = ("alarms", "digits-2d", "--limit", "20", "--rate", "0.05", "--no-evidence")
    table = run(*flags)
    assert table.code == 0 and "5.00 % false alarms (95 %: 3.2" in table.out
    assert [line for line in table.out.splitlines() if line.startswith("  noise")]
    document = json.loads(run(*flags, "--json").out)
    assert document["model"] == "digits-2d" and document["shares"]["noise"]["ELBO"] == 1.0
    refused = run("alarms", "digits-2d", "--rate", "0.001")
    assert refused.code == 2 and "499 calibration images" in refused.sentence()

"""A run's curves: every number of its history, and names that can be told apart."""

from __future__ import annotations

import pytest

from vae.figures.training import curves, dimension_curves


def history_of(*rows: list[float]) -> list[dict]:
    return [
        {
            "step": 100 * (number + 1),
            "train": {"elbo": -90.0 - number, "rate": 5.0 + number, "distortion": 85.0},
            "validation": {
                "elbo": -95.0 - number, "rate": sum(row), "distortion": 90.0, "kl_per_dim": row
            },
        }
        for number, row in enumerate(rows)
    ]  # fmt: skip


def test_both_splits_are_drawn_as_they_were_recorded() -> None:
    training, held_out = curves(history_of([1.0, 2.0], [3.0, 2.5]), "rate").data
    assert training.x == held_out.x == (100, 200)
    assert (training.y, held_out.y) == ((5.0, 6.0), (3.0, 5.5))
    assert (training.line.dash, held_out.line.dash) == ("dot", "solid")


@pytest.mark.parametrize(
    ("ends", "names"),
    [
        ([1.0, 3.0], ["z2", "z1"]),
        ([3.0, 2.95], ["z1", "z2"]),  # moved apart
        ([3.0, 3.0, 3.0, 1.0], ["z1", "z2"]),  # the third would stand too far from its curve
        ([0.1, 0.2, 3.0, 4.0], ["z4", "z3", "z2"]),
    ],
)
def test_names_stand_apart_and_near_their_curves(ends: list[float], names: list[str]) -> None:
    figure = dimension_curves(history_of([0.5] * len(ends), ends))
    assert len(figure.data) == len(ends)
    labels = figure.layout.annotations
    assert [label.text for label in labels] == names
    heights, line = [label.y for label in labels], 0.09 * max(ends)
    for above, below in zip(heights, heights[1:], strict=False):
        assert above - below >= line - 1e-9
    for label, height in zip(labels, heights, strict=True):
        assert 0 <= ends[int(label.text[1:]) - 1] - height <= line + 1e-9


def test_only_the_largest_of_many_dimensions_are_drawn() -> None:
    figure = dimension_curves(history_of([0.1 * d for d in range(64)]))
    assert [curve.hovertemplate.split(",")[0] for curve in figure.data] == [
        f"z{d}" for d in range(64, 44, -1)
    ]

"""Models side by side: the rate-distortion plane, one image under two of them, their maps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from textwrap import wrap
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from vae.figures import palette
from vae.figures.frame import literal, nats, new_figure, square_axes
from vae.figures.plane import cluster_labels
from vae.figures.sample_elbo import block_sums

__all__ = ["ModelPoint", "codes", "model_difference", "rate_distortion"]

_SYMBOLS = {"mlp": "circle", "conv": "square", "resnet": "diamond"}
_TURN = np.linspace(0, 2 * np.pi, 49)
# Shares of the plane's width and height on a phone: a mark's half, a letter, a line of text.
_HALF_MARK, _LETTER, _LINE = np.array([0.035, 0.016]), 0.033, 0.04
_PLACES = {
    "top right": np.array([1, 1]),
    "top left": np.array([-1, 1]),
    "bottom right": np.array([1, -1]),
    "bottom left": np.array([-1, -1]),
}
# Letters on a line of a name, which is broken at hyphens.
_LETTERS = 12
# More marks than this make a chart slow.
_MOST_POINTS = 2_000


class ModelPoint(NamedTuple):
    """A model on the rate-distortion plane, in nats.

    Attributes:
        name: The model.
        label: What stands beside its mark.
        network: Its kind of network, which decides the mark.
        rate: The mean KL.
        rate_se: Its standard error.
        distortion: Minus the mean expected log-likelihood.
        distortion_se: Its standard error.
    """

    name: str
    label: str
    network: str
    rate: float
    rate_se: float
    distortion: float
    distortion_se: float


def rate_distortion(
    points: Sequence[ModelPoint], current: str, ladder: Sequence[str], height: int = 480
) -> go.Figure:
    r"""Models by what their codes cost and what drawing from them costs.

    Args:
        points: The models, all of the same data.
        current: The chosen model, which is ringed.
        ladder: Models that differ in beta alone, by rising beta; a line joins them.
        height: In pixels.

    Returns:
        The figure; every point carries its place in ``points`` as ``customdata[0]``.
    """
    figure = new_figure(height, "rate: mean KL, nats", "distortion: −mean E log p(x|z), nats")
    rates, distortions = (
        np.array([getattr(p, key) for p in points]) for key in ("rate", "distortion")
    )
    # A lone mark leaves room for its own error bars.
    errors = max(p.rate_se for p in points), max(p.distortion_se for p in points)
    room = [
        max(share * float(np.ptp(values)), 0.5, 1.2 * error)
        for share, values, error in zip((0.12, 0.15), (rates, distortions), errors, strict=True)
    ]
    ends = np.array([max(0.0, rates.min() - room[0]), rates.max() + 2 * room[0]])
    low, high = distortions.min() - room[1], distortions.max() + room[1]
    corners = np.array([[ends[0], low], [ends[1], high]])
    _lines_of_equal_elbo(figure, rates + distortions, corners)
    by_name = {point.name: point for point in points}
    steps = [by_name[name] for name in ladder if name in by_name]
    if len(steps) > 1:
        figure.add_scatter(
            x=[p.rate for p in steps],
            y=[p.distortion for p in steps],
            mode="lines",
            line={"color": palette.PRIOR, "width": 2},
            hoverinfo="skip",
        )
    _marks(figure, points, current, _name_places(points, steps, corners))
    figure.update_xaxes(range=ends.tolist())
    figure.update_yaxes(range=[low, high])
    return figure.update_layout(margin={"r": 84, "t": 24}, clickmode="event+select")


def _lines_of_equal_elbo(figure: go.Figure, costs: np.ndarray, corners: np.ndarray) -> None:
    (left, low), (right, high) = corners
    ends = np.array([left, right])
    for level in np.linspace(costs.min(), costs.max(), 5 if np.ptp(costs) > 1e-9 else 1):
        line = {"color": palette.ELBO, "width": 1, "dash": "dot"}
        figure.add_scatter(x=ends, y=level - ends, mode="lines", hoverinfo="skip", line=line)
        if low <= level - right <= high:
            figure.add_annotation(
                x=1,
                xref="paper",
                y=level - right,
                text=f"ELBO {nats(-level)}",
                showarrow=False,
                xanchor="left",
                font={"size": 11},
            )


def _marks(
    figure: go.Figure, points: Sequence[ModelPoint], current: str, places: list[str]
) -> None:
    figure.add_scatter(
        x=[p.rate for p in points],
        y=[p.distortion for p in points],
        mode="markers+text",
        text=["<br>".join(map(literal, wrap(p.label, _LETTERS))) for p in points],
        textposition=places,
        textfont={"size": 12},
        cliponaxis=False,
        customdata=[
            [i, literal(p.name), p.rate_se, p.distortion_se] for i, p in enumerate(points)
        ],
        error_x={"array": [p.rate_se for p in points], "color": palette.PRIOR, "thickness": 1.2},
        error_y={
            "array": [p.distortion_se for p in points],
            "color": palette.PRIOR,
            "thickness": 1.2,
        },
        marker={
            "size": 13,
            "color": palette.ELBO,
            "symbol": [_SYMBOLS.get(p.network, "x") for p in points],
            "line": {
                "color": palette.KL,
                "width": [3 if p.name == current else 0 for p in points],
            },
        },
        hovertemplate="%{customdata[1]}<br>rate %{x:.3f} ± %{customdata[2]:.3f} nats"
        "<br>distortion %{y:.3f} ± %{customdata[3]:.3f} nats<extra></extra>",
    )


def _name_places(
    points: Sequence[ModelPoint], line: Sequence[ModelPoint], corners: np.ndarray
) -> list[str]:
    """Where each name stands beside its mark: where it meets the least and stays on the plane.

    Args:
        points: The models.
        line: Those that the ladder's line joins.
        corners: The plane's lower left and upper right, in nats.
    """

    def share(point: ModelPoint) -> np.ndarray:
        return (np.array([point.rate, point.distortion]) - corners[0]) / np.ptp(corners, axis=0)

    # Rectangles as their centre and half of their size, in shares of the plane.
    taken = [(*share(point), *_HALF_MARK) for point in points]
    for one, other in pairwise(line):
        along = np.linspace(share(one), share(other), 21)
        taken += [(*place, 0, 0) for place in along]
    places: dict[str, str] = {}
    for point in sorted(points, key=lambda point: point.rate):
        lines = wrap(point.label, _LETTERS)
        half = np.array([_LETTER * max(map(len, lines)), _LINE * len(lines)]) / 2
        there, sizes = np.hsplit(np.array(taken), 2)
        met = {}
        for place, side in _PLACES.items():
            centre = share(point) + side * (_HALF_MARK + half)
            outside = np.maximum(np.abs(centre - 0.5) + half - 0.5, 0).sum()
            meets = (np.abs(centre - there) < half + sizes).all(1).sum()
            met[place] = outside + meets
        places[point.name] = best = min(met, key=met.get)
        taken.append((*(share(point) + _PLACES[best] * (_HALF_MARK + half)), *half))
    return [places[point.name] for point in points]


def codes(
    mu: np.ndarray, sigma: np.ndarray, labels: np.ndarray, names: Sequence[str], height: int = 380
) -> go.Figure:
    r"""Posterior means over two dimensions, each class labelled, with the mean code's width.

    Args:
        mu: Posterior means over the two dimensions, with shape :math:`(N, 2)`; of more than
            2,000 some are left out evenly.
        sigma: Posterior standard deviations, with shape :math:`(N, 2)`.
        labels: Class numbers, -1 where there are none, with shape :math:`(N,)`.
        names: Names of the classes.
        height: In pixels.
    """
    figure = new_figure(height, "first latent dimension", "second latent dimension")
    for radius in (1, 2, 3):
        figure.add_scatter(
            x=radius * np.cos(_TURN),
            y=radius * np.sin(_TURN),
            mode="lines",
            hoverinfo="skip",
            line={"color": palette.PRIOR, "width": 1, "dash": "dot"},
        )
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        shown = rows[:: -(-len(mu) // _MOST_POINTS)]
        figure.add_scatter(
            x=mu[shown, 0],
            y=mu[shown, 1],
            mode="markers",
            hoverinfo="skip",
            marker={"size": 5, "color": palette.CLASSES[int(label) % len(palette.CLASSES)]},
        )
    _class_names(figure, mu, labels, names)
    middle = np.median(sigma, axis=0)
    figure.add_scatter(
        x=-2.6 + middle[0] * np.cos(_TURN),
        y=-2.6 + middle[1] * np.sin(_TURN),
        mode="lines",
        line={"color": palette.KL, "width": 2.5},
        hoverinfo="skip",
    )
    return square_axes(figure, 3.6)


def _class_names(
    figure: go.Figure, mu: np.ndarray, labels: np.ndarray, names: Sequence[str]
) -> None:
    taken: list[np.ndarray] = []
    for one in cluster_labels(mu, labels, names):
        half = np.array([0.13 * len(one["text"]) + 0.1, 0.24])
        # On the class's middle, or else just above or below it, or not at all.
        for step in (0, 2, -2):
            at = np.array(one["at"]) + step * half * (0, 1)
            if all((np.abs(at - place[:2]) >= half + place[2:]).any() for place in taken):
                break
        else:
            continue
        taken.append(np.concatenate((at, half)))
        figure.add_annotation(
            x=at[0],
            y=at[1],
            text=f"<b>{literal(one['text'])}</b>",
            showarrow=False,
            borderpad=1,
            bgcolor="rgba(255,255,255,0.82)",
            font={"size": 12, "color": "#1B222D"},
        )


def model_difference(
    first: tuple[np.ndarray, float], second: tuple[np.ndarray, float], height: int = 320
) -> go.Figure:
    r"""Why one model gives an image a higher ELBO than another: part by part, and their sum.

    Args:
        first: Expected log-likelihoods of pixels, :math:`(C, H, W)`, and the KL, in nats.
        second: The same under the model that is subtracted.
        height: In pixels.
    """
    blocks, sums = block_sums(first[0] - second[0])
    values = np.concatenate(([second[1] - first[1]], sums))
    labels = ["−KL", *(f"pixels {name}" for name in blocks), "ELBO"]
    colours = [palette.KL, *[palette.EXPECTED_LOG_LIKELIHOOD] * len(blocks), palette.ELBO]
    figure = new_figure(height, "", "difference, nats", room=(72, 76))
    figure.add_bar(
        x=labels,
        y=[*values, values.sum()],
        marker={"color": colours},
        hovertemplate="%{x}: %{y:.4f} nats<extra></extra>",
    )
    figure.update_layout(bargap=0.12)
    figure.update_xaxes(tickangle=-60, tickfont={"size": 11}, showgrid=False)
    return figure

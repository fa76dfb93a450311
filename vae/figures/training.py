"""A run as it goes: ELBO, rate and distortion by step, and the KL of each dimension."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from vae.figures import palette
from vae.figures.frame import new_figure

__all__ = ["curves", "dimension_curves"]

_MOST_DIMENSIONS, _MOST_NAMES = 20, 3
# Four such charts stand side by side: few numbers, all upright.
_STEPS = {"rangemode": "tozero", "nticks": 4, "tickangle": 0}


def curves(history: Sequence[Mapping[str, Any]], key: str, height: int = 240) -> go.Figure:
    """One quantity by step: solid on validation images, dotted on the training images.

    Args:
        history: The evaluations so far.
        key: ``elbo``, ``rate`` or ``distortion``.
        height: In pixels.
    """
    colour, title = {
        "elbo": (palette.ELBO, "ELBO, nats"),
        "rate": (palette.KL, "rate: mean KL, nats"),
        "distortion": (palette.EXPECTED_LOG_LIKELIHOOD, "distortion, nats"),
    }[key]
    figure = new_figure(height, "step", title)
    steps = [record["step"] for record in history]
    for split, dash in (("train", "dot"), ("validation", "solid")):
        figure.add_scatter(
            x=steps,
            y=[record[split][key] for record in history],
            mode="lines+markers",
            name=f"{split} images",
            line={"color": colour, "width": 2, "dash": dash},
            marker={"size": 5},
            hovertemplate=f"{split}, step %{{x}}: %{{y:.3f}} nats<extra></extra>",
        )
    return figure.update_xaxes(**_STEPS)


def dimension_curves(history: Sequence[Mapping[str, Any]], height: int = 240) -> go.Figure:
    """The mean KL of each latent dimension by step, the largest named at their ends.

    Args:
        history: The evaluations so far, at least one.
        height: In pixels.
    """
    figure = new_figure(height, "step", "KL of a dimension, nats")
    steps = [record["step"] for record in history]
    rows = [record["validation"]["kl_per_dim"] for record in history]
    order = sorted(range(len(rows[-1])), key=lambda d: -rows[-1][d])[:_MOST_DIMENSIONS]
    # Names stand apart by a line's height, each below the name of a larger one.
    apart, above = 0.09 * max(max(row) for row in rows), math.inf
    for place, d in enumerate(order):
        values = [row[d] for row in rows]
        figure.add_scatter(
            x=steps,
            y=values,
            mode="lines+markers",
            marker={"size": 4},
            line={"color": palette.KL, "width": 1.5},
            opacity=1 - 0.7 * place / max(1, len(order)),
            hovertemplate=f"z{d + 1}, step %{{x}}: %{{y:.3f}} nats<extra></extra>",
        )
        height_of_name = min(values[-1], above - apart)
        # Farther down it would seem to be another's.
        if place < _MOST_NAMES and values[-1] - height_of_name <= apart:
            above = height_of_name
            figure.add_annotation(
                x=steps[-1],
                y=above,
                text=f"z{d + 1}",
                showarrow=False,
                xanchor="left",
                xshift=4,
                font={"size": 11},
            )
    return figure.update_xaxes(**_STEPS).update_layout(margin={"r": 36})

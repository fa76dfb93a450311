"""A score among the calibration set's."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from vae.figures import palette
from vae.figures.frame import nats, new_figure

__all__ = ["calibration_histogram"]


def calibration_histogram(
    calibration: np.ndarray, elbos: np.ndarray, highlighted: int | None, height: int = 280
) -> go.Figure:
    """Draws where scores fall among those of held-out images.

    Args:
        calibration: The calibration set's ELBOs in nats, with shape :math:`(n,)`.
        elbos: The scored images' ELBOs in nats, with shape :math:`(B,)`.
        highlighted: Which of them is under discussion, if any.
        height: In pixels.
    """
    figure = new_figure(height, "ELBO, nats", "calibration images")
    figure.add_histogram(
        x=calibration, nbinsx=40, marker={"color": palette.ELBO}, opacity=0.75,
        hovertemplate="ELBO %{x} nats: %{y} calibration images<extra></extra>",
    )  # fmt: skip
    figure.add_scatter(
        x=elbos, y=np.zeros(len(elbos)), mode="markers", name="scored",
        marker={"symbol": "triangle-up", "size": 11, "color": palette.KL},
        hovertemplate="a scored image: %{x:.2f} nats<extra></extra>", cliponaxis=False,
    )  # fmt: skip
    if highlighted is not None:
        figure.add_vline(x=elbos[highlighted], line={"color": palette.KL, "width": 2})
        figure.add_annotation(
            x=elbos[highlighted], y=1, yref="paper", text=f"this image {nats(elbos[highlighted])}",
            showarrow=False, yanchor="bottom", font={"size": 12},
        )  # fmt: skip
        figure.update_layout(margin={"t": 28})
    return figure.update_layout(bargap=0.04)

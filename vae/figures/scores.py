"""A score among the calibration set's, and a code among the reference set's."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from vae.figures import palette
from vae.figures.frame import nats, new_figure, ring_selected

__all__ = ["calibration_histogram", "code_place", "difference_map"]

_TURN = np.linspace(0, 2 * np.pi, 49)
# Above this many points a chart would need WebGL; the picture is the same with fewer.
_MOST_POINTS = 1_500
# How many widths of the histogram a score may lie below it before it is shown at the edge.
_FAR = 2.0


def calibration_histogram(
    calibration: np.ndarray,
    elbos: np.ndarray,
    highlighted: int | None,
    threshold: float | None = None,
    height: int = 280,
) -> go.Figure:
    """Draws where scores fall among those of held-out images.

    Args:
        calibration: The calibration set's ELBOs in nats, with shape :math:`(n,)`.
        elbos: The scored images' ELBOs in nats, with shape :math:`(B,)`.
        highlighted: Which of them is under discussion, if any.
        threshold: The ELBO in nats at or below which images are flagged, if any.
        height: In pixels.
    """
    figure = new_figure(height, "ELBO, nats", "calibration images")
    figure.add_histogram(
        x=calibration,
        nbinsx=40,
        marker={"color": palette.ELBO},
        opacity=0.75,
        hovertemplate="ELBO %{x} nats: %{y} calibration images<extra></extra>",
    )
    # A score far away would squeeze the histogram to a line: it is shown at the edge instead.
    far = float(calibration.min() - _FAR * np.ptp(calibration))
    places = np.maximum(elbos, far)
    low = float(min(calibration.min(), places.min()))
    high = float(max(calibration.max(), places.max()))
    room = 0.04 * (high - low) + 1e-6
    if threshold is not None:
        _flagged(figure, threshold, low - room, threshold < low + 0.35 * (high - low))
    figure.add_scatter(
        x=places,
        y=np.zeros(len(elbos)),
        mode="markers",
        name="scored",
        customdata=elbos,
        marker={
            "symbol": np.where(elbos < far, "triangle-left", "triangle-up"),
            "size": 11,
            "color": palette.KL,
        },
        hovertemplate="a scored image: %{customdata:,.2f} nats<extra></extra>",
        cliponaxis=False,
    )
    if highlighted is not None:
        place, elbo = places[highlighted], elbos[highlighted]
        words = f"this image {nats(elbo)}"
        words = words if elbo >= far else f"← this image, far outside: {nats(elbo)}"
        _named(figure, place, words, place < (low + high) / 2)
    figure.update_xaxes(range=[low - room, high + room])
    return figure.update_layout(bargap=0.04)


def _named(figure: go.Figure, place: float, words: str, right: bool) -> None:
    """A line with words above it, to its right or left."""
    figure.add_vline(x=place, line={"color": palette.KL, "width": 2})
    figure.add_annotation(
        x=place,
        y=1,
        yref="paper",
        text=words,
        showarrow=False,
        xanchor="left" if right else "right",
        yanchor="bottom",
        font={"size": 12},
    )
    figure.update_layout(margin={"t": 28})


def _flagged(figure: go.Figure, threshold: float, low: float, right: bool) -> None:
    """Shades what is flagged, from ``low`` on, with words on the side where there is room."""
    shade = {"fillcolor": palette.PRIOR, "opacity": 0.18, "line_width": 0, "layer": "below"}
    figure.add_vrect(x0=low, x1=threshold, **shade)
    figure.add_vline(x=threshold, line={"color": palette.PRIOR, "width": 2, "dash": "dash"})
    figure.add_annotation(
        x=threshold,
        y=1,
        yref="paper",
        text=f"flagged below {nats(threshold)}",
        showarrow=False,
        xanchor="left" if right else "right",
        yanchor="top",
        xshift=6 if right else -6,
        font={"size": 12},
    )


def difference_map(sent: np.ndarray, decoded: np.ndarray, height: int = 300) -> go.Figure:
    r"""Draws what an image has more or less than another, pixel by pixel.

    Args:
        sent: In [0, 1], with shape :math:`(C, H, W)`.
        decoded: In [0, 1], with shape :math:`(C, H, W)`.
        height: In pixels.

    Returns:
        ``sent - decoded``, the mean over channels, on a scale that is even about zero.
    """
    difference = (sent - decoded).mean(0)
    rows, columns = difference.shape
    figure = new_figure(height, room=(8, 40))
    figure.add_heatmap(
        z=difference,
        x=np.arange(1, columns + 1),
        y=np.arange(1, rows + 1),
        colorscale="PuOr",
        zmin=-1,
        zmax=1,
        colorbar={
            "orientation": "h",
            "thickness": 10,
            "y": -0.04,
            "yanchor": "top",
            "outlinewidth": 0,
            "tickvals": [-1, 0, 1],
            "ticktext": ["less", "equal", "more"],
        },
        hovertemplate="row %{y}, column %{x}: %{z:+.2f} of full tone<extra></extra>",
    )
    figure.update_xaxes(visible=False, constrain="domain")
    figure.update_yaxes(visible=False, autorange="reversed", scaleanchor="x", constrain="domain")
    return figure


def code_place(
    means: np.ndarray,
    code: tuple[np.ndarray, np.ndarray],
    axes: tuple[int, int],
    near: np.ndarray,
    moved: np.ndarray | None = None,
    height: int = 300,
) -> go.Figure:
    r"""Draws an image's own Gaussian among the reference set's posterior means.

    Args:
        means: The reference set's posterior means, with shape :math:`(N, D)`.
        code: Mean and standard deviation of the image's q, each :math:`(D,)`.
        axes: The dimensions across and up.
        near: Positions of the nearest reference images, which are marked.
        moved: Where the smallest move to a passing image ends, if there is one, :math:`(D,)`.
        height: In pixels.
    """
    across, up = axes
    figure = new_figure(height, f"latent dimension {across + 1}", f"latent dimension {up + 1}")
    shown = means[:: -(-len(means) // _MOST_POINTS)]
    figure.add_scatter(
        x=shown[:, across],
        y=shown[:, up],
        mode="markers",
        hoverinfo="skip",
        marker={"size": 4, "color": palette.PRIOR, "opacity": 0.7},
    )
    figure.add_scatter(
        x=means[near, across],
        y=means[near, up],
        mode="markers",
        customdata=near[:, None],
        marker={"size": 9, "symbol": "diamond", "color": palette.EVIDENCE},
        hovertemplate="held-out image %{customdata[0]}<extra></extra>",
    )
    mu, sigma = code
    for radius in (1, 2):
        figure.add_scatter(
            x=mu[across] + radius * sigma[across] * np.cos(_TURN),
            y=mu[up] + radius * sigma[up] * np.sin(_TURN),
            mode="lines",
            hoverinfo="skip",
            line={"color": palette.KL, "width": 2},
        )
    if moved is not None:
        figure.add_scatter(
            x=[mu[across], moved[across]],
            y=[mu[up], moved[up]],
            mode="lines+markers",
            line={"color": palette.ELBO, "width": 2, "dash": "dot"},
            marker={"size": [0, 11], "symbol": "star", "color": palette.ELBO},
            hovertemplate="the nearest that passes<extra></extra>",
        )
    ring_selected(figure, mu[across], mu[up], "this image")
    return figure

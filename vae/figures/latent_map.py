"""The plane of posterior means, each with its own Gaussian, and the same plane decoded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from vae.figures import palette
from vae.figures.frame import new_figure, ring_selected, square_axes
from vae.figures.pictures import contact_sheet, data_url, to_bytes

__all__ = ["latent_map", "manifold"]

_TURN = np.linspace(0, 2 * np.pi, 49)
_SYMBOLS = (
    "circle", "square", "diamond", "cross", "x",
    "triangle-up", "triangle-down", "pentagon", "star", "hexagon",
)  # fmt: skip


def latent_map(
    mu: np.ndarray,
    sigma: np.ndarray,
    axes: tuple[int, int],
    colour: np.ndarray,
    colour_title: str,
    class_names: Sequence[str],
    hover: np.ndarray,
    selected: int,
    all_ellipses: bool,
    height: int = 520,
) -> go.Figure:
    r"""Draws posterior means over two latent dimensions.

    Args:
        mu: Posterior means, with shape :math:`(N, D)`.
        sigma: Posterior standard deviations, with shape :math:`(N, D)`.
        axes: The dimensions across and up.
        colour: Class numbers (with ``class_names``) or values, with shape :math:`(N,)`.
        colour_title: What the colour shows, with its unit.
        class_names: Names of the classes; empty where ``colour`` is a quantity.
        hover: KL, expected log-likelihood and ELBO of each, with shape :math:`(N, 3)`.
        selected: The chosen sample; its ellipses of 1 and 2 standard deviations are drawn.
        all_ellipses: Whether to draw every sample's own ellipse of 1 standard deviation.
        height: In pixels.

    Returns:
        The figure; every point carries its sample's number as ``customdata[0]``.
    """
    across, up = axes
    figure = new_figure(height, f"latent dimension {across + 1}", f"latent dimension {up + 1}")
    for radius in (1, 2, 3):
        figure.add_scatter(
            x=radius * np.cos(_TURN), y=radius * np.sin(_TURN), mode="lines", hoverinfo="skip",
            line={"color": palette.PRIOR, "width": 1, "dash": "dot"},
        )  # fmt: skip
    if all_ellipses:
        x, y = _ellipses(mu[:, axes], sigma[:, axes], 1)
        figure.add_scatter(
            x=x, y=y, mode="lines", hoverinfo="skip",
            line={"color": palette.PRIOR, "width": 0.7}, opacity=0.6,
        )  # fmt: skip
    template = (
        "sample %{customdata[0]}<br>KL %{customdata[1]:.2f} nats<br>"
        "expected log-likelihood %{customdata[2]:.1f} nats<br>ELBO %{customdata[3]:.1f} nats"
    )
    numbers = np.arange(len(mu))
    if class_names:
        for label in np.unique(colour):
            rows = np.flatnonzero(colour == label)
            name = class_names[label] if label >= 0 else "unlabelled"
            slot = int(label) % len(palette.CLASSES)
            figure.add_scatter(
                x=mu[rows, across], y=mu[rows, up], mode="markers", name=name,
                customdata=np.column_stack((numbers[rows], hover[rows])),
                hovertemplate=f"{name}, {template}<extra></extra>",
                marker={
                    "size": 7, "color": palette.CLASSES[slot], "symbol": _SYMBOLS[slot],
                    "line": {"width": 0.5, "color": "rgba(255,255,255,0.6)"},
                },
            )  # fmt: skip
            # A label at the cluster's densest place, so that colour is never the only sign.
            middle = np.median(mu[rows][:, axes], axis=0)
            figure.add_annotation(
                x=middle[0], y=middle[1], text=f"<b>{name}</b>", showarrow=False,
                bgcolor="rgba(255,255,255,0.82)", borderpad=2,
                font={"size": 13, "color": "#1B222D"},
            )  # fmt: skip
    else:
        figure.add_scatter(
            x=mu[:, across], y=mu[:, up], mode="markers",
            customdata=np.column_stack((numbers, hover)),
            hovertemplate=f"{template}<extra></extra>",
            marker={
                "size": 7, "color": colour, "colorscale": palette.SEQUENTIAL,
                "line": {"width": 0.5, "color": palette.HAIRLINE},
                "colorbar": {"title": {"text": colour_title, "side": "right"}, "thickness": 12},
            },
        )  # fmt: skip
    for radius, width in ((1, 2.5), (2, 1.5)):
        x, y = _ellipses(mu[[selected]][:, axes], sigma[[selected]][:, axes], radius)
        figure.add_scatter(
            x=x, y=y, mode="lines", hoverinfo="skip",
            line={"color": palette.KL, "width": width},
        )  # fmt: skip
    ring_selected(figure, mu[selected, across], mu[selected, up])
    span = max(3.4, 1.06 * float(np.abs(mu[:, axes]).max()))
    return square_axes(figure, span).update_layout(clickmode="event+select")


def manifold(frames: np.ndarray, span: float, chosen: np.ndarray, height: int = 520) -> go.Figure:
    r"""Draws what the decoder makes of every place of a two-dimensional latent space.

    Args:
        frames: A decoded lattice in [0, 1], with shape :math:`(S, S, C, H, W)`.
        span: The lattice, and so the axes, cover :math:`[-s, s]^2`.
        chosen: The chosen sample's mean, with shape :math:`(2,)`.
        height: In pixels.
    """
    side = frames.shape[0]
    # Hairlines between the frames, so that each is seen as one image.
    sheet = contact_sheet(frames.reshape(-1, *frames.shape[2:]), side, gap=1, ground=0.25)
    figure = new_figure(height, "latent dimension 1", "latent dimension 2")
    figure.add_layout_image(
        source=data_url(to_bytes(sheet), enlarge=max(1, 1200 // sheet.shape[-1])),
        xref="x", yref="y", x=-span, y=span, sizex=2 * span, sizey=2 * span,
        sizing="stretch", layer="below",
    )  # fmt: skip
    ring_selected(figure, chosen[0], chosen[1], "the chosen sample")
    return square_axes(figure, span)


def _ellipses(mu: np.ndarray, sigma: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Axis-parallel ellipses as one broken line: NaN lifts the pen."""
    x = mu[:, :1] + radius * sigma[:, :1] * np.cos(_TURN)
    y = mu[:, 1:] + radius * sigma[:, 1:] * np.sin(_TURN)
    pad = ((0, 0), (0, 1))
    return (
        np.pad(x, pad, constant_values=np.nan).ravel(),
        np.pad(y, pad, constant_values=np.nan).ravel(),
    )

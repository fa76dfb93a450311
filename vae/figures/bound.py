"""Prior, posterior and q of one image, where they lie in the latent space."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from vae.figures import palette
from vae.figures.frame import new_figure, square_axes

__all__ = ["densities_on_a_line", "three_densities", "two_clouds"]

_TURN = np.linspace(0, 2 * np.pi, 73)

# From nothing to the colour of the evidence, so that the page shows through.
_EVIDENCE = [
    [0, "rgba(41,166,104,0)"],
    [0.04, "rgba(41,166,104,0.12)"],
    [0.35, "rgba(41,166,104,0.55)"],
    [1, "rgba(41,166,104,1)"],
]


def densities_on_a_line(
    z: np.ndarray,
    posterior: np.ndarray,
    q: tuple[np.ndarray, np.ndarray],
    best: tuple[np.ndarray, np.ndarray] | None,
    height: int = 520,
) -> go.Figure:
    r"""The prior, the true posterior and q over one latent dimension, and the best q.

    Args:
        z: Evenly spaced places, with shape :math:`(G,)`.
        posterior: The density of :math:`p(z \mid x)`, likewise.
        q: Mean and standard deviation of :math:`q(z \mid x)`, each :math:`(1,)`.
        best: The same of q*, if it was computed.
        height: In pixels.
    """
    figure = new_figure(height, "latent dimension 1", "density", room=(72, 110))
    figure.add_scatter(
        x=z,
        y=posterior,
        mode="lines",
        name="true posterior p(z|x)",
        fill="tozeroy",
        line={"color": palette.EVIDENCE, "width": 2},
        hovertemplate="p(z|x) at %{x:.2f}: %{y:.3g}<extra></extra>",
    )
    curves = [
        ("prior p(z)", (np.zeros(1), np.ones(1)), palette.PRIOR, "dot"),
        ("q(z|x), the encoder's", q, palette.KL, "solid"),
    ]
    if best is not None:
        curves.append(("q*, the best of its kind", best, palette.ELBO, "dash"))
    for name, (mu, sigma), colour, dash in curves:
        density = np.exp(-0.5 * ((z - mu) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
        figure.add_scatter(
            x=z,
            y=density,
            mode="lines",
            hoverinfo="skip",
            name=name,
            line={"color": colour, "width": 2, "dash": dash},
        )
    return figure.update_layout(showlegend=True, legend={"orientation": "h", "y": -0.16})


def three_densities(
    axis: np.ndarray,
    posterior: np.ndarray,
    q: tuple[np.ndarray, np.ndarray],
    best: tuple[np.ndarray, np.ndarray] | None,
    centre: tuple[np.ndarray, np.ndarray],
    height: int = 520,
) -> go.Figure:
    r"""The prior, the true posterior and q on one plane, and the best q of the family.

    Args:
        axis: Grid values of both axes around the centre, as two rows, with shape :math:`(2, G)`.
        posterior: The density of :math:`p(z \mid x)`, :math:`(G, G)`, rows along the second axis.
        q: Mean and standard deviation of :math:`q(z \mid x)`, each :math:`(2,)`.
        best: The same of q*, if it was computed.
        centre: The middle and the half-width of the window, each :math:`(2,)`.
        height: In pixels.
    """
    figure = new_figure(height, "latent dimension 1", "latent dimension 2", room=(60, 110))
    peak = float(posterior.max())
    figure.add_heatmap(
        x=axis[0],
        y=axis[1],
        z=posterior,
        zmin=0,
        zmax=peak,
        name="posterior",
        colorscale=_EVIDENCE,
        showscale=False,
        hovertemplate="p(z|x) at (%{x:.2f}, %{y:.2f}): %{z:.3g}<extra></extra>",
    )
    zero, one = np.zeros(2), np.ones(2)
    curves = [("prior p(z), 1 to 3 sd", (zero, one), (1, 2, 3), palette.PRIOR, 1, "dot")]
    curves.append(("q(z|x), the encoder's, 1 and 2 sd", q, (1, 2), palette.KL, 2, "solid"))
    if best is not None:
        name = "q*, the best of its kind, 1 and 2 sd"
        curves.append((name, best, (1, 2), palette.ELBO, 2, "dash"))
    for name, (mu, sigma), radii, colour, width, dash in curves:
        x, y = mu[:, None] + sigma[:, None] * _rings(radii)
        figure.add_scatter(
            x=x,
            y=y,
            mode="lines",
            hoverinfo="skip",
            name=name,
            line={"color": colour, "width": width, "dash": dash},
        )
    figure.add_scatter(
        x=[None],
        y=[None],
        mode="markers",
        name="true posterior p(z|x)",
        marker={"color": palette.EVIDENCE, "symbol": "square", "size": 12},
    )
    middle, half = centre
    square_axes(figure, 1)
    figure.update_xaxes(range=[middle[0] - half[0], middle[0] + half[0]])
    figure.update_yaxes(range=[middle[1] - half[1], middle[1] + half[1]])
    return figure.update_layout(showlegend=True, legend={"orientation": "h", "y": -0.16})


def _rings(radii: Sequence[int]) -> np.ndarray:
    """Circles about 0 as one line, with shape (2, n): NaN lifts the pen between them."""
    ring = np.stack((np.append(np.cos(_TURN), np.nan), np.append(np.sin(_TURN), np.nan)))
    return np.concatenate([radius * ring for radius in radii], axis=1)


def two_clouds(
    q: np.ndarray, posterior: np.ndarray, axes: tuple[int, int], height: int = 480
) -> go.Figure:
    r"""Draws from q and, resampled by their weights, from the posterior, over two dimensions.

    Args:
        q: Draws from :math:`q(z \mid x)`, with shape :math:`(N, D)`.
        posterior: Draws resampled by importance weight, with shape :math:`(N, D)`.
        axes: The dimensions across and up.
        height: In pixels.
    """
    across, up = axes
    figure = new_figure(
        height, f"latent dimension {across + 1}", f"latent dimension {up + 1}", room=(56, 90)
    )
    for name, z, colour, symbol, size in (
        ("q(z|x), the encoder's", q, palette.KL, "circle-open", 5),
        ("p(z|x), by importance resampling", posterior, palette.EVIDENCE, "x", 6),
    ):
        figure.add_scatter(
            x=z[:, across],
            y=z[:, up],
            mode="markers",
            name=name,
            hoverinfo="skip",
            marker={"color": colour, "symbol": symbol, "size": size, "opacity": 0.6},
        )
    return figure.update_layout(showlegend=True, legend={"orientation": "h", "y": -0.16})

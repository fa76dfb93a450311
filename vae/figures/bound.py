"""How far the ELBO lies below log p(x), and what lies between."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from vae.figures import palette
from vae.figures.frame import nats, new_figure, square_axes

__all__ = ["Rung", "ladder", "three_densities", "two_clouds"]

_TURN = np.linspace(0, 2 * np.pi, 73)

Rung = tuple[str, float, float]


def ladder(rungs: Sequence[Rung], marks: Sequence[Rung], top: str, height: int = 420) -> go.Figure:
    """Bounds on one axis of nats: the ladder from below, and single values beside it.

    Args:
        rungs: Name, value and standard error (0 where exact) of each rung in nats, rising.
        marks: The same for values that are no rungs, drawn above.
        top: The name of the exact value among the rungs, if there is one; else empty.
        height: In pixels.
    """
    figure = new_figure(height, "nats (higher is closer to the truth)", room=(150, 52))
    figure.add_scatter(
        x=[value for _, value, _ in rungs], y=[name for name, _, _ in rungs], mode="lines",
        line={"color": palette.PRIOR, "width": 1, "dash": "dot"}, hoverinfo="skip",
    )  # fmt: skip
    for group, colour in ((rungs, palette.EVIDENCE), (marks, palette.ELBO)):
        errors = [error for _, _, error in group]
        figure.add_scatter(
            x=[value for _, value, _ in group], y=[name for name, _, _ in group],
            mode="markers+text", text=[nats(value, 2) for _, value, _ in group],
            textposition="top center", cliponaxis=False, customdata=errors,
            error_x={"array": errors, "color": palette.PRIOR, "thickness": 1.5},
            marker={
                "color": colour, "size": 13,
                "symbol": ["diamond" if name == top else "circle" for name, _, _ in group],
            },
            hovertemplate="%{y}: %{x:.4f} ± %{customdata:.4f} nats<extra></extra>",
        )  # fmt: skip
    if top:
        value = next(value for name, value, _ in rungs if name == top)
        figure.add_vline(x=value, line={"color": palette.EVIDENCE, "width": 1, "dash": "dash"})
    values = np.array([value for _, value, _ in [*rungs, *marks]])
    room = 0.12 * max(float(np.ptp(values)), 0.05)
    figure.update_xaxes(range=[values.min() - room, values.max() + room])
    order = [name for name, _, _ in [*rungs, *marks]]
    return figure.update_yaxes(
        categoryorder="array", categoryarray=order, showgrid=False, range=[-0.6, len(order) - 0.3]
    )


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
        x=axis[0], y=axis[1], z=posterior, zmin=0, zmax=peak, name="posterior",
        # From nothing to the colour of the evidence, so that the page shows through.
        colorscale=[[0, "rgba(41,166,104,0)"], [0.04, "rgba(41,166,104,0.12)"],
                    [0.35, "rgba(41,166,104,0.55)"], [1, "rgba(41,166,104,1)"]],
        showscale=False,
        hovertemplate="p(z|x) at (%{x:.2f}, %{y:.2f}): %{z:.3g}<extra></extra>",
    )  # fmt: skip
    for radius in (1, 2, 3):
        figure.add_scatter(
            x=radius * np.cos(_TURN), y=radius * np.sin(_TURN), mode="lines", hoverinfo="skip",
            line={"color": palette.PRIOR, "width": 1, "dash": "dot"},
            name="prior p(z), 1 to 3 sd", legendgroup="prior", showlegend=radius == 1,
        )  # fmt: skip
    shapes = [("q(z|x), the encoder's", q, palette.KL, "solid")]
    if best is not None:
        shapes.append(("q*, the best of its kind", best, palette.ELBO, "dash"))
    for name, (mu, sigma), colour, dash in shapes:
        for radius, width in ((1, 3), (2, 1.5)):
            figure.add_scatter(
                x=mu[0] + radius * sigma[0] * np.cos(_TURN),
                y=mu[1] + radius * sigma[1] * np.sin(_TURN), mode="lines", hoverinfo="skip",
                line={"color": colour, "width": width, "dash": dash},
                name=f"{name}, 1 and 2 sd", legendgroup=name, showlegend=radius == 1,
            )  # fmt: skip
    figure.add_scatter(
        x=[None], y=[None], mode="markers", name="true posterior p(z|x)",
        marker={"color": palette.EVIDENCE, "symbol": "square", "size": 12},
    )  # fmt: skip
    middle, half = centre
    square_axes(figure, 1)
    figure.update_xaxes(range=[middle[0] - half[0], middle[0] + half[0]])
    figure.update_yaxes(range=[middle[1] - half[1], middle[1] + half[1]])
    return figure.update_layout(showlegend=True, legend={"orientation": "h", "y": -0.16})


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
            x=z[:, across], y=z[:, up], mode="markers", name=name, hoverinfo="skip",
            marker={"color": colour, "symbol": symbol, "size": size, "opacity": 0.6},
        )  # fmt: skip
    return figure.update_layout(showlegend=True, legend={"orientation": "h", "y": -0.16})

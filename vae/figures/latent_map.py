"""All pairs of latent dimensions at a glance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from vae.figures import palette
from vae.figures.frame import framed_span, nats, new_figure, ring_selected
from vae.figures.pictures import data_url

__all__ = ["all_pairs"]

_PANEL, _GAP = 120, 8


def all_pairs(
    mu: np.ndarray,
    dims: Sequence[int],
    mean_kl: np.ndarray,
    labels: np.ndarray,
    selected: int,
    height: int = 760,
) -> go.Figure:
    r"""Every pair of some latent dimensions as a small map, the same scale for all.

    Args:
        mu: Posterior means, with shape :math:`(N, D)`.
        dims: The dimensions shown, :math:`K` of them, in their order.
        mean_kl: The mean KL of each dimension in nats, with shape :math:`(D,)`.
        labels: Class numbers, -1 where there are none, with shape :math:`(N,)`.
        selected: The chosen sample; it is ringed on each small map.
        height: In pixels.

    Returns:
        The figure. Below the diagonal the maps; each has a clickable point whose ``customdata``
        is its pair (across, up).
    """
    count, step = len(dims), _PANEL + _GAP
    size = count * step - _GAP
    # The maps' scale is for nearly all codes; what lies beyond stands at the edge.
    span, _ = framed_span(mu[:, dims], 3.4)
    shares = (np.clip(mu[:, dims], -span, span) / span + 1) / 2
    figure = new_figure(height)
    figure.add_layout_image(
        source=data_url(_panels(shares, labels, size)),
        **{"xref": "x", "yref": "y", "x": 0, "y": 0, "sizex": size, "sizey": size},
        sizing="stretch",
        layer="below",
    )
    names = [f"z{d + 1}" for d in dims]
    pairs = [(row, column) for row in range(count) for column in range(row)]
    middles = np.array(pairs) * step + _PANEL / 2
    figure.add_scatter(
        x=middles[:, 1],
        y=middles[:, 0],
        mode="markers",
        customdata=[[names[column], names[row]] for row, column in pairs],
        marker={
            "size": 0.8 * _PANEL * height / size,
            "symbol": "square",
            "opacity": 0.001,
            "color": palette.PRIOR,
        },
        hovertemplate="%{customdata[0]} across, %{customdata[1]} up: click to open<extra></extra>",
    )
    _ring(figure, shares[selected], pairs)
    ticks = {"tickvals": np.arange(count) * step + _PANEL / 2, "showgrid": False}
    titles = [f"{name}<br>{nats(mean_kl[d], 2)} nats" for name, d in zip(names, dims, strict=True)]
    # The last has no map below it, the first none beside it.
    figure.update_xaxes(range=[0, size - step], ticktext=[*titles[:-1], ""], **ticks)
    figure.update_yaxes(range=[size, step], ticktext=["", *titles[1:]], scaleanchor="x", **ticks)
    figure.update_xaxes(constrain="domain").update_yaxes(constrain="domain")
    return figure.update_layout(clickmode="event+select")


def _ring(figure: go.Figure, share: np.ndarray, pairs: Sequence[tuple[int, int]]) -> None:
    """Rings one code, by its shares of a panel's side (K,), on the map of each pair."""
    step = _PANEL + _GAP
    ring_selected(figure, 0, 0)
    rings = figure.data[-1]
    rings.x = [column * step + share[column] * _PANEL for _, column in pairs]
    rings.y = [row * step + (1 - share[row]) * _PANEL for row, _ in pairs]
    rings.marker.size, rings.marker.line.width = 9, 2


def _panels(shares: np.ndarray, labels: np.ndarray, size: int) -> np.ndarray:
    """All maps as one image (size, size, 4), of codes as shares of a panel's side (N, K)."""
    image, step = np.zeros((size, size, 4), np.uint8), _PANEL + _GAP
    colours = np.array([[int(c[k : k + 2], 16) for k in (1, 3, 5)] for c in palette.CLASSES])
    shade = colours[labels % len(colours)]
    shade[labels < 0] = colours[0]
    # A panel's points in random order, so that no class lies over all others.
    order = np.random.default_rng(0).permutation(len(shares))
    places = (shares[order] * (_PANEL - 2)).astype(int)
    for row in range(shares.shape[1]):
        for column in range(row):
            panel = image[row * step :, column * step :][:_PANEL, :_PANEL]
            panel[..., 3] = 14
            panel[..., :3] = 124
            for dy in (0, 1):
                for dx in (0, 1):
                    y = _PANEL - 2 - places[:, row] + dy
                    panel[y, places[:, column] + dx] = np.column_stack(
                        (shade[order], np.full(len(shares), 255))
                    )
    return image

"""One sample's ELBO: the receipt, the pixel map, and its place among all samples."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from vae.figures import palette
from vae.figures.frame import nats, new_figure

__all__ = [
    "BLOCKS",
    "KL_AND_DISTORTION",
    "block_map",
    "block_sums",
    "blocks",
    "difference",
    "iso_lines",
    "pixel_map",
    "receipt",
]

# The receipt's image blocks along each side; named like the squares of a chessboard.
BLOCKS = 4


KL_AND_DISTORTION = (
    "KL: nats to say which code",
    "−expected log-likelihood: nats to draw it",
)
# More numbers than this cannot be read in the cells of a block.
_MOST_NUMBERS = 64


def blocks(height: int, width: int) -> dict[str, tuple[slice, slice]]:
    """The image's blocks by name: column letter, row number from the top; rows and columns."""
    rows, columns = (
        [slice(int(part[0]), int(part[-1]) + 1) for part in np.array_split(np.arange(n), count)]
        for n, count in ((height, min(BLOCKS, height)), (width, min(BLOCKS, width)))
    )
    return {
        f"{'abcd'[j]}{i + 1}": (band, block)
        for i, band in enumerate(rows)
        for j, block in enumerate(columns)
    }


def block_sums(pixels: np.ndarray) -> tuple[list[str], np.ndarray]:
    r"""Sums per-pixel values over blocks of the image.

    Args:
        pixels: Values, with shape :math:`(C, H, W)`.

    Returns:
        Names such as ``"a1"`` (column letter, row from the top), and the sums, :math:`(K,)`.
    """
    parts = blocks(*pixels.shape[1:])
    return list(parts), np.array(
        [pixels[:, rows, columns].sum() for rows, columns in parts.values()]
    )


def receipt(
    pixels: np.ndarray, kl_per_dim: np.ndarray, elbo: float, height: int = 380
) -> go.Figure:
    r"""A waterfall whose bars sum to the ELBO.

    Args:
        pixels: Expected log-likelihoods in nats, with shape :math:`(C, H, W)`.
        kl_per_dim: The KL in nats, with shape :math:`(D,)`.
        elbo: The ELBO in nats, the last bar.
        height: In pixels.
    """
    blocks, sums = block_sums(pixels)
    dims = np.argsort(-kl_per_dim, kind="stable")
    labels = [f"KL z{d + 1}" for d in dims] + [f"pixels {name}" for name in blocks]
    steps = np.concatenate((-kl_per_dim[dims], sums))
    starts = np.concatenate(([0.0], np.cumsum(steps)[:-1]))
    kinds = ["KL of this sample"] * len(dims) + ["expected log-likelihood"] * len(blocks)
    colours = [palette.KL] * len(dims) + [palette.EXPECTED_LOG_LIKELIHOOD] * len(blocks)
    figure = new_figure(height, "", "running total, nats", room=(72, 76))
    figure.add_bar(
        x=labels,
        y=steps,
        base=starts,
        marker={"color": colours},
        customdata=kinds,
        hovertemplate="%{x}: %{customdata}<br>%{y:.4f} nats<extra></extra>",
    )
    figure.add_bar(
        x=["ELBO"],
        y=[elbo],
        marker={"color": palette.ELBO},
        hovertemplate="ELBO %{y:.4f} nats<extra></extra>",
        text=[nats(elbo)],
        textposition="inside",
        insidetextanchor="end",
        textangle=0,
    )
    figure.update_layout(bargap=0.12, hovermode="closest", barmode="overlay")
    figure.update_xaxes(tickangle=-60, tickfont={"size": 11}, showgrid=False)
    return figure


def pixel_map(pixels: np.ndarray, height: int = 300) -> go.Figure:
    r"""What each pixel costs: minus its expected log-likelihood, summed over channels.

    Args:
        pixels: Expected log-likelihoods in nats, with shape :math:`(C, H, W)`.
        height: In pixels.
    """
    cost = -pixels.sum(0)
    rows, columns = cost.shape
    figure = new_figure(height, room=(8, 40))
    figure.add_heatmap(
        z=cost,
        x=np.arange(1, columns + 1),
        y=np.arange(1, rows + 1),
        colorscale=palette.SEQUENTIAL,
        colorbar={
            "orientation": "h",
            "thickness": 10,
            "y": -0.04,
            "yanchor": "top",
            "nticks": 4,
            "ticksuffix": " nats",
            "outlinewidth": 0,
            "exponentformat": "power",
            "tickangle": 0,
        },
        hovertemplate="row %{y}, column %{x}: %{z:.4~g} nats<extra></extra>",
    )
    figure.update_xaxes(visible=False, constrain="domain")
    figure.update_yaxes(visible=False, autorange="reversed", scaleanchor="x", constrain="domain")
    return figure


def block_map(pixels: np.ndarray, name: str, height: int = 300) -> go.Figure:
    r"""The pixels of one block of the receipt, each with its expected log-likelihood.

    Args:
        pixels: Expected log-likelihoods in nats, with shape :math:`(C, H, W)`.
        name: The block, one of :func:`blocks`.
        height: In pixels.
    """
    rows, columns = blocks(*pixels.shape[1:])[name]
    part = pixels[:, rows, columns].sum(0)
    figure = new_figure(height, "column", "row")
    readable = part.size <= _MOST_NUMBERS
    figure.add_heatmap(
        z=part,
        x=np.arange(columns.start, columns.stop) + 1,
        y=np.arange(rows.start, rows.stop) + 1,
        zmax=0,
        colorscale=palette.SEQUENTIAL,
        reversescale=True,
        showscale=not readable,
        colorbar={
            "title": "nats",
            "thickness": 10,
            "outlinewidth": 0,
            "exponentformat": "power",
        },
        texttemplate="%{z:.3f}" if readable else None,
        hovertemplate="row %{y}, column %{x}: %{z:.4f} nats<extra></extra>",
    )
    figure.update_xaxes(dtick=max(1, part.shape[1] // 4), showgrid=False, constrain="domain")
    return figure.update_yaxes(
        dtick=max(1, part.shape[0] // 4),
        showgrid=False,
        autorange="reversed",
        scaleanchor="x",
        constrain="domain",
    )


def iso_lines(
    kl: np.ndarray, distortion: np.ndarray, beta: float
) -> list[tuple[np.ndarray, float]]:
    r"""Where :math:`\beta KL` + distortion is equal: both ends' KL and the sum, five times."""
    low, high = float(kl.min()), float(kl.max())
    margin = 0.06 * (high - low) + 1e-6
    ends = np.array([low - margin, high + margin])
    levels = np.percentile(beta * kl + distortion, (2, 25, 50, 75, 98))
    return [(ends, float(level)) for level in levels]


def difference(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray], height: int = 320
) -> go.Figure:
    r"""Why one ELBO is higher than another: each part's difference, and their sum.

    Args:
        first: Expected log-likelihoods of pixels, :math:`(C, H, W)`, and KLs, :math:`(D,)`.
        second: The same of the sample that is subtracted.
        height: In pixels.
    """
    blocks, sums = block_sums(first[0] - second[0])
    kl = -(first[1] - second[1])
    dims = np.argsort(-np.abs(kl), kind="stable")
    labels = [f"KL z{d + 1}" for d in dims] + [f"pixels {name}" for name in blocks]
    values = np.concatenate((kl[dims], sums))
    colours = [palette.KL] * len(dims) + [palette.EXPECTED_LOG_LIKELIHOOD] * len(blocks)
    figure = new_figure(height, "", "difference, nats", room=(72, 76))
    figure.add_bar(
        x=[*labels, "ELBO"],
        y=[*values, values.sum()],
        marker={"color": [*colours, palette.ELBO]},
        hovertemplate="%{x}: %{y:.4f} nats<extra></extra>",
    )
    figure.update_layout(bargap=0.12)
    figure.update_xaxes(tickangle=-60, tickfont={"size": 11}, showgrid=False)
    return figure

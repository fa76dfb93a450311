"""Pictures of what the KL term acts on: each image's own code, never the batch."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import plotly.graph_objects as go

from vae.figures import palette
from vae.figures.frame import nats, new_figure

__all__ = [
    "aggregate_picture",
    "bound_against_evidence",
    "cost_of_narrowing",
    "samples_picture",
    "sigma_histogram",
    "surgery_bars",
]

_GRID = np.linspace(-3.6, 3.6, 361)


def _normal(x: np.ndarray, mean: float, sigma: float) -> np.ndarray:
    return np.exp(-0.5 * ((x - mean) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))


def aggregate_picture(height: int = 330) -> go.Figure:
    r"""The population's aggregate on top of the prior: N(0, 1) at every width of its members.

    Args:
        height: In pixels.
    """
    figure = new_figure(height, "z", "density")
    figure.add_scatter(
        x=_GRID,
        y=_normal(_GRID, 0, 1),
        mode="lines",
        line={"color": palette.EVIDENCE, "width": 3},
        fill="tozeroy",
        hovertemplate="aggregate %{y:.3f}<extra></extra>",
    )
    _draw_prior(figure)
    figure.update_xaxes(range=[-3.6, 3.6])
    return figure.update_yaxes(range=[0, 0.55])


def samples_picture(sigma: float, shown: int = 9, height: int = 330) -> go.Figure:
    r"""Some of a population's own Gaussians, all of one width.

    Their means follow :math:`N(0, 1 - \sigma^2)`, so that they add up to N(0, 1).

    Args:
        sigma: The width of each image's own Gaussian, in (0, 1).
        shown: How many are drawn, at even quantiles of their means.
        height: In pixels.
    """
    figure = new_figure(height, "z", "density")
    spread = np.sqrt(1 - sigma**2)
    for i in range(shown):
        mean = NormalDist().inv_cdf((i + 0.5) / shown) * spread
        fine = np.linspace(mean - 4 * sigma, mean + 4 * sigma, 81)
        figure.add_scatter(
            x=fine,
            y=_normal(fine, mean, sigma),
            mode="lines",
            hoverinfo="skip",
            line={"color": palette.KL, "width": 2},
        )
    _draw_prior(figure)
    figure.update_xaxes(range=[-3.6, 3.6])
    return figure.update_yaxes(range=[0, max(0.55, 1.1 / (sigma * np.sqrt(2 * np.pi)))])


def _draw_prior(figure: go.Figure) -> None:
    figure.add_scatter(
        x=_GRID,
        y=_normal(_GRID, 0, 1),
        mode="lines",
        line={"color": palette.PRIOR, "width": 2, "dash": "dot"},
        hovertemplate="prior %{y:.3f}<extra></extra>",
    )


def cost_of_narrowing(
    sigma: float, finite: tuple[np.ndarray, np.ndarray], size: int, height: int = 330
) -> go.Figure:
    r"""Penalty on the population's aggregate, and KL per sample, against sigma.

    Args:
        sigma: The marked width.
        finite: Widths, and the information in nats that a finite set of images carries at each.
        size: The number N of images in that set; its ceiling log N is marked.
        height: In pixels.
    """
    widths = np.geomspace(0.02, 0.999, 160)
    figure = new_figure(height, "σ of each image's own code", "nats for each dimension")
    figure.add_scatter(
        x=widths,
        y=-np.log(widths),
        mode="lines",
        line={"color": palette.KL, "width": 3},
        name="KL per sample = information",
        hovertemplate="σ %{x:.3f}: KL per sample %{y:.2f} nats<extra></extra>",
    )
    figure.add_scatter(
        x=finite[0],
        y=finite[1],
        mode="lines",
        name=f"information in {size:,} images",
        line={"color": palette.PRIOR, "width": 2, "dash": "dash"},
        hovertemplate="σ %{x:.3f}: %{y:.2f} nats<extra></extra>",
    )
    figure.add_scatter(
        x=widths,
        y=np.zeros(len(widths)),
        mode="lines",
        name="penalty on the batch",
        line={"color": palette.EVIDENCE, "width": 3},
        hovertemplate="penalty on the population's aggregate: 0 nats<extra></extra>",
    )
    figure.add_hline(y=np.log(size), line={"color": palette.PRIOR, "width": 1, "dash": "dot"})
    figure.add_annotation(
        x=1,
        xref="paper",
        y=np.log(size),
        text=f"log {size:,}",
        showarrow=False,
        xanchor="right",
        yanchor="bottom",
        font={"size": 11},
    )
    figure.add_scatter(
        x=[sigma],
        y=[-np.log(sigma)],
        mode="markers+text",
        hoverinfo="skip",
        showlegend=False,
        text=[f"  {nats(-np.log(sigma), 2)} nats"],
        textposition="middle right",
        marker={"color": palette.KL, "size": 12},
    )
    figure.update_xaxes(range=[0, 1.02])
    return figure.update_layout(showlegend=True, legend={"orientation": "h", "y": -0.24})


def sigma_histogram(sigmas: dict[str, np.ndarray], floor: float, height: int = 300) -> go.Figure:
    """How wide the posteriors of several models are, on a logarithmic axis.

    Args:
        sigmas: Posterior standard deviations in any shape, by the model's title.
        floor: The smallest that the models allow.
        height: In pixels.
    """
    figure = new_figure(height, "σ of a latent dimension (logarithmic)", "codes")
    # Models are no quantity: they take two of the class colours.
    colours = (palette.CLASSES[0], palette.CLASSES[7])
    edges = np.geomspace(floor * 0.9, 1.1, 61)
    middles = np.sqrt(edges[1:] * edges[:-1])
    for (name, values), colour in zip(sigmas.items(), colours, strict=False):
        counts, _ = np.histogram(values.ravel(), edges)
        figure.add_scatter(
            x=middles,
            y=counts,
            mode="lines",
            name=name,
            fill="tozeroy",
            line={"color": colour, "width": 2, "shape": "hvh"},
            hovertemplate=f"{name}: σ about %{{x:.3f}}, %{{y}} codes<extra></extra>",
        )
    figure.add_vline(x=floor, line={"color": palette.PRIOR, "dash": "dot"})
    figure.update_xaxes(type="log", tickvals=[0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1])
    return figure.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.12})


def bound_against_evidence(
    pairs: dict[str, tuple[np.ndarray, np.ndarray]], height: int = 300
) -> go.Figure:
    """Each image's ELBO against its exact evidence, for several models.

    Args:
        pairs: Evidence and ELBO in nats, each :math:`(N,)`, by the model's title.
        height: In pixels.
    """
    figure = new_figure(height, "exact log p(x), nats", "ELBO, nats")
    low = min(float(evidence.min()) for evidence, _ in pairs.values())
    high = max(float(evidence.max()) for evidence, _ in pairs.values())
    figure.add_scatter(
        x=[low, high],
        y=[low, high],
        mode="lines",
        name="a tight bound",
        hoverinfo="skip",
        line={"color": palette.EVIDENCE, "width": 2, "dash": "dot"},
    )
    # Models are no quantity: they take two of the class colours.
    colours = (palette.CLASSES[0], palette.CLASSES[7])
    for (name, (evidence, elbo)), colour, symbol in zip(
        pairs.items(), colours, ("circle", "x"), strict=False
    ):
        figure.add_scatter(
            x=evidence,
            y=elbo,
            mode="markers",
            name=name,
            marker={"color": colour, "size": 6, "symbol": symbol, "opacity": 0.7},
            hovertemplate=f"{name}<br>log p(x) %{{x:.1f}}, ELBO %{{y:.1f}} nats<extra></extra>",
        )
    return figure.update_layout(showlegend=True, legend={"orientation": "h", "y": 1.12})


def surgery_bars(
    information: float, misfit: float, ceiling: float, height: int = 210
) -> go.Figure:
    """The mean KL as information plus misfit, with the ceiling log N marked.

    Args:
        information: The index information in nats.
        misfit: The aggregate's KL to the prior in nats.
        ceiling: log N in nats.
        height: In pixels.
    """
    figure = new_figure(height, "nats for each image, on average", room=(8, 104))
    for name, value, colour in (
        ("information about which image", information, palette.KL),
        ("misfit of the aggregate", misfit, palette.PRIOR),
    ):
        figure.add_bar(
            x=[value],
            y=["mean KL"],
            orientation="h",
            name=name,
            marker={"color": colour},
            text=[nats(value, 2)],
            textposition="inside",
            insidetextanchor="middle",
            hovertemplate=f"{name}: %{{x:.4f}} nats<extra></extra>",
        )
    figure.add_vline(x=ceiling, line={"color": palette.PRIOR, "dash": "dot", "width": 2})
    figure.add_annotation(
        x=ceiling,
        y=1,
        yref="paper",
        text=f"log N = {nats(ceiling, 2)}",
        showarrow=False,
        yanchor="bottom",
        font={"size": 12},
    )
    figure.update_yaxes(visible=False)
    return figure.update_layout(
        barmode="stack",
        showlegend=True,
        margin={"t": 26},
        legend={"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom"},
    )

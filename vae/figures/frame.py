"""What all charts share: quiet axes, room for labels, and texts that follow the page's theme."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go

from vae.figures import palette

__all__ = [
    "adding_up",
    "error_text",
    "framed_span",
    "literal",
    "nats",
    "new_figure",
    "percent",
    "plus_minus",
    "ring_selected",
    "square_axes",
]

MINUS = "\N{MINUS SIGN}"
# What is framed first: this share of the codes, unless all of them need little more room.
_FRAMED, _LITTLE_MORE, _MARGIN = 0.99, 1.25, 1.06


def new_figure(
    height: int, x_title: str = "", y_title: str = "", room: tuple[int, int] | None = None
) -> go.Figure:
    """An empty figure in the house style; its height is fixed so that nothing jumps.

    The axes' titles name quantity and unit. Text has no colour of its own: it takes the theme's.

    Args:
        height: In pixels.
        x_title: Of the axis across.
        y_title: Of the axis up.
        room: Pixels for labels on the left and below, where numbers aren't all that stands there.
            Plotly could measure them, but then it draws everything twice.
    """
    left, below = room or (72 if y_title else 8, 52 if x_title else 8)
    axis = {
        "automargin": False,
        "gridcolor": palette.HAIRLINE,
        "zeroline": False,
        "separatethousands": True,
        "linecolor": palette.HAIRLINE,
        "ticks": "",
        "exponentformat": "power",  # else Plotly writes a millionth of a nat as 1μ
        "title": {"font": {"size": 13}, "standoff": 16},
        "tickfont": {"size": 12},
    }
    return go.Figure(
        layout={
            "height": height,
            "margin": {"l": left, "r": 8, "t": 8, "b": below},
            "xaxis": {**axis, "title": {**axis["title"], "text": x_title}},
            "yaxis": {**axis, "title": {**axis["title"], "text": y_title}},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "showlegend": False,
            "hoverlabel": {"align": "left"},
            "separators": ".,",
            "dragmode": False,
        }
    )


def literal(text: str) -> str:
    """A user's text as plotly shows it letter by letter; it would obey tags and entities."""
    return escape(text, quote=False)


def square_axes(figure: go.Figure, span: float) -> go.Figure:
    """Makes both axes run over [-span, span] with the same scale."""
    figure.update_xaxes(range=[-span, span], constrain="domain")
    figure.update_yaxes(range=[-span, span], scaleanchor="x", scaleratio=1, constrain="domain")
    return figure


def framed_span(places: np.ndarray, least: float) -> tuple[float, float]:
    r"""How far a view that is centred on 0 reaches: for nearly all places, and for all of them.

    A few far codes would leave the crowd a blot, so at first 99 % of the codes are framed.

    Args:
        places: Coordinates, with shape :math:`(N, 2)` or :math:`(N, 1)`; NaN for those left out.
        least: What is framed at least, in the unit of the places.

    Returns:
        The half-width of the first view, and that of a view of everything. They are one where
        everything needs at most a quarter more room.
    """
    distance = np.abs(places).max(1)
    nearly_all = max(least, _MARGIN * float(np.nanquantile(distance, _FRAMED)))
    everything = max(least, _MARGIN * float(np.nanmax(distance)))
    if everything <= _LITTLE_MORE * nearly_all:
        return everything, everything
    return nearly_all, everything


def ring_selected(figure: go.Figure, x: float, y: float, hover: str = "") -> None:
    """Rings the chosen sample, the same way on every chart."""
    figure.add_scatter(
        x=[x],
        y=[y],
        mode="markers",
        marker={"size": 16, "color": "rgba(0,0,0,0)", "line": {"color": palette.KL, "width": 3}},
        **({"hovertemplate": f"{hover}<extra></extra>"} if hover else {"hoverinfo": "skip"}),
    )


def nats(value: float, digits: int = 1) -> str:
    """A number for people: a real minus sign, and commas between thousands."""
    # Adding zero after rounding turns a negative zero, which reads like a mistake, into zero.
    return f"{round(value, digits) + 0.0:,.{digits}f}".replace("-", MINUS)


def plus_minus(error: float | None, digits: int = 2) -> str:
    """An error after its value, which it stays with on a line; empty for none, 0 and NaN.

    A small one must not read like that of an exact value: it is "± < 0.01", never "± 0.00".
    """
    text = error_text(error, digits)
    return text and f" ± {text}".replace(" ", "\u00a0")


def error_text(error: float | None, digits: int = 2) -> str:
    """An error by itself; see :func:`plus_minus`."""
    if not error or math.isnan(error):
        return ""
    small = round(error, digits) == 0
    return f"< {10.0**-digits:.{digits}f}" if small else nats(error, digits)


def percent(share: float, digits: int = 1) -> str:
    """A share in percent that reads 0 or 100 only where it is exactly that."""
    edge = 10.0**-digits
    if 0 < share < 100 and round(share, digits) in (0, 100):
        text = f"< {edge:.{digits}f}" if share < 50 else f"> {100 - edge:.{digits}f}"
    else:
        text = f"{share:.{digits}f}"
    return f"{text}\u00a0%"


def adding_up(
    parts: Sequence[float], digits: int = 1, whole: float | None = None
) -> tuple[float, ...]:
    """Rounds the parts of a sum so that, as they are shown, they add up to the rounded whole.

    By the largest remainder: every part is rounded down, and what is missing in the last digit
    goes to those that lost most. Each stays within one unit of its last digit.

    Args:
        parts: The parts.
        digits: Decimals to round to.
        whole: What the parts are shown to add up to, if that is not their own sum: a difference
            of two numbers that stand there rounded, say.

    Returns:
        The rounded parts; those of a sum that isn't finite are rounded one by one.
    """
    whole = math.fsum(parts) if whole is None else whole
    if not all(map(math.isfinite, (*parts, whole))):
        return tuple(round(part, digits) for part in parts)
    unit = 10**digits
    scaled = [part * unit for part in parts]
    units = [math.floor(value) for value in scaled]
    each, left = divmod(round(round(whole, digits) * unit) - sum(units), len(parts))
    lost_most = sorted(range(len(parts)), key=lambda i: units[i] - scaled[i])
    for i in lost_most[:left]:
        units[i] += 1
    return tuple((count + each) / unit for count in units)

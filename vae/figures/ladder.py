"""Bounds on one axis of nats, rung above rung: a table whose middle column is drawn to scale.

It is HTML and no chart of Plotly's: every value stands in reach of a screen reader, and another
image's ladder is there at once, where a chart is drawn for tens of milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from vae.figures.frame import nats, plus_minus

__all__ = ["Rung", "ladder_html"]

# So many ticks fit under the narrow column of a telephone.
_TICKS = 4


class Rung(NamedTuple):
    r"""A bound on :math:`\log p(x)`, or the value itself.

    Attributes:
        name: What it is.
        value: In nats.
        error: Its standard error in nats, 0 where it isn't sampled.
        colour: Of its mark.
        exact: Whether it is the value itself: its mark is a diamond, and a line runs through it.
    """

    name: str
    value: float
    error: float
    colour: str
    exact: bool = False


def ladder_html(rungs: Sequence[Rung], gaps: Sequence[tuple[str, float, float]], alt: str) -> str:
    """Draws a ladder.

    Args:
        rungs: From the highest down.
        gaps: Name, lower and upper end in nats of each part of the gap.
        alt: What the ladder shows.
    """
    # Bars of error too must end before the names begin.
    ends = [rung.value + side * rung.error for rung in rungs for side in (-1, 1)]
    room = 0.08 * max(max(ends) - min(ends), 0.05)
    low, high = min(ends) - room, max(ends) + room

    def across(value: float) -> float:
        return round(100 * (value - low) / (high - low), 3)

    line = "".join(
        f'<i class="line" style="left:{across(rung.value)}%;border-color:{rung.colour}"></i>'
        for rung in rungs
        if rung.exact
    )
    rows = []
    for rung in rungs:
        start, end = across(rung.value - rung.error), across(rung.value + rung.error)
        mark = (
            f'<i class="bar" style="left:{start}%;width:{end - start:.3f}%"></i>'
            f'<i class="mark{" exact" if rung.exact else ""}" '
            f'style="left:{across(rung.value)}%;background:{rung.colour}"></i>'
        )
        rows.append(_row(rung.name, line + mark, nats(rung.value, 2), _error(rung.error)))
    for name, start, end in gaps:
        width = across(end) - across(start)
        part = f'<i class="part" style="left:{across(start)}%;width:{width:.3f}%"></i>'
        # The difference of the two bounds as they stand above.
        rows.append(_row(name, line + part, nats(round(end, 2) - round(start, 2), 2)))
    ticks = "".join(
        f'<i class="tick" style="left:{across(value)}%">{text}</i>'
        for value, text in _ticks(low, high)
    )
    return (
        f'<table class="elb-ladder" aria-label="{escape(alt, quote=True)}">'
        "<thead><tr><th scope='col'>bound</th><th scope='col'></th>"
        "<th scope='col'>nats</th><th scope='col'></th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody>"
        f'<tfoot aria-hidden="true"><tr><td></td><td>{ticks}</td></tr>'
        "<tr><td colspan='4'>nats, higher is closer to the truth</td></tr></tfoot></table>"
    )


def _row(name: str, drawing: str, value: str, error: str = "") -> str:
    return (
        f"<tr><th scope='row'>{escape(name)}</th><td aria-hidden='true'>{drawing}</td>"
        f"<td>{value}</td><td>{error}</td></tr>"
    )


def _error(error: float) -> str:
    return escape(plus_minus(error).strip())


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Round values within a range, and how they read."""
    power = 10.0 ** math.floor(math.log10((high - low) / _TICKS))
    step = next(m * power for m in (1, 2, 5, 10) if high - low <= m * power * _TICKS)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    places = range(math.ceil(low / step), math.floor(high / step) + 1)
    return [(place * step, nats(place * step, digits)) for place in places]

"""What the plane is sent: points, colours, decoded places and fields, packed as bytes.

Each part travels on its own, so that a new colour or a new selection moves kilobytes even where
there are a million points. A part is a header in JSON and typed arrays; ``web/plane/store.js``
reads the same form.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from typing import NamedTuple

import numpy as np
from plotly.colors import sample_colorscale, unlabel_rgb

from vae.figures import palette
from vae.figures.pictures import reduced, to_bytes

__all__ = [
    "Fact",
    "Slot",
    "arrows_slot",
    "MOST_NAMED",
    "cluster_labels",
    "colour_slot",
    "commonest",
    "density_lines",
    "field_slot",
    "group_slot",
    "points_slot",
    "prior_rings",
    "scattered",
    "sheet_slot",
    "single_colour_slot",
    "thumbnails_slot",
]

# Pixels along a side of an image on the plane, which is drawn at most 56 CSS pixels wide.
_THUMBNAIL = 96
_KINDS = {"f4": np.dtype("<f4"), "u4": np.dtype("<u4"), "u1": np.dtype("u1")}
_NONE, _FOLDED = (124, 135, 152), (146, 146, 146)
# Classes that have a colour and a name of their own; of more the commonest do.
MOST_NAMED = 30
_NO_LABEL = {"u1": 255, "u4": 2**32 - 1}


class Slot(NamedTuple):
    """One part of what a plane shows.

    Attributes:
        name: Which part: points, colour, coarse, fine, thumbnails, field, arrows or group.
        version: Changes with the content.
        data: The packed bytes.
    """

    name: str
    version: str
    data: bytes


class Fact(NamedTuple):
    """A number of each sample, for the words beside the plane.

    Attributes:
        name: What it is.
        values: With shape (N,).
        unit: Its unit.
        digits: Decimals to show.
    """

    name: str
    values: np.ndarray
    unit: str = "nats"
    digits: int = 2


def points_slot(
    plane: str,
    places: np.ndarray,
    spread: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    label_names: Sequence[str] = (),
    facts: Sequence[Fact] = (),
) -> Slot:
    r"""The points, and what is said of each.

    Args:
        plane: The plane's key.
        places: Where they lie, with shape :math:`(N, 2)`.
        spread: Each one's standard deviations across and up, and where its axes are not the
            plane's their correlation: shape :math:`(N, 2)` or :math:`(N, 3)`.
        labels: Class numbers, -1 where there are none, with shape :math:`(N,)`.
        label_names: The classes' names.
        facts: Numbers of each point.
    """
    places = np.asarray(places)
    empty = np.zeros((0, 3))
    spread = empty if spread is None else np.asarray(spread)
    named = labels is not None and len(label_names) > 0
    kind = "u1" if len(label_names) < 255 else "u4"
    labels = np.where(labels < 0, _NO_LABEL[kind], labels) if named else empty[:, 0]
    arrays = {
        "x": places[:, 0],
        "y": places[:, 1],
        "sd_x": spread[:, 0],
        "sd_y": spread[:, 1],
        "rho": spread[:, 2] if spread.shape[1] == 3 else empty[:, 0],
        "labels": labels.astype(_KINDS[kind]),
        **{f"fact_{k}": fact.values for k, fact in enumerate(facts)},
    }
    said = [{"name": fact.name, "unit": fact.unit, "digits": fact.digits} for fact in facts]
    return _pack(plane, "points", arrays, facts=said, names=list(label_names) if named else [])


def colour_slot(
    plane: str,
    values: np.ndarray,
    title: str,
    unit: str = "",
    class_names: Sequence[str] = (),
    digits: int = 1,
) -> Slot:
    r"""The points' colours.

    Args:
        plane: The plane's key.
        values: Class numbers (with ``class_names``; -1 for none) or numbers, shape :math:`(N,)`.
            Numbers may be NaN, which shows as grey.
        title: What the colour shows.
        unit: Its unit.
        class_names: Names of the classes; empty where ``values`` is a quantity. Of more than
            ``MOST_NAMED`` the commonest have a colour, and the others are grey together.
        digits: Decimals of the scale.
    """
    if class_names:
        return _class_colours(plane, values, title, unit, class_names)
    finite = np.isfinite(values)
    shown = values[finite]
    # A few far values would leave one colour to all the others.
    low, high = np.percentile(shown, (1, 99)) if len(shown) else (0.0, 1.0)
    clipped = bool(len(shown) and (shown.min() < low or shown.max() > high))
    share = (np.where(finite, values, low) - low) / max(high - low, 1e-12)
    codes = np.where(finite, np.rint(np.clip(share, 0, 1) * 254), 255)
    return _pack(
        plane,
        "colour",
        {"codes": codes.astype(np.uint8), "values": values},
        title=title,
        unit=unit,
        names=[],
        palette=[*_scale(), _NONE],
        digits=digits,
        low=float(low),
        high=float(high),
        clipped=clipped,
    )


def _class_colours(
    plane: str, values: np.ndarray, title: str, unit: str, class_names: Sequence[str]
) -> Slot:
    # Beyond ten classes colours repeat, in other shapes; the labels on the plane still tell.
    values = np.where(values < len(class_names), values, -1)
    shown = commonest(values, len(class_names))
    entries = np.full(len(class_names) + 1, len(shown))
    entries[shown] = np.arange(len(shown))
    entries[-1] = len(shown) + 1
    codes = entries[values]
    names = [class_names[k] for k in shown]
    colours = [_rgb(palette.CLASSES[k % len(palette.CLASSES)]) for k in range(len(shown))]
    rest = len(class_names) - len(shown)
    names += [f"{rest:,} other classes", "unlabelled"]
    colours += [_FOLDED, _NONE]
    if not (values < 0).any():
        names.pop()
    if not rest:
        del names[len(shown)], colours[len(shown)]
        codes = np.minimum(codes, len(shown))
    return _pack(
        plane,
        "colour",
        {"codes": codes.astype(np.uint8), "values": np.zeros(0)},
        title=title,
        unit=unit,
        names=names,
        palette=colours,
    )


def single_colour_slot(plane: str, count: int, colour: str) -> Slot:
    """One colour, such as a quantity's own, for all of ``count`` points."""
    return _pack(
        plane,
        "colour",
        {"codes": np.zeros(count, np.uint8), "values": np.zeros(0)},
        title="",
        unit="",
        names=[],
        palette=[_rgb(colour)],
        digits=0,
    )


def sheet_slot(plane: str, name: str, frames: np.ndarray, window: Sequence[float]) -> Slot:
    r"""A decoded lattice.

    Args:
        plane: The plane's key.
        name: ``coarse``, for everywhere, or ``fine``, for the window shown.
        frames: 8-bit pixels, with shape :math:`(S, S, C, H, W)`, rows from top to bottom.
        window: Left, bottom, right, top.
    """
    side, _, channels, height, width = frames.shape
    return _pack(
        plane,
        name,
        {"pixels": frames.reshape(-1)},
        window=list(window),
        side=side,
        count=side * side,
        channels=channels,
        height=height,
        width=width,
    )


def thumbnails_slot(
    plane: str, rows: np.ndarray, images: np.ndarray, window: Sequence[float]
) -> Slot:
    r"""Images of some samples, to be shown in place of their dots.

    Args:
        plane: The plane's key.
        rows: The samples' numbers, with shape :math:`(K,)`.
        images: In [0, 1], with shape :math:`(K, C, H, W)`; large ones are reduced.
        window: Left, bottom, right, top of the part whose samples these are.
    """
    small = [reduced(to_bytes(image), _THUMBNAIL) for image in images]
    pixels = np.stack([np.atleast_3d(one).transpose(2, 0, 1) for one in small])
    count, channels, height, width = pixels.shape
    return _pack(
        plane,
        "thumbnails",
        {"rows": rows.astype(np.uint32), "pixels": pixels.reshape(-1)},
        window=list(window),
        count=count,
        channels=channels,
        height=height,
        width=width,
    )


def field_slot(
    plane: str,
    log_ratio: np.ndarray,
    log_aggregate: np.ndarray,
    threshold: float | None,
    window: Sequence[float],
) -> Slot:
    r"""The aggregate posterior over the plane, and the prior's holes.

    Args:
        plane: The plane's key.
        log_ratio: :math:`\log \bar q / p` in nats, with shape :math:`(S, S)`, rows from the top.
        log_aggregate: :math:`\log \bar q`, likewise.
        threshold: Where :math:`\log \bar q` lies below it is a hole; none for no holes.
        window: Left, bottom, right, top.
    """
    density = np.exp(0.5 * (log_aggregate - log_aggregate.max()))
    log_prior = log_aggregate - log_ratio
    # A hole matters as much as the prior does: it shows as dense as the prior is there.
    weight = np.exp(0.25 * (log_prior - log_prior.max()))
    holes = weight * (log_aggregate < threshold) if threshold is not None else 0 * weight
    return _pack(
        plane,
        "field",
        {"values": log_ratio.ravel(), "density": density.ravel(), "holes": holes.ravel()},
        window=list(window),
        side=len(log_ratio),
        title="log q\u0304(z)/p(z)",
    )


def arrows_slot(plane: str, starts: np.ndarray, ends: np.ndarray) -> Slot:
    r"""Arrows on the plane, from and to places of shape :math:`(K, 2)`."""
    return _pack(plane, "arrows", {"ends": np.concatenate((starts, ends), -1).ravel()})


def group_slot(plane: str, members: np.ndarray) -> Slot:
    r"""Which points belong to the group, with shape :math:`(N,)`."""
    return _pack(plane, "group", {"members": members.astype(np.uint8)})


def commonest(labels: np.ndarray, classes: int) -> np.ndarray:
    """The classes that are named one by one, in their order: the commonest ``MOST_NAMED``."""
    counts = np.bincount(labels[labels >= 0], minlength=classes)[:classes]
    return np.sort(np.argsort(-counts, kind="stable")[:MOST_NAMED])


def cluster_labels(places: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> list[dict]:
    """Each class's name at its middle, so that colour is never the only sign.

    A class that is not by far the commonest around its own middle has no cluster to name there.
    Places may be NaN; of many classes the commonest are named.
    """
    found = []
    placed = np.isfinite(places).all(1)
    places, labels = places[placed], labels[placed]
    for label in commonest(labels, len(names)):
        rows = labels == label
        if not rows.any():
            continue
        middle = np.median(places[rows], axis=0)
        distance = np.linalg.norm(places - middle, axis=1)
        count = min(31, np.count_nonzero(rows))
        near = labels[np.argpartition(distance, count - 1)[:count]]
        if np.count_nonzero(near == label) > 0.6 * count:
            found.append({"text": names[label], "at": middle.tolist()})
    return found


def prior_rings() -> list[dict]:
    """The standard normal's 1, 2 and 3 standard deviations, as lines."""
    turn = np.linspace(0, 2 * np.pi, 97) - 0.75 * np.pi
    return [
        {
            "points": np.column_stack((radius * np.cos(turn), radius * np.sin(turn))).tolist(),
            "colour": palette.PRIOR,
            "dash": True,
            "width": 1.2,
            "label": f"prior {radius} sd",
        }
        for radius in (1, 2, 3)
    ]


def density_lines(z: np.ndarray, aggregate: np.ndarray, prior: np.ndarray) -> list[dict]:
    r"""The aggregate posterior of one latent dimension and the prior, as lines.

    Args:
        z: Places along the dimension, with shape :math:`(G,)`.
        aggregate: The density :math:`\bar q(z)`, likewise.
        prior: The density :math:`p(z)`, likewise.

    Returns:
        The aggregate's line and the prior's.
    """
    lines = (
        (aggregate, aggregate, palette.EVIDENCE, False, "q\u0304(z), all codes"),
        # Its name stands where the fewest codes are for what the prior draws.
        (prior, prior - aggregate, palette.PRIOR, True, "prior p(z)"),
    )
    return [
        {
            "points": np.column_stack((z, density)).tolist(),
            "colour": colour,
            "dash": dash,
            "width": 1.6,
            "label": label,
            "at": int(at.argmax()),
        }
        for density, at, colour, dash, label in lines
    ]


def scattered(density: np.ndarray) -> np.ndarray:
    r"""Heights below a density, (N,), so that dots fill the area under its curve evenly."""
    turn = (np.sqrt(5) - 1) / 2
    return density * ((np.arange(len(density)) + 0.5) * turn % 1)


def _pack(plane: str, name: str, arrays: Mapping[str, np.ndarray], **facts: object) -> Slot:
    parts, listed, at = [], [], 0
    for key, values in arrays.items():
        values = np.asarray(values)
        kind = {np.dtype("u1"): "u1", np.dtype("u4"): "u4"}.get(values.dtype, "f4")
        data = np.ascontiguousarray(values, dtype=_KINDS[kind]).tobytes()
        listed.append({"name": key, "kind": kind, "start": at, "count": values.size})
        parts.append(data + bytes(-len(data) % 8))
        at += len(parts[-1])
    head = {"plane": plane, "slot": name, "arrays": listed, **facts}
    digest = sha256(json.dumps(head, allow_nan=False).encode())
    for part in parts:
        digest.update(part)
    head["version"] = digest.hexdigest()[:16]
    # The header's own length moves the arrays; blanks keep that length fixed while it is found.
    room = len(json.dumps(head)) + 16 * len(listed)
    room += -(room + 4) % 8
    for entry in listed:
        entry["start"] += 4 + room
    text = json.dumps(head, allow_nan=False).encode()
    data = len(text).to_bytes(4, "little") + text.ljust(room) + b"".join(parts)
    return Slot(name, head["version"], data)


@cache
def _scale() -> list[tuple[int, int, int]]:
    shares = np.linspace(0, 1, 255).tolist()
    colours = sample_colorscale(palette.SEQUENTIAL, shares)
    return [tuple(round(part) for part in unlabel_rgb(colour)) for colour in colours]


def _rgb(colour: str) -> tuple[int, int, int]:
    return tuple(int(colour[k : k + 2], 16) for k in (1, 3, 5))

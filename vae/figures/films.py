"""Films: rows of decoded frames as one sprite sheet, and what the browser writes beside them.

``web/film.js`` draws them: it holds no number of its own, and every text that it shows is made
here or by the caller.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vae.figures.frame import nats
from vae.figures.pictures import contact_sheet, data_url, to_bytes

__all__ = ["WEB", "Row", "Sheet", "Track", "film_data", "frame_count", "sprite_sheet"]

WEB = Path(__file__).parent / "web"

# A phone refuses an image of more than some 16 million pixels.
_SHEET_PIXELS = 12_000_000
# A stage is no larger on a fine screen, and a strip is far smaller.
_LARGEST_SIDE = 512
_MOST_FRAMES, _FEWEST_FRAMES = 25, 7


class Sheet(NamedTuple):
    """Frames packed into one picture, row after row.

    Attributes:
        url: The picture, a PNG data URL.
        columns: Frames in a row of it.
        width: Of a frame, in pixels.
        height: Of a frame, in pixels.
    """

    url: str
    columns: int
    width: int
    height: int


class Row(NamedTuple):
    """One row of a film.

    Attributes:
        name: What the row is.
        notes: Notes below the name, one a line.
        captions: What stands under the stage at each frame, F of them.
        at: The frame on which the film opens.
        mark: Where on the strip the start lies, in [0, 1]; none where it lies nowhere on it.
    """

    name: str
    notes: Sequence[str]
    captions: Sequence[str]
    at: int
    mark: float | None = None


class Track(NamedTuple):
    """A quantity along a film, drawn below its strips; the first row solid, the second dashed.

    Attributes:
        name: The quantity.
        unit: Its unit.
        colour: Of its lines.
        values: One row of F values for each row of the film.
        digits: Decimals shown.
        usual: What is usual for the codes of data, drawn as a dotted line; none is not drawn.
    """

    name: str
    unit: str
    colour: str
    values: np.ndarray
    digits: int = 2
    usual: float | None = None


def frame_count(rows: int, height: int, width: int) -> int:
    """Frames in a row: an odd number, so that one is the middle, and fewer of large images."""
    fit = _SHEET_PIXELS // max(1, rows * height * width)
    return max(_FEWEST_FRAMES, min(_MOST_FRAMES, fit - 1 + fit % 2))


def sprite_sheet(frames: np.ndarray) -> Sheet:
    r"""Packs frames into one picture, about square.

    Args:
        frames: Images in [0, 1], with shape :math:`(N, C, H, W)`.

    Returns:
        The sheet, with every pixel as it is; of images larger than 512 pixels on a side, every
        second or third one.
    """
    every = -(-max(frames.shape[2:]) // _LARGEST_SIDE)
    frames = frames[:, :, ::every, ::every]
    count, _, height, width = frames.shape
    columns = max(1, min(count, round(math.sqrt(count * height / width))))
    return Sheet(data_url(to_bytes(contact_sheet(frames, columns))), columns, width, height)


def film_data(
    sheet: Sheet,
    rows: Sequence[Row],
    label: str,
    *,
    hint: str = "",
    tracks: Sequence[Track] = (),
    linked: bool = False,
    play: bool = False,
    commits: bool = True,
) -> dict[str, Any]:
    """Describes a film for the browser.

    Args:
        sheet: What :func:`sprite_sheet` made of the R × F frames, row after row.
        rows: The rows, all of the same length.
        label: What the film shows, for those who don't see it.
        hint: A line below the rows.
        tracks: Quantities along the film.
        linked: Whether all rows move together, each on a stage of its own.
        play: Whether it starts by itself, where the visitor has nothing against motion.
        commits: Whether the server hears of the place where the hand lets go.

    Returns:
        What the component takes as its data; ``id`` changes with anything else in it.
    """
    data = {
        "sheet": sheet.url,
        "columns": sheet.columns,
        "width": sheet.width,
        "height": sheet.height,
        "frames": len(rows[0].captions),
        "rows": [row._asdict() for row in rows],
        "tracks": [_track(track) for track in tracks],
        "label": label,
        "hint": hint,
        "linked": linked,
        "play": play,
        "commits": commits,
    }
    # Rows and tracks decide what the browser must build anew rather than fill again.
    shape = [len(rows), linked, [track.values.shape[0] for track in tracks]]
    return {
        "id": hashlib.sha256(json.dumps(data).encode()).hexdigest()[:16],
        "shape": json.dumps(shape),
        **data,
    }


def _track(track: Track) -> dict[str, Any]:
    marks = [*track.values.ravel(), *([] if track.usual is None else [track.usual])]
    low, high = float(min(marks)), float(max(marks))

    def text(value: float) -> str:
        return nats(value, track.digits)

    return {
        "name": track.name,
        "colour": track.colour,
        "values": track.values.round(6).tolist(),
        "shown": [[f"{text(value)} {track.unit}" for value in row] for row in track.values],
        "low": low,
        "high": high,
        "range": f"{text(low)} to {text(high)} {track.unit}",
        "usual": track.usual,
        "usual_text": "" if track.usual is None else f"usual {text(track.usual)}",
        "alt": f"{track.name} along the film, from {text(low)} to {text(high)} {track.unit}",
    }

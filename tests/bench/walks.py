"""``make bench NAME=walks``: how many files one has to read to follow a number to its end."""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from inspect import unwrap
from io import StringIO
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import tyro
from browser import ROOT

TEXT = "The files that an upload, a training run, and a receipt with its ladder pass through."

# At most so many files.
BARS = {"upload": 20, "train": 15, "receipt": 12}
_VAE = str(ROOT / "vae") + "/"


@dataclass(frozen=True)
class _Arguments:
    """What to walk.

    Args:
        checkpoint: The model, by its name.
        json: Print one JSON document instead of lists.
    """

    checkpoint: str = "digits-2d"
    json: bool = False


class Walk(NamedTuple):
    """What a call passed through.

    Attributes:
        files: The files below vae/ in which a function was called, in the order of the first.
        counts: How often images were observed, encoded, their ELBO and log p(x) computed.
    """

    files: list[str]
    counts: dict[str, int]


def run(arguments: list[str]) -> None:
    """Runs the benchmark."""
    logging.disable(logging.WARNING)  # Streamlit's, of a cache without a server
    flags = tyro.cli(_Arguments, prog="bench walks", description=TEXT, args=arguments)
    walks = {name: walk(flags.checkpoint) for name, walk in WALKS.items()}
    if flags.json:
        print(json.dumps({name: walk._asdict() for name, walk in walks.items()}, indent=1))
        return
    for name, walk in walks.items():
        times = ", ".join(f"{what} {count} ×" for what, count in walk.counts.items())
        rooms = Counter(file.partition("/")[0] for file in walk.files).most_common()
        print(f"{name}: {len(walk.files)} files (at most {BARS[name]}); {times}")
        print("    by room: " + ", ".join(f"{room} {count}" for room, count in rooms))
        print("".join(f"    {file}\n" for file in walk.files))


def upload(name: str) -> Walk:
    """One PNG file down to its row, as the screen and HTTP score it."""
    import vae
    from vae.data.images.encoding import encode_png, to_image
    from vae.scoring.files import score_bytes
    from vae.scoring.scorer import ScoreSettings

    def scored() -> Callable[[], object]:
        model = vae.load(ROOT / "checkpoints" / name)
        png = encode_png(to_image(model.reference.levels[0], model.image))
        return lambda: score_bytes(model, [("one.png", png)], ScoreSettings())

    return _walk(scored)


def train(_: str) -> Walk:
    """A run of a few steps from its arguments to the committed checkpoint."""
    from vae.cli.train import train

    with tempfile.TemporaryDirectory() as folder:
        words = (
            "--steps 4 --evaluate-every 2 --quiet --device cpu --importance-samples 2 "
            "--evidence-images 2"
        ).split()
        outs = iter(Path(folder, str(turn)) for turn in range(2))

        def trained() -> Callable[[], object]:
            arguments = [*words, "--out", str(next(outs))]
            return lambda: train(arguments)

        return _walk(trained)


def receipt(name: str) -> Walk:
    """One reference sample's receipt and its ladder of bounds."""
    import streamlit as st

    import vae
    from vae.ui import access, estimates

    def shown() -> Callable[[], object]:
        st.cache_data.clear()
        st.cache_resource.clear()
        model = vae.load(ROOT / "checkpoints" / name)

        def both() -> None:
            access.receipt(model, 3)
            estimates.ladder(access.seen(model, 3))

        return both

    return _walk(shown)


WALKS = {"upload": upload, "train": train, "receipt": receipt}


def _walk(prepared: Callable[[], Callable[[], object]]) -> Walk:
    """Follows what ``prepared`` gives, the second time: the first imports what it needs."""
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        prepared()()
        call = prepared()
        with followed() as walk:
            call()
    return walk


@contextmanager
def followed() -> Iterator[Walk]:
    """Follows what is called meanwhile, in this thread and those that begin; filled as it goes."""
    from vae.elbo.evidence.quadrature import quadrature
    from vae.elbo.expectation import estimate_elbo
    from vae.model.vae import VAE

    named = {
        "observed": VAE.observe,
        "encoded": VAE.encode,
        "ELBO computed": estimate_elbo,
        "log p(x) computed": quadrature,
    }
    codes = {unwrap(function).__code__: name for name, function in named.items()}
    walk = Walk([], dict.fromkeys(named, 0))

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(_VAE):
            return
        file = code.co_filename.removeprefix(_VAE)
        if file not in walk.files:
            walk.files.append(file)
        if code in codes:
            walk.counts[codes[code]] += 1

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield walk
    finally:
        sys.setprofile(None)
        threading.setprofile(None)

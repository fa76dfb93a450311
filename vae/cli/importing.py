"""``python -m vae import``."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from vae.cli.program import EXIT_MISSING, EXIT_USAGE, Stop, parse, unwritable
from vae.importing.choices import Layout, Output, Packing, Pixels, Second
from vae.model.config import Binarize, LikelihoodName

__all__ = ["TEXT", "import_model"]

TEXT = "Open a VAE that was trained elsewhere, and keep it as a checkpoint of data alone."

_NOTE = (
    " SOURCE is my_model.py:build (a function without arguments that returns an object with encode"
    " and decode), pythae:FOLDER or diffusers:FOLDER. Its code runs once, here, with your rights;"
    " the checkpoint holds none, and opens without it. What the source does not say has to be"
    " said: nothing that changes a number is guessed."
)


@dataclass(frozen=True, kw_only=True)
class _Arguments:
    """The arguments.

    Args:
        source: FILE.py:build, pythae:FOLDER or diffusers:FOLDER.
        out: The checkpoint directory to make.
        data: Images that the model was not trained on: a data set such as mnist:full, or
            folder:PATH.
        held_out: Another word for --data where all images of a folder are held out: folder:PATH.
        weights: A file of weights: .safetensors, or .pt, .pth, .ckpt opened without code.
        image: Channels, height and width of its images, such as 1x28x28.
        pixels: The range of the pixels that it is fed, and of a mean that it returns.
        offset: With --scale-by: pixels are fed as (x - offset) / scale_by, channel by channel.
        scale_by: See --offset.
        layout: Whether it takes images as channels, height, width; or channels last; or flat.
        latent: The shape of a code, such as 10 or 4x32x32; left out, what encode returns.
        second: What the encoder's second output is.
        packing: Whether mean and spread come as a pair, or in one tensor as halves or interleaved.
        output: What the decoder returns.
        likelihood: The family of p(x|z) that its decoder means.
        binarize: How grey pixels become binary for a Bernoulli.
        scale: Whether the spread of a pixel is fixed (see --sigma), or fitted on images that no
            score uses.
        sigma: The fixed spread of a pixel, in units of [0, 1].
        draws: Draws behind each ELBO.
        importance_samples: The k of the importance-weighted bound of the reference set; 0 leaves
            it out.
        evidence_images: Of at most so many held-out images the exact log p(x) is stored, where
            there is one.
        title: Its name for people.
        description: What it is, for people.
        overwrite: Replace a checkpoint of that name.
        allow_pickle: Run pickles in the folder; what they ask for is printed first.
    """

    source: tyro.conf.Positional[str]
    out: Path
    data: str = ""
    held_out: str = ""
    weights: Path | None = None
    image: str = ""
    pixels: Pixels | None = None
    offset: tuple[float, ...] = ()
    scale_by: tuple[float, ...] = ()
    layout: Layout | None = None
    latent: str = ""
    second: Second | None = None
    packing: Packing | None = None
    output: Output | None = None
    likelihood: LikelihoodName | None = None
    binarize: Binarize = "none"
    scale: Literal["fixed", "fit"] | None = None
    sigma: float | None = None
    draws: int = 64
    importance_samples: int = 0
    evidence_images: int = 1_000
    title: str = ""
    description: str = ""
    overwrite: bool = False
    allow_pickle: bool = False


def import_model(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    from vae.data.sets.datasets import open_data
    from vae.data.sets.image_data import DataMissing
    from vae.importing.importer import Request, bring, commit
    from vae.importing.tracing import Refused
    from vae.store.contents import CheckpointError
    from vae.store.target import check_target

    flags = parse(_Arguments, "import", TEXT + _NOTE, arguments)
    name = flags.data or flags.held_out
    if not name:
        raise Stop(
            EXIT_USAGE,
            "name images that the model was not trained on: --data mnist:full, say, or "
            "--held-out folder:PATH.",
        )
    try:
        check_target(flags.out, flags.overwrite)
        brought = bring(
            Request(
                flags.source,
                flags.weights,
                _said(flags),
                flags.binarize,
                flags.scale,
                flags.sigma,
                flags.allow_pickle,
            )
        )
        for line in brought.told:
            print(f"  {line}")
        image = brought.model.image
        data = open_data(name, (image.height, image.width), image.channels)
        command = shlex.join(["python", "-m", "vae", "import", *arguments])
        metrics = commit(
            flags.out,
            brought,
            data,
            command,
            flags.draws,
            flags.importance_samples,
            flags.evidence_images,
            flags.title,
            flags.description,
            flags.overwrite,
        )
    except DataMissing as error:
        raise Stop(EXIT_MISSING, str(error)) from error
    except FileExistsError as error:
        raise Stop(73, str(error)) from error
    except OSError as error:
        raise unwritable(flags.out, error) from error
    except (Refused, CheckpointError, ValueError) as error:
        raise Stop(EXIT_USAGE, str(error)) from error
    print(
        f"{flags.out.name}: ELBO {metrics['elbo']:.3f} ± {metrics['elbo_se']:.3f} nats on "
        f"{metrics['images']} validation images, rate {metrics['rate']:.3f}, distortion "
        f"{metrics['distortion']:.3f}"
    )
    return 0


def _said(flags: _Arguments) -> dict:
    """What was said of the wiring, by the names of :class:`vae.importing.wiring.Wiring`."""
    names = ("pixels", "offset", "scale_by", "layout", "second", "packing", "output", "likelihood")
    said = {name: getattr(flags, name) for name in names if getattr(flags, name)}
    for name in ("image", "latent"):
        if text := getattr(flags, name):
            said[name] = _sizes(text, name)
    if "scale_by" in said:
        said.setdefault("pixels", "0..1")
    return said


def _sizes(text: str, name: str) -> list[int]:
    parts = text.lower().replace("×", "x").split("x")
    if not all(part.isdecimal() for part in parts) or (name == "image" and len(parts) != 3):
        example = "1x28x28" if name == "image" else "10 or 4x32x32"
        raise Stop(EXIT_USAGE, f"--{name} takes sizes such as {example}, not {text!r}.")
    return [int(part) for part in parts]

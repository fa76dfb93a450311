r"""A foreign model becomes a checkpoint: read in its own process, scored, committed as data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from vae.data.sets.image_data import ImageData
from vae.data.spec import ImageSpec
from vae.elbo.seen import see
from vae.importing.sources import pickles_of
from vae.importing.tracing import Refused
from vae.importing.wiring import Wiring
from vae.model.config import Binarize
from vae.model.imported import PROGRAMS, ImportedConfig, ImportedVAE, probed
from vae.model.likelihoods import DiscretizedLogistic, facts_of
from vae.model.program import Program
from vae.scoring.evaluation import checkpoint_facts, reference_of
from vae.store.checkpoint import write

__all__ = ["OFF", "Brought", "Request", "bring", "commit"]

# Set to anything, it turns imports off: for servers that others can reach.
OFF = "ELBOSCOPE_NO_IMPORT"
_SECONDS = 600
# On so many images, which no score uses, a spread is fitted.
_FITTED_ON = 500
_MOST_STRAYED = 1e-4


@dataclass(frozen=True)
class Request:
    """What is to be imported.

    Args:
        source: ``FILE.py:build``, ``pythae:FOLDER`` or ``diffusers:FOLDER``.
        weights: A file of weights, where the source has none.
        wiring: What is said of the wiring, by the names of
            :class:`vae.importing.wiring.Wiring` (``image`` as channels, height and width).
        binarize: How a grey image becomes the binary one that the model sees.
        scale: Whether the spread of a pixel is ``fixed`` or is to be ``fit``.
        sigma: The fixed spread, in the units of [0, 1].
        allow_pickle: Whether pickles in a folder may be run.
    """

    source: str
    weights: Path | None
    wiring: Mapping[str, Any]
    binarize: Binarize = "none"
    scale: str | None = None
    sigma: float | None = None
    allow_pickle: bool = False


@dataclass(frozen=True)
class Brought:
    """A foreign model, opened as data.

    Args:
        model: The model; a spread that is to be fitted is 1 so far.
        wiring: How it is wired.
        told: What was inferred and from what.
        facts: What a checkpoint records of its origin.
        fits: Whether its spread is to be fitted.
    """

    model: ImportedVAE
    wiring: Wiring
    told: tuple[str, ...]
    facts: dict[str, Any]
    fits: bool


def bring(request: Request) -> Brought:
    """Reads a foreign model in a process of its own, and opens what that leaves as data.

    Raises:
        Refused: If it cannot be imported; the message says why and what to do.
    """
    if os.environ.get(OFF):
        raise Refused(f"imports are turned off here ({OFF} is set).")
    if request.allow_pickle:
        for name, asked in pickles_of(request.source).items():
            print(f"{name} asks, when it is opened, for: {', '.join(asked)}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        result = _ask(request, folder)
        wiring = _wiring_of(result["wiring"])
        programs = json.loads((folder / "programs.json").read_text())
        tensors = safetensors.torch.load((folder / "tensors.safetensors").read_bytes())
    if result["strays"] > _MOST_STRAYED:
        raise Refused(
            "as data the network computes something else than live (off by "
            f"{result['strays']:.1g} of its outputs): it may change its inputs in place, or "
            "depend on more than them."
        )
    told = [*result["told"]]
    predicted = wiring.output == "mean_and_log_scale"
    scaled = facts_of(wiring.likelihood).has_scale
    sigma = request.sigma or result["stated"].get("sigma")
    fits = scaled and not predicted and (request.scale == "fit" or sigma is None)
    if fits and request.scale != "fit":
        raise Refused(
            f"nothing says how wide the {wiring.likelihood} likelihood is: pass --sigma in units "
            "of [0, 1], or --scale fit to fit one number on images that no score uses."
        )
    config = ImportedConfig(
        wiring.image,
        wiring.latent,
        wiring.likelihood,
        request.binarize,
        scale="none" if not scaled else "predicted" if predicted else "fixed",
        sigma=1.0 if sigma is None or fits else float(sigma),
    )
    model = ImportedVAE(config, *(Program(programs[what]) for what in PROGRAMS), _plain(tensors))
    facts = {
        **result["origin"],
        "source": _nameless(request.source),
        "torch": torch.__version__,
        "wiring": wiring.to_dict(),
        "parameters": result["parameters"],
        "told": told,
    }
    if "beta" in result["stated"]:
        facts["beta"] = result["stated"]["beta"]
    return Brought(model, wiring, tuple(told), facts, fits)


def _ask(request: Request, folder: Path) -> dict[str, Any]:
    """Runs the process that opens the model, and reads its answer."""
    asked = {
        "source": request.source,
        "weights": None if request.weights is None else str(request.weights),
        "allow_pickle": request.allow_pickle,
        "wiring": dict(request.wiring),
    }
    (folder / "request.json").write_text(json.dumps(asked))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "vae.importing.child", str(folder)],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        )
    except subprocess.TimeoutExpired as error:
        raise Refused(f"opening the model took more than {_SECONDS // 60} minutes.") from error
    try:
        result = json.loads((folder / "result.json").read_text())
    except (OSError, ValueError) as error:
        last = [line for line in done.stderr.splitlines() if line.strip()][-1:] or ["no reason"]
        raise Refused(f"the model's own code ended the import: {last[0][:300]}.") from error
    if "refused" in result:
        raise Refused(result["refused"])
    return result


def _wiring_of(values: Mapping[str, Any]) -> Wiring:
    lists = {name: tuple(values[name]) for name in ("latent", "offset", "scale_by")}
    return Wiring(**{**values, **lists, "image": ImageSpec(**values["image"])})


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as a checkpoint keeps them: floats of 32 bits, whole numbers as they are."""
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }


def _nameless(source: str) -> str:
    """A source without the path on this machine."""
    kind, _, rest = source.partition(":")
    if kind in ("pythae", "diffusers"):
        return f"{kind}:{Path(rest).name}"
    file, _, function = source.rpartition(":")
    return f"{Path(file).name}:{function}"


def fitted(model: ImportedVAE, levels: np.ndarray) -> ImportedVAE:
    r"""The model with the spread that makes images most likely, one draw of q for each.

    In closed form for the Gaussian (root of the mean squared error) and the Laplace (mean absolute
    error); for the discretised logistic by a search over its one number.

    Args:
        model: The model.
        levels: Images that no score uses, ``uint8``, with shape :math:`(N, C, H, W)`.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        seen = see(model, levels)
        e = torch.randn(seen.mu.shape, generator=generator, dtype=torch.float64)
        codes = (seen.mu + seen.sigma * e).to(torch.float32)
        means = torch.cat([model.decode(part).base_dist.loc for part in codes.split(16)])
        error = (seen.x - means).abs().double()
        if model.config.likelihood == "gaussian":
            sigma = float(error.square().mean().sqrt())
        else:
            sigma = float(error.mean())
    config = replace(model.config, sigma=max(sigma, 1e-4))
    if config.likelihood == "discretized_logistic":
        config = _likeliest(model, config, means, seen.x)
    return ImportedVAE(config, *model.programs.values(), model.tensors)


def _likeliest(
    model: ImportedVAE, config: ImportedConfig, means: Tensor, x: Tensor
) -> ImportedConfig:
    """The config whose scale makes the pixels most likely, by golden sections of its log."""

    def cost(log_scale: float) -> float:
        scale = torch.tensor(np.exp(log_scale), dtype=torch.float32)
        return -float(DiscretizedLogistic(means, scale, config.levels).log_prob(x).double().sum())

    low, high = np.log(1e-4), np.log(2.0)
    ratio = (5**0.5 - 1) / 2
    while high - low > 1e-3:
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if cost(left) < cost(right) else (left, high)
    return replace(config, sigma=float(np.exp((low + high) / 2)))


def commit(
    path: Path,
    brought: Brought,
    data: ImageData,
    command: str,
    draws: int,
    importance_samples: int = 0,
    evidence_images: int = 1_000,
    title: str = "",
    description: str = "",
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Scores the held-out images and writes the checkpoint.

    Args:
        path: The directory to make.
        brought: The model.
        data: Images that it was not trained on, with their splits.
        command: The command line that repeats it.
        draws: Draws behind each ELBO.
        importance_samples: The k of the bound; 0 leaves it out.
        evidence_images: Of at most so many images the exact log p(x) is computed.
        title: The model's name for people.
        description: What it is, for people.
        overwrite: Whether a checkpoint that stands there is replaced.
        progress: Whether to draw a progress bar on standard error.

    Returns:
        The metrics on the validation split.

    Raises:
        Refused: If the images are of another size, or the model gives no finite score for one.
        FileExistsError: If the directory exists and ``overwrite`` is false.
        OSError: If the disk refuses.
    """
    model = brought.model
    if data.spec.shape != model.image.shape:
        raise Refused(
            f"the model takes images of {'×'.join(map(str, model.image.shape))}, and {data.name} "
            f"has {'×'.join(map(str, data.spec.shape))}."
        )
    config = replace(model.config, image=data.spec)
    model = ImportedVAE(config, *model.programs.values(), model.tensors)
    facts = dict(brought.facts)
    if brought.fits:
        rows = data.splits.train[:_FITTED_ON]
        model = fitted(model, data.read(rows))
        facts["fitted_on"] = len(rows)
    first = data.read(data.splits.validation[:1])
    probed(model, model.observe(first), model.encode(model.observe(first)).mean.detach())
    reference = reference_of(model, data, draws, importance_samples, progress, evidence_images)
    if not np.isfinite(reference.elbo).all():
        bad = int(np.flatnonzero(~np.isfinite(reference.elbo))[0])
        raise Refused(
            f"the model gives no finite ELBO for image {reference.indices[bad]} of {data.name}: "
            "see the range of its pixels and its second output."
        )
    common = checkpoint_facts(model, data, reference, draws, importance_samples)
    written = {
        "command": command,
        "card": {"title": title or path.name, "description": description},
        "config": {
            "objective": "unknown",
            "beta": facts.pop("beta", None),
            "evidence_images": evidence_images,
        },
        **common,
        "origin": facts,
    }
    write(path, model, reference, (), written, overwrite)
    return common["metrics"]

r"""Where a foreign model comes from: ``FILE.py:build``, ``pythae:FOLDER`` or ``diffusers:FOLDER``.

Reading one may run its author's code, with the rights of whoever imports it; so it happens in a
process of its own (see :mod:`vae.importing.child`), once, and never in the server.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import math
import pickletools
import sys
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from vae.importing.tracing import Refused
from vae.importing.weights import load_weights

__all__ = ["Live", "open_source", "pickles_of"]

_KINDS = "FILE.py:build, pythae:FOLDER or diffusers:FOLDER"
# pythae's models whose q is a diagonal Gaussian and whose prior is N(0, I).
_GAUSSIAN = {
    "VAEConfig", "BetaVAEConfig", "BetaTCVAEConfig", "DisentangledBetaVAEConfig",
    "FactorVAEConfig", "INFOVAE_MMD_Config", "IWAEConfig", "MIWAEConfig", "CIWAEConfig",
    "PIWAEConfig", "MSSSIM_VAEConfig", "VAEGANConfig",
}  # fmt: skip
_WHY_NOT = {
    "VQVAEConfig": "its codes are points of a table, so it has no posterior and no ELBO",
    "HRQVAEConfig": "its codes are points of a table, so it has no posterior and no ELBO",
    "AEConfig": "it is an autoencoder without q(z|x)",
    "WAE_MMD_Config": "it has no posterior, only a point for each image",
    "RAE_GP_Config": "it has no posterior, only a point for each image",
    "RAE_L2_Config": "it has no posterior, only a point for each image",
    "Adversarial_AE_Config": "its codes are matched by a discriminator, not by a KL",
}
_HIDDEN = 512


class Live(NamedTuple):
    """A foreign model in memory.

    Attributes:
        model: What offers ``encode`` and ``decode``.
        wiring: What the source itself says of its wiring, by the names of
            :class:`vae.importing.wiring.Wiring`, and of the run: ``beta``, ``sigma``.
        told: What was inferred and from what, a line each.
        origin: What a checkpoint records: reader, library, class.
    """

    model: Any
    wiring: dict[str, Any]
    told: list[str]
    origin: dict[str, str]


def open_source(source: str, weights: Path | None, allow_pickle: bool) -> Live:
    """Opens a foreign model.

    Args:
        source: ``FILE.py:build``, ``pythae:FOLDER`` or ``diffusers:FOLDER``.
        weights: A file of weights for it.
        allow_pickle: Whether pickles in a folder may be run.

    Raises:
        Refused: If it cannot be opened; the message says why and what to do.
    """
    kind, _, rest = source.partition(":")
    if not rest:
        raise Refused(f"{source!r} names no model: give {_KINDS}.")
    if kind == "pythae":
        return _pythae(Path(rest), weights, allow_pickle)
    if kind == "diffusers":
        return _diffusers(Path(rest), weights)
    file, _, function = source.rpartition(":")
    if file.endswith(".py"):
        return _from_file(Path(file), function, weights)
    if Path(source).suffix in (".pt2", ".pt", ".pth", ".pkl", ".keras", ".h5", ".onnx"):
        raise Refused(f"{Path(source).name} is no source of a model: give {_KINDS}.")
    raise Refused(f"{kind!r} is no kind of source: give {_KINDS}.")


def _from_file(path: Path, function: str, weights: Path | None) -> Live:
    if not path.is_file():
        raise Refused(f"there is no file {str(path)!r}.")
    spec = importlib.util.spec_from_file_location("imported_model", path)
    module = importlib.util.module_from_spec(spec)
    # Files beside it are found as they are when it is run by itself.
    sys.path.insert(0, str(path.parent.resolve()))
    sys.modules["imported_model"] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        raise Refused(f"{path.name} cannot be run: {type(error).__name__}: {error}.") from error
    build = getattr(module, function, None)
    if build is None:
        known = [n for n, v in vars(module).items() if inspect.isfunction(v) or inspect.isclass(v)]
        raise Refused(f"{path.name} has no {function!r}; it has {', '.join(known) or 'nothing'}.")
    try:
        model = build() if callable(build) and not isinstance(build, nn.Module) else build
    except BaseException as error:
        raise Refused(
            f"{function}() of {path.name} raises {type(error).__name__}: {error}."
        ) from (error)
    if model is None:
        raise Refused(f"{function}() of {path.name} returns nothing; let it return the model.")
    told = []
    if weights is not None:
        if not isinstance(model, nn.Module):
            raise Refused(
                f"--weights needs {function}() to return an nn.Module to load them into."
            )
        told = [f"weights: {line}" for line in load_weights(model, weights)]
    origin = {"reader": "python", "class": type(model).__qualname__}
    return Live(model, {}, told, origin)


def _settings(folder: Path, name: str) -> dict[str, Any]:
    if not folder.is_dir():
        raise Refused(f"there is no folder {str(folder)!r}.")
    try:
        settings = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Refused(f"{folder.name!r} holds no {name}.") from None
    except (OSError, ValueError) as error:
        raise Refused(f"{name} of {folder.name!r} cannot be read: {error}.") from error
    if not isinstance(settings, dict):
        raise Refused(f"{name} of {folder.name!r} is no JSON object.")
    return settings


class _PythaeEncoder(nn.Module):
    """pythae's default encoder, by the names of its weights (Encoder_VAE_MLP)."""

    def __init__(self, pixels: int, latent_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(pixels, _HIDDEN), nn.ReLU())])
        self.embedding = nn.Linear(_HIDDEN, latent_dim)
        self.log_var = nn.Linear(_HIDDEN, latent_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.layers[0](x.flatten(1))
        return self.embedding(h), self.log_var(h)


class _PythaeDecoder(nn.Module):
    """pythae's default decoder, by the names of its weights (Decoder_AE_MLP)."""

    def __init__(self, shape: tuple[int, ...], latent_dim: int) -> None:
        super().__init__()
        self.shape = shape
        self.layers = nn.ModuleList(
            [
                nn.Sequential(nn.Linear(latent_dim, _HIDDEN), nn.ReLU()),
                nn.Sequential(nn.Linear(_HIDDEN, math.prod(shape)), nn.Sigmoid()),
            ]
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.layers[1](self.layers[0](z)).reshape(z.shape[0], *self.shape)


class _Pair(nn.Module):
    """An encoder and a decoder, under the names that foreign files use."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder


def _pythae(folder: Path, weights: Path | None, allow_pickle: bool) -> Live:
    settings = _settings(folder, "model_config.json")
    name = str(settings.get("name", ""))
    if name not in _GAUSSIAN:
        why = _WHY_NOT.get(name, "its q or its prior is not one that this reader knows")
        raise Refused(f"{name or folder.name!r} of pythae cannot be opened: {why}.")
    shape, dims = settings.get("input_dim"), settings.get("latent_dim")
    if not (isinstance(shape, list) and len(shape) == 3 and isinstance(dims, int)):
        raise Refused(f"model_config.json of {folder.name!r} states no input_dim and latent_dim.")
    told = [f"image {'×'.join(map(str, shape))} and D = {dims}: model_config.json"]
    encoder: nn.Module = _PythaeEncoder(math.prod(shape), dims)
    decoder: nn.Module = _PythaeDecoder(tuple(shape), dims)
    for part, default in (
        ("encoder", "uses_default_encoder"),
        ("decoder", "uses_default_decoder"),
    ):
        if not settings.get(default, True):
            own = _own_network(folder / f"{part}.pkl", allow_pickle)
            encoder, decoder = (own, decoder) if part == "encoder" else (encoder, own)
    model = _Pair(encoder, decoder)
    told += [f"weights: {line}" for line in load_weights(model, weights or folder / "model.pt")]
    wiring = {"image": shape, "latent": [dims], "pixels": "0..1", "second": "log_variance"}
    loss = settings.get("reconstruction_loss", "mse")
    if loss == "bce":
        wiring |= {"output": "probability", "likelihood": "bernoulli"}
        told.append("likelihood bernoulli: reconstruction_loss is bce, summed over pixels")
    else:
        wiring |= {"output": "mean", "likelihood": "gaussian", "sigma": 1.0}
        told.append("likelihood gaussian, σ = 1: reconstruction_loss is mse, ½ and summed")
    if "beta" in settings:
        wiring["beta"] = float(settings["beta"])
        told.append(f"β = {settings['beta']}: model_config.json")
    return Live(model, wiring, told, {"reader": "pythae", "class": name.removesuffix("Config")})


def _own_network(path: Path, allow_pickle: bool) -> nn.Module:
    """A network of the user's own, which pythae keeps as a pickle."""
    if not allow_pickle:
        raise Refused(
            f"the model brings a network of its own as {path.name}, a pickle, which runs code "
            "when it is opened: write FILE.py:build that makes the network, or pass "
            "--allow-pickle if you trust whoever made it."
        )
    try:
        import cloudpickle
    except ImportError as error:
        raise Refused(f"{path.name} was written by cloudpickle: pip install cloudpickle.") from (
            error
        )
    try:
        found = cloudpickle.loads(path.read_bytes())
    except Exception as error:  # whatever it runs may raise anything
        raise Refused(f"{path.name} cannot be opened: {type(error).__name__}: {error}.") from error
    if not isinstance(found, nn.Module):
        raise Refused(f"{path.name} holds no network, but {type(found).__name__}.")
    return found


def pickles_of(source: str) -> dict[str, list[str]]:
    """The pickles that a source brings, and what each asks for by name; nothing is run."""
    kind, _, rest = source.partition(":")
    found = sorted(Path(rest).glob("*.pkl")) if kind == "pythae" else []
    return {path.name: globals_of(path) for path in found}


def globals_of(path: Path) -> list[str]:
    """What a pickle asks for by name, found without running it."""
    found: set[str] = set()
    pushed: list[Any] = []  # what was pushed last; None where it is no text
    memo: dict[int, Any] = {}
    for operation, argument, _ in pickletools.genops(path.read_bytes()):
        name = operation.name
        if name == "GLOBAL":
            found.add(str(argument).replace(" ", "."))
        elif name == "STACK_GLOBAL":
            found.add(".".join(map(str, pushed[-2:])))
        if name == "MEMOIZE":
            memo[len(memo)] = pushed[-1] if pushed else None
        elif name.endswith("PUT"):
            memo[argument] = pushed[-1] if pushed else None
        elif name.endswith("GET"):
            pushed.append(memo.get(argument))
        elif operation.stack_after:
            pushed.append(argument if isinstance(argument, str) else None)
    return sorted(found)


def _diffusers(folder: Path, weights: Path | None) -> Live:
    settings = _settings(folder, "config.json")
    name = settings.get("_class_name")
    if name != "AutoencoderKL":
        raise Refused(
            f"{name or folder.name!r} of diffusers cannot be opened: only AutoencoderKL has a "
            "Gaussian q(z|x) over one image."
        )
    try:
        from diffusers import AutoencoderKL
    except ImportError as error:
        raise Refused(
            "reading a diffusers folder needs diffusers: pip install diffusers (the checkpoint "
            "that is made opens without it)."
        ) from error
    told = []
    if weights is None:
        try:
            model = AutoencoderKL.from_pretrained(
                folder, use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False
            )
        except Exception as error:
            raise Refused(f"diffusers cannot open {folder.name!r}: {error}.") from error
    else:
        model = AutoencoderKL.from_config(settings)
        told = [f"weights: {line}" for line in load_weights(model, weights)]
    model.disable_tiling()
    model.disable_slicing()
    channels = int(settings["latent_channels"])
    halvings = len(settings["block_out_channels"]) - 1
    told += [
        "pixels -1..1: what diffusers' image processor feeds",
        f"latent of {channels} channels, each side by {2**halvings}: config.json",
        "scaling_factor is of pipelines, not of encode and decode: not applied",
    ]
    wiring = {
        "pixels": "-1..1", "output": "mean", "channels": settings["in_channels"],
        "latent_channels": channels, "latent_shrinks": 2**halvings,
    }  # fmt: skip
    return Live(model, wiring, told, {"reader": "diffusers", "class": "AutoencoderKL"})

"""A file of weights into a live module: safetensors, or a torch file without code.

``.pt``, ``.pth``, ``.ckpt`` and ``.tar`` are opened by ``torch.load(weights_only=True)``, which
runs no code of theirs. Exported programs (``.pt2``) and TorchScript are code, and are refused
unopened.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from vae.importing.tracing import Refused

__all__ = ["load_weights", "tensors_of"]

_KEYS = ("state_dict", "model_state_dict", "model", "net", "module", "weights", "params")
_PREFIXES = ("module.", "_orig_mod.", "model.", "vae.", "net.")
_LEAST_MATCHED = 0.5


def load_weights(module: nn.Module, path: Path) -> list[str]:
    """Loads a file of weights into a module.

    Args:
        module: The module.
        path: The file.

    Returns:
        What was found, for people: the key and the prefix of the names.

    Raises:
        Refused: If the file cannot be opened without running code, or does not fit.
    """
    found, told = tensors_of(path)
    wanted = module.state_dict()
    prefix = max(("", *_PREFIXES), key=lambda one: _matches(found, wanted, one))
    named = {
        name.removeprefix(prefix): tensor
        for name, tensor in found.items()
        if name.startswith(prefix)
    }
    missing = [name for name in wanted if name not in named]
    unexpected = [name for name in named if name not in wanted]
    shapes = [
        f"{name} is {tuple(named[name].shape)} there and {tuple(wanted[name].shape)} here"
        for name in wanted
        if name in named and named[name].shape != wanted[name].shape
    ]
    # Counters of batches are missing in files of older versions, and nothing computes with them.
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or shapes:
        raise Refused(_misfit(path, missing, unexpected, shapes))
    module.load_state_dict({name: named[name] for name in wanted if name in named}, strict=False)
    if prefix:
        told.append(f"names without their prefix {prefix!r}")
    if unexpected:
        told.append(f"{len(unexpected)} tensors left out, such as {unexpected[0]}")
    return told


def tensors_of(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors in a file by name, and where in it they were found.

    Raises:
        Refused: If it holds none, or cannot be opened without running code.
    """
    if not path.is_file():
        raise Refused(f"there is no file {str(path)!r}.")
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load(path.read_bytes()), []
        except Exception as error:
            raise Refused(f"{path.name} is no whole safetensors file: {error}.") from error
    _refuse_code(path)
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise Refused(
            f"{path.name} cannot be opened without running code that it brings "
            f"({_first_line(error)}); in your own environment, save its state_dict by "
            "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors') and pass that."
        ) from error
    told = []
    for _ in range(3):
        if tensors := _tensors(held):
            return tensors, told
        key = next((key for key in _KEYS if isinstance(held, Mapping) and key in held), None)
        if key is None:
            break
        told.append(f"weights under {key!r}")
        held = held[key]
    raise Refused(f"{path.name} holds no tensors by name (looked under {', '.join(_KEYS)}).")


def _refuse_code(path: Path) -> None:
    """Refuses files that are programs rather than weights, without opening them by torch."""
    why = "it is executable code"
    if path.suffix == ".pt2":
        raise Refused(
            f"{path.name} is an exported program, which runs code when it is opened: name the "
            "module's source by FILE.py:build and its weights by --weights."
        )
    if path.suffix in (".pkl", ".pickle"):
        raise Refused(f"{path.name} is a pickle, and {why}: save the state_dict as safetensors.")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any("/code/" in name or name.endswith("constants.pkl") for name in names):
            raise Refused(
                f"{path.name} is TorchScript, and {why}: save the state_dict as safetensors."
            )


def _tensors(held: Any) -> dict[str, Tensor]:  # noqa: ANN401
    if not isinstance(held, Mapping):
        return {}
    found = {name: value for name, value in held.items() if isinstance(value, Tensor)}
    return found if found and len(found) >= _LEAST_MATCHED * len(held) else {}


def _matches(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], prefix: str) -> int:
    return sum(
        f"{prefix}{name}" in found and found[f"{prefix}{name}"].shape == tensor.shape
        for name, tensor in wanted.items()
    )


def _misfit(path: Path, missing: list[str], unexpected: list[str], shapes: list[str]) -> str:
    parts = []
    for count, names, what in (
        (len(missing), missing, "missing"), (len(unexpected), unexpected, "unexpected"),
    ):  # fmt: skip
        if count:
            more = f" and {count - 3} more" if count > 3 else ""
            parts.append(f"{', '.join(names[:3])}{more} {'is' if count == 1 else 'are'} {what}")
    parts += shapes[:3]
    return f"the weights in {path.name} don't fit the model: {'; '.join(parts)}."


def _first_line(error: Exception) -> str:
    text = str(error)
    if "Unsupported global: GLOBAL " in text:
        name = text.split("Unsupported global: GLOBAL ")[1].split()[0]
        return f"it asks for {name}"
    return text.splitlines()[0][:160] if text else type(error).__name__

"""Tensors and facts as one safetensors file that notices any change; no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

__all__ = ["Damaged", "pack", "unpack"]


class Damaged(ValueError):
    """Raised for a file that isn't as it was written."""


def pack(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> bytes:
    """Puts tensors and JSON facts into the bytes of one file."""
    # Clones: two names may share memory, which the format doesn't store.
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    text = json.dumps(facts)
    return safetensors.torch.save(plain, {"facts": text, "digest": _digest(plain, text)})


def unpack(data: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Takes them out again.

    Raises:
        Damaged: If a single bit isn't as it was written.
    """
    try:
        tensors = safetensors.torch.load(data)
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length])["__metadata__"]
        text, digest = metadata["facts"], metadata["digest"]
    except (SafetensorError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise Damaged(f"it is damaged: {error}") from error
    if _digest(tensors, text) != digest:
        raise Damaged("it is damaged: its digest doesn't match")
    return tensors, json.loads(text)


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name}:{value.dtype}:{tuple(value.shape)}:".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

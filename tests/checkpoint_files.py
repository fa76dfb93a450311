"""What lies in a checkpoint's directory, read without the product's own code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["facts_of", "manifest_of", "path_of"]


def manifest_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def facts_of(folder: Path) -> dict[str, Any]:
    """What a writer needs beside the model, to write another checkpoint with the same words."""
    own = ("format", "model", "files")
    return {key: value for key, value in manifest_of(folder).items() if key not in own}


def path_of(folder: Path, file: str = "model.safetensors") -> Path:
    """Where a file lies that the manifest lists; the first checkpoints' have their plain names."""
    return folder / manifest_of(folder)["files"][file].get("name", file)

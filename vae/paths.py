"""Where the app's own files lie: beside the package in a checkout, inside it once installed."""

from __future__ import annotations

from pathlib import Path

__all__ = ["app_folder", "is_installed"]

# pyproject.toml puts them there when a wheel is built; a checkout has no such folder.
_INSTALLED = Path(__file__).parent / "_app"


def is_installed() -> bool:
    """Whether this is an installed package rather than a checkout."""
    return _INSTALLED.is_dir()


def app_folder() -> Path:
    """The folder of ``app.py``, ``pages/``, ``.streamlit/`` and the shipped ``checkpoints/``."""
    return _INSTALLED if is_installed() else Path(__file__).parents[1]

"""The screens and their place in the navigation; one that isn't built yet is not here."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from urllib.parse import unquote, urlsplit

import streamlit as st

from vae.paths import app_folder

__all__ = ["SCREENS", "link", "page_path", "unknown_screen"]

SCREENS: dict[str, dict[str, str]] = {
    "Explore": {
        "overview": "Overview",
        "latent_map": "Latent map",
        "traversals": "Traversals",
    },
    "Explain": {
        "sample_elbo": "One sample's ELBO",
        "kl_per_sample": "KL is per sample",
        "bound": "The bound",
        "derivation": "Derivation",
    },
    "Use": {"score_images": "Score images", "compare": "Compare models", "train": "Train"},
}


def page_path(name: str) -> Path:
    """The file of a screen, absolute: the frame is the script, and lies elsewhere."""
    return app_folder() / "pages" / f"{name}.py"


def unknown_screen(address: str | None, base: str, known: Collection[str]) -> str | None:
    """What an address names instead of a screen, or none.

    Args:
        address: The address in the browser.
        base: The path below which the app is served.
        known: The names of the screens that are there.
    """
    path = unquote(urlsplit(address or "").path).strip("/")
    asked = path.removeprefix(base.strip("/")).strip("/")
    return asked if asked and asked not in known else None


def link(name: str, label: str, icon: str) -> None:
    """A link to another screen."""
    st.page_link(page_path(name), label=label, icon=f":material/{icon}:")

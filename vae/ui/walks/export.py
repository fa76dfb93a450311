"""What a walk leaves to take away: pictures, animations, and its codes as a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence

import numpy as np
import streamlit as st

from vae.figures.export import animation, picture
from vae.scoring.rows import inert
from vae.store.checkpoint import Checkpoint
from vae.ui import access
from vae.ui.components.film import copy_link

__all__ = ["codes_csv", "export_film", "export_grid"]


def export_film(
    model: Checkpoint,
    codes: np.ndarray,
    names: Sequence[str],
    stem: str,
    table: Callable[[], bytes],
) -> None:
    """Buttons for a film: PNG, GIF and WebP, its codes, and the link to it.

    Args:
        model: The model.
        codes: The film's codes, with shape :math:`(R, F, D)`.
        names: The rows' names; one of them, or all, is exported.
        stem: The files' name.
        table: Makes the CSV file.
    """
    with st.container(horizontal=True, vertical_alignment="bottom"):
        rows = list(range(len(names)))
        if len(names) > 1:
            all_rows = "all rows"
            shown = st.selectbox(
                "Export", [all_rows, *names], key=f"export-{stem}-{model.name}", width=190
            )
            rows = rows if shown == all_rows else [names.index(shown)]
        some = codes[rows]

        def frames() -> np.ndarray:
            return access.decode(model, some)

        def as_picture() -> bytes:
            images = frames()
            return picture(images.reshape(-1, *images.shape[2:]), images.shape[1])

        name = f"{model.name}-{stem}"
        _button("PNG", as_picture, f"{name}.png")
        for kind in ("GIF", "WebP"):
            _button(
                kind, lambda kind=kind: animation(frames(), kind.upper()), f"{name}.{kind.lower()}"
            )
        _button("CSV", table, f"{name}.csv")
        copy_link()


def export_grid(
    model: Checkpoint, images: np.ndarray, columns: int, stem: str, table: Callable[[], bytes]
) -> None:
    """Buttons for a grid: PNG, its codes, and the link to it; images (N, C, H, W)."""
    name = f"{model.name}-{stem}"
    with st.container(horizontal=True, vertical_alignment="bottom"):
        _button("PNG", lambda: picture(images, columns), f"{name}.png")
        for kind in ("GIF", "WebP"):
            _button(
                kind,
                lambda kind=kind: animation(images[None], kind.upper()),
                f"{name}.{kind.lower()}",
            )
        _button("CSV", table, f"{name}.csv")
        copy_link()


def _button(kind: str, make: Callable[[], bytes], name: str) -> None:
    # The file is made when it is asked for.
    st.download_button(kind, make, name, on_click="ignore", key=f"download-{name}")


def codes_csv(codes: np.ndarray, columns: dict[str, Sequence]) -> bytes:
    r"""A table of codes.

    Args:
        codes: With shape :math:`(N, D)`.
        columns: More columns of N values, which stand first.

    Returns:
        A CSV file with the columns, then ``z_1`` to ``z_D``.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, *(f"z_{d + 1}" for d in range(codes.shape[1]))])
    for i, code in enumerate(codes):
        writer.writerow([*(inert(values[i]) for values in columns.values()), *code.tolist()])
    return text.getvalue().encode()

"""What the latent map is made of: its scene, its group, and the plane's parts, cached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import streamlit as st
import torch

from vae.elbo.aggregate.density import aggregate_log_density
from vae.explore import lattice as lattices
from vae.explore.lattice import Plane, Window
from vae.explore.round_trip import round_trip
from vae.figures import plane as parts
from vae.figures.plane import Fact, Slot
from vae.store.checkpoint import Checkpoint
from vae.ui import access
from vae.ui.caches import shared
from vae.ui.links import remember
from vae.ui.literal import literal
from vae.ui.map.all_codes import components, hole_share

__all__ = [
    "Scene",
    "arrows",
    "colour",
    "field",
    "fine",
    "group",
    "labels",
    "lattice",
    "points",
    "set_group",
    "thumbnails",
    "unchecked",
]

_FIELD_SIDE, _ARROWS_SIDE = 61, 17
_MOST_PICTURES = 400


class Scene(NamedTuple):
    r"""Where the points lie, and what lies under them.

    Attributes:
        kind: The view: dimensions, PCA or t-SNE.
        geometry: Identifies what the places are of.
        places: Where the points lie, NaN for those that are left out, with shape :math:`(N, 2)`.
        spread: Standard deviations, and for PCA their correlation, or none.
        plane: The plane through the latent space, or none for t-SNE.
        dims: The dimensions of the axes, or none where the axes are no dimensions.
        home: The window shown first.
        whole: The window that holds every point, which is larger where a few lie far out.
        lines: Curves that belong to the places, with their names.
    """

    kind: str
    geometry: str
    places: np.ndarray
    spread: np.ndarray | None
    plane: Plane | None
    dims: tuple[int, ...] | None
    home: Window
    whole: Window
    lines: tuple[dict, ...] = ()


def unchecked(key: str, options: Sequence[str], what: str) -> None:
    """Names a value in the link that isn't among the options, before its widget drops it."""
    asked = st.query_params.get(key)
    if asked is not None and asked not in options:
        shown = ", ".join(options[:12])
        remember(
            f"The link names a {what} “{literal(asked[:20])}” that this model doesn't have, so "
            f"the default is shown. There are: {shown}.",
            "map_notices",
        )
    # A value that another model left behind must not meet options that lack it.
    if key in st.session_state and st.session_state[key] not in options:
        del st.session_state[key]


# -- groups ---------------------------------------------------------------------------------------


def set_group(model: Checkpoint, rows: np.ndarray) -> None:
    """Keeps a group of samples through colours, views and screens; none forgets it."""
    st.session_state["group"] = (model.identity, rows) if len(rows) else None


def group(model: Checkpoint) -> np.ndarray | None:
    """The samples that were circled on this model's map, by their numbers."""
    kept = st.session_state.get("group")
    return kept[1] if kept and kept[0] == model.identity else None


# -- parts of the plane ---------------------------------------------------------------------------


# A parameter with a leading underscore follows from the others, and is no part of the key.


@shared(max_entries=4)
def points(
    key: str, model: Checkpoint, geometry: str, _scene: Scene, _facts: Sequence[Fact]
) -> Slot:
    """The points of a scene, which its geometry identifies."""
    return parts.points_slot(
        key, _scene.places, _scene.spread, model.reference.labels, model.label_names, _facts
    )


@shared(max_entries=8)
def colour(
    key: str,
    model: Checkpoint,
    title: str,
    _values: np.ndarray,
    unit: str,
    class_names: Sequence[str],
    digits: int,
) -> Slot:
    """The points' colours by one of their quantities, which its title identifies."""
    return parts.colour_slot(key, _values, title, unit, class_names, digits)


@shared(max_entries=12)
def lattice(key: str, model: Checkpoint, plane: Plane, name: str, window: Window) -> Slot:
    """The decoded lattice over a window."""
    side = lattices.lattice_side(model.image)
    frames = lattices.decode_lattice(model.model, plane, window, side)
    return parts.sheet_slot(key, name, frames, window)


@shared(max_entries=16)
def labels(model: Checkpoint, geometry: str, _scene: Scene) -> list[dict]:
    """The classes' names where their clusters are."""
    return parts.cluster_labels(_scene.places, model.reference.labels, model.label_names)


def thumbnails(key: str, model: Checkpoint, scene: Scene, window: Window) -> Slot | None:
    """Images of the samples in a window; none where they are too many to be seen."""
    x, y = scene.places.T
    rows = np.flatnonzero(
        (x >= window.left) & (x <= window.right) & (y >= window.bottom) & (y <= window.top)
    )
    if not 0 < len(rows) <= _MOST_PICTURES:
        return None
    found = access.images(model, rows)
    images = access.reconstructions(model, rows) if found is None else found
    return parts.thumbnails_slot(key, rows, images, window)


@shared(max_entries=12)
def field(
    key: str, model: Checkpoint, dims: tuple[int, ...], window: Window, with_holes: bool
) -> Slot:
    """The aggregate posterior of one or two dimensions over a window, against the prior."""
    mu, sigma, _ = components(model)
    # The marginal of some dimensions of a diagonal Gaussian is had by leaving out the others.
    mu, sigma = mu[:, dims], sigma[:, dims]
    places = lattices.places(window, _FIELD_SIDE).reshape(-1, 2)
    z, zero = torch.from_numpy(places[:, : len(dims)]), torch.zeros(1, len(dims))
    aggregate = aggregate_log_density(mu, sigma, z)
    ratio = aggregate - aggregate_log_density(zero, torch.ones_like(zero), z)
    threshold = hole_share(model, dims).threshold if with_holes else None
    square = (_FIELD_SIDE, _FIELD_SIDE)
    return parts.field_slot(
        key, ratio.numpy().reshape(square), aggregate.numpy().reshape(square), threshold, window
    )


@shared(max_entries=8)
def arrows(key: str, model: Checkpoint, plane: Plane, home: Window) -> tuple[Slot, float]:
    """The round trips of a grid of places, and their median length in the whole latent space."""
    starts = lattices.places(home, _ARROWS_SIDE).reshape(-1, 2)
    # Beyond the prior's third standard deviation nobody draws a code.
    starts = starts[np.linalg.norm(starts, axis=1) <= 3]
    codes = plane.codes(starts)
    ends = round_trip(model.model, codes)
    length = np.linalg.norm(ends - codes, axis=1)
    return parts.arrows_slot(key, starts, plane.project(ends)), float(np.median(length))


def fine(kept: object, scene: Scene) -> Window | None:
    """The window that the view has come to rest on, a little widened; none at first."""
    if not isinstance(kept, tuple) or kept[0] != scene.geometry:
        return None
    left, bottom, right, top = kept[1]
    x, y = 0.12 * (right - left), 0.12 * (top - bottom)
    return Window(left - x, bottom - y, right + x, top + y)

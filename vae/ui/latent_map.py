"""The latent map's settings, what they make of the codes, and the plane itself."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import streamlit as st

from vae.explore.lattice import Window, dimension_plane
from vae.explore.selection import inside
from vae.figures.frame import nats
from vae.figures.plane import Fact, group_slot, prior_rings
from vae.model.checkpoint import Checkpoint
from vae.model.stored import SPLITS
from vae.ui import access, all_codes, maps
from vae.ui.access import Table
from vae.ui.maps import Scene
from vae.ui.plane import choose, plane

__all__ = [
    "DENSITY",
    "HOLES",
    "KEY",
    "ROUND_TRIP",
    "VIEWS",
    "Settings",
    "draw",
    "scene",
    "settings",
]

KEY = "latent_plane"
VIEWS = ("two dimensions", "PCA", "t-SNE")
DECODED, PRIOR, DENSITY, HOLES = "decoded images", "prior", "density of codes", "holes"
ROUND_TRIP, GAUSSIANS, PICTURES = "round trip", "every Gaussian", "images when zoomed in"
LAYERS = (DECODED, PRIOR, DENSITY, HOLES, ROUND_TRIP, GAUSSIANS, PICTURES)
_DEFAULT_LAYERS = (PRIOR, PICTURES)


class Settings(NamedTuple):
    """What the person chose.

    Attributes:
        view: One of ``VIEWS``.
        dims: The dimensions across and up.
        hold: Whether the slice keeps the chosen sample's other dimensions, rather than 0.
        colour: What colours the dots.
        layers: Which of ``LAYERS`` are drawn.
    """

    view: str
    dims: tuple[int, int]
    hold: bool
    colour: str
    layers: tuple[str, ...]


def settings(model: Checkpoint, table: Table) -> Settings:
    """The row of settings; all of them stand in the link."""
    many = model.config.latent_dim > 2
    names = [f"z{d + 1}" for d in table.by_kl]
    mean_kl = dict(zip(names, table.kl_per_dim.mean(0)[table.by_kl], strict=True))
    quantities = _quantities(model)
    maps.unchecked("colour", quantities, "colouring")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        colour = st.selectbox(
            "Colour by", quantities, key="colour", bind="query-params", width=230,
            on_change=_forget,
        )  # fmt: skip
        view, dims, hold = VIEWS[0], (0, 1), True
        if many:
            maps.unchecked("view", VIEWS, "view")
            view = st.selectbox(
                "View", VIEWS, key="view", bind="query-params", width=180, on_change=_forget
            )
        if many and view == VIEWS[0]:
            maps.unchecked("across", names, "dimension across")
            across = st.selectbox(
                "Across", names, key="across", bind="query-params", width=110,
                on_change=_forget, help=_by_kl(mean_kl),
            )  # fmt: skip
            others = [name for name in names if name != across]
            maps.unchecked("up", others, "dimension up")
            up = st.selectbox(
                "Up", others, key="up", bind="query-params", width=110, on_change=_forget,
                help=_by_kl(mean_kl),
            )  # fmt: skip
            dims = (int(across[1:]) - 1, int(up[1:]) - 1)
        if many and view != VIEWS[2]:
            places = ("this sample's", "0")
            maps.unchecked("hold", places, "place for the other dimensions")
            hold = places[0] == st.segmented_control(
                "Others at", places, default=places[0], required=True, key="hold",
                bind="query-params", on_change=_forget,
                help="A picture needs all dimensions. Where the plane's pictures keep the ones "
                "that it doesn't show: at the chosen sample's values, or at the prior's mean.",
            )  # fmt: skip
    offered = _offered(view)
    asked = st.query_params.get_all("layers")
    if "layers" not in st.session_state and not set(asked) <= {*LAYERS, ""}:
        maps.unchecked("layers", LAYERS, "layer")
    kept = st.session_state.get("layers")
    if kept is not None and not set(kept) <= set(offered):
        st.session_state["layers"] = [name for name in kept if name in offered]
    layers = st.pills(
        "Layers", offered, default=[name for name in _DEFAULT_LAYERS if name in offered],
        selection_mode="multi", key="layers", bind="query-params", on_change=_forget,
    )  # fmt: skip
    for sentence in st.session_state.get("map_notices", ()):
        st.warning(sentence, icon=":material/link_off:")
    return Settings(view, dims, hold, colour, tuple(layers or ()))


def _forget() -> None:
    st.session_state["map_notices"] = []


def _offered(view: str) -> list[str]:
    """The layers that a view can have: t-SNE's places are no codes, and PCA's axes are tilted."""
    missing = {
        VIEWS[0]: (),
        VIEWS[1]: (DENSITY, HOLES, PRIOR),
        VIEWS[2]: (DECODED, PRIOR, DENSITY, HOLES, ROUND_TRIP, GAUSSIANS),
    }[view]
    return [name for name in LAYERS if name not in missing]


def _by_kl(mean_kl: dict[str, float]) -> str:
    shown = ", ".join(f"{name} {nats(value, 2)}" for name, value in list(mean_kl.items())[:12])
    return f"By falling mean KL in nats: {shown}."


def _quantities(model: Checkpoint) -> list[str]:
    names = ["KL", "expected log-likelihood", "ELBO", "percentile", "log q̄(z)/p(z)", "split"]
    return ["label", *names] if model.label_names else names


def _coloured(
    model: Checkpoint, table: Table, name: str
) -> tuple[np.ndarray, str, tuple[str, ...], int]:
    """Values, unit, class names and digits of what colours the dots."""
    if name == "label":
        return table.labels, "", model.label_names, 0
    if name == "split":
        return table.split.astype(int), "", SPLITS, 0
    if name.startswith("log"):
        return all_codes.log_ratio(model), "nats", (), 1
    if name == "percentile":
        return table.percentile, "%", (), 0
    values = {
        "KL": table.kl,
        "expected log-likelihood": table.expected_log_likelihood,
        "ELBO": table.elbo,
    }
    return values[name], "nats", (), 2 if name == "KL" else 1


def scene(model: Checkpoint, table: Table, sample: int, chosen: Settings) -> Scene:
    """Where the points lie for these settings, and the plane under them."""
    mu, sigma = table.mu, table.sigma
    sha = model.identity[:12]
    held = mu[sample] if chosen.hold else np.zeros(mu.shape[1])
    if chosen.view == VIEWS[0]:
        dims = chosen.dims
        places = mu[:, dims]
        span = max(3.4, 1.06 * float(np.abs(places).max()))
        return Scene(
            chosen.view, f"{sha} {dims}", places, sigma[:, dims],
            dimension_plane(dims, held), dims, Window(-span, -span, span, span),
        )  # fmt: skip
    if chosen.view == VIEWS[1]:
        axes = all_codes.principal(model)
        places = (mu - axes.mean) @ axes.directions.T
        (first, second), variance = axes.directions, sigma**2
        across, up = variance @ first**2, variance @ second**2
        spread = np.column_stack(
            (np.sqrt(across), np.sqrt(up), variance @ (first * second) / np.sqrt(across * up))
        )
        span = 1.06 * float(np.abs(places).max())
        return Scene(
            chosen.view, f"{sha} PCA", places, spread, axes.plane_through(held), None,
            Window(-span, -span, span, span),
        )  # fmt: skip
    bar = st.empty()

    def report(done: int, steps: int) -> None:
        bar.progress(done / steps, f"t-SNE: {done:,} of {steps:,} steps".replace(",", "\u2009"))

    places, count = all_codes.tsne_places(model, sample, report)
    bar.empty()
    span = 1.06 * float(np.nanmax(np.abs(places)))
    return Scene(
        chosen.view, f"{sha} t-SNE {count} {np.isnan(places[:, 0]).argmax()}", places, None, None,
        None, Window(-span, -span, span, span),
    )  # fmt: skip


@st.fragment
def draw(model: Checkpoint, sample: int, found: Scene, chosen: Settings) -> None:
    """The plane. A zoom reruns this part alone; a click or a loop reruns the screen."""
    table = access.table(model)
    layers = set(chosen.layers) & set(_offered(chosen.view))
    kept = st.session_state.get("map_window")
    window = maps.fine(kept, found)
    values, unit, names, digits = _coloured(model, table, chosen.colour)
    facts = (
        Fact("KL", table.kl),
        Fact("E log p(x|z)", table.expected_log_likelihood, digits=1),
        Fact("ELBO", table.elbo, digits=1),
    )
    slots = [
        maps.points(KEY, model, found, facts),
        maps.colour(KEY, model, chosen.colour, values, unit, names, digits),
    ]
    if found.plane is not None:
        slots.append(maps.lattice(KEY, model, found, "coarse", found.home))
        if window is not None:
            slots.append(maps.lattice(KEY, model, found, "fine", window))
    if window is not None and PICTURES in layers:
        slots.append(maps.thumbnails(KEY, model, found, window))
    if found.dims is not None:
        with_holes = HOLES in layers
        slots.append(maps.field(KEY, model, found.dims, window or found.home, with_holes))
    if ROUND_TRIP in layers:
        slots.append(maps.arrows(KEY, model, found)[0])
    members = maps.group(model)
    if members is not None:
        slots.append(group_slot(KEY, np.isin(np.arange(len(table.mu)), members)))
    slots = [slot for slot in slots if slot is not None]
    axes, short = _axes(model, found, chosen)

    def keep(view: object) -> None:
        if _is_window(view):
            st.session_state["map_window"] = (found.geometry, tuple(map(float, view)))
        elif view == []:
            st.session_state["map_window"] = None

    def circle(corners: object) -> None:
        try:
            rows = np.flatnonzero(inside(found.places, corners)) if corners else np.arange(0)
        except (ValueError, TypeError):
            return
        maps.set_group(model, rows)

    done = plane(
        slots,
        key=KEY,
        alt=f"Posterior means of {len(table.mu)} images over {axes[0]} and {axes[1]}, coloured "
        f"by {chosen.colour}; sample {sample} is ringed.",
        axes=axes,
        names=short,
        home=found.home,
        geometry=found.geometry,
        selected=sample,
        refines=found.plane is not None or PICTURES in layers,
        start=None if window is None else kept[1],
        layers={
            "lattice": DECODED in layers,
            "faint": True,
            "density": DENSITY in layers,
            "holes": HOLES in layers,
            "arrows": ROUND_TRIP in layers,
            "ellipses": GAUSSIANS in layers,
            "images": PICTURES in layers,
        },
        lines=prior_rings() if PRIOR in layers else (),
        labels=maps.labels(model, found) if chosen.colour == "label" else (),
        on_pick=choose(len(table.mu)),
        on_view=keep,
        on_loop=circle,
    )
    if done.get("pick") is not None or done.get("loop") is not None:
        st.rerun()


def _is_window(view: object) -> bool:
    numbers = isinstance(view, list) and len(view) == 4
    return (
        numbers and all(isinstance(edge, int | float) for edge in view) and Window(*view).is_usable
    )


def _axes(
    model: Checkpoint, found: Scene, chosen: Settings
) -> tuple[tuple[str, str], tuple[str, str]]:
    if found.kind == VIEWS[1]:
        shares = all_codes.principal(model).shares
        titles = [f"component {k + 1} ({100 * shares[k]:.0f} % of the variance)" for k in (0, 1)]
        return tuple(titles), ("component 1", "component 2")
    if found.kind == VIEWS[2]:
        return ("t-SNE 1 (no unit)", "t-SNE 2 (no unit)"), ("t-SNE 1", "t-SNE 2")
    names = tuple(f"z{d + 1}" for d in chosen.dims)
    return tuple(f"latent dimension {name[1:]}" for name in names), names

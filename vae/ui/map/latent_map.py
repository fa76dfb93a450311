"""The latent map's settings, what they make of the codes, and the plane itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import streamlit as st

from vae.data.sets.image_data import label_text
from vae.explore.lattice import Plane, Window, dimension_plane
from vae.explore.projection import TSNE_LEAST
from vae.explore.selection import inside
from vae.figures.frame import framed_span, nats
from vae.figures.plane import (
    MOST_NAMED,
    Fact,
    Slot,
    density_lines,
    group_slot,
    prior_rings,
    scattered,
)
from vae.store.checkpoint import Checkpoint
from vae.store.contents import SPLITS
from vae.ui import access
from vae.ui.access import Table
from vae.ui.components.plane import choose, plane
from vae.ui.map import all_codes, maps
from vae.ui.map.maps import Scene

__all__ = [
    "DENSITY",
    "HOLES",
    "KEY",
    "LINE",
    "ROUND_TRIP",
    "VIEWS",
    "Settings",
    "draw",
    "scene",
    "settings",
]

KEY = "latent_plane"
VIEWS = ("two dimensions", "PCA", "t-SNE")
# The only view of a model with one latent dimension.
LINE = "one dimension"
DECODED, PRIOR, DENSITY, HOLES = "decoded images", "prior", "density of codes", "holes"
ROUND_TRIP, GAUSSIANS, PICTURES = "round trip", "every Gaussian", "images when zoomed in"
LAYERS = (DECODED, PRIOR, DENSITY, HOLES, ROUND_TRIP, GAUSSIANS, PICTURES)
_DEFAULT_LAYERS = (PRIOR, PICTURES)
_ANYWHERE = 3.4


class Settings(NamedTuple):
    """What the person chose.

    Attributes:
        view: One of ``VIEWS``, or ``LINE``.
        dims: The dimensions across and up; one where there are no more.
        hold: Whether the slice keeps the chosen sample's other dimensions, rather than 0.
        colour: What colours the dots.
        layers: Which of ``LAYERS`` are drawn.
    """

    view: str
    dims: tuple[int, ...]
    hold: bool
    colour: str
    layers: tuple[str, ...]


def settings(model: Checkpoint, table: Table) -> Settings:
    """The row of settings; all of them stand in the link."""
    names = [f"z{d + 1}" for d in table.by_kl]
    view, dims, hold, empty = VIEWS[0], (0, 1), True, ""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        colour = _choose("Colour by", _quantities(model), "colour", "colouring", 230)
        if colour == "label" and len(model.label_names) > MOST_NAMED:
            _find_class(model, table)
        if model.latent_dim == 1:
            view, dims = LINE, (0,)
        if model.latent_dim > 2:
            view = _choose("View", VIEWS, "view", "view", 180)
            empty = _nothing_to_see(model, view)
            view = VIEWS[0] if empty else view
            if view == VIEWS[0]:
                about = _by_kl(
                    dict(zip(names, table.kl_per_dim.mean(0)[table.by_kl], strict=True))
                )
                across = _choose("Across", names, "across", "dimension across", 110, about)
                others = [name for name in names if name != across]
                up = _choose("Up", others, "up", "dimension up", 110, about)
                dims = (int(across[1:]) - 1, int(up[1:]) - 1)
            if view != VIEWS[2]:
                hold = _choose_hold()
    layers = _choose_layers(_offered(view))
    for sentence in st.session_state.get("map_notices", ()):
        st.warning(sentence, icon=":material/link_off:")
    if empty:
        st.info(f"{empty} Two dimensions are shown instead.")
    return Settings(view, dims, hold, colour, layers)


def _choose(
    label: str, options: Sequence[str], key: str, what: str, width: int, about: str | None = None
) -> str:
    """One of several options that the link may name."""
    maps.unchecked(key, options, what)
    return st.selectbox(
        label,
        options,
        key=key,
        bind="query-params",
        width=width,
        on_change=_forget,
        help=about,
    )


def _choose_hold() -> bool:
    """Whether the plane's pictures keep the chosen sample's values where it shows no dimension."""
    places = ("this sample's", "0")
    maps.unchecked("hold", places, "place for the other dimensions")
    chosen = st.segmented_control(
        "Others at",
        places,
        default=places[0],
        required=True,
        key="hold",
        bind="query-params",
        on_change=_forget,
        help="A picture needs all dimensions. Where the plane's pictures keep the ones that it "
        "doesn't show: at the chosen sample's values, or at the prior's mean.",
    )
    return chosen == places[0]


def _choose_layers(offered: list[str]) -> tuple[str, ...]:
    if "layers" not in st.session_state:
        asked = st.query_params.get_all("layers")
        if not set(asked) <= {*LAYERS, ""}:
            maps.unchecked("layers", LAYERS, "layer")
    kept = st.session_state.get("layers")
    if kept is not None and not set(kept) <= set(offered):
        st.session_state["layers"] = [name for name in kept if name in offered]
    layers = st.pills(
        "Layers",
        offered,
        default=[name for name in _DEFAULT_LAYERS if name in offered],
        selection_mode="multi",
        key="layers",
        bind="query-params",
        on_change=_forget,
    )
    return tuple(layers or ())


def _forget() -> None:
    st.session_state["map_notices"] = []


def _nothing_to_see(model: Checkpoint, view: str) -> str:
    """Why a view of these codes shows nothing; empty where it does."""
    count = model.reference.size
    if view != VIEWS[0] and all_codes.all_equal(model):
        return f"All {count:,} codes are one and the same, so {view} has nothing to spread out."
    if view == VIEWS[2] and count < TSNE_LEAST:
        return f"t-SNE needs at least {TSNE_LEAST} codes, and there are {count}."
    return ""


def _find_class(model: Checkpoint, table: Table) -> None:
    """A search among more classes than have a colour; what it finds becomes the group."""
    classes = np.unique(table.labels[table.labels >= 0]).tolist()
    group, asked = maps.group(model), st.session_state.get("find")
    # Another model's class, or one whose group was forgotten or circled anew since.
    if asked is not None and (
        group is None or not np.array_equal(group, np.flatnonzero(table.labels == asked))
    ):
        st.session_state["find"] = None

    def gather() -> None:
        maps.set_group(model, np.flatnonzero(table.labels == st.session_state["find"]))

    st.selectbox(
        "Find a class",
        classes,
        index=None,
        key="find",
        width=230,
        on_change=gather,
        format_func=lambda number: label_text(number, model.label_names),
        placeholder=f"among {len(classes):,}",
        help=f"The {MOST_NAMED} commonest classes have a colour and a name on the map, the others "
        "are grey. A class that is found becomes the group.",
    )


def _offered(view: str) -> list[str]:
    """The layers that a view can have: t-SNE's places are no codes, and PCA's axes are tilted.

    On one dimension the density is a line that is always there.
    """
    missing = {
        LINE: (DENSITY, ROUND_TRIP),
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
    return _SCENES[chosen.view](model, table, sample, chosen)


def _held(table: Table, sample: int, chosen: Settings) -> np.ndarray:
    """The code (D,) whose dimensions a slice keeps where it doesn't vary them."""
    return table.mu[sample] if chosen.hold else np.zeros(table.mu.shape[1])


def _slice(model: Checkpoint, table: Table, sample: int, chosen: Settings) -> Scene:
    """Two dimensions."""
    dims = chosen.dims
    places = table.mu[:, dims]
    home, whole = _windows(places, _ANYWHERE)
    return Scene(
        kind=chosen.view,
        geometry=f"{model.identity[:12]} {dims}",
        places=places,
        spread=table.sigma[:, dims],
        plane=dimension_plane(dims, _held(table, sample, chosen)),
        dims=dims,
        home=home,
        whole=whole,
    )


def _principal_plane(model: Checkpoint, table: Table, sample: int, chosen: Settings) -> Scene:
    """The two directions in which codes vary most."""
    axes = all_codes.principal(model)
    places = (table.mu - axes.mean) @ axes.directions.T
    (first, second), variance = axes.directions, table.sigma**2
    across, up = variance @ first**2, variance @ second**2
    correlation = variance @ (first * second) / np.sqrt(across * up)
    home, whole = _windows(places)
    return Scene(
        kind=chosen.view,
        geometry=f"{model.identity[:12]} PCA",
        places=places,
        spread=np.column_stack((np.sqrt(across), np.sqrt(up), correlation)),
        plane=axes.plane_through(_held(table, sample, chosen)),
        dims=None,
        home=home,
        whole=whole,
    )


def _tsne(model: Checkpoint, table: Table, sample: int, chosen: Settings) -> Scene:
    """Places by t-SNE, which belong to no plane."""
    bar = st.empty()

    def report(done: int, steps: int) -> None:
        bar.progress(done / steps, f"t-SNE: {done:,} of {steps:,} steps")

    places, count = all_codes.tsne_places(model, sample, report)
    bar.empty()
    home, whole = _windows(places)
    return Scene(
        kind=chosen.view,
        geometry=f"{model.identity[:12]} t-SNE {count} {np.isnan(places[:, 0]).argmax()}",
        places=places,
        spread=None,
        plane=None,
        dims=None,
        home=home,
        whole=whole,
    )


def _windows(places: np.ndarray, least: float = 0.0) -> tuple[Window, Window]:
    """What is shown first, and what holds every point."""
    return tuple(Window(-span, -span, span, span) for span in framed_span(places, least))


def _line(model: Checkpoint, table: Table, sample: int, chosen: Settings) -> Scene:
    """One latent dimension: codes across, and up, at random heights, the density they make."""
    mu = table.mu[:, 0]
    aggregate, _ = all_codes.densities(model, mu)
    near, far = framed_span(table.mu, _ANYWHERE)
    # Steps as fine as the narrowest image's Gaussian asks for, within what a screen shows.
    z = np.linspace(-far, far, 1_201)
    curves = all_codes.densities(model, z)
    top = 1.12 * float(max(curves.max(), aggregate.max()))
    return Scene(
        kind=LINE,
        geometry=f"{model.identity[:12]} line",
        places=np.column_stack((mu, scattered(aggregate))),
        spread=np.column_stack((table.sigma[:, 0], np.zeros(len(mu)))),
        plane=Plane(np.zeros(1), np.ones(1), np.zeros(1)),
        dims=(0,),
        home=Window(-near, -0.04 * top, near, top),
        whole=Window(-far, -0.04 * top, far, top),
        lines=tuple(density_lines(z, *curves)),
    )


_SCENES = {VIEWS[0]: _slice, VIEWS[1]: _principal_plane, VIEWS[2]: _tsne, LINE: _line}


@st.fragment
def draw(model: Checkpoint, sample: int, found: Scene, chosen: Settings) -> None:
    """The plane. A zoom reruns this part alone; a click or a loop reruns the screen."""
    layers = set(chosen.layers) & set(_offered(chosen.view))
    kept = st.session_state.get("map_window")
    window = maps.fine(kept, found)
    axes, short = _axes(model, found, chosen)
    count = len(found.places)
    done = plane(
        _slots(model, found, chosen, layers, window),
        key=KEY,
        alt=f"Posterior means of {count:,} images over {axes[0]} and {axes[1]}, coloured by "
        f"{chosen.colour}; sample {sample} is ringed.",
        axes=axes,
        names=short,
        home=found.home,
        whole=found.whole,
        equal=found.kind != LINE,
        geometry=found.geometry,
        selected=sample,
        refines=found.plane is not None or PICTURES in layers,
        start=None if window is None else kept[1],
        layers={"faint": True} | {name: layer in layers for name, layer in _DRAWN.items()},
        lines=_lines(found, PRIOR in layers),
        labels=maps.labels(model, found.geometry, found) if chosen.colour == "label" else (),
        on_pick=choose(count),
        on_view=lambda view: _keep(found, view),
        on_loop=lambda corners: _circle(model, found, corners),
    )
    if done & {"pick", "loop"}:
        st.rerun()


# What the plane's script calls the layers.
_DRAWN = {
    "lattice": DECODED,
    "density": DENSITY,
    "holes": HOLES,
    "arrows": ROUND_TRIP,
    "ellipses": GAUSSIANS,
    "images": PICTURES,
}


def _slots(
    model: Checkpoint, found: Scene, chosen: Settings, layers: set[str], window: Window | None
) -> list[Slot]:
    """What the plane shows: points and their colours, and what lies under these layers."""
    table = access.table(model)
    facts = (
        Fact("KL", table.kl),
        Fact("E log p(x|z)", table.expected_log_likelihood, digits=1),
        Fact("ELBO", table.elbo, digits=1),
    )
    values, *scale = _coloured(model, table, chosen.colour)
    slots = [
        maps.points(KEY, model, found.geometry, found, facts),
        maps.colour(KEY, model, chosen.colour, values, *scale),
    ]
    if found.plane is not None:
        slots.append(maps.lattice(KEY, model, found.plane, "coarse", found.home))
        if window is not None:
            slots.append(maps.lattice(KEY, model, found.plane, "fine", window))
    if window is not None and PICTURES in layers:
        slots.append(maps.thumbnails(KEY, model, found, window))
    if found.dims is not None:
        slots.append(maps.field(KEY, model, found.dims, window or found.home, HOLES in layers))
    if ROUND_TRIP in layers:
        slots.append(maps.arrows(KEY, model, found.plane, found.home)[0])
    members = maps.group(model)
    if members is not None:
        slots.append(group_slot(KEY, np.isin(np.arange(len(table.mu)), members)))
    return [slot for slot in slots if slot is not None]


def _keep(found: Scene, view: object) -> None:
    """Remembers the window that the view has come to rest on."""
    if _is_window(view):
        st.session_state["map_window"] = (found.geometry, tuple(map(float, view)))
    elif view == []:
        st.session_state["map_window"] = None


def _circle(model: Checkpoint, found: Scene, corners: object) -> None:
    """Makes what lies in a drawn loop the group."""
    try:
        rows = np.flatnonzero(inside(found.places, corners)) if corners else np.arange(0)
    except (ValueError, TypeError):
        return
    maps.set_group(model, rows)


def _lines(found: Scene, with_prior: bool) -> Sequence[dict]:
    if found.kind == LINE:
        return found.lines if with_prior else found.lines[:1]
    return prior_rings() if with_prior else ()


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
    if found.kind == LINE:
        return ("latent dimension 1", "density; codes at random heights below it"), (
            "z1",
            "density",
        )
    names = tuple(f"z{d + 1}" for d in chosen.dims)
    return tuple(f"latent dimension {name[1:]}" for name in names), names

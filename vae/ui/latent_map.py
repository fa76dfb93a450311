"""The pieces of the latent map: its settings, the plane, and what stands below it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
import streamlit as st

from vae.data.datasets import label_text
from vae.explore.lattice import Window, dimension_plane
from vae.explore.projection import TSNE_MOST
from vae.explore.selection import inside, nearest
from vae.figures.frame import nats
from vae.figures.latent_map import all_pairs
from vae.figures.pictures import gallery_html
from vae.figures.plane import Fact, group_slot, prior_rings
from vae.model.checkpoint import SPLITS, Checkpoint
from vae.ui import access, maps, widgets
from vae.ui.access import Table
from vae.ui.maps import Scene
from vae.ui.plane import choose, plane
from vae.ui.screens import link

__all__ = [
    "HOLES",
    "Settings",
    "below",
    "card",
    "circled",
    "draw",
    "holes",
    "pairs",
    "scene",
    "settings",
]

KEY = "latent_plane"
VIEWS = ("two dimensions", "PCA", "t-SNE")
DECODED, PRIOR, DENSITY, HOLES = "decoded images", "prior", "density of codes", "holes"
ROUND_TRIP, GAUSSIANS, PICTURES = "round trip", "every Gaussian", "images when zoomed in"
LAYERS = (DECODED, PRIOR, DENSITY, HOLES, ROUND_TRIP, GAUSSIANS, PICTURES)
_DEFAULT_LAYERS = (PRIOR, PICTURES)
_MOST_PAIRS = 8


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
        return maps.log_ratio(model), "nats", (), 1
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
    sha = model.weights_sha256[:12]
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
        axes = maps.principal(model)
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

    places, count = maps.tsne_places(model, sample, report)
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
        shares = maps.principal(model).shares
        titles = [f"component {k + 1} ({100 * shares[k]:.0f} % of the variance)" for k in (0, 1)]
        return tuple(titles), ("component 1", "component 2")
    if found.kind == VIEWS[2]:
        return ("t-SNE 1 (no unit)", "t-SNE 2 (no unit)"), ("t-SNE 1", "t-SNE 2")
    names = tuple(f"z{d + 1}" for d in chosen.dims)
    return tuple(f"latent dimension {name[1:]}" for name in names), names


def below(model: Checkpoint, sample: int, found: Scene, chosen: Settings) -> None:
    """What the plane is, in words: a slice, a projection, its layers and their limits."""
    dims, kept = model.config.latent_dim, f"sample {sample}'s values" if chosen.hold else "0"
    words = []
    if found.kind == VIEWS[1]:
        share = 100 * float(maps.principal(model).shares.sum())
        words.append(
            f"PCA: the two straight directions in which codes vary most; {share:.0f} % of their "
            "variance is seen here, and what differs along the other directions lies on top of "
            f"each other. The pictures are of the plane whose other directions are held at {kept}."
        )
    elif found.kind == VIEWS[2]:
        count = int(np.isfinite(found.places[:, 0]).sum())
        some = "" if count == len(found.places) else f" {count} codes were drawn at random for it."
        words.append(
            "t-SNE keeps near codes near; distances between groups, their sizes and the axes mean "
            "nothing, and no place of this picture can be decoded (perplexity 30, 1\u2009000 "
            f"steps, at most {TSNE_MOST} codes).{some}"
        )
    elif dims > 2:
        words.append(
            f"A slice: the pictures vary the two dimensions shown and hold the other {dims - 2} "
            f"at {kept}. The dots are all images' codes, most of which lie beside the slice."
        )
    if found.plane is not None:
        words.append("Orange: an image's own q(z|x), at 1 and 2 standard deviations.")
    if DENSITY in chosen.layers and found.dims is not None:
        words.append("Shade: how densely the images' Gaussians lie, all together.")
    if ROUND_TRIP in chosen.layers and found.plane is not None:
        length = maps.arrows(KEY, model, found)[1]
        words.append(
            "Arrows: from a place to where the encoder puts what is drawn there; the longer, the "
            f"less the picture is to be trusted (median {nats(length, 2)} within 3 prior standard "
            f"deviations, in all {dims} dimensions)."
        )
    st.caption(
        " ".join(words) + " Drag moves, the wheel zooms, a click chooses, Shift and drag circles "
        "a group. By touch: one finger probes, two move and zoom. By keyboard: arrows, + and −, "
        "Enter, L."
    )


def holes(model: Checkpoint, found: Scene) -> None:
    """How much of the prior lies where no data do, and what the decoder draws there."""
    every = tuple(range(model.config.latent_dim))
    share = maps.hole_share(model, every)
    st.subheader("Holes: why samples can look like noise", anchor=False)
    more = ""
    if found.dims is not None and len(every) > 2:
        two = maps.hole_share(model, found.dims)
        more = (
            f" In the two dimensions shown alone: {100 * two.share:.1f} % "
            f"± {100 * two.share_se:.1f} %, which is what the plane hatches."
        )
    widgets.lead(
        f"<b>{100 * share.share:.1f} % ± {100 * share.share_se:.1f} %</b> of images drawn from "
        "the prior come from places that this model's data leave empty; of further data "
        f"{100 * share.level:.0f}\u00a0% would.{more}"
    )
    in_holes, elsewhere = maps.hole_examples(model, model.weights_sha256, 8, share.threshold)
    for title, codes in (("From holes", in_holes), ("From elsewhere", elsewhere)):
        st.markdown(f"**{title}**")
        if not len(codes):
            st.caption("None of 400 draws.")
            continue
        frames = access.decode(model, codes)
        alts = [f"Drawn from the prior, {title.lower()}"] * len(codes)
        st.html(gallery_html(frames, [""] * len(codes), alts, 8))
    subset = "" if share.components == model.reference.size else " drawn at random"
    st.caption(
        f"A hole is where the aggregate posterior q̄(z) is thinner than at "
        f"{100 - 100 * share.level:.0f} % of the images' own codes, each judged by the other "
        f"images. q̄ is of {share.components} images{subset}, the share of {share.draws} prior "
        "draws; ± is one standard error, of the draws and of the level together. On the plane "
        "the hatching is as dark as the prior is dense."
    )


def card(model: Checkpoint, table: Table, sample: int) -> None:
    """The chosen sample: image, reconstruction, receipt in small, nearest codes."""
    st.subheader(f"Sample {sample}", anchor=False)
    near, distance = nearest(table.mu, sample, 6)
    first, second, third, fourth = st.columns([0.75, 0.75, 1.5, 1.1], gap="medium")
    found = access.images(model, [sample])
    label = label_text(int(table.labels[sample]), model.label_names)
    with first:
        if found is not None:
            widgets.picture(found[0], f"The image: {label}", f"The chosen image, {label}", 260)
    with second:
        decoded = access.reconstructions(model, [sample])[0]
        widgets.picture(decoded, "What its code decodes to", "Its reconstruction", 260)
    with third:
        widgets.sums(
            [
                ("expected log-likelihood", table.expected_log_likelihood[sample], None),
                ("KL of this image", table.kl[sample], None),
                ("ELBO", table.elbo[sample], float(model.reference.elbo_se[sample])),
            ]
        )
        link("sample_elbo", "Its receipt, to the pixel", "receipt_long")
    with fourth:
        st.markdown("**Nearest codes**")
        captions = [f"{row}: {away:.2f} away" for row, away in zip(near, distance, strict=True)]
        widgets.gallery(model, near, captions, 3)


def circled(model: Checkpoint, table: Table, rows: np.ndarray) -> None:
    """The circled group: its numbers beside the others', its images, and a file of both."""
    others = np.setdiff1d(np.arange(len(table.mu)), rows)
    share = 100 * len(rows) / len(table.mu)
    st.subheader(f"The group: {nats(len(rows), 0)} samples", anchor=False)
    left, right = st.columns([1.1, 1], gap="large")
    with left:
        quantities = {
            "KL, nats": table.kl,
            "expected log-likelihood, nats": table.expected_log_likelihood,
            "ELBO, nats": table.elbo,
            "percentile, %": table.percentile,
        }
        st.dataframe(
            {
                "mean ± standard error": list(quantities),
                "of the group": [_mean(values[rows]) for values in quantities.values()],
                "of the others": [_mean(values[others]) for values in quantities.values()],
            },
            hide_index=True,
            alt="Means of the group and of the others",
        )
        st.caption(f"{share:.1f} % of all. {_labels(model, table.labels[rows])}")
        with st.container(horizontal=True):
            st.download_button(
                "Download CSV",
                lambda: _csv(model, table, rows),
                f"{model.name}-group.csv",
                on_click="ignore",
            )
            st.button("Forget the group", on_click=maps.set_group, args=(model, rows[:0]))
    with right:
        middle = table.mu[rows].mean(0)
        order = np.argsort(np.linalg.norm(table.mu[rows] - middle, axis=1), kind="stable")
        # From the middle of the group to its edge.
        shown = rows[order[np.linspace(0, len(rows) - 1, min(18, len(rows))).astype(int)]]
        widgets.gallery(model, shown, [str(row) for row in shown], 6)


def _mean(values: np.ndarray) -> str:
    if not len(values):
        return "—"
    error = f" ± {values.std(ddof=1) / len(values) ** 0.5:.2f}" if len(values) > 1 else ""
    return f"{nats(float(values.mean()), 2)}{error}"


def _labels(model: Checkpoint, labels: np.ndarray) -> str:
    if not model.label_names:
        return ""
    found, counts = np.unique(labels, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:10]
    return "Labels: " + ", ".join(
        f"{label_text(int(found[k]), model.label_names)} ({counts[k]})" for k in order
    )


def _csv(model: Checkpoint, table: Table, rows: np.ndarray) -> str:
    dims = range(table.mu.shape[1])
    return pd.DataFrame(
        {
            "sample": rows,
            "index": model.reference.indices[rows],
            "label": [label_text(int(one), model.label_names) for one in table.labels[rows]],
            "split": [SPLITS[one] for one in table.split[rows]],
            "elbo": table.elbo[rows],
            "elbo_se": model.reference.elbo_se[rows],
            "expected_log_likelihood": table.expected_log_likelihood[rows],
            "kl": table.kl[rows],
            "percentile": table.percentile[rows],
            **{f"mu_{d + 1}": table.mu[rows, d] for d in dims},
            **{f"sigma_{d + 1}": table.sigma[rows, d] for d in dims},
        }
    ).to_csv(index=False)


def pairs(model: Checkpoint, table: Table, sample: int) -> None:
    """All pairs of the dimensions that carry most, each a small map; a click opens one."""
    dims = [int(d) for d in table.by_kl[:_MOST_PAIRS]]
    key = f"pairs-{model.name}"

    def pick() -> None:
        found = st.session_state[key]["selection"]["points"]
        data = found[0].get("customdata") if found else None
        names = [data.get(k) for k in ("0", "1")] if isinstance(data, dict) else data
        known = {f"z{d + 1}" for d in dims}
        if isinstance(names, list) and len(names) == 2 and set(names) <= known:
            st.session_state["across"], st.session_state["up"] = names
            st.session_state["view"] = VIEWS[0]

    widgets.chart(
        all_pairs(table.mu, dims, table.kl_per_dim.mean(0), table.labels, sample),
        f"Codes over all pairs of {len(dims)} latent dimensions, coloured by label; sample "
        f"{sample} is ringed on each. Click one to open it.",
        key,
        on_select=pick,
        selection_mode="points",
    )
    rest = model.config.latent_dim - len(dims)
    st.caption(
        "Each small map is one pair of dimensions, all on one scale; below a column and left of a "
        "row stand the dimension and its mean KL. "
        + (f"The {rest} dimensions that carry least are left out." if rest else "")
    )

"""What stands below the plane of the latent map: words, the sample, a group, holes, all pairs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from vae.data.sets.image_data import label_text
from vae.explore.projection import TSNE_MOST, perplexity
from vae.explore.selection import nearest
from vae.figures.frame import adding_up, nats, plus_minus
from vae.figures.latent_map import all_pairs
from vae.figures.pictures import gallery_html
from vae.figures.plane import MOST_NAMED
from vae.store.checkpoint import Checkpoint
from vae.store.contents import SPLITS
from vae.ui import access, widgets
from vae.ui.access import Table
from vae.ui.components.thumbnails import captions_of, thumbnails
from vae.ui.literal import frame_csv, literal
from vae.ui.map import all_codes, maps
from vae.ui.map.latent_map import DENSITY, KEY, LINE, ROUND_TRIP, VIEWS, Settings
from vae.ui.map.maps import Scene
from vae.ui.screens import link

__all__ = ["card", "circled", "holes", "pairs", "words"]

_MOST_PAIRS = 8


def words(model: Checkpoint, sample: int, found: Scene, chosen: Settings) -> None:
    """What the plane is, in words: a slice, a projection, its layers and their limits."""
    dims, kept = model.latent_dim, f"sample {sample}'s values" if chosen.hold else "0"
    said = []
    if found.kind == VIEWS[1]:
        share = 100 * float(all_codes.principal(model).shares.sum())
        said.append(
            f"PCA: the two straight directions in which codes vary most; {share:.0f} % of their "
            "variance is seen here, and what differs along the other directions lies on top of "
            f"each other. The pictures are of the plane whose other directions are held at {kept}."
        )
    elif found.kind == VIEWS[2]:
        count = int(np.isfinite(found.places[:, 0]).sum())
        some = (
            "" if count == len(found.places) else f" {count:,} codes were drawn at random for it."
        )
        said.append(
            "t-SNE keeps near codes near; distances between groups, their sizes and the axes mean "
            "nothing, and no place of this picture can be decoded (perplexity "
            f"{perplexity(count):.0f}, 1,000 steps, at most {TSNE_MOST:,} codes).{some}"
        )
    elif found.kind == LINE:
        said.append(
            "The one latent dimension lies across. The line q̄(z) is the density of all images' "
            "Gaussians together; a dot stands at a random height below it, so that dots don't "
            "hide each other. Where the prior is higher than q̄(z), it draws codes that few "
            "images have."
        )
    elif dims > 2:
        said.append(
            f"A slice: the pictures vary the two dimensions shown and hold the other {dims - 2} "
            f"at {kept}. The dots are all images' codes, most of which lie beside the slice."
        )
    if found.plane is not None:
        said.append("Orange: an image's own q(z|x), at 1 and 2 standard deviations.")
    classes = len(model.label_names)
    if chosen.colour == "label" and classes > MOST_NAMED:
        said.append(
            f"The {MOST_NAMED} commonest of {classes:,} classes have a colour, the others are "
            "grey; “Find a class” finds any."
        )
    if DENSITY in chosen.layers and found.dims is not None:
        said.append("Shade: how densely the images' Gaussians lie along the two axes.")
    if ROUND_TRIP in chosen.layers and found.plane is not None:
        length = maps.arrows(KEY, model, found.plane, found.home)[1]
        said.append(
            "Arrows: from a place to where the encoder puts what is drawn there; the longer, the "
            f"less the picture is to be trusted (median {nats(length, 2)} within 3 prior standard "
            f"deviations, in all {dims} dimensions)."
        )
    st.caption(
        " ".join(said) + " Drag moves, the wheel zooms, a click chooses, Shift and drag circles "
        "a group. By touch: one finger probes, two move and zoom. By keyboard: arrows, + and −, "
        "Enter, L."
    )


def holes(model: Checkpoint, found: Scene) -> None:
    """How much of the prior lies where no data do, and what the decoder draws there."""
    every = tuple(range(model.latent_dim))
    share = all_codes.hole_share(model, every)
    st.subheader("Holes: why samples can look like noise", anchor=False)
    more = ""
    if found.dims is not None and len(every) > 2:
        two = all_codes.hole_share(model, found.dims)
        more = (
            f" In the two dimensions shown alone: {100 * two.share:.1f} % "
            f"± {100 * two.share_se:.1f} %, which is what the plane hatches."
        )
    widgets.lead(
        f"<b>{100 * share.share:.1f} % ± {100 * share.share_se:.1f} %</b> of images drawn from "
        "the prior come from places that this model's data leave empty; of further data "
        f"{100 * share.level:.0f}\u00a0% would.{more}"
    )
    in_holes, elsewhere = all_codes.hole_examples(model, 8, share.threshold)
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
        f"images. q̄ is of {share.components:,} images{subset}, the share of {share.draws:,} prior "
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
            float(table.expected_log_likelihood[sample]),
            float(table.kl[sample]),
            float(model.reference.elbo_uncertainty[sample]),
        )
        link("sample_elbo", "Its receipt, to the pixel", "receipt_long")
    with fourth:
        st.markdown("**Nearest codes**")
        captions = captions_of(near, "distance", distance)
        thumbnails(model, near, captions, 3, key=f"near-{model.name}")


def circled(model: Checkpoint, table: Table, rows: np.ndarray) -> None:
    """The circled group: its numbers beside the others', its images, and a file of both."""
    others = np.setdiff1d(np.arange(len(table.mu)), rows)
    share = 100 * len(rows) / len(table.mu)
    st.subheader(f"The group: {nats(len(rows), 0)} samples", anchor=False)
    left, right = st.columns([1.1, 1], gap="large")
    with left:
        st.dataframe(
            {
                "mean ± standard error": [
                    "KL, nats",
                    "expected log-likelihood, nats",
                    "ELBO, nats",
                    "percentile, %",
                ],
                "of the group": _means(table, rows),
                "of the others": _means(table, others),
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
        thumbnails(model, shown, [f"sample {row}" for row in shown], 6, key=f"group-{model.name}")


def _means(table: Table, rows: np.ndarray) -> list[str]:
    """A group's KL, expected log-likelihood, ELBO, which add up as shown, and percentile."""
    if not len(rows):
        return ["—"] * 4
    columns = (table.kl, table.expected_log_likelihood, table.elbo, table.percentile)
    kl, likelihood, *others = (float(values[rows].mean()) for values in columns)
    likelihood, minus_kl = adding_up((likelihood, -kl), 2)
    errors = (
        plus_minus(values[rows].std(ddof=1) / len(rows) ** 0.5) if len(rows) > 1 else ""
        for values in columns
    )
    means = (-minus_kl, likelihood, *others)
    return [f"{nats(mean, 2)}{error}" for mean, error in zip(means, errors, strict=True)]


def _labels(model: Checkpoint, labels: np.ndarray) -> str:
    if not model.label_names:
        return ""
    found, counts = np.unique(labels, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:10]
    return "Labels: " + ", ".join(
        f"{literal(label_text(int(found[k]), model.label_names))} ({counts[k]:,})" for k in order
    )


def _csv(model: Checkpoint, table: Table, rows: np.ndarray) -> bytes:
    dims = range(table.mu.shape[1])
    frame = pd.DataFrame(
        {
            "sample": rows,
            "index": model.reference.indices[rows],
            **access.file_column(model, rows),
            "label": [label_text(int(one), model.label_names) for one in table.labels[rows]],
            "split": [SPLITS[one] for one in table.split[rows]],
            "elbo": table.elbo[rows],
            "elbo_se": model.reference.elbo_se[rows],
            "elbo_error": model.reference.elbo_error[rows],
            "expected_log_likelihood": table.expected_log_likelihood[rows],
            "kl": table.kl[rows],
            "percentile": table.percentile[rows],
            **{f"mu_{d + 1}": table.mu[rows, d] for d in dims},
            **{f"sigma_{d + 1}": table.sigma[rows, d] for d in dims},
        }
    )
    return frame_csv(frame)


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
    rest = model.latent_dim - len(dims)
    st.caption(
        "Each small map is one pair of dimensions, all on one scale; below a column and left of a "
        "row stand the dimension and its mean KL. "
        + (f"The {rest} dimensions that carry least are left out." if rest else "")
    )

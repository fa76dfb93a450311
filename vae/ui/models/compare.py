"""The pieces of the screen that sets models side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from vae.data.sets.image_data import same_images
from vae.elbo.lessons.losses import refitted_gaussian
from vae.figures.compare import ModelPoint, codes, model_difference, rate_distortion
from vae.figures.frame import adding_up, nats, plus_minus
from vae.figures.pictures import gallery_html
from vae.store.card import Card
from vae.store.checkpoint import Checkpoint
from vae.training.config import TrainConfig
from vae.ui import access, widgets, words
from vae.ui.literal import frame_csv, literal
from vae.ui.missing_images import where_images_are
from vae.ui.walks.dimensions import strongest_film
from vae.ui.walks.start import prior_mean

__all__ = [
    "comparable",
    "ladder_of",
    "ladder_slider",
    "plane",
    "standing",
    "table_of_models",
    "two_models",
]

_SHOWN = 2_000
_IMAGES_OF_EVIDENCE = "images of log p(x)"


def comparable(model: Checkpoint) -> dict[str, Card]:
    """The cards of the models whose ELBOs speak of the same images, by name."""
    return {
        name: card
        for name, card in _cards().items()
        if _subject(card) == _subject(model.card)
        and same_images(card.data.recorded, model.card.data.recorded)
    }


def _cards() -> dict[str, Card]:
    """The cards of all usable models, by name."""
    return {name: entry.card for name, entry in access.entries().items() if entry.card}


def _subject(card: Card) -> tuple:
    """What an ELBO is a bound for: a density differs from a probability, grey from binary."""
    likelihood = card.likelihood
    return card.image, likelihood.is_pmf, likelihood.is_normalized, card.model.binarize


def standing(model: Checkpoint, cards: dict[str, Card]) -> str:
    """Which of the comparable models describes their images most cheaply, as HTML."""
    if len(cards) == 1:
        return "There is no other model of the same images to compare this one with yet."
    best = max(cards, key=lambda name: cards[name].metrics.elbo)
    count = f"Of {len(cards):,} models of the same images"
    if best == model.name:
        return f"{count} this one describes them most cheaply."
    cost = nats(-cards[best].metrics.elbo, 2)
    return f"{count}, {escape(best)} describes them most cheaply, for <b>{cost}</b> nats an image."


def ladder_of(model: Checkpoint, cards: dict[str, Card]) -> dict[float, str]:
    """The models that differ from this one in the weight of the KL alone, by rising beta.

    Of several with one weight this one is taken, or else the one with the highest ELBO.
    """
    mine = _run_without_beta(model.card)
    if mine is None:
        return {}
    alike = [name for name, card in cards.items() if _run_without_beta(card) == mine]
    alike.sort(key=lambda name: (name == model.name, cards[name].metrics.elbo))
    return dict(sorted({cards[name].beta: name for name in alike}.items()))


def _run_without_beta(card: Card) -> TrainConfig | None:
    """A run's config as if its KL had the weight 1; none where its objective is another one."""
    try:
        config = TrainConfig.from_dict(card.run)
    except (ValueError, TypeError):
        return None
    if config.objective not in ("elbo", "beta") or config.beta_schedule != "constant":
        return None
    plain = {"objective": "elbo", "beta": 1.0, "title": "", "description": "", "device": "auto"}
    return replace(config, **plain)


def plane(model: Checkpoint, cards: dict[str, Card], ladder: dict[float, str]) -> None:
    """The rate-distortion plane; a click chooses the model for every screen."""
    names = list(cards)
    # On a ladder the names say nothing but beta, and would run into each other.
    steps = ladder if len(ladder) > 1 else {}
    labels = {name: f"β = {beta:g}" for beta, name in steps.items() if name != model.name}
    points = [
        ModelPoint(
            name,
            labels.get(name, name),
            card.model.network,
            card.metrics.rate,
            card.metrics.rate_se,
            card.metrics.distortion,
            card.metrics.distortion_se,
        )
        for name, card in cards.items()
    ]

    def pick() -> None:
        chosen = st.session_state["compare_plane"]["selection"]["points"]
        data = chosen[0].get("customdata") if chosen else None
        place = data.get("0") if isinstance(data, dict) else data[0] if data else None
        # What a browser sends is checked like any other input.
        if isinstance(place, int | float) and 0 <= place < len(names):
            st.session_state["model"] = names[int(place)]

    widgets.chart(
        rate_distortion(points, model.name, list(ladder.values())),
        f"{len(points)} models by rate and distortion on {model.card.data.title}, with lines of "
        f"equal ELBO; {model.name} is ringed.",
        key="compare_plane",
        on_select=pick,
        selection_mode="points",
    )
    st.caption(
        "Each mark is a model's mean over validation images, with standard errors: circle mlp, "
        "square conv, diamond resnet. Dotted: equal ELBO, higher towards the lower left. "
        + ("Grey line: models that differ in β alone. " if len(ladder) > 1 else "")
        + "Click a mark to choose its model."
    )


def ladder_slider(model: Checkpoint, ladder: dict[float, str]) -> None:
    """One slider through the models that differ in beta: map, reconstructions, strongest film."""
    mine = next(beta for beta, name in ladder.items() if name == model.name)
    beta = st.select_slider(
        "Weight β of the KL in training",
        list(ladder),
        value=mine,
        key=f"ladder-{model.name}",
        format_func=lambda value: f"β = {value:g}",
    )
    other = access.checkpoint(ladder[beta])
    table, metrics = access.table(other), other.card.metrics
    rate, distortion = adding_up((metrics.rate, metrics.distortion), 2)
    st.markdown(
        f"**{literal(other.name)}**: rate **{nats(rate, 2)}** + distortion "
        f"**{nats(distortion, 2)}** = **{nats(-metrics.elbo, 2)}"
        f"{plus_minus(metrics.elbo_se)} nats** an image, which is minus its true ELBO (β = 1): "
        f"lower is better. {metrics.active_units} of {other.latent_dim} units are "
        "active.",
        help=words.ACTIVE,
    )
    left, right = st.columns([1, 1.5], gap="large")
    first, second = int(table.by_kl[0]), int(table.by_kl[min(1, len(table.by_kl) - 1)])
    keep = np.arange(len(table.mu))[:_SHOWN]
    with left:
        axes = [first, second]
        widgets.chart(
            codes(
                table.mu[keep][:, axes],
                table.sigma[keep][:, axes],
                table.labels[keep],
                other.label_names,
            ),
            f"Posterior means of {len(keep):,} images under {other.name}, with the median width "
            "of a code",
        )
        st.caption(
            f"Codes over dimensions {first + 1} and {second + 1}. Dotted: the prior's 1, 2 and 3 "
            "standard deviations. Orange, lower left: the median width σ of one image's code."
        )
    with right:
        rows = np.linspace(0, len(table.elbo) - 1, 10).round().astype(int)
        originals = access.images(other, rows)
        if originals is not None:
            st.markdown("**Held-out images**")
            st.html(gallery_html(originals, [""] * 10, [f"Sample {row}" for row in rows], 10))
        st.markdown("**What this model keeps of them**")
        decoded = access.reconstructions(other, rows)
        st.html(gallery_html(decoded, [""] * 10, ["A reconstruction"] * 10, 10))
        st.markdown(f"**Its strongest dimension, z{first + 1}, from the prior mean**")
        strongest_film(other, prior_mean(other), 1)


def two_models(model: Checkpoint, sample: int, names: Sequence[str]) -> None:
    """One image under two models, and which parts make the difference."""
    others = [name for name in names if name != model.name]
    if not others:
        st.info("There is no second model of the same data to set beside this one.")
        return
    levels = access.levels_of(model, sample)
    if levels is None:
        st.info(f"This part needs the images. {where_images_are(model)}")
        return
    other = access.checkpoint(st.selectbox("Set beside", others, key="beside", width=320))
    here, seen = access.receipt(model, sample), access.seen_of(other, levels)
    there = access.receipt_of(seen, access.elbo(seen))
    gap = here.elbo - there.elbo
    likelihood = here.expected_log_likelihood - there.expected_log_likelihood
    st.markdown(
        f"Under **{literal(model.name)}** sample {sample} "
        + widgets.costs_beside(here, there, f"under **{literal(other.name)}**")
    )
    left, right = st.columns([1, 2.4], gap="large")
    with left:
        pictures = np.stack((here.x, here.reconstruction, there.reconstruction))
        captions = ["the image", model.name, other.name]
        st.html(gallery_html(pictures, captions, [f"Sample {sample}: {c}" for c in captions], 3))
    with right:
        widgets.chart(
            model_difference((here.pixels, here.kl), (there.pixels, there.kl)),
            f"Why one image's ELBO differs by {gap:.2f} nats between two models, part by part",
        )
        residual = gap - (likelihood + there.kl - here.kl)
        st.caption(
            f"Bars sum to the difference of the ELBOs, {nats(gap, 4)} nats; residual "
            f"{nats(residual, 4)}."
        )


def table_of_models() -> None:
    """Every usable checkpoint in a table, with a download."""
    rows = [_row(name, card) for name, card in _cards().items()]
    frame = pd.DataFrame(rows).dropna(axis="columns", how="all")
    if _IMAGES_OF_EVIDENCE in frame:
        # A count stays a whole number where a model has none.
        frame = frame.astype({_IMAGES_OF_EVIDENCE: "Int64"})
    # As they are shown they add up; the file has every digit.
    terms = ["rate, nats", "distortion, nats"]
    shown = frame.copy()
    shown[terms] = [adding_up(pair, 3) for pair in frame[terms].to_numpy()]
    st.dataframe(
        shown.style.format(precision=3, thousands=",", na_rep="—"),
        hide_index=True,
        column_config={"model": st.column_config.Column(pinned=True)},
        alt=f"Figures of {len(frame)} models",
    )
    st.caption(
        "Means over validation images ± standard error. Rate and distortion: lower is better; "
        "ELBO, bound and log p(x): higher. Only ELBOs of the same data and the same "
        "kind of likelihood can be compared."
    )
    st.download_button("Download CSV", lambda: frame_csv(frame), "models.csv", on_click="ignore")


def _row(name: str, card: Card) -> dict[str, Any]:
    metrics, shape = card.metrics, card.model
    row = {
        "model": name,
        "data": card.data.title,
        "D": card.latent_dim,
        "active units": metrics.active_units,
        "β": card.beta,
        "ELBO, nats": metrics.elbo,
        "± ELBO": metrics.elbo_se,
        "rate, nats": metrics.rate,
        "distortion, nats": metrics.distortion,
        "bound L, nats": metrics.iwae_bound,
        "k of L": metrics.importance_samples,
        "log p(x) exact, nats": metrics.log_evidence,
        # Left out where log p(x) is known of all of them.
        _IMAGES_OF_EVIDENCE: metrics.log_evidence_images,
        "bits per pixel value": metrics.bits_per_dim,
        "likelihood": card.likelihood.title,
        "network": shape.network,
        "objective": card.objective,
        "parameters": card.training.parameters,
        "training, s": card.training.seconds,
    }
    sigma, refitted = None, None
    if shape.likelihood == "gaussian" and shape.gaussian_sigma == "fixed":
        pixels = card.image.pixels
        sigma, value = refitted_gaussian(-metrics.distortion, shape.sigma, pixels)
        refitted = value - metrics.rate
    return row | {"re-fitted σ": sigma, "ELBO at re-fitted σ, nats": refitted}

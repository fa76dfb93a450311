"""The pieces of the Overview: its first sentence, its numbers, its pictures, where to go next."""

from __future__ import annotations

from html import escape

import numpy as np
import streamlit as st

from vae.figures.frame import adding_up, nats
from vae.figures.pictures import gallery_html
from vae.store.card import Card, Metrics
from vae.store.checkpoint import Checkpoint
from vae.training.run.launch import without_paths
from vae.ui import access, estimates, widgets, words
from vae.ui.literal import literal
from vae.ui.missing_images import where_images_are
from vae.ui.screens import link
from vae.ui.train_gate import training_allowed

__all__ = ["about", "numbers", "opening", "pictures", "terms", "what_holds", "where_next"]

_MARKS = {
    "holds": "✓\u00a0holds",
    "does not hold": "✗\u00a0does not\u00a0hold",
    "undetermined": "?\u00a0undetermined",
    "not applicable": "–\u00a0not applicable",
}


def opening(model: Checkpoint) -> None:
    """What the model is of, and what an image costs on average."""
    card, metrics = model.card, model.card.metrics
    rate, distortion = adding_up((metrics.rate, metrics.distortion))
    widgets.opening(
        literal(card.title),
        f"{escape(card.description)} Describing an image costs "
        f"<b>{nats(-metrics.elbo)}</b> nats on average over {metrics.images:,} validation "
        f"images: <b>{nats(rate)}</b> to say which code, and "
        f"<b>{nats(distortion)}</b> to draw the image from that code.",
    )


def numbers(model: Checkpoint) -> None:
    """Five means over validation images, each with its error, and the active units."""
    metrics = model.card.metrics
    with st.container(horizontal=True):
        for title, (value, error, images, better, explanation) in _means(metrics).items():
            # One image has no standard error.
            told = "" if error is None else f"± {nats(error) if error >= 0.05 else 'under 0.1'}, "
            st.metric(
                title,
                f"{value} nats",
                delta=f"{told}{better} is better",
                delta_color="off",
                delta_arrow="off",
                help=f"{explanation} The mean over {images:,} validation images ± its standard "
                "error.",
            )
        st.metric(
            "Active units",
            f"{metrics.active_units} of {model.latent_dim}",
            delta="mean moves with the image",
            delta_color="off",
            delta_arrow="off",
            help=words.ACTIVE,
        )


def _means(metrics: Metrics) -> dict[str, tuple[str, float | None, int, str, str]]:
    """By title: value in nats, standard error, images, which way is better, and what it is."""
    rate, distortion = adding_up((metrics.rate, metrics.distortion))
    images = metrics.images
    means = {
        "ELBO": (
            nats(metrics.elbo),
            metrics.elbo_se,
            images,
            "higher",
            "The evidence lower bound: never above log p(x), the log-probability that the model "
            "gives an image. It is minus the cost in the sentence above.",
        ),
        "Rate (KL)": (
            nats(rate),
            metrics.rate_se,
            images,
            "lower",
            "What naming the code costs: each image's own KL to the prior, averaged.",
        ),
        "Distortion": (
            nats(distortion),
            metrics.distortion_se,
            images,
            "lower",
            "What drawing the image from its code costs.",
        ),
    }
    # A run may leave out the bound, which takes longest to compute.
    if metrics.iwae_bound is not None:
        means[f"Bound L, k = {metrics.importance_samples:,}"] = (
            nats(metrics.iwae_bound),
            metrics.iwae_bound_se,
            images,
            "higher",
            "The importance-weighted bound: closer to log p(x) than the ELBO.",
        )
    if metrics.log_evidence is not None:
        known = metrics.log_evidence_images or images
        of = "" if known == images else f", of {known:,} images"
        means[f"log p(x), exact{of}"] = (
            nats(metrics.log_evidence),
            metrics.log_evidence_se,
            known,
            "higher",
            "By quadrature over the latent dimensions.",
        )
    return means


def terms(model: Checkpoint) -> None:
    """What the terms mean, folded away."""
    with st.expander("The words nat, variational, ELBO and held-out"):
        columns = st.columns(2, gap="large")
        for place, (term, meaning) in enumerate(words.terms(model).items()):
            columns[place // 2].markdown(f"**{term}**: {meaning}")


def pictures(model: Checkpoint) -> None:
    """Held-out images, what the decoder makes of them, and what the prior draws."""
    table = access.table(model)
    # Evenly spread from the worst to the best explained, so that the strip is no advertisement.
    rows = np.argsort(table.elbo)[np.linspace(0, len(table.elbo) - 1, 10).round().astype(int)]
    originals, decoded = access.images(model, rows), access.reconstructions(model, rows)
    if originals is not None:
        st.subheader("Held-out images, from the costliest to the cheapest", anchor=False)
        captions = [f"{nats(-table.elbo[row])} nats" for row in rows]
        st.html(gallery_html(originals, captions, [f"Sample {row}" for row in rows], 10))
    st.subheader("What the decoder makes of their codes", anchor=False)
    st.html(
        gallery_html(decoded, [f"sample {row}" for row in rows], ["A reconstruction"] * 10, 10)
    )
    st.subheader("Images drawn from the prior: nobody's picture", anchor=False)
    drawn = access.prior_samples(model, 10, seed=0)
    st.html(gallery_html(drawn, [""] * 10, ["An image drawn from the prior"] * 10, 10))


def where_next() -> None:
    """Links to other screens, and how to come to a model or a score of one's own."""
    st.subheader("Where to go next", anchor=False)
    with st.container(horizontal=True):
        link("latent_map", "See all codes on a map", "scatter_plot")
        link("traversals", "Walk through what it learned", "slow_motion_video")
        link("sample_elbo", "Take one image's ELBO apart", "receipt_long")
        link("score_images", "Score your own image", "upload")
    own_folder = words.OWN_FOLDER
    if training_allowed():
        own_folder += ", or on the screen Train if the app was started with `--folders PATH`"
    st.markdown(
        f"**A model of your own images.** {own_folder}. {words.ELSEWHERE}"
        f"\n\n**A score of your own image.** {words.RELATIVE}"
    )


def what_holds(model: Checkpoint) -> None:
    """The checks of the model, run when asked for."""
    st.subheader("What holds", anchor=False)
    if not st.toggle(
        "Check this model",
        key="check",
        help="Seconds: on held-out images, whether each image's code is its own, which weight of "
        "the KL the encoder behaves by, whether codes follow the prior, and more.",
    ):
        st.caption("The same on the command line: `python -m vae check MODEL`.")
        return
    checks = estimates.conformance(model)
    if checks is None:
        st.info(f"The checks need the images. {where_images_are(model)}")
        return
    failed = [check for check in checks if check.outcome == "does not hold"]
    if failed:
        st.markdown(
            f"**{len(failed)} of {len(checks)} checks do not hold.** "
            + " ".join(f"{check.sentence} {check.consequence}" for check in failed)
        )
    else:
        st.markdown(f"**None of {len(checks)} checks finds a fault.**")
    widgets.table(
        ("question", "answer", "what was found"),
        [
            (
                escape(one.question),
                _MARKS[one.outcome],
                f"{escape(one.sentence)}<br><small>It holds: {escape(one.threshold)}.</small>",
            )
            for one in checks
        ],
        "What was asked of the model, and the answers",
    )


def about(model: Checkpoint) -> None:
    """How the model came about, folded away."""
    with st.expander("About this model"):
        card, likelihood = model.card, model.likelihood
        st.markdown(
            f"**Likelihood**: {likelihood.title}. {likelihood.valid_for}\n\n"
            f"**Data**: {literal(card.data.title)}, "
            + ", ".join(f"{count:,} {name}" for name, count in card.data.images.items())
            + f" images.\n\n{_how_it_came(card)}\n\n**Made by**"
        )
        st.code(without_paths(card.command), language="bash", wrap_lines=True)


def _how_it_came(card: Card) -> str:
    """How a model was trained here, or what is known of one that was imported."""
    if card.origin is None:
        training = card.training
        return (
            f"**Training**: objective `{card.objective}`, {training.seconds:.0f} s on "
            f"{training.device}, best step {training.best_step:,}, {training.parameters:,} "
            "parameters."
        )
    origin = card.origin
    lines = [f"**Imported** from {literal(origin.source)}, {origin.parameters:,} parameters."]
    lines += [f"- {literal(line)}" for line in origin.told]
    if origin.fitted_on:
        lines.append(
            f"- spread of a pixel: fitted by Elboscope on {origin.fitted_on} images that no score "
            "uses; the model itself was not trained with it"
        )
    return "\n".join(lines)

"""Badges under a screen's first sentence: what the numbers on it are, and are not."""

from __future__ import annotations

from html import escape

import streamlit as st

from vae.data.sets.image_data import same_images
from vae.model.likelihoods import facts_of
from vae.store.checkpoint import Checkpoint
from vae.store.contents import SPLITS
from vae.ui import access
from vae.ui.words import NAT, SIGNS, objective_note

__all__ = ["badges"]


def badges(model: Checkpoint) -> None:
    """Unit and sign, likelihood, objective, and whether the ELBO is a bound for these data."""
    facts = model.likelihood
    card = model.card
    note, mistaken = objective_note(card.objective, card.beta), card.objective == "batch_moment_kl"
    plain = [f"{facts.title}: {facts.valid_for}"]
    warnings = []
    if not facts.is_normalized:
        warnings.append(f"Not a density, so its “ELBO” bounds no log p(x). {_proper(model)}")
    if note:
        (warnings if mistaken else plain).append(note)
    if copies := card.data.copies:
        count = sum(card.data.images[split] for split in SPLITS)
        warnings.append(
            f"{copies:,} of {count:,} held-out images are copies of images that training saw, "
            "so held-out scores are too good, and percentiles and p-values are off."
        )
    # A summary opens by mouse, touch and keyboard, and says so to a screen reader.
    marked = (
        '<details class="elb-tip"><summary>nats: low costs are good, high ELBOs are good'
        f"</summary><p>{escape(NAT)} {escape(SIGNS)}</p></details>"
    )
    marked += "".join(f"<span>{escape(text)}</span>" for text in plain)
    # A word and a sign besides the border: colour alone says nothing to some.
    marked += "".join(f'<span class="elb-warning">⚠ {escape(text)}</span>' for text in warnings)
    st.html(f'<div class="elb-badges">{marked}</div>')


def _proper(model: Checkpoint) -> str:
    """Names a model of the same data whose likelihood is one, or else the likelihoods to train."""
    for name, entry in access.entries().items():
        card = entry.card
        if card is None or not same_images(card.data.recorded, model.card.data.recorded):
            continue
        if card.likelihood.is_normalized:
            return f"The model {name} has a proper one for the same data."
    names = [facts_of(one).title for one in ("discretized_logistic", "continuous_bernoulli")]
    return f"For grey pixels train with one of: {', '.join(names)}."

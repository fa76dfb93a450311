"""The pieces of the screen about the bound: ladder, gap, three densities, a second opinion."""

from __future__ import annotations

import math
from html import escape

import numpy as np
import streamlit as st

from vae.elbo.seen import Seen
from vae.figures import palette
from vae.figures.bound import densities_on_a_line, three_densities, two_clouds
from vae.figures.frame import adding_up, nats, plus_minus
from vae.figures.ladder import Rung, ladder_html
from vae.scoring.scorer import ScoreSettings
from vae.store.checkpoint import Checkpoint
from vae.ui import access, estimates, widgets
from vae.ui.scoring.batches import score_in_parts
from vae.ui.uploads import admitted

__all__ = [
    "densities",
    "gap_in_two_parts",
    "opening",
    "pick_image",
    "rungs",
    "second_opinion",
    "tilted",
    "two_forms",
]

_CHAINS = 64


def pick_image(model: Checkpoint, sample: int) -> tuple[Seen | None, str]:
    """The chosen sample as the model sees it, or an upload, and what to call it."""
    with st.expander("Use an image of your own"):
        sent = st.file_uploader("One image, up to 5 MB", key="bound_upload")
    if sent is not None:
        files, _ = admitted([sent])
        (found,) = score_in_parts(model, files, ScoreSettings(evidence=False))
        scored = found[0]
        if scored.seen is not None:
            return scored.seen, scored.row.name
        st.error(f"{scored.row.error} ({scored.row.error_code})")
    return access.seen(model, sample), f"sample {sample}"


def opening(name: str, found: estimates.Gap, exact: bool) -> None:
    """What one image costs by its ELBO and in truth."""
    if exact:
        cost, truth = round(-found.elbo[0], 2), round(-found.log_evidence, 2)
        encoder, shape = _parts(found)
        widgets.opening(
            "The bound",
            f"By its ELBO {escape(name)} costs <b>{nats(cost, 2)}</b> nats, and exactly, by "
            f"log p(x), <b>{nats(truth, 2)}</b> nats. Of the <b>{nats(cost - truth, 2)}</b> "
            f"between them a better encoder could save <b>{nats(encoder, 2)}</b>; the other "
            f"<b>{nats(shape, 2)}</b> remain with any code of this encoder's kind.",
        )
    else:
        widgets.opening(
            "The bound",
            f"By its ELBO {escape(name)} costs <b>{nats(-found.elbo[0], 2)}</b>"
            f"{plus_minus(found.elbo[1])} nats, and in truth at most that. The best code of the "
            f"same kind would bring it down to <b>{nats(-found.best_elbo[0], 2)}</b>, and 5,000 "
            f"draws of the encoder's own to <b>{nats(-float(found.ladder.values[-1]), 2)}</b>.",
        )


def _parts(found: estimates.Gap) -> tuple[float, float]:
    """Both parts of the gap, which add up to the difference of its ends as they stand there."""
    best, ends = round(found.best_elbo[0], 2), (found.elbo[0], found.log_evidence)
    low, high = (round(end, 2) for end in ends)
    return round(best - low, 2), round(high - best, 2)


def rungs(found: estimates.Gap) -> None:
    """The ladder from one draw to the exact value, and what a shortfall of it means."""
    sampled = zip(
        found.ladder.rungs, found.ladder.values, found.ladder.standard_errors, strict=True
    )
    rungs = [
        Rung(f"L, k = {k:,}", float(value), float(error), palette.EVIDENCE)
        for k, value, error in sampled
    ]
    exact, gaps = not math.isnan(found.log_evidence), []
    if exact:
        rungs.append(
            Rung("log p(x), exact", found.log_evidence, found.error, palette.EVIDENCE, True)
        )
        elbo, best = found.elbo[0], found.best_elbo[0]
        gaps = [("amortisation gap", elbo, best), ("approximation gap", best, found.log_evidence)]
    elbos = [
        Rung("ELBO, best q*", *found.best_elbo, palette.ELBO),
        Rung("ELBO, the encoder's q", *found.elbo, palette.ELBO),
    ]
    st.html(
        ladder_html(
            rungs[::-1] + elbos,
            gaps,
            "Bounds on log p(x) in nats, from the ELBO to "
            + ("the exact value" if exact else "the bound with 5,000 draws"),
        )
    )
    st.caption(
        "The rungs L come from the same 5,000 draws of q in nested blocks, so they rise; bars are "
        "± one standard error, or the numerical error. Effective sample size "
        f"{found.ladder.effective_samples:,.0f} of "
        "5,000."
    )
    short = found.log_evidence - found.ladder.values[-1]
    if exact and short > 4 * found.ladder.standard_errors[-1]:
        st.warning(
            f"The bound with 5,000 draws lies {nats(short, 2)} nats below the truth, more than 4 "
            f"of its own standard errors ({found.ladder.standard_errors[-1]:.2f}): **q misses "
            "mass of the posterior**, and a standard error cannot see what no draw has met. The "
            "map shows where the green lies outside the orange.",
            icon=":material/visibility_off:",
        )


def tilted(seen: Seen, found: estimates.Gap) -> None:
    """What a Gaussian of any covariance would win back, on request."""
    if not st.toggle("How much closer would a tilted Gaussian come?", key="tilted"):
        return
    elbo, error = estimates.tilted_elbo(seen)
    st.markdown(
        f"The best Gaussian that may lie at any angle reaches **{nats(elbo, 3)}"
        f"{plus_minus(error, 3)} nats**: it wins back **{nats(elbo - found.best_elbo[0], 3)}** "
        f"of the {nats(found.approximation, 3)} nats of the approximation gap. The rest "
        "is lost to any Gaussian: this posterior has another shape."
    )


def two_forms(found: estimates.Gap) -> None:
    """Is q drawn to the prior or to the posterior? Both ways of writing one number."""
    likelihood, kl = found.terms
    st.markdown(
        "**Is q drawn to the prior or to the posterior?** To both, since they are two ways of "
        "writing one number. The term *inside* the ELBO pulls each q towards the **prior**: it "
        "costs nats to stand apart from it. *Maximising* the ELBO over q, at fixed log p(x), "
        "closes KL(q ‖ p(z|x)) and so pulls q towards this image's **posterior**, which is itself "
        "the prior reshaped by the likelihood."
    )
    forms = [("E log p(x|z) − KL(q ‖ p(z))", likelihood - kl, likelihood, kl)]
    if not math.isnan(found.log_evidence):
        away = found.to_posterior
        forms.append(
            ("log p(x) − KL(q ‖ p(z|x))", found.log_evidence - away, found.log_evidence, away)
        )
    rows = "".join(
        f"<tr><td>{name}</td><td>{nats(first, 4)} − {nats(-minus, 4)} = "
        f"<b>{nats(value, 4)}</b> nats</td></tr>"
        for name, value, first, minus in (
            (name, value, *adding_up((first, -second), 4)) for name, value, first, second in forms
        )
    )
    st.html(f'<table class="elb-sums" style="max-width:44rem">{rows}</table>')
    if found.split is not None:
        line = found.split
        st.caption(
            f"Difference {nats(-line.slack, 6)} nats, allowed error {line.error:.4f} nats: they "
            f"**{'agree' if line.holds else 'do not agree'}**. The first line comes from "
            "lattices about the encoder's q and the closed form; in the second, log p(x) from "
            "quadrature over the plane, and KL(q ‖ p(z|x)) from a grid about q with a log p(x) of "
            "its own, by importance sampling."
        )


def gap_in_two_parts(found: estimates.Gap, exact: bool) -> None:
    """What a better encoder and what a better family of q would win back."""
    encoder, shape = _parts(found)
    st.markdown(
        "**The gap in two parts** (Cremer et al. 2018). Amortisation, ELBO(q*) − ELBO(q): "
        f"**{nats(encoder, 2)}{plus_minus(found.amortization_error)} nats**, what "
        "this encoder loses on this image. "
        + (
            f"Approximation, log p(x) − ELBO(q*): **{nats(shape, 2)}"
            f"{plus_minus(found.approximation_error)} nats**, what no diagonal Gaussian can "
            "reach. Together they are KL(q ‖ p(z|x))."
            if exact
            else "With more than two latent dimensions the rest of the gap has no exact value."
        )
    )


def densities(model: Checkpoint, seen: Seen, found: estimates.Gap) -> None:
    """Prior, true posterior, q and q* on one line or plane; clouds of draws where D > 2."""
    if model.latent_dim <= 2:
        _exact(seen, found)
        return
    keep = np.random.default_rng(0).choice(len(found.ladder.z), 400, p=found.ladder.weights)
    by_kl = access.table(model).by_kl
    axes = (int(by_kl[0]), int(by_kl[min(1, len(by_kl) - 1)]))
    widgets.chart(
        two_clouds(found.ladder.z[:400], found.ladder.z[keep], axes),
        "Draws from q and draws resampled by importance weight, over two latent dimensions",
    )
    distinct = len(np.unique(keep))
    st.caption(
        f"Orange: 400 draws from q. Green: the same draws resampled by weight towards p(z|x); "
        f"{distinct} distinct ones carry it. Few mean that q and the posterior hardly overlap."
    )


def _exact(seen: Seen, found: estimates.Gap) -> None:
    lows = np.minimum(found.mu - 3.5 * found.sigma, found.best[0] - 3.5 * found.best[1])
    highs = np.maximum(found.mu + 3.5 * found.sigma, found.best[0] + 3.5 * found.best[1])
    middle, half = (lows + highs) / 2, max(float((highs - lows).max()) / 2, 0.4)
    window = np.stack((middle - half, middle + half), 1)
    axes, density = estimates.posterior(seen, window)
    q = (found.mu, found.sigma)
    if len(middle) == 1:
        widgets.chart(
            densities_on_a_line(axes[0], density, q, found.best),
            "The true posterior as a curve with those of q, of the best q* and of the prior",
        )
    else:
        widgets.chart(
            three_densities(axes, density, q, found.best, (middle, np.full(2, half))),
            "The true posterior as a heat map with ellipses of q, of the best q* and of the prior",
        )
    cell = np.prod(axes[:, 1] - axes[:, 0])
    # The density has a row for each value of the second dimension.
    away = ((axes - found.mu[:, None]) / found.sigma[:, None]) ** 2
    inside = (away[0] if len(away) == 1 else away[0] + away[1][:, None]) <= 9
    shown = float(density.sum() * cell)
    st.caption(
        f"q holds **{100 * float(density[inside].sum() * cell):.0f} %** of the posterior within "
        f"its 3 standard deviations; {100 * min(1.0, shown):.0f} % of the posterior lies in this "
        "window."
    )


def second_opinion(model: Checkpoint, seen: Seen) -> None:
    """Annealed importance sampling on request: another road to log p(x)."""
    st.markdown(
        "**A second opinion** where nothing is exact: annealed importance sampling walks to the "
        "posterior over 100 steps, half of its chains from q and half from the prior, so it does "
        "not depend on how well q fits. On a convolutional model it takes some twenty seconds."
    )
    # Not in the common cache: its functions cannot draw progress, nor be left halfway.
    known = st.session_state.setdefault("annealed", {})
    image = (model.identity, seen.levels.tobytes())
    if image not in known:
        if not st.button("Run annealed importance sampling", key="anneal"):
            return
        left, right = st.columns([4, 1], vertical_alignment="bottom")
        bar = left.progress(0.0, "Finding step sizes")
        # Any click reruns the page, which ends this run at its next word to the bar.
        right.button("Cancel", key="cancel_annealing", width="stretch")
        known[image] = estimates.annealed(
            seen,
            _CHAINS,
            lambda share: bar.progress(share, f"Annealing {_CHAINS} chains: {share:.0%} done"),
        )
        st.rerun()
    value, error = known[image]
    st.markdown(
        f"log p(x) ≈ **{nats(value, 2)}{plus_minus(error)} nats** (Neal 2001; Wu et al. 2017)"
    )

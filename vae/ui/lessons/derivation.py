"""The pieces of the Derivation screen: a checked line, losses as likelihoods, questions."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
import streamlit as st

from vae.data.sets.image_data import label_text
from vae.elbo.expectation import Receipt
from vae.elbo.lessons.derivation import Line
from vae.elbo.lessons.losses import binary_cross_entropy, gaussian_from_error, implied_variance
from vae.figures import palette
from vae.figures.frame import nats
from vae.store.checkpoint import Checkpoint
from vae.ui import access, estimates, widgets
from vae.ui.lessons.errata import ERRATA

__all__ = ["beta_dial", "errata", "losses", "questions", "routes", "show_lines"]


def routes(model: Checkpoint, lines: dict[str, Line], with_image: bool) -> None:
    """From log p(x) to the bound, by the true posterior and by Jensen's inequality."""
    if "split" in lines:
        st.subheader("One route: the gap is a divergence", anchor=False)
        show_lines(lines, ("split", "gibbs", "bound"))
        st.subheader("Another route: Jensen's inequality", anchor=False)
        show_lines(lines, ("importance", "jensen"))
    elif with_image:
        st.subheader("Jensen's inequality", anchor=False)
        st.caption(
            f"With {model.latent_dim} latent dimensions log p(x) has no exact value here, "
            "so the route through the true posterior is shown on the two-dimensional models."
            if model.latent_dim > 2
            else "This image's log p(x) lies out of the quadrature's reach, so the route through "
            "the true posterior cannot be shown for it."
        )
        show_lines(lines, ("jensen",))


def show_lines(lines: dict[str, Line], keys: Sequence[str]) -> None:
    """Those of the lines that there are."""
    for key in keys:
        if key in lines:
            _show_line(lines[key])


def _show_line(line: Line) -> None:
    """One line: the formula, why it holds, and both of its sides in nats."""
    formula, numbers = st.columns([1.35, 1], gap="large", vertical_alignment="center")
    with formula:
        st.latex(_coloured(line.formula))
    with numbers:
        verdict = "holds" if line.holds else "does not hold"
        if line.relation == "≥" and line.holds and line.slack < 0:
            verdict = "holds within the error"
        difference = "difference" if line.relation == "=" else "slack"
        st.html(
            f'<p class="elb-line"><b>{nats(line.left, 4)}</b> {line.relation} '
            f"<b>{nats(line.right, 4)}</b> nats<br><small>{difference} "
            f"{nats(line.slack, 4)}, allowed error {line.error:.4f} nats: {verdict}</small></p>"
        )
        st.caption(escape(line.why))


def _coloured(formula: str) -> str:
    """Gives each quantity of a formula the colour of its marks in charts."""
    colours = {
        r"KL(q(z|x) \,\|\, p(z|x))": palette.EVIDENCE,
        r"KL(q(z|x) \,\|\, p(z))": palette.KL,
        r"\mathrm{ELBO}(x)": palette.ELBO,
        r"E_{q}[\log p(x|z)]": palette.EXPECTED_LOG_LIKELIHOOD,
        r"\log p(x) ": palette.EVIDENCE,
    }
    for part, colour in colours.items():
        formula = formula.replace(part, palette.tex(colour, part))
    return formula


def losses(model: Checkpoint, sample: int, parts: Receipt | None) -> None:
    """The usual losses of the image and its reconstruction, or of a decoded draw."""
    if parts is None:
        st.caption("In place of the image, a picture decoded from a draw of its q.")
        drawn = access.posterior_draws(model, sample, 1, seed=0)[0]
        _pixel_losses(drawn, access.reconstructions(model, [sample])[0])
    else:
        _pixel_losses(parts.x, parts.reconstruction)


def _pixel_losses(x: np.ndarray, mean: np.ndarray) -> None:
    """The two usual losses as negative log-likelihoods of an image (C, H, W) and its mean."""
    mean = np.clip(mean, 1e-6, 1 - 1e-6)
    left, right = st.columns(2, gap="large")
    with left:
        cross, bernoulli = binary_cross_entropy(x, mean)
        st.latex(r"\mathrm{BCE}(x, \hat x) = -\log \mathrm{Bernoulli}(x; \hat x)")
        st.html(
            f'<p class="elb-line"><b>{nats(cross, 4)}</b> = <b>{nats(bernoulli, 4)}</b> nats</p>'
        )
        binary = bool(np.isin(x, (0, 1)).all())
        st.caption(
            "Summed over pixels. These pixels are 0 or 1, so this is the probability of an image."
            if binary
            else "Summed over pixels. These pixels are grey, so the right side is the formula's "
            "value but not a density of such images: use a discretised likelihood instead."
        )
    with right:
        sigma = st.slider("σ of a Gaussian likelihood", 0.05, 1.0, 0.25, 0.05, key="sigma_dial")
        error, gaussian = gaussian_from_error(x, mean, sigma)
        st.latex(
            r"\tfrac{1}{2\sigma^2} \|x - \hat x\|^2 + \tfrac{P}{2} \log 2\pi\sigma^2 = "
            r"-\log N(x; \hat x, \sigma^2 I)"
        )
        st.html(
            f'<p class="elb-line"><b>{nats(error, 4)}</b> = <b>{nats(gaussian, 4)}</b> nats</p>'
        )
        st.caption(
            "Left: from the squared error summed over pixels. Right: the density's own log."
        )


def beta_dial(pixels: int) -> None:
    """Weight of the KL beside a squared error, read as the variance of a Gaussian."""
    label = "Weight β of the KL beside a squared error"
    beta = st.slider(label, 0.01, 4.0, 1.0, key="beta_dial", format="%.3g")
    kinds = {
        "sum": r"\|x - \hat x\|^2 + \beta\,KL",
        "half": r"\tfrac12 \|x - \hat x\|^2 + \beta\,KL",
        "mean": r"\tfrac1P \|x - \hat x\|^2 + \beta\,KL",
    }
    for (kind, formula), column in zip(kinds.items(), st.columns(3, gap="large"), strict=True):
        with column:
            st.latex(formula)
            variance = implied_variance(kind, beta, pixels)
            st.html(
                f'<p class="elb-line">is a Gaussian ELBO with σ² = <b>{variance:.4g}</b>, '
                f"σ = <b>{variance**0.5:.4g}</b></p>"
            )
    st.caption(
        "So with a squared error, β is a statement about the noise of pixels, up to scale and a "
        "constant. With any other likelihood it is not: there β ≠ 1 leaves the bound."
    )


def questions(model: Checkpoint, sample: int, images: bool = True) -> None:
    """Questions whose answers are computed from the loaded model: three, one without images."""
    table = access.table(model)
    rows = [int(row) for row in (sample + np.arange(5) * 37) % len(table.kl)]
    names = [f"sample {row}" for row in rows]
    st.markdown("**1. Which of these pays the most nats for its code?**")
    labels = [label_text(int(table.labels[row]), model.label_names) for row in rows]
    captions = [f"sample {row}: {text}" for row, text in zip(rows, labels, strict=True)]
    widgets.gallery(model, rows, captions, 8)
    guess = st.radio("Largest KL", names, index=None, horizontal=True, key=f"guess-{sample}")
    if guess:
        right = names[int(np.argmax(table.kl[rows]))]
        listed = ", ".join(f"{row}: {nats(table.kl[row], 2)}" for row in rows)
        _reveal(guess == right, f"It is {right}. KL in nats: {listed}.")

    if not images:
        return
    st.markdown("**2. Blur this image. Which term of its ELBO changes more?**")
    terms = ["the KL", "the expected log-likelihood"]
    guess = st.radio("Changes more", terms, index=None, horizontal=True, key=f"blur-{sample}")
    if guess:
        before, after = access.receipt(model, sample), estimates.blurred(model, sample)
        kl, likelihood = (
            after.kl - before.kl,
            after.expected_log_likelihood - before.expected_log_likelihood,
        )
        right = terms[int(abs(likelihood) > abs(kl))]
        _reveal(
            guess == right,
            f"It is {right}: the KL moves by {nats(kl, 2)} nats and the expected log-likelihood "
            f"by {nats(likelihood, 2)}.",
        )

    st.markdown("**3. Put this image into a batch with 255 others. What does its KL do?**")
    choices = ["it rises", "it falls", "it stays, to the last digit"]
    guess = st.radio("Its KL", choices, index=None, horizontal=True, key=f"mates-{sample}")
    if guess:
        companies = estimates.batch_mates(model, sample)
        alone, together = companies[0], companies[2]
        _reveal(
            guess == choices[2],
            f"It stays: {nats(alone.kl, 6)} nats alone, {nats(together.kl, 6)} among "
            f"{together.size:,}. The batch's mean KL is {nats(together.batch_mean_kl, 2)}, and no "
            "image pays that.",
        )


def _reveal(right: bool, answer: str) -> None:
    if right:
        st.success(f"Right. {answer}", icon=":material/check:")
    else:
        st.info(f"Not so. {answer}", icon=":material/lightbulb:")


def errata() -> None:
    """What texts that teach this should say, folded away."""
    with st.expander("Errata of four texts that teach this"):
        st.table(
            {
                "Where": [one.where for one in ERRATA],
                "It says": [one.stated for one in ERRATA],
                "It should say": [one.correct for one in ERRATA],
            },
            hide_index=True,
        )

"""The terms that screens use, each defined once in plain words: on Overview, and in help tips."""

from __future__ import annotations

from typing import get_args

from vae.elbo.aggregate.density import ACTIVE_VARIANCE
from vae.model.config import LikelihoodName
from vae.model.likelihoods import facts_of
from vae.store.checkpoint import Checkpoint

__all__ = [
    "ACTIVE",
    "ELSEWHERE",
    "NAT",
    "OWN_FOLDER",
    "RELATIVE",
    "SIGNS",
    "choice_name",
    "held_out",
    "objective_note",
    "terms",
]

NAT = (
    "A nat measures information with natural logarithms, as a bit does with base 2: 1 nat = 1.44 "
    "bits. What costs 1 nat less is e ≈ 2.7 times as probable."
)
SIGNS = (
    "Of a cost, lower is better; an ELBO or log p(x) is minus a cost, so there higher is better."
)
ACTIVE = (
    "An active unit is a latent dimension whose mean μ moves with the image: its variance over "
    f"the validation images is above {ACTIVE_VARIANCE:g}, in units of the prior's variance, 1."
)
# What newcomers ask, and the answers as they are today.
ELSEWHERE = (
    "A VAE that was trained elsewhere (plain PyTorch, pythae, diffusers) is opened on the command "
    "line too, by `python -m vae import`, which asks for what the model itself does not say."
)
OWN_FOLDER = (
    "A folder of at least 50 images becomes a model on the command line, by `python -m vae train "
    "--data folder:PATH`"
)
# Code spells some of these otherwise; what reads well as it stands is not here.
_CHOICES = {
    "mlp": "fully connected (mlp)",
    "conv": "convolutional (conv)",
    "resnet": "residual (resnet)",
    "elbo": "ELBO",
    "beta": "KL with a weight β",
    "capacity": "KL held at a capacity",
    "iwae": "importance-weighted bound (IWAE)",
    "beta_tc": "total correlation with a weight β (β-TC)",
    "batch_moment_kl": "mistaken KL, of the batch's moments",
    **{name: facts_of(name).title for name in get_args(LikelihoodName)},
}
RELATIVE = (
    "A score such as −38.2 nats means nothing by itself: it depends on the number of pixels and "
    "on the likelihood. What counts is its place among the scores of the calibration images, the "
    "percentile."
)


def held_out(model: Checkpoint) -> str:
    """What the two kinds of images are that training never learnt from, with their numbers."""
    images = model.card.data.images
    validation, calibration = images["validation"], images["calibration"]
    return (
        f"{validation + calibration:,} images that training never learnt from: {validation:,} "
        "validation images, on which training was watched (a model's figures are means over "
        f"them), and {calibration:,} calibration images, which nothing was tuned on (percentiles "
        "and p-values compare with them)."
    )


def terms(model: Checkpoint) -> dict[str, str]:
    """Each term and what it means, as Markdown, in the order in which they need each other."""
    return {
        "Nat": NAT,
        "Variational autoencoder (VAE)": (
            "a network that gives each image a short code z and draws the image again from it. "
            "*Variational*: the code isn't one point but a Gaussian of likely codes, q(z|x), the "
            "best that the encoder finds."
        ),
        "Evidence lower bound (ELBO)": (
            "the *evidence* is log p(x), the log-probability that the model gives an image. The "
            "ELBO never lies above it and, unlike it, can always be computed. It is minus the "
            "cost of describing the image. " + SIGNS
        ),
        "Held-out images": held_out(model),
    }


def choice_name(name: str) -> str:
    """What people call one of the choices of a run, such as an objective or a network."""
    return _CHOICES.get(name, name.replace("_", " "))


def objective_note(objective: str, beta: float) -> str:
    """What a model was trained for, where that isn't the ELBO; empty where it is."""
    if objective == "elbo" or (objective == "beta" and beta == 1):
        return ""
    if objective == "batch_moment_kl":
        return "Trained with the mistaken KL on purpose; the ELBO shown is the true one."
    if objective == "unknown":
        weight = "a loss that nobody stated" if beta == 1 else f"β = {beta:g}"
        return f"Trained elsewhere, with {weight}; the ELBO shown is the true one, at β = 1."
    if objective == "beta":
        return f"Trained with β = {beta:g}; the ELBO shown is the true one, at β = 1."
    name = choice_name(objective)
    return f"Trained for another objective, {name}; the ELBO shown is the true one, at β = 1."

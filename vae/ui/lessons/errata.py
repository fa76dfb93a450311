"""What four well-read texts on the ELBO state, and what should stand there. Politely."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ERRATA", "Erratum"]


class Erratum(NamedTuple):
    """One correction.

    Attributes:
        where: Which kind of text, and the place in it.
        stated: What stands there.
        correct: What should, and why.
    """

    where: str
    stated: str
    correct: str


ERRATA = (
    Erratum(
        "A derivation, eq. 8 and 9",
        "Eq. 8 keeps a minus sign that eq. 9 drops.",
        "Eq. 9 is right: the two signs of log(p/q) = −log(q/p) cancel once.",
    ),
    Erratum(
        "The same, on KL ≥ 0",
        "The inequality is called Jensen's.",
        "It is Gibbs' inequality, which Jensen's proves.",
    ),
    Erratum(
        "The same, throughout",
        "Sums over z.",
        "z is continuous here, so every sum over it is an integral.",
    ),
    Erratum(
        "The same, on the prior",
        "The prior is written q(z).",
        "The prior is p(z); q is kept for the encoder's q(z|x).",
    ),
    Erratum(
        "The same, at the end",
        "It stops before the promised closed form.",
        "½ Σ (μ² + σ² − 1 − log σ²), as the last line above shows.",
    ),
    Erratum(
        "An introduction, the objective",
        "… + KL(p(z), q(z|x)).",
        "… − KL(q(z|x) ‖ p(z)): the other sign, and the other order, which is another number.",
    ),
    Erratum(
        "The same, on the divergence",
        "KL > 0.",
        "KL ≥ 0, and it is 0 exactly when the two agree: an unused dimension costs nothing.",
    ),
    Erratum(
        "The same, on the model",
        "p(x) is a standard Gaussian; p(x|z) is the posterior term.",
        "p(z) is the standard Gaussian; p(x|z) is the likelihood.",
    ),
    Erratum(
        "The same, on the expectation",
        "E_q means that x is sampled from the data, then z.",
        "E_q is over z for one fixed x. The average over the data stands outside, after the ELBO "
        "of each image is complete.",
    ),
    Erratum(
        "A tutorial, on the KL term",
        "The codes are, on average, close to the prior.",
        "Each q(z|x) is charged for its own distance; then the charges are averaged. A set of "
        "codes can match the prior on average while every one of them pays dearly.",
    ),
    Erratum(
        "A question with answers, the identity",
        "p(x) = ELBO + KL(q ‖ p(z|x)), also in its max form and inside its likelihood sum.",
        "log p(x) = ELBO + KL(q ‖ p(z|x)): the logarithm is missing.",
    ),
    Erratum(
        "The same, on generation",
        "To generate, sample p(z|x); the encoder is p(z|x).",
        "To generate, sample the prior p(z). The encoder is q(z|x), which approximates p(z|x).",
    ),
    Erratum(
        "The same, on learning",
        "The argmax of an expectation under p_θ(z|x) is the VAE's objective.",
        "That is a step of EM. The VAE maximises the ELBO over θ and the encoder together.",
    ),
)

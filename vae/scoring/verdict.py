"""A verdict on one image in plain words, and what it means where second opinions differ.

The ELBO alone can mislead in both directions: the lowest are often the encoder's failures rather
than strange images, and plain foreign images score highly. Each second opinion is a p-value among
the calibration images with its own statistic.

The ELBO flags at the accepted rate of false alarms, and each of the four second opinions raises a
doubt at a quarter of it, asked or not. So the two together, flagged or doubtful, are at most twice
that rate of normal images, however the opinions depend on one another (Bonferroni).

References:
    | Likelihood Regret (Xiao et al., 2020), https://arxiv.org/abs/2003.02977
    | Input Complexity and Out-of-distribution Detection (Serrà et al., 2020),
    | https://arxiv.org/abs/1909.11480
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = [
    "CAVEAT",
    "USUAL_RATE",
    "Opinions",
    "Verdict",
    "doubt_level",
    "give_verdict",
    "union_rate",
    "words",
]

USUAL_RATE = 0.01  # of false alarms, where nobody chose another

CAVEAT = (
    "The p-value holds for images that come from where the calibration images came from, and a "
    "high score is no proof of kinship: a VAE can rate simple foreign images highly."
)


class Opinions(NamedTuple):
    r"""What each statistic says of one image: p-values, small where the image is strange.

    Attributes:
        elbo: Of an ELBO as low or lower.
        elbo_high: Of an ELBO as high or higher.
        evidence: Of :math:`\log p(x)`, or of :math:`L_k` by the calibration's own estimator, as
            low or lower; none where it wasn't computed.
        regret: Of a likelihood regret as high or higher; none where it wasn't computed.
        complexity: Of a cost beyond the lossless code as high or higher; none likewise.
        best_passes: Whether :math:`\mathrm{ELBO}(q^*)` passes the threshold; none likewise.
        bound_draws: The k of :math:`L_k`; 0 where the evidence is exact.
        images: The number of calibration images behind all but evidence and regret.
        evidence_images: The number behind the evidence.
        regret_images: The number behind the regret.
    """

    elbo: float
    elbo_high: float
    evidence: float | None = None
    regret: float | None = None
    complexity: float | None = None
    best_passes: bool | None = None
    bound_draws: int = 0
    images: int = 999
    evidence_images: int = 999
    regret_images: int = 999


def doubt_level(rate: float) -> float:
    """The p-value at or below which one of the four second opinions raises a doubt."""
    return rate / 4


def union_rate(rate: float) -> float:
    """The most normal images, as a share, that are flagged or doubtful at an accepted rate."""
    return 2 * rate


def words(low: np.ndarray, high: np.ndarray, rate: float) -> list[str]:
    """What the ELBO alone says of images: ``ordinary``, ``flagged`` or ``suspiciously_easy``.

    Args:
        low: The p-values of an ELBO as low or lower, with shape (B,).
        high: Those of one as high or higher, with shape (B,).
        rate: The accepted rate of false alarms, in (0, 1).
    """
    found = np.where(high <= doubt_level(rate), "suspiciously_easy", "ordinary")
    return np.where(low <= rate, "flagged", found).tolist()


class Verdict(NamedTuple):
    """A judgement in plain words.

    Attributes:
        flagged: Whether the ELBO lies below the threshold.
        doubtful: Whether it passes, but a second opinion finds it strange.
        level: The p-value at or below which a second opinion counts as strange.
        headline: A few words.
        reason: One sentence about the score itself.
        findings: A sentence for each second opinion that adds to it; never empty once a second
            opinion was computed.
    """

    flagged: bool
    doubtful: bool
    level: float
    headline: str
    reason: str
    findings: tuple[str, ...]


def give_verdict(opinions: Opinions, rate: float) -> Verdict:
    """Judges one image at a rate of false alarms.

    Args:
        opinions: The p-values.
        rate: The share of normal images that one accepts to be flagged, in (0, 1).

    Returns:
        The verdict. Of normal images, at most the rate is flagged, and at most
        :func:`union_rate` is flagged or doubtful.
    """
    (word,) = words(np.array([opinions.elbo]), np.array([opinions.elbo_high]), rate)
    flagged, easy = word == "flagged", word == "suspiciously_easy"
    # Whether an opinion agrees with a flag is asked at the flag's own rate: it raises no alarm.
    level = rate if flagged else doubt_level(rate)
    opinions, silent = _heard(opinions, flagged, level)
    others = [p for p in opinions[2:5] if p is not None]
    doubtful = not flagged and (easy or any(p <= level for p in others))
    share = f"{100 * rate:.1f}\u00a0%"
    if flagged:
        headline = "Unlike the images this model knows"
        reason = f"It is flagged: at most {share} of normal images score this low."
    elif easy:
        headline = "Suspiciously easy"
        reason = (
            "It passes, but it scores higher than nearly every image that the model knows "
            f"(p = {opinions.elbo_high:.3f}), which plain foreign images do."
        )
    elif doubtful:
        headline = "A second opinion finds it strange"
        reason = f"Its score passes: more than {share} of normal images score this low."
    elif opinions.elbo <= 0.05:
        headline = "Unusual"
        reason = f"It passes: few normal images score this low, but more than {share}."
    else:
        headline = "Nothing unusual in the score"
        reason = f"It passes: more than {share} of normal images score this low."
    findings = (*_encoder(opinions, flagged, level), *_plainness(opinions, flagged, level))
    if not findings and others:
        agreement = "flags it too" if flagged else "finds it unusual either"
        start = "Every" if flagged else "No"
        findings = (f"{start} second opinion {agreement}.",)
    return Verdict(flagged, doubtful, level, headline, reason, (*findings, *silent))


def _heard(opinions: Opinions, flagged: bool, level: float) -> tuple[Opinions, list[str]]:
    """The opinions without those whose p-value cannot be as low as the level, and who they are."""
    asked = {
        "a high ELBO": (None if flagged else opinions.elbo_high, opinions.images),
        "evidence": (opinions.evidence, opinions.evidence_images),
        "complexity": (opinions.complexity, opinions.images),
        "regret": (opinions.regret, opinions.regret_images),
    }
    silent = [name for name, (p, n) in asked.items() if p is not None and 1 / (n + 1) > level]
    if not silent:
        return opinions, []
    least = max(1 / (asked[name][1] + 1) for name in silent)
    sentence = (
        f"Too few calibration images to hear {_listed(silent)} at this rate: the p-value is "
        f"never below {least:.3f}, and {level:.4f} is needed."
    )
    unheard = {name: None for name in silent if name in Opinions._fields}
    return opinions._replace(**unheard), [sentence]


def _listed(names: list[str]) -> str:
    plain = {"evidence": "log p(x)", "complexity": "the complexity", "regret": "the regret"}
    *first, last = (plain.get(name, name) for name in names)
    return f"{', '.join(first)} and {last}" if first else last


def _evidence(opinions: Opinions, flagged: bool, strange: bool) -> str:
    """Where log p(x), or the bound from below by the encoder's own q, adds to the verdict."""
    p = f"(p = {opinions.evidence:.3f})"
    if opinions.bound_draws:
        bound = f"L with {opinions.bound_draws:,} draws"
        if flagged and not strange:
            return (
                f"{bound} disagrees {p}: the model explains this image better than one draw from "
                "q shows, so the low ELBO is at least partly the encoder's failure."
            )
        if flagged:
            return (
                f"{bound} agrees {p}, but its draws come from the encoder's own q: it does not "
                "tell an image that is strange to the model from one that only its encoder fails "
                "on. The likelihood regret may."
            )
        return f"{bound} disagrees {p}: it is as low as the strangest, though the ELBO passes."
    if flagged and not strange:
        return (
            f"log p(x) disagrees {p}: the model can explain this image, so the low ELBO is the "
            "encoder's failure, not a strange image."
        )
    if flagged:
        return (
            f"log p(x) agrees {p}: the image is strange to the model itself, not just to its "
            "encoder."
        )
    return (
        f"log p(x) disagrees {p}: it is as low as the strangest, though the ELBO passes; such "
        "images lie just above the threshold."
    )


def _encoder(opinions: Opinions, flagged: bool, level: float) -> list[str]:
    """Where log p(x), ELBO(q*) or the regret speak against the encoder rather than the image."""
    found = []
    strange = opinions.evidence is not None and opinions.evidence <= level
    if opinions.evidence is not None and (flagged or strange):
        found.append(_evidence(opinions, flagged, strange))
    if flagged and opinions.best_passes:
        found.append(
            "With the best q for this very image the ELBO would pass: what is low is the "
            "encoder's answer."
        )
    elif flagged and opinions.best_passes is False:
        found.append("Even with the best q for this very image the ELBO would not pass.")
    if opinions.regret is not None and opinions.regret <= level:
        found.append(
            f"The likelihood regret flags it (p = {opinions.regret:.3f}): the encoder is much "
            "farther from the best q than on images it knows, a sign of a foreign image"
            + (" or of a gap in its training." if flagged else " that the ELBO alone misses.")
        )
    elif opinions.regret is not None and flagged:
        found.append(
            f"The likelihood regret is ordinary (p = {opinions.regret:.3f}): the encoder does as "
            "well here as on images it knows."
        )
    return found


def _plainness(opinions: Opinions, flagged: bool, level: float) -> list[str]:
    """Where the image's own complexity explains its score, or gives it away."""
    p = opinions.complexity
    if p is None:
        return []
    if flagged and p > level:
        return [
            f"Its complexity disagrees (p = {p:.3f}): it is an intricate image, and for its "
            "complexity the cost is ordinary."
        ]
    if not flagged and p <= level:
        return [
            f"Its complexity disagrees (p = {p:.3f}): it is a plain image that scores well only "
            "because it is plain; for so short a lossless code the cost is high."
        ]
    return []

"""A verdict on one image in plain words, and what it means where second opinions differ.

The ELBO alone can mislead in both directions: the lowest are often the encoder's failures rather
than strange images, and plain foreign images score highly. Each second opinion is a p-value among
the calibration images with its own statistic, so that all are compared at one rate of false
alarms.

References:
    | Likelihood Regret (Xiao et al., 2020), https://arxiv.org/abs/2003.02977
    | Input Complexity and Out-of-distribution Detection (Serrà et al., 2020),
    | https://arxiv.org/abs/1909.11480
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vae.elbo.typicality import two_sided

__all__ = ["CAVEAT", "Opinions", "Verdict", "give_verdict"]

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
        best_passes: Whether :math:`\mathrm{ELBO}(q^*)` lies above the threshold; none likewise.
    """

    elbo: float
    elbo_high: float
    evidence: float | None = None
    regret: float | None = None
    complexity: float | None = None
    best_passes: bool | None = None

    @property
    def elbo_two_sided(self) -> float:
        """Of an ELBO as far out on either side."""
        return float(two_sided(np.array(self.elbo), np.array(self.elbo_high)))


class Verdict(NamedTuple):
    """A judgement in plain words.

    Attributes:
        flagged: Whether the ELBO lies at or below the threshold.
        doubtful: Whether it passes, but another opinion finds it strange.
        headline: A few words.
        reason: One sentence about the score itself.
        findings: A sentence for each second opinion that adds to it; never empty once a second
            opinion was computed.
    """

    flagged: bool
    doubtful: bool
    headline: str
    reason: str
    findings: tuple[str, ...]


def give_verdict(opinions: Opinions, rate: float) -> Verdict:
    """Judges one image at a rate of false alarms.

    Args:
        opinions: The p-values.
        rate: The share of normal images that one accepts to be flagged, in (0, 1).

    Returns:
        The verdict.
    """
    flagged = opinions.elbo <= rate
    either = opinions.elbo_two_sided
    too_high = not flagged and opinions.elbo_high < opinions.elbo and either <= rate
    share = f"{100 * rate:.1f}\u00a0%"
    if flagged:
        headline = "Unlike the images this model knows"
        reason = f"It is flagged: at most {share} of normal images score this low."
    elif too_high:
        headline = "Suspiciously easy"
        reason = (
            f"It isn't flagged, but it scores higher than nearly every image that the model knows "
            f"(two-sided p = {either:.3f}), which plain foreign images do."
        )
    elif opinions.elbo <= 0.05:
        headline = "Unusual, but it passes"
        reason = f"Few normal images score this low, but more than the {share} that you accept."
    else:
        headline = "Nothing unusual in the score"
        reason = f"More than {share} of normal images score this low."
    findings = (*_encoder(opinions, flagged, rate), *_plainness(opinions, flagged, rate))
    if not findings and any(one is not None for one in opinions[2:5]):
        agreement = "flags it too" if flagged else "finds it unusual either"
        start = "Every" if flagged else "No"
        findings = (f"{start} second opinion {agreement}.",)
    strange = [one is not None and one <= rate for one in opinions[2:5]]
    doubtful = not flagged and (too_high or any(strange))
    return Verdict(flagged, doubtful, headline, reason, findings)


def _encoder(opinions: Opinions, flagged: bool, rate: float) -> list[str]:
    """Where log p(x), ELBO(q*) or the regret speak against the encoder rather than the image."""
    found = []
    excused = opinions.evidence is not None and opinions.evidence > rate
    if flagged and excused:
        found.append(
            f"log p(x) disagrees (p = {opinions.evidence:.3f}): the model can explain this image, "
            "so the low ELBO is the encoder's failure, not a strange image."
        )
    elif flagged and opinions.evidence is not None:
        found.append(
            f"log p(x) agrees (p = {opinions.evidence:.3f}): the image is strange to the model "
            "itself, not just to its encoder."
        )
    elif not flagged and opinions.evidence is not None and not excused:
        found.append(
            f"log p(x) disagrees (p = {opinions.evidence:.3f}): it is as low as the strangest, "
            "though the ELBO passes; such images lie just above the threshold."
        )
    if flagged and opinions.best_passes:
        found.append(
            "With the best q for this very image the ELBO would pass: what is low is the "
            "encoder's answer."
        )
    elif flagged and opinions.best_passes is False:
        found.append("Even with the best q for this very image the ELBO would not pass.")
    if opinions.regret is not None and opinions.regret <= rate:
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


def _plainness(opinions: Opinions, flagged: bool, rate: float) -> list[str]:
    """Where the image's own complexity explains its score, or gives it away."""
    p = opinions.complexity
    if p is None:
        return []
    if flagged and p > rate:
        return [
            f"Its complexity disagrees (p = {p:.3f}): it is an intricate image, and for its "
            "complexity the cost is ordinary."
        ]
    if not flagged and p <= rate:
        return [
            f"Its complexity disagrees (p = {p:.3f}): it is a plain image that scores well only "
            "because it is plain; for so short a lossless code the cost is high."
        ]
    return []

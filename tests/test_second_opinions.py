"""Second opinions on a score: typicality, complexity, the refined bound, and the verdict."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.conftest import LinearGaussian
from vae.data.images.encoding import encode_png
from vae.elbo.evidence.bounds import estimate_bound
from vae.elbo.evidence.refined import refined_bound
from vae.elbo.expectation import estimate_elbo
from vae.elbo.seen import see
from vae.scoring.calibration import typicality
from vae.scoring.calibration_sets import calibration_of
from vae.scoring.complexity import code_lengths, complexity_excess
from vae.scoring.verdict import Opinions, doubt_level, give_verdict, union_rate, words
from vae.store.originals import originals

REFERENCE = np.array([-3.0, -1.0, -2.0, -2.0])


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [(-9, 1 / 5, 1), (-3, 2 / 5, 1), (-2, 4 / 5, 4 / 5), (-1.5, 4 / 5, 2 / 5), (0, 1, 1 / 5)],
)
def test_typicality_by_hand(value: float, low: float, high: float) -> None:
    found = typicality(REFERENCE, np.array([value]))
    assert (found.low[0], found.high[0]) == (pytest.approx(low), pytest.approx(high))
    assert found.two_sided[0] == pytest.approx(min(1, 2 * min(low, high)))


def test_two_sided_p_values_of_exchangeable_images_are_super_uniform() -> None:
    rng, trials, n = np.random.default_rng(1), 4_000, 39
    scores = rng.standard_normal((trials, n + 1))
    p = np.array([typicality(row[1:], row[:1]).two_sided[0] for row in scores])
    for alpha in np.arange(2, n + 1, 2) / (n + 1):
        share, error = (p <= alpha + 1e-12).mean(), math.sqrt(alpha * (1 - alpha) / trials)
        assert abs(share - alpha) <= 4 * error + 1e-12


def test_the_code_of_an_image_does_not_change_when_it_is_turned() -> None:
    rng = np.random.default_rng(0)
    image = (rng.random((1, 1, 12, 12)) < 0.3) * np.linspace(0, 1, 12)
    turned = [np.rot90(image, k, (2, 3)) for k in range(4)] + [image[..., ::-1]]
    found = code_lengths(np.concatenate(turned).astype(np.float32))
    assert np.ptp(found.bits) == 0
    np.testing.assert_allclose(found.noise, found.noise[0])
    assert found.noise[0] > 0


def test_a_code_is_that_of_the_png_file_without_its_frame() -> None:
    for shape in ((1, 1, 9, 5), (1, 3, 9, 5)):
        x = np.full(shape, 0.5, np.float32)
        shades = np.full(shape[2:] if shape[1] == 1 else (9, 5, 3), 128, np.uint8)
        # Signature, header, one frame of data and the end: 8 + 25 + 12 + 12 bytes.
        assert code_lengths(x).bits.max() <= 8 * (len(encode_png(shades)) - 57) + 32
        assert code_lengths(x).bits.min() >= 8 * (len(encode_png(shades)) - 57) - 32


def test_plain_images_have_short_codes_and_noise_has_long_ones(checkpoint) -> None:
    model = checkpoint("digits-2d")
    levels = originals(model, np.arange(20))
    noise = np.random.default_rng(0).integers(0, 17, levels.shape).astype(np.uint8)
    blank = np.zeros_like(levels)
    bits = [code_lengths(model.observe(one).numpy()).bits for one in (blank, levels, noise)]
    assert bits[0].max() < bits[1].min()
    assert bits[1].mean() < bits[2].min()


def test_complexity_catches_the_blank_image_that_scores_too_well(checkpoint) -> None:
    """On the sprites an empty image beats every real one: the case that the ELBO alone misses."""
    model = checkpoint("sprites-10d")
    rows = model.reference.of_split("calibration")[:100]
    levels, elbo = originals(model, rows), model.reference.elbo[rows]
    excess = complexity_excess(elbo, code_lengths(model.observe(levels).numpy()).bits)
    blank = np.zeros_like(levels[:1])
    score = estimate_elbo(see(model, blank)).value.numpy()
    found = typicality(elbo, score)
    assert found.low[0] == 1
    assert found.high[0] == found.two_sided[0] / 2 == 1 / 101
    bits = code_lengths(model.observe(blank).numpy()).bits
    assert typicality(excess, complexity_excess(score, bits)).high[0] == 1 / 101


def test_excess_by_hand() -> None:
    assert complexity_excess(np.array([-10 * math.log(2)]), np.array([7.0])) == pytest.approx(3)


def test_a_refined_bound_reaches_the_evidence_and_says_when_it_is_done(linear_gaussian) -> None:
    model: LinearGaussian = linear_gaussian(3, orthogonal=False)
    levels = np.random.default_rng(0).integers(90, 160, (1, 4, 4)).astype(np.uint8)
    states = list(refined_bound(see(model, levels[None]), tolerance=0.02))
    exact = model.log_evidence(model.observe(levels[None]))[0]
    last = states[-1]
    assert last.done and last.standard_error <= 0.02
    assert not any(state.done for state in states[:-1])
    assert abs(last.value - float(exact)) <= 4 * last.standard_error
    # What the delta method says of the effective sample size.
    implied = 1 / (last.standard_error**2 + 1 / last.draws)
    assert last.effective_samples == pytest.approx(implied, rel=1e-3)


def test_a_refined_bound_begins_with_the_draws_of_the_score(checkpoint) -> None:
    model = checkpoint("digits-10d")
    levels = originals(model, np.arange(1))
    bound = estimate_bound(see(model, levels), 3_000).value
    *_, last = refined_bound(see(model, levels), tolerance=1e-9, most=3_000)
    assert (last.draws, last.done) == (3_000, False)
    assert last.value == pytest.approx(float(bound), abs=1e-6)


def test_a_refined_bound_leaves_the_thread_as_it_was(linear_gaussian) -> None:
    model = linear_gaussian(3)
    states = refined_bound(
        see(model, np.full((1, 1, 4, 4), 128, np.uint8)), tolerance=1e-9, most=9_000
    )
    next(states)
    assert not torch.is_inference_mode_enabled()
    states.close()
    with pytest.raises(ValueError, match="tolerance"):
        next(refined_bound(see(model, np.zeros((1, 1, 4, 4), np.uint8)), tolerance=0))
    with pytest.raises(ValueError, match="most"):
        next(refined_bound(see(model, np.zeros((1, 1, 4, 4), np.uint8)), most=0))


@pytest.mark.parametrize(
    ("opinions", "flagged", "headline", "findings"),
    [
        (Opinions(0.5, 0.5), False, "Nothing unusual", ()),
        (Opinions(0.03, 0.98), False, "Unusual", ()),
        (Opinions(0.002, 1.0), True, "Unlike the images", ()),
        (Opinions(1.0, 0.002), False, "Suspiciously easy", ()),
        (Opinions(0.002, 1, evidence=0.4), True, "Unlike", ("the encoder's failure",)),
        (Opinions(0.002, 1, evidence=0.002), True, "Unlike", ("log p(x) agrees",)),
        (Opinions(0.5, 0.5, evidence=0.002), False, "A second opinion", ("log p(x) disagrees",)),
        (Opinions(0.002, 1, regret=0.01), True, "Unlike", ("regret flags it",)),
        (Opinions(0.002, 1, regret=0.3), True, "Unlike", ("regret is ordinary",)),
        (Opinions(0.5, 0.5, regret=0.002), False, "A second opinion", ("the ELBO alone misses",)),
        (Opinions(0.002, 1, complexity=0.4), True, "Unlike", ("an intricate image",)),
        (Opinions(0.8, 0.2, complexity=0.002), False, "A second opinion", ("a plain image",)),
        (Opinions(0.5, 0.5, 0.003, 0.003, 0.003), False, "Nothing", ("No second opinion",)),
        # A flag is compared with what the others say at the flag's own rate.
        (Opinions(0.002, 1, evidence=0.01), True, "Unlike", ("strange to the model itself",)),
        (Opinions(0.5, 0.5, 0.5, 0.5, 0.5), False, "Nothing", ("No second opinion",)),
        (Opinions(0.002, 1, complexity=0.002), True, "Unlike", ("Every second opinion",)),
        (Opinions(0.002, 1, best_passes=True), True, "Unlike", ("would pass",)),
        (Opinions(0.002, 1, best_passes=False), True, "Unlike", ("would not pass",)),
    ],
)
def test_a_verdict_says_which_opinions_differ_and_what_that_means(
    opinions: Opinions, flagged: bool, headline: str, findings: tuple[str, ...]
) -> None:
    found = give_verdict(opinions, 0.01)
    assert found.flagged == flagged
    strange = any(p is not None and p <= 0.0025 for p in opinions[1:5])
    assert found.doubtful == (strange and not flagged)
    assert found.headline.startswith(headline)
    assert len(found.findings) == len(findings)
    for sentence, part in zip(found.findings, findings, strict=True):
        assert part in sentence


def test_the_rate_decides() -> None:
    opinions = Opinions(0.02, 0.99, evidence=0.5)
    assert not give_verdict(opinions, 0.01).flagged
    assert give_verdict(opinions, 0.02).flagged
    assert "2.0\u00a0%" in give_verdict(opinions, 0.02).reason


@pytest.mark.parametrize(
    ("opinions", "said"),
    [
        (Opinions(0.002, 1, evidence=0.002, bound_draws=64), "the encoder's own q"),
        (Opinions(0.002, 1, evidence=0.4, bound_draws=64), "at least partly the encoder's"),
        (Opinions(0.5, 0.5, evidence=0.002, bound_draws=64), "as low as the strangest"),
    ],
)
def test_a_bound_by_the_encoders_own_q_does_not_speak_for_the_model(opinions, said) -> None:
    (finding,) = give_verdict(opinions, 0.01).findings
    assert said in finding and finding.startswith("L with 64 draws")
    assert "log p(x)" not in finding and "itself" not in finding


def test_an_opinion_that_so_few_images_cannot_give_is_named() -> None:
    """Among 99 images no p-value is below 0.01, however strange the image."""
    found = give_verdict(Opinions(0.5, 0.5, 0.5, 0.01, 0.5, regret_images=99), 0.01)
    assert not found.doubtful and len(found.findings) == 2
    assert "hear the regret at this rate" in found.findings[1]
    assert "never below 0.010, and 0.0025 is needed" in found.findings[1]
    few = give_verdict(
        Opinions(0.5, 1 / 31, 1 / 31, complexity=1 / 31, images=30, evidence_images=30), 1 / 31
    )
    # Where log p(x) of few calibration images was computed, it alone cannot be heard.
    least = give_verdict(Opinions(0.5, 0.5, evidence=0.25, evidence_images=3), 0.01)
    assert not least.doubtful and "hear log p(x) at this rate" in least.findings[0]
    assert not few.doubtful
    assert "a high ELBO, log p(x) and the complexity" in few.findings[0]
    # At four times that rate each of them can be heard.
    assert give_verdict(Opinions(0.5, 1 / 31, images=30), 4 / 31).doubtful
    # A flag raises its own level: the regret agrees where it can.
    agreed = give_verdict(Opinions(0.002, 1, regret=0.01, regret_images=99), 0.01)
    assert "regret flags it" in agreed.findings[0]


def test_the_word_of_a_row_is_the_verdict_of_the_elbo_alone() -> None:
    low = np.array([0.5, 0.01, 0.011, 1.0, 1.0])
    high = np.array([0.5, 1.0, 0.99, 0.0025, 0.003])
    found = words(low, high, 0.01)
    assert found == ["ordinary", "flagged", "ordinary", "suspiciously_easy", "ordinary"]
    for word, one, other in zip(found, low, high, strict=True):
        verdict = give_verdict(Opinions(float(one), float(other)), 0.01)
        assert verdict.flagged == (word == "flagged")
        assert verdict.doubtful == (word == "suspiciously_easy")


@pytest.mark.parametrize("rate", [0.01, 0.05])
@pytest.mark.parametrize("shared", [0.0, 0.9])
def test_flagged_or_doubtful_are_at_most_the_stated_share(rate: float, shared: float) -> None:
    """Scores of exchangeable images, whose statistics are independent or nearly the same."""
    rng, trials, n, fewer = np.random.default_rng(3), 3_000, 199, 99
    flagged = doubtful = 0
    for _ in range(trials):
        common = rng.standard_normal((n + 1, 1))
        scores = shared * common + math.sqrt(1 - shared**2) * rng.standard_normal((n + 1, 4))
        new, known = scores[:1], scores[1:]
        elbo, evidence = (typicality(known[:, k], new[:, k]) for k in (0, 1))
        others = (typicality(known[:m, k], new[:, k]).low for k, m in ((2, fewer), (3, n)))
        regret, complexity = (float(p[0]) for p in others)
        found = give_verdict(
            Opinions(
                float(elbo.low[0]), float(elbo.high[0]), float(evidence.low[0]), regret,
                complexity, images=n, regret_images=fewer,
            ),
            rate,
        )  # fmt: skip
        flagged += found.flagged
        doubtful += found.doubtful
    for count, most in ((flagged, rate), (flagged + doubtful, union_rate(rate))):
        assert count / trials <= most + 3 * math.sqrt(most * (1 - most) / trials)
    assert union_rate(rate) == rate + 4 * doubt_level(rate)


@pytest.mark.parametrize("name", ["digits-2d", "digits-10d"])
def test_the_stated_share_holds_on_untouched_images(name: str, checkpoint) -> None:
    from scipy.stats import binom

    model = checkpoint(name)
    reference, calibration = model.reference, calibration_of(model)
    known, new = (reference.of_split(split) for split in ("calibration", "validation"))
    x = model.observe(originals(model, np.arange(reference.size))).numpy()
    excess = complexity_excess(reference.elbo, code_lengths(x).bits)
    bound = reference.log_evidence if model.config.latent_dim <= 2 else reference.iwae_bound
    elbo = calibration.typicality(reference.elbo[new])
    evidence = typicality(bound[known], bound[new]).low
    complexity = typicality(excess[known], excess[new]).high
    for rate in (0.01, 0.05, 0.2):
        found = [
            give_verdict(Opinions(*map(float, one[:3]), complexity=float(one[3])), rate)
            for one in zip(elbo.low, elbo.high, evidence, complexity, strict=True)
        ]
        raised = sum(one.flagged or one.doubtful for one in found)
        assert raised <= binom.ppf(0.99, len(new), union_rate(rate))

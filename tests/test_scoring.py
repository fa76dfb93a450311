"""What a score is, exactly: the same numbers in any company, rows, receipts and files."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow.parquet
import pytest
import torch
from bench.walks import followed

import vae
from vae.data.spec import ImageSpec
from vae.elbo.evidence.bounds import estimate_bound
from vae.elbo.evidence.quadrature import exact_evidence
from vae.elbo.expectation import DRAWS, estimate_elbo, take_apart
from vae.elbo.gap.gap_split import best_gaussian
from vae.elbo.seen import see
from vae.elbo.tiles import decode_means, decoder_rows, map_tiles, row_sums
from vae.model.config import ModelConfig
from vae.model.noise import image_normals, image_uniforms
from vae.model.vae import VAE, observe
from vae.scoring.calibration import Calibration
from vae.scoring.calibration_sets import calibration_of
from vae.scoring.rows import FORMATS, ScoreRow, refused_row, to_csv, to_json, to_json_lines
from vae.scoring.scores import bits_per_dim, score_levels

DIGITS = ("digits-2d", "digits-10d", "digits-binary-2d")
FIELDS = (
    "name", "elbo", "elbo_se", "expected_log_likelihood", "kl", "kl_per_dim", "iwae_bound",
    "iwae_bound_se", "log_evidence", "log_evidence_error", "bits_per_dim", "elbo_error", "verdict",
    "percentile", "p_value", "draws", "importance_samples", "seed", "model", "weights_sha256",
    "error_code", "error",
)  # fmt: skip


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def numbers(model: VAE, levels: np.ndarray, draws: int, k: int) -> dict[str, torch.Tensor]:
    """All that is computed of images, each column with an image a row."""
    seen = see(model, levels)
    elbo, bound = estimate_elbo(seen, draws), estimate_bound(seen, k)
    columns = {"mu": seen.mu, "sigma": seen.sigma, "elbo": elbo.value, **elbo.terms._asdict()}
    columns |= {name: getattr(elbo, name) for name in ("standard_error", "error", "level")}
    return columns | {f"bound: {name}": value for name, value in bound._asdict().items()}


def assert_same(one: dict[str, torch.Tensor], all_: dict, rows: np.ndarray) -> None:
    for name, value in one.items():
        other = all_[name][rows]
        assert torch.equal(value.nan_to_num(), other.nan_to_num()), name
        assert torch.equal(value.isnan(), other.isnan()), name


def receipt_of(model: VAE, levels: np.ndarray, draws: int = DRAWS) -> vae.Receipt:
    seen = see(model, levels[None])
    return take_apart(seen, estimate_elbo(seen, draws))


# --- Exactness --------------------------------------------------------------------------------


def photos() -> tuple[VAE, np.ndarray]:
    """An untrained convolutional model of 64×64 images, and 70 of them."""
    torch.manual_seed(0)
    config = ModelConfig(
        ImageSpec(channels=1, height=64, width=64, levels=2), latent_dim=4, network="conv",
        channels=(8, 8, 16, 16), hidden=(32,), likelihood="bernoulli",
    )  # fmt: skip
    levels = np.random.default_rng(0).integers(0, 2, (70, 1, 64, 64), dtype=np.uint8)
    return VAE(config).eval().requires_grad_(False), levels


@pytest.mark.parametrize("name", ["digits-2d", "digits-10d", "conv"])
def test_company_order_and_threads_change_nothing(name: str, checkpoint) -> None:
    if name == "conv":
        model, levels = photos()
        options = (6, 5)
    else:
        model, levels = checkpoint(name).model, checkpoint(name).reference.levels[:500]
        options = (64, 20)
    count, rng = len(levels), np.random.default_rng(1)
    together = numbers(model, levels, *options)
    for i in rng.choice(count, 8, replace=False):
        assert_same(numbers(model, levels[i : i + 1], *options), together, np.array([i]))
    order = rng.permutation(count)
    assert_same(numbers(model, levels[order], *options), together, order)
    with threads(2):
        for some in (np.arange(1), np.arange(50)):
            assert_same(numbers(model, levels[some], *options), together, some)


def test_scoring_observes_encodes_and_takes_the_elbo_once(checkpoint) -> None:
    model = checkpoint("digits-2d")
    images = model.image.from_levels(model.reference.levels[:3])
    with followed() as walk:
        vae.score(model, images)
    counts = {"observed": 1, "encoded": 1, "ELBO computed": 1, "log p(x) computed": 3}
    assert walk.counts == counts


def test_company_and_threads_leave_the_evidence_alone(checkpoint) -> None:
    model = checkpoint("digits-2d")
    levels = model.reference.levels[:6]
    seen = see(model.model, levels)
    together = exact_evidence(seen.model, seen.x, seen.mu)
    with threads(2):
        alone = exact_evidence(seen.model, seen.x[3:4], seen.mu[3:4])
    assert_same(alone._asdict(), together._asdict(), np.array([3]))


def test_rows_are_the_same_alone(checkpoint) -> None:
    model = checkpoint("digits-10d")
    x = model.config.image.from_levels(model.reference.levels[:40])
    together = vae.score(model, x, importance_samples=20)
    for i in (0, 17, 39):
        assert (
            vae.score(model, x[i : i + 1], names=[str(i)], importance_samples=20)[0]
            == (together[i])
        )


@pytest.mark.parametrize("length", [1, 2, 10, 144, 40_000])
def test_row_sums_know_neither_neighbours_nor_threads(length: int) -> None:
    values = torch.randn(5, length, generator=torch.Generator().manual_seed(0)).double()
    sums = row_sums(values)
    assert torch.allclose(sums, values.sum(-1), atol=1e-9)
    with threads(2):
        for i in range(5):
            assert torch.equal(row_sums(values[i : i + 1].clone())[0], sums[i])
            assert torch.equal(row_sums(values[i]), sums[i])


@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_tiles_are_always_full(count: int) -> None:
    seen = []

    def tile(rows: torch.Tensor) -> torch.Tensor:
        seen.append(len(rows))
        return 10 * rows

    assert map_tiles(4, count, tile).tolist() == [10 * i for i in range(count)]
    assert set(seen) == {4} and len(seen) == math.ceil(count / 4)


@pytest.mark.parametrize(("side", "rows"), [(1, 1024), (8, 1024), (28, 512), (64, 64)])
def test_tiles_shrink_as_images_grow(side: int, rows: int) -> None:
    assert decoder_rows(ImageSpec(1, side, side)) == rows
    assert decoder_rows(ImageSpec(3, 1024, 1024)) == 32


# --- Stored and stated numbers ----------------------------------------------------------------


def test_few_draws_decode_no_more_than_they_need(monkeypatch) -> None:
    torch.manual_seed(0)
    config = ModelConfig(ImageSpec(1, 8, 8), latent_dim=5, hidden=(4,), likelihood="gaussian")
    model = VAE(config)
    decoded = []
    decode = model.decode
    monkeypatch.setattr(model, "decode", lambda z: decoded.append(len(z)) or decode(z))
    levels = np.zeros((1000, 1, 8, 8), np.uint8)
    estimate_elbo(see(model, levels), 1)
    assert sum(decoded) == decoder_rows(config.image) == 1024


@pytest.mark.parametrize("name", [*DIGITS, "digits-binary-2d-batch-moment"])
def test_the_stored_scores_are_found_again(name: str, checkpoint) -> None:
    model = checkpoint(name)
    reference = model.reference
    k = model.card.metrics.importance_samples
    levels = reference.levels[::7]
    rows = vae.score(
        model, model.config.image.from_levels(levels), importance_samples=k, evidence=False
    )
    for field in ("elbo", "expected_log_likelihood", "elbo_se", "iwae_bound"):
        found = np.array([getattr(row, field) for row in rows])
        np.testing.assert_allclose(found, getattr(reference, field)[::7], rtol=1e-6, atol=1e-4)
    assert all(row.model == name and row.error is None for row in rows)


def test_parts_add_up(checkpoint) -> None:
    model = checkpoint("digits-10d")
    for row in score_levels(model, model.reference.levels[:20]):
        assert row.elbo == pytest.approx(row.expected_log_likelihood - row.kl, abs=1e-9)
        assert row.kl == pytest.approx(sum(row.kl_per_dim), abs=1e-9)
        assert row.bits_per_dim == pytest.approx(-row.elbo / 64 / math.log(2))
        assert len(row.kl_per_dim) == 10 and min(row.kl_per_dim) >= 0


@pytest.mark.parametrize("split", ["validation", "calibration"])
@pytest.mark.parametrize("name", DIGITS)
def test_a_receipt_leaves_nothing_over(name: str, split: str, checkpoint) -> None:
    model = checkpoint(name)
    rows = model.reference.of_split(split)
    for i in rows[:: len(rows) // 8]:
        levels = model.reference.levels[i]
        receipt = receipt_of(model.model, levels)
        (row,) = score_levels(model, levels[None], evidence=False)
        assert abs(receipt.residual) <= 1e-6 * abs(receipt.elbo)
        assert (receipt.elbo, receipt.elbo_se) == (row.elbo, row.elbo_se)
        assert receipt.kl_per_dim.tolist() == list(row.kl_per_dim)
        assert receipt.pixels.shape == levels.shape
        assert receipt.kl == pytest.approx(row.kl)
        assert np.array_equal(receipt.x, model.observe(levels[None])[0].numpy())
        assert receipt.reconstruction.min() >= 0 and receipt.reconstruction.max() <= 1


def test_a_receipt_blames_the_pixel_that_changed(checkpoint) -> None:
    model = checkpoint("digits-2d")
    levels = model.reference.levels[0].copy()
    levels[0, 0, 0] = 16  # a white corner, which no digit has
    pixels = receipt_of(model.model, levels).pixels
    assert pixels.argmin() == 0


def test_quadrature_has_no_noise_and_draws_have(checkpoint) -> None:
    flat, deep = checkpoint("digits-2d"), checkpoint("digits-10d")
    one, other = (score_levels(flat, flat.reference.levels[:5], seed=seed) for seed in (0, 1))
    for row, again in zip(one, other, strict=True):
        assert (row.elbo, row.elbo_se, row.draws) == (again.elbo, 0, 0)
        assert row.log_evidence_error < 1e-3 and row.log_evidence > row.elbo
    one, other = (score_levels(deep, deep.reference.levels[:5], seed=seed) for seed in (0, 1))
    for row, again in zip(one, other, strict=True):
        assert row.elbo != again.elbo and row.elbo_se > 0 and row.draws == 64
        assert row.log_evidence is None and row.log_evidence_error is None


def test_a_single_draw_has_no_standard_error(checkpoint) -> None:
    deep = checkpoint("digits-10d")
    levels = deep.reference.levels[:3]
    rows = score_levels(deep, levels, draws=1, importance_samples=1)
    for row in rows:
        assert row.draws == row.importance_samples == 1
        assert row.elbo_se is row.iwae_bound_se is row.elbo_uncertainty is None
    assert b"NaN" not in to_json(rows) and b"nan" not in to_csv(rows)
    assert math.isnan(receipt_of(deep.model, levels[0], draws=1).elbo_uncertainty)
    assert best_gaussian(see(deep.model, levels[:1]), draws=1, fit_draws=4).elbo_se.isnan().all()


def test_an_elbo_has_one_error_to_print(checkpoint) -> None:
    for name in ("digits-2d", "digits-10d"):
        model = checkpoint(name)
        levels = model.reference.levels[:4]
        rows = score_levels(model, levels, evidence=False)
        elbo, stored = estimate_elbo(see(model.model, levels)), model.reference
        for n, row in enumerate(rows):
            sampled = name == "digits-10d"
            assert row.elbo_uncertainty == (row.elbo_se if sampled else row.elbo_error)
            assert 0 < row.elbo_uncertainty == float(elbo.uncertainty[n])
            assert (row.elbo_error is None) == sampled and (row.elbo_se > 0) == sampled
            assert stored.elbo_uncertainty[n] == pytest.approx(row.elbo_uncertainty, abs=1e-3)


def test_quadrature_is_the_limit_of_sampling(checkpoint) -> None:
    model = checkpoint("digits-2d").model
    levels = checkpoint("digits-2d").reference.levels[:3]
    seen = see(model, levels)
    elbo = estimate_elbo(seen)
    e = torch.from_numpy(image_normals(levels, 5, "draws", (4_000, 2)))
    z = seen.codes(e)
    for i in range(3):
        x = model.observe(levels[i : i + 1])
        with torch.inference_mode():
            values = model.decode(z[i].float()).log_prob(x.expand(4_000, -1, -1, -1)).double()
        error = values.std() / math.sqrt(len(values))
        assert abs(values.mean() - elbo.terms.expected_log_likelihood[i]) < 4 * error


def test_the_standard_error_is_the_spread_over_seeds(checkpoint) -> None:
    model = checkpoint("digits-10d")
    levels = model.reference.levels[:30]
    runs = [estimate_elbo(see(model.model, levels, seed), 16) for seed in range(40)]
    spread = torch.stack([run.value for run in runs]).std(0)
    stated = torch.stack([run.standard_error for run in runs]).square().mean(0).sqrt()
    assert float((spread / stated).square().mean().sqrt()) == pytest.approx(1, abs=0.1)


# --- Noise ------------------------------------------------------------------------------------


def test_noise_belongs_to_seed_purpose_and_image() -> None:
    levels = np.random.default_rng(0).integers(0, 17, (3, 1, 8, 8), dtype=np.uint8)
    noise = image_normals(levels, 0, "draws", (5, 2))
    assert noise.shape == (3, 5, 2)
    assert np.array_equal(image_normals(levels[1:2], 0, "draws", (5, 2))[0], noise[1])
    assert np.array_equal(image_normals(levels[::-1], 0, "draws", (5, 2)), noise[::-1])
    assert np.array_equal(image_normals(levels, 0, "draws", (9, 2))[:, :5], noise)
    touched = levels.copy()
    touched[0, 0, 0, 0] ^= 1
    different = (
        image_normals(touched, 0, "draws", (5, 2))[0],
        image_normals(levels, 1, "draws", (5, 2))[0],
        image_normals(levels, 0, "importance", (5, 2))[0],
        noise[1],
    )
    for other in different:
        assert not np.intersect1d(other, noise[0]).size
    assert image_normals(levels[:0], 0, "draws", (5, 2)).shape == (0, 5, 2)


def test_noise_is_standard_normal_and_uniform() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (50, 1, 8, 8), dtype=np.uint8)
    e = image_normals(levels, 0, "draws", (400, 2)).ravel()
    assert abs(e.mean()) < 4 / math.sqrt(e.size)
    assert abs((e**2).mean() - 1) < 4 * math.sqrt(2 / e.size)
    u = image_uniforms(levels, 0)
    assert u.shape == levels.shape and 0 <= u.min() and u.max() < 1
    assert abs(u.mean() - 0.5) < 4 / math.sqrt(12 * u.size)


def test_dynamic_binarisation_belongs_to_the_image() -> None:
    config = ModelConfig(ImageSpec(1, 8, 8, levels=17), likelihood="bernoulli", binarize="dynamic")
    levels = np.random.default_rng(0).integers(0, 17, (200, 1, 8, 8), dtype=np.uint8)
    x = observe(config, levels)
    assert set(x.unique().tolist()) == {0, 1}
    assert torch.equal(observe(config, levels[5:6]), x[5:6])
    assert not torch.equal(observe(config, levels, seed=1), x)
    grey = torch.from_numpy(levels / 16)
    assert (x[grey == 0] == 0).all() and (x[grey == 1] == 1).all()
    assert float((x - grey).mean()) == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("draws", [8, 64, 300])
def test_more_draws_leave_the_percentile_alone(draws: int, checkpoint) -> None:
    # Percentiles compare with the calibration set's own estimator: its draws, from one stream.
    model = checkpoint("digits-10d")
    levels = model.reference.levels[:20]
    usual = score_levels(model, levels)
    rows = score_levels(model, levels, draws=draws)
    assert [(row.percentile, row.p_value) for row in rows] == [
        (row.percentile, row.p_value) for row in usual
    ]
    assert [row.draws for row in rows] == [draws] * 20
    assert ([row.elbo for row in rows] == [row.elbo for row in usual]) == (draws == 64)


def test_a_calibration_image_stands_where_its_stored_score_stands(checkpoint) -> None:
    for name in DIGITS:
        model = checkpoint(name)
        rows = model.reference.of_split("calibration")
        calibration = calibration_of(model)
        stored = model.reference.elbo[rows]
        assert np.array_equal(calibration.elbo, np.sort(stored))
        i = rows[np.argsort(stored)[10]]  # ten calibration images are lower
        (row,) = score_levels(model, model.reference.levels[i : i + 1])
        # Its stored score and this one may differ in the last digits, and so by its own rank.
        assert 0 <= row.percentile - 100 * 10 / len(rows) + 1e-9 <= 100 / len(rows) + 2e-9
        assert 0 <= (1 + 11) / (len(rows) + 1) - row.p_value + 1e-9 <= 1 / (len(rows) + 1) + 2e-9


# --- Arguments --------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8), (2, 3, 8, 8), (2, 1, 8, 9), (1, 1, 28, 28)])
def test_a_wrong_shape_names_the_right_one(shape: tuple[int, ...], checkpoint) -> None:
    with pytest.raises(ValueError, match=re.escape("x must have shape (B, 1, 8, 8), not ")):
        vae.score(checkpoint("digits-2d"), np.zeros(shape))


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (math.nan, "not finite"),
        (math.inf, "not finite"),
        (-math.inf, "not finite"),
        (1.01, r"must lie in \[0, 1\], but spans \[0, 1.01\]"),
        (-0.5, r"must lie in \[0, 1\]"),
        (255, r"must lie in \[0, 1\]"),
    ],
)
def test_a_wrong_value_is_refused(value: float, sentence: str, checkpoint) -> None:
    x = np.zeros((2, 1, 8, 8))
    x[1, 0, 3, 3] = value
    with pytest.raises(ValueError, match=sentence):
        vae.score(checkpoint("digits-2d"), x)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"draws": 0}, r"draws must lie in 1\.\.100000, not 0"),
        ({"draws": 100_001}, r"draws must lie in 1\.\.100000"),
        ({"importance_samples": -1}, r"importance_samples must lie in 0\.\.1000000, not -1"),
        ({"names": ["one"]}, "names must hold 2 names, one an image, not 1"),
        ({"names": ["a", "b", "c"]}, "names must hold 2 names"),
    ],
)
def test_a_wrong_option_is_refused(options: dict, sentence: str, checkpoint) -> None:
    with pytest.raises(ValueError, match=sentence):
        vae.score(checkpoint("digits-10d"), np.zeros((2, 1, 8, 8)), **options)


def test_tensors_arrays_and_near_levels_are_one(checkpoint) -> None:
    model = checkpoint("digits-2d")
    x = model.config.image.from_levels(model.reference.levels[:3])
    rows = vae.score(model, x)
    assert vae.score(model, torch.from_numpy(x).requires_grad_()) == rows
    assert vae.score(model, x.astype(np.float64)) == rows
    # An 8-bit file holds 16/17ths inexactly; the score snaps to the data's levels.
    assert vae.score(model, np.rint(x * 255) / 255) == rows
    assert vae.score(model, x[:0]) == []


def test_a_model_wears_its_public_face(checkpoint) -> None:
    model = checkpoint("digits-2d")
    x = torch.rand(5, 1, 8, 8)
    q, p = model.encode(x), model.decode(torch.zeros(5, 2))
    assert (q.batch_shape, q.event_shape) == ((5,), (2,))
    assert (p.batch_shape, p.event_shape) == ((5,), (1, 8, 8))
    assert model.prior.log_prob(torch.zeros(2)) == pytest.approx(-math.log(2 * math.pi))
    assert not any(weight.requires_grad for weight in model.model.parameters())
    assert decode_means(model.model, torch.zeros(3, 2)).shape == (3, 1, 8, 8)


# --- Rows and files ---------------------------------------------------------------------------


@pytest.fixture
def rows(checkpoint) -> list[ScoreRow]:
    model = checkpoint("digits-10d")
    names = ["plain.png", '=HYPERLINK("x")', 'ä,"quoted"\nnew line', "@SUM", "-1", "+1", "\t=1"]
    scored = score_levels(
        model, model.reference.levels[: len(names)], names=names, importance_samples=5
    )
    return [*scored, refused_row(model, "broken.png", 0, "E-IMG-05", "The image is damaged.")]


def test_fields_are_the_contract(rows: list[ScoreRow]) -> None:
    assert ScoreRow._fields == FIELDS
    refused = rows[-1]
    filled = {"name", "seed", "model", "weights_sha256", "error_code", "error"}
    for field, value in refused._asdict().items():
        assert (value is not None) == (field in filled), field
    for row in rows[:-1]:
        assert row.error is None and row.error_code is None
        assert math.isfinite(row.elbo) and row.importance_samples == 5 and row.seed == 0


def test_a_row_says_what_its_p_values_do(checkpoint) -> None:
    """At 1 %, or at the smallest rate that so few calibration images support."""
    model = checkpoint("digits-10d")
    levels = model.reference.levels[:40]
    noise = np.random.default_rng(0).integers(0, 17, levels.shape).astype(np.uint8)
    for row in score_levels(model, np.concatenate((levels, noise))):
        assert (row.verdict == "flagged") == (row.p_value <= 0.01)
        assert row.verdict == "flagged" or row.percentile == 100 or row.verdict == "ordinary"
    assert row.verdict == "flagged"


@pytest.mark.parametrize(
    ("images", "blank", "noise"),
    [
        (499, "suspiciously_easy", "flagged"),
        (99, "ordinary", "flagged"),
        (30, "ordinary", "flagged"),
    ],
)
def test_few_calibration_images_support_fewer_words(
    images: int, blank: str, noise: str, checkpoint, monkeypatch
) -> None:
    """A quarter of 1 % takes 399 images; a blank sprite lies above them all."""
    from vae.scoring import scores as scoring

    model = checkpoint("sprites-10d")
    rows = model.reference.of_split("calibration")[:images]
    few = Calibration(model.reference.elbo[rows], 64)
    monkeypatch.setattr(scoring, "calibration_of", lambda *_: few)
    levels = np.zeros((2, *model.config.image.shape), np.uint8)
    levels[1] = np.random.default_rng(0).integers(0, 2, levels[1].shape)
    assert [row.verdict for row in score_levels(model, levels)] == [blank, noise]


def test_a_density_has_no_bits(linear_gaussian, checkpoint) -> None:
    model = checkpoint("digits-10d")
    (row,) = score_levels(model, model.reference.levels[:1])
    assert row.bits_per_dim is not None and row.iwae_bound is None
    assert np.isnan(bits_per_dim(linear_gaussian(2), np.array([-3.0]))).all()


def test_json_round_trip(rows: list[ScoreRow]) -> None:
    document = json.loads(to_json(rows))
    lines = [json.loads(line) for line in to_json_lines(rows).decode().split("\n") if line]
    assert document == lines
    for record, row in zip(document, rows, strict=True):
        assert tuple(record) == FIELDS
        kl = record["kl_per_dim"]
        assert ScoreRow(**{**record, "kl_per_dim": None if kl is None else tuple(kl)}) == row


def test_csv_round_trip(rows: list[ScoreRow]) -> None:
    records = list(csv.DictReader(io.StringIO(to_csv(rows).decode(), newline="")))
    split = FIELDS.index("kl_per_dim")
    kl = tuple(f"kl_{d}" for d in range(10))
    assert tuple(records[0]) == (*FIELDS[:split], *kl, *FIELDS[split + 1 :])
    for record, row in zip(records, rows, strict=True):
        assert record["name"].removeprefix("'") == row.name
        assert [float(record[name]) for name in kl if record[name]] == list(row.kl_per_dim or ())
        for field in ("elbo", "iwae_bound", "p_value", "log_evidence"):
            value = getattr(row, field)
            assert record[field] == ("" if value is None else repr(value))
    assert records[-1]["elbo"] == records[-1]["kl_9"] == ""
    assert records[-1]["error_code"] == "E-IMG-05"


def test_no_cell_is_a_formula(rows: list[ScoreRow]) -> None:
    for record in csv.DictReader(io.StringIO(to_csv(rows).decode(), newline="")):
        for field, value in record.items():
            assert value[:1] not in tuple("=+@\t\r") or value == "", field
            if value.startswith("-"):
                float(value)


def test_parquet_round_trip(rows: list[ScoreRow]) -> None:
    table = pyarrow.parquet.read_table(io.BytesIO(FORMATS[".parquet"](rows)))
    assert tuple(table.column_names) == FIELDS
    for record, row in zip(table.to_pylist(), rows, strict=True):
        kl = record["kl_per_dim"]
        assert ScoreRow(**{**record, "kl_per_dim": None if kl is None else tuple(kl)}) == row


@pytest.mark.parametrize("suffix", FORMATS)
def test_refused_rows_and_no_rows_can_be_written(suffix: str, rows: list[ScoreRow]) -> None:
    assert b"E-IMG-05" in FORMATS[suffix](rows[-1:])
    assert isinstance(FORMATS[suffix]([]), bytes)

r"""Tests of the path from untrusted bytes to pixel levels."""

from __future__ import annotations

import builtins
import pickle
import random
import re
import subprocess
import sys
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from image_corpus import CASES, Case, jpeg_with_exif, orientation_exif, png, png_chunk, save
from PIL import GifImagePlugin, Image, ImageDraw, ImageFile

from vae.data.images import decoding
from vae.data.images.adaptation import Adaptation, Prepared, preprocess
from vae.data.images.decoding import ImageRefused, Limits, Raster, read_image
from vae.data.images.encoding import encode_png, to_image
from vae.data.spec import ImageSpec

DIGITS = ImageSpec(1, 8, 8, levels=17, background=0.0)
MNIST = ImageSpec(1, 28, 28, levels=256, background=0.0)
PHOTOS = ImageSpec(3, 32, 48, levels=256)
PLAIN = Adaptation(invert="no", crop="no")

# Names a visitor should never have to read.
CLASS_NAMES = {name for name in vars(builtins) if name[0].isupper()} | {"PIL", "Traceback"}


def check_refusal(error: ImageRefused) -> None:
    assert re.fullmatch(r"E-IMG-\d\d", error.code)
    assert error.code in decoding._CODES
    assert str(error) == f"{error.message} ({error.code})"
    assert re.fullmatch(r"[A-Z][^\n]*\.", error.message)
    assert ". " not in error.message and "{" not in error.message
    assert not CLASS_NAMES & set(re.findall(r"\w+", error.message))
    assert not re.search(r"\w(Error|Exception|Warning|Plugin)\b|0x|<|>", error.message)


def check_prepared(prepared: Prepared, spec: ImageSpec) -> None:
    assert prepared.levels.dtype == np.uint8
    assert prepared.levels.shape == spec.shape
    assert prepared.levels.max() < spec.levels
    assert np.isfinite(spec.from_levels(prepared.levels)).all()
    assert prepared.original.dtype == np.uint8
    assert prepared.original.ndim == 3 and prepared.original.shape[2] == 3
    assert max(prepared.original.shape) <= 512
    for step in prepared.steps:
        assert re.fullmatch(r"[A-Z][^\n]*\.", step)


def check_raster(raster: Raster) -> None:
    assert raster.pixels.dtype == np.float32
    assert raster.pixels.ndim == 3 and raster.pixels.shape[2] in (1, 3)
    assert np.isfinite(raster.pixels).all()
    assert raster.pixels.min() >= 0 and raster.pixels.max() <= 1
    if raster.alpha is not None:
        assert raster.alpha.dtype == np.float32
        assert raster.alpha.shape == raster.pixels.shape[:2]
        assert raster.alpha.min() >= 0 and raster.alpha.max() <= 1
    assert raster.format in Limits().formats
    for note in raster.notes:
        assert re.fullmatch(r"[A-Z][^\n]*\.", note)


def outcome(data: bytes) -> tuple[str, Raster | None, ImageRefused | None]:
    try:
        raster = read_image(data)
    except ImageRefused as error:
        check_refusal(error)
        return "R", None, error
    check_raster(raster)
    return "A", raster, None


def grey(values: np.ndarray, alpha: np.ndarray | None = None) -> Raster:
    pixels = np.asarray(values, dtype=np.float32)[..., None]
    return Raster(pixels, None if alpha is None else alpha.astype(np.float32), (), "PNG")


def drawing(side: int = 100, paper: float = 0.0, ink: float = 1.0) -> np.ndarray:
    """A bar of 20 × 40 percent of the side, off centre."""
    x = np.full((side, side), paper)
    x[side // 10 : side // 2, side // 10 : 3 * side // 10] = ink
    return x


## The corpus


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_corpus(case: Case) -> None:
    got, raster, error = outcome(case.data)
    assert got in case.expected, error
    if raster is None:
        assert error is not None
        assert not case.note or case.expected != "R" or error.code == case.note
        return
    assert case.note in " ".join(raster.notes)
    for spec in (DIGITS, MNIST, PHOTOS):
        cut = Adaptation("yes", "yes", "cut")
        for adaptation in (Adaptation(), Adaptation("yes", "yes", "squash"), cut, PLAIN):
            check_prepared(preprocess(raster, spec, adaptation), spec)


def test_corpus_ids_are_distinct() -> None:
    assert len({case.id for case in CASES}) == len(CASES)


def test_corpus_needs_every_code() -> None:
    codes = {error.code for case in CASES if (error := outcome(case.data)[2])}
    # 11: see test_values_refused; 12: see test_greys_beyond_the_chosen_bits_are_refused
    assert codes | {"E-IMG-11", "E-IMG-12"} == set(decoding._CODES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_outcome_without_warnings_as_errors(case: Case) -> None:
    strict = outcome(case.data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lenient = outcome(case.data)
    if case.expected == "AR":
        return
    assert lenient[0] == strict[0]
    if strict[2] is not None:
        assert lenient[2] is not None and lenient[2].code == strict[2].code
    else:
        assert np.array_equal(lenient[1].pixels, strict[1].pixels)


def test_corrupt_exif_does_not_spoil_pixels() -> None:
    plain = next(case for case in CASES if case.id == "I02 RGB JPEG")
    damaged = [case for case in CASES if case.id.startswith("I12 EXIF") and case.expected == "AR"]
    assert len(damaged) >= 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read = [outcome(case.data)[1] for case in damaged]
    for raster in filter(None, read):
        assert np.array_equal(raster.pixels, read_image(plain.data).pixels)
    assert any(read)


def test_polyglot_is_only_its_pixels() -> None:
    pixels = {case.id: read_image(case.data).pixels for case in CASES if "I33" in case.id}
    plain = {case.id: case for case in CASES}["I02 RGB JPEG"]
    assert np.array_equal(pixels["I33 JPEG and ZIP"], read_image(plain.data).pixels)
    assert np.array_equal(pixels["I33 JPEG and HTML"], read_image(plain.data).pixels)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
def test_format_is_that_of_the_bytes(format: str) -> None:  # I34
    assert read_image(save(Image.new("L", (9, 9)), format)).format == format


def test_threads_agree() -> None:
    accepted = [case for case in CASES if case.expected == "A" and len(case.data) < 20_000]
    alone = [read_image(case.data) for case in accepted]
    start = threading.Barrier(8)

    def work(_: int) -> list[Raster]:
        start.wait()
        return [read_image(case.data) for case in accepted]

    with ThreadPoolExecutor(8) as pool:
        for together in pool.map(work, range(8)):
            for a, b in zip(alone, together, strict=True):
                assert np.array_equal(a.pixels, b.pixels) and a.notes == b.notes


def test_global_state_is_left_alone() -> None:
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))
    for case in CASES:
        outcome(case.data)
    after = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))
    assert after == before
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_foreign_decoders_never_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise KeyboardInterrupt(args)  # nothing catches this one

    Image.init()
    for name in set(Image.OPEN) - set(Limits().formats):
        monkeypatch.setitem(Image.OPEN, name, (fail, fail))
    for case in CASES:
        outcome(case.data)


## Limits


def test_limits() -> None:
    data = save(Image.new("L", (40, 30)), "PNG")
    wrong = {
        "E-IMG-02": Limits(bytes=len(data) - 1),
        "E-IMG-03": Limits(formats=("GIF", "BMP")),
        "E-IMG-06": Limits(pixels=1199),
        "E-IMG-07": Limits(side=39),
        "E-IMG-08": Limits(ratio=1.3),
    }
    for code, limits in wrong.items():
        with pytest.raises(ImageRefused) as caught:
            read_image(data, limits)
        assert caught.value.code == code
        check_refusal(caught.value)
    read_image(data, Limits(len(data), 40, 1200, 4 / 3, ("PNG",)))


def test_size_is_judged_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: ImageFile.ImageFile) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    for width, height in ((5000, 5000), (1, 20000), (5000, 1000), (1, 1)):
        with pytest.raises(ImageRefused):
            read_image(png(width, height, rows=b"\0"))


def test_values_beyond_white_are_refused() -> None:
    floats = save(Image.fromarray(np.full((9, 9), np.nan, dtype=np.float32)), "TIFF")
    with pytest.raises(ImageRefused) as caught:
        read_image(floats, Limits(formats=("TIFF",)))
    assert caught.value.code == "E-IMG-11"


## TIFF, where it is allowed

WITH_TIFF = Limits(formats=(*Limits().formats, "TIFF"))


def tiff(image: Image.Image | np.ndarray, **options: object) -> bytes:
    return save(
        image if isinstance(image, Image.Image) else Image.fromarray(image), "TIFF", **options
    )


def test_tiff_is_an_image_like_others() -> None:
    shades = np.random.default_rng(0).integers(0, 256, (9, 14), dtype=np.uint8)
    colours = np.random.default_rng(1).integers(0, 256, (9, 14, 3), dtype=np.uint8)
    for options in ({}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}):
        for x in (shades, colours):
            read = read_image(tiff(x, **options), WITH_TIFF)
            assert np.array_equal(read.pixels, read_image(encode_png(x)).pixels)
            assert read.format == "TIFF" and read.notes == ()
    with pytest.raises(ImageRefused) as caught:
        read_image(tiff(shades))
    assert caught.value.code == "E-IMG-04"


def test_tiff_of_16_bits_of_floats_and_of_one_bit() -> None:
    deep = np.arange(126, dtype=np.uint16).reshape(9, 14) * 520
    assert np.allclose(read_image(tiff(deep), WITH_TIFF).pixels[..., 0], deep / 65535, atol=1e-7)
    real = np.linspace(0, 1, 126, dtype=np.float32).reshape(9, 14)
    assert np.array_equal(read_image(tiff(real), WITH_TIFF).pixels[..., 0], real)
    binary = Image.fromarray(deep > 30_000)
    found = read_image(tiff(binary), WITH_TIFF).pixels[..., 0]
    assert np.array_equal(found, (deep > 30_000).astype(np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.5, 255.0])
def test_tiff_of_other_floats_is_refused(value: float) -> None:  # I35
    floats = np.full((9, 9), 0.5, dtype=np.float32)
    floats[4, 4] = value
    with pytest.raises(ImageRefused) as caught:
        read_image(tiff(floats), WITH_TIFF)
    assert caught.value.code == "E-IMG-11"


def test_tiff_pages_turns_and_print_colours() -> None:  # I36
    x = np.random.default_rng(1).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    pages = tiff(x, save_all=True, append_images=[Image.fromarray(255 - x)])
    read = read_image(pages, WITH_TIFF)
    assert np.array_equal(read.pixels, read_image(encode_png(x)).pixels)
    assert read.notes == ("Only the first of the file's frames is used.",)
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(x, 1)))
    turned = read_image(tiff(stored, tiffinfo={274: 6}), WITH_TIFF)
    assert np.array_equal(turned.pixels, read_image(encode_png(x)).pixels)
    cmyk = read_image(tiff(Image.fromarray(x).convert("CMYK")), WITH_TIFF)
    assert np.abs(cmyk.pixels * 255 - x).max() <= 1 and "CMYK" in cmyk.notes[0]


@pytest.mark.parametrize("keep", [3, 8, 20, 100, 200])
def test_a_damaged_tiff_is_refused(keep: int) -> None:
    data = tiff(np.zeros((28, 28), np.uint8))
    with pytest.raises(ImageRefused) as caught:
        read_image(data[:keep], WITH_TIFF)
    assert caught.value.code in ("E-IMG-05", "E-IMG-03")
    check_refusal(caught.value)


def test_the_size_of_a_tiff_is_judged_too() -> None:
    data = tiff(np.zeros((40, 30), np.uint8), compression="tiff_lzw")
    for code, limits in (
        ("E-IMG-06", replace(WITH_TIFF, pixels=1199)),
        ("E-IMG-07", replace(WITH_TIFF, side=39)),
    ):
        with pytest.raises(ImageRefused) as caught:
            read_image(data, limits)
        assert caught.value.code == code


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -0.01, 1.01])
@pytest.mark.parametrize("where", ["pixels", "alpha"])
def test_values_refused(value: float, where: str) -> None:  # I44
    values = {"pixels": np.full((8, 8, 1), 0.5, np.float32), "alpha": np.ones((8, 8), np.float32)}
    values[where][3, 4] = value
    with pytest.raises(ImageRefused) as caught:
        preprocess(Raster(values["pixels"], values["alpha"], (), "PNG"), DIGITS)
    assert caught.value.code == "E-IMG-11"
    check_refusal(caught.value)


def test_refusal_crosses_processes() -> None:
    error = pickle.loads(pickle.dumps(ImageRefused("E-IMG-01", "The file is empty.")))
    assert (error.code, error.message) == ("E-IMG-01", "The file is empty.")
    assert str(error) == "The file is empty. (E-IMG-01)"


## Reading


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("format", ["PNG", "WEBP", "JPEG"])
def test_orientation(orientation: int, format: str) -> None:  # I11
    upright = np.random.default_rng(1).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    # What a camera stores, so that undoing it by the tag gives the upright picture back.
    stored = {
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    image, exif = Image.fromarray(np.ascontiguousarray(stored)), orientation_exif(orientation)
    if format == "JPEG":
        data = save(image, "JPEG", quality=95, subsampling=0)
        lossy = read_image(data).pixels
        turned = read_image(jpeg_with_exif(data, exif)).pixels
        assert np.array_equal(np.sort(turned, axis=None), np.sort(lossy, axis=None))
        assert turned.shape == upright.shape
        assert np.abs(turned * 255 - upright).mean() < 40
        return
    lossless = {"lossless": True} if format == "WEBP" else {}
    raster = read_image(save(image, format, exif=exif[6:], **lossless))
    assert np.array_equal(raster.pixels, upright.astype(np.float32) / np.float32(255))
    assert raster.notes == ("Turned upright as the camera data say.",)


def test_16_bit_keeps_its_depth() -> None:  # I05
    values = np.arange(784, dtype=np.uint16).reshape(28, 28) * 83
    raster = read_image(save(Image.fromarray(values), "PNG"))
    assert raster.pixels.shape == (28, 28, 1)
    assert len(np.unique(raster.pixels)) == 784
    assert np.allclose(raster.pixels[..., 0], values / 65535, atol=1e-7)
    assert len(np.unique(preprocess(raster, MNIST).levels)) == 254


def test_16_bit_white_is_white() -> None:
    raster = read_image(save(Image.fromarray(np.full((28, 28), 65535, np.uint16)), "PNG"))
    assert (preprocess(raster, MNIST).levels == 255).all()


def detector(top: int = 4095) -> np.ndarray:
    """Greys of few bits as a detector writes them into 16, of MNIST's size."""
    values = np.linspace(0, top, 784).round().astype(np.uint16)
    return values.reshape(28, 28)


@pytest.mark.parametrize(("top", "bits"), [(255, 8), (1000, 10), (3870, 12), (4095, 12),
                                           (4096, 14), (16383, 14)])  # fmt: skip
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_greys_that_use_few_of_16_bits_are_told_and_scaled(top, bits, format) -> None:
    values = detector(top)
    limits = Limits(formats=("PNG", "TIFF"))
    raster = read_image(save(Image.fromarray(values), format), limits)
    dark = preprocess(raster, MNIST)
    (step,) = dark.steps
    assert step.startswith("Unscaled: of 65,535 levels only") and f"up to {top:,} are" in step
    assert f"choose {bits} bits to make {2**bits - 1:,} white" in step
    scaled = preprocess(raster, MNIST, Adaptation(bits=f"{bits}"))
    assert scaled.steps == (f"Scaled from {bits} bits: {2**bits - 1:,} is white.",)
    np.testing.assert_array_equal(scaled.levels[0], np.rint(values * (255 / (2**bits - 1))))
    assert len(np.unique(dark.levels)) < len(np.unique(scaled.levels))


def test_greys_of_all_16_bits_and_of_8_bit_files_are_as_they_are() -> None:
    for image in (Image.fromarray(detector(65535)), Image.fromarray(detector(16384)),
                  Image.new("I;16", (28, 28), 0), Image.new("L", (28, 28), 3)):  # fmt: skip
        raster = read_image(save(image, "PNG"))
        assert preprocess(raster, MNIST).steps == ()
    eight = read_image(save(Image.new("L", (28, 28), 3), "PNG"))
    assert (preprocess(eight, MNIST, Adaptation(bits="12")).levels == 3).all()


def test_greys_beyond_the_chosen_bits_are_refused() -> None:
    raster = read_image(save(Image.fromarray(detector(4096)), "PNG"))
    with pytest.raises(ImageRefused, match="up to 4,096, more than 12 bits hold") as error:
        preprocess(raster, MNIST, Adaptation(bits="12"))
    check_refusal(error.value)


def test_what_training_chose_holds_unless_another_choice_is_made() -> None:
    run = {"fit": "cut", "bits": "12"}
    assert Adaptation().as_trained(run) == Adaptation(fit="cut", bits="12")
    mine = Adaptation(fit="squash", bits="16")
    assert mine.as_trained(run) == mine
    assert Adaptation().as_trained({}) == Adaptation(fit="pad", bits="16")


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_transparent_grey_value(depth: int) -> None:
    raster = read_image(png(9, 9, depth, extra=png_chunk(b"tRNS", b"\0\0")))
    assert raster.pixels.shape == (9, 9, 1)
    assert raster.alpha is not None and (raster.alpha == 0).all()


def test_transparent_16_bit_value_is_exact() -> None:
    rows = b"\0\1\0\1\1" + b"\0\1\1\1\0"
    raster = read_image(png(2, 2, 16, rows=rows, extra=png_chunk(b"tRNS", b"\1\0")))
    assert raster.alpha.tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("mode", "channels", "transparent"),
    [
        ("1", 1, False),
        ("L", 1, False),
        ("LA", 1, True),
        ("I;16", 1, False),
        ("P", 3, False),
        ("RGB", 3, False),
        ("RGBA", 3, True),
    ],
)
def test_modes(mode: str, channels: int, transparent: bool) -> None:
    image = Image.new(mode, (20, 10))
    raster = read_image(save(image, "PNG"))
    assert raster.pixels.shape == (10, 20, channels)
    assert (raster.alpha is not None) == transparent


def test_opaque_alpha_is_no_alpha() -> None:
    raster = read_image(save(Image.new("RGBA", (9, 9), (1, 2, 3, 255)), "PNG"))
    assert raster.alpha is None


def test_palette_transparency_is_graded() -> None:  # I08
    image = Image.new("P", (4, 1))
    image.putpalette(bytes(range(12)))
    image.putdata([0, 1, 2, 3])
    data = save(
        image.resize((4, 2), Image.Resampling.NEAREST),
        "PNG",
        transparency=bytes([0, 51, 204, 255]),
    )
    assert np.allclose(read_image(data).alpha[0], [0, 0.2, 0.8, 1])


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_first_frame(format: str) -> None:  # I14, I15, I16
    frames = [Image.new("RGB", (9, 9), (i * 60, 0, 0)) for i in range(4)]
    options = {"lossless": True} if format == "WEBP" else {}
    data = save(frames[0], format, save_all=True, append_images=frames[1:], **options)
    raster = read_image(data)
    assert (raster.pixels == 0).all()
    assert raster.notes == ("Only the first of the file's frames is used.",)
    assert read_image(save(frames[0], format, **options)).notes == ()


def test_gif_is_not_walked(monkeypatch: pytest.MonkeyPatch) -> None:  # I17
    data = next(case.data for case in CASES if case.id.startswith("I17 GIF"))
    seeks = []
    seek = GifImagePlugin.GifImageFile._seek

    def count(self: GifImagePlugin.GifImageFile, *args: object) -> None:
        seeks.append(args)
        seek(self, *args)

    monkeypatch.setattr(GifImagePlugin.GifImageFile, "_seek", count)
    assert "first" in read_image(data).notes[0]
    assert len(seeks) < 10


def test_cmyk_keeps_its_tones() -> None:  # I03
    image = Image.new("RGB", (16, 16), (200, 40, 90))
    raster = read_image(save(image.convert("CMYK"), "JPEG", quality=95))
    assert np.allclose(raster.pixels * 255, (200, 40, 90), atol=6)


def test_large_image_is_averaged() -> None:
    x = np.zeros((300, 3000), dtype=np.uint8)
    x[:, 1::2] = 255
    raster = read_image(encode_png(x))
    assert raster.pixels.shape == (150, 1500, 1)
    assert np.allclose(raster.pixels, 0.5, atol=0.01)
    assert raster.notes == ("Averaged in blocks of 2×2 from 3000×300 to 1500×150 pixels.",)


def test_large_16_bit_image_is_averaged() -> None:
    x = np.full((200, 2100), 300, dtype=np.uint16)
    raster = read_image(save(Image.fromarray(x), "PNG"))
    assert raster.pixels.shape == (100, 1050, 1)
    assert np.allclose(raster.pixels, 300 / 65535, atol=1e-7)


def test_large_transparent_image_keeps_its_colour() -> None:
    x = np.zeros((200, 2100, 4), dtype=np.uint8)
    x[:, ::2] = (250, 100, 50, 255)  # between columns of invisible black
    raster = read_image(save(Image.fromarray(x), "PNG"))
    assert np.allclose(raster.pixels * 255, (250, 100, 50), atol=2)
    assert np.allclose(raster.alpha, 0.5, atol=0.01)


## An image of the model's size is untouched


@pytest.mark.parametrize("levels", [2, 3, 16, 17, 100, 255, 256])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("background", [0.0, 1.0, None])
def test_round_trip(levels: int, channels: int, background: float | None) -> None:
    spec = ImageSpec(channels, 12, 9, levels, background)
    k = np.random.default_rng(levels).integers(0, levels, spec.shape).astype(np.uint8)
    prepared = preprocess(read_image(encode_png(to_image(k, spec))), spec)
    assert np.array_equal(prepared.levels, k)
    assert prepared.steps == ()
    assert prepared.levels.flags.c_contiguous
    shown = to_image(k, spec)
    shown = shown if channels == 3 else np.repeat(shown[..., None], 3, axis=2)
    assert np.array_equal(prepared.original, shown)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_round_trip_of_every_level(levels: int) -> None:
    spec = ImageSpec(1, 1, levels, levels)
    k = np.arange(levels, dtype=np.uint8).reshape(spec.shape)
    assert np.array_equal(spec.to_levels(to_image(k, spec)[None] / np.float32(255)), k)


def test_round_trip_as_rgb() -> None:
    k = np.random.default_rng(0).integers(0, 17, DIGITS.shape)
    colour = np.repeat(to_image(k, DIGITS)[..., None], 3, axis=2)
    for image in (Image.fromarray(colour), Image.fromarray(colour).convert("RGBA")):
        prepared = preprocess(read_image(save(image, "PNG")), DIGITS)
        assert np.array_equal(prepared.levels, k)
        assert prepared.steps == ()


@pytest.mark.parametrize("x", [np.ones((28, 28)), np.zeros((28, 28)), 1 - drawing(28)])
def test_model_size_is_neither_inverted_nor_cropped(x: np.ndarray) -> None:  # I41
    prepared = preprocess(grey(x), MNIST)
    assert np.array_equal(prepared.levels[0], np.rint(x * 255))
    assert prepared.steps == ()


def test_model_size_changes_when_asked() -> None:
    x = drawing(28)
    inverted = preprocess(grey(x), MNIST, Adaptation(invert="yes"))
    assert np.array_equal(inverted.levels[0], np.rint((1 - x) * 255))
    assert inverted.steps == ("Inverted, as chosen.",)
    cropped = preprocess(grey(x), MNIST, Adaptation(crop="yes"))
    assert cropped.steps[0].startswith("Cropped to the content, 6×12 of 28×28 pixels")


def test_rounding_to_fewer_levels_is_said() -> None:
    prepared = preprocess(grey(np.full((8, 8), 0.49)), DIGITS)
    assert prepared.steps == ("Rounded to the model's 17 levels.",)


## Steps towards a model


def test_transparent_red_becomes_background() -> None:  # I10
    red = read_image(save(Image.new("RGBA", (28, 28), (255, 0, 0, 0)), "PNG"))
    for background in (0.0, 0.25, 1.0):
        for spec in (ImageSpec(1, 28, 28, 256, background), ImageSpec(3, 40, 40, 256, background)):
            prepared = preprocess(red, spec, Adaptation(invert="no"))
            assert (prepared.levels == np.rint(background * 255)).all()
            assert prepared.steps[0].startswith("Laid the transparent image on ")
    without = preprocess(red, ImageSpec(3, 28, 28))
    assert (without.levels == 255).all()
    assert without.steps == ("Laid the transparent image on white.",)


def test_half_transparent() -> None:
    raster = grey(np.full((28, 28), 0.8), alpha=np.full((28, 28), 0.25))
    assert (preprocess(raster, MNIST).levels == np.rint(0.2 * 255)).all()


def test_ink_on_a_transparent_sheet_does_not_vanish() -> None:
    image = Image.new("RGBA", (100, 100))
    ImageDraw.Draw(image).ellipse((30, 30, 70, 70), fill=(0, 0, 0, 255))
    raster = read_image(save(image, "PNG"))
    prepared = preprocess(raster, MNIST)
    assert prepared.levels[0, 14, 14] == 255 and prepared.levels[0, 0, 0] == 0
    assert prepared.steps[:2] == (
        "Laid the transparent image on white, because it would vanish on black.",
        "Inverted, because its border is white and the model's background black.",
    )
    assert preprocess(raster, MNIST, PLAIN).levels.max() == 0


def test_grey_by_luma() -> None:
    pixels = np.zeros((8, 8, 3), dtype=np.float32)
    for channel, weight in enumerate((0.299, 0.587, 0.114)):
        x = pixels.copy()
        x[..., channel] = 1
        prepared = preprocess(Raster(x, None, (), "PNG"), ImageSpec(1, 8, 8))
        assert (prepared.levels == round(weight * 255)).all()
        assert prepared.steps == ("Converted from colour to grey with the Rec. 601 weights.",)


def test_colour_by_repetition() -> None:
    x = np.random.default_rng(0).random((32, 48))
    prepared = preprocess(grey(x), PHOTOS)
    assert (prepared.levels == np.rint(x * 255)).all()
    assert prepared.steps == ("Repeated the grey image in the three colour channels.",)


@pytest.mark.parametrize("background", [0.0, 1.0])
@pytest.mark.parametrize("paper", [0.0, 0.2, 0.8, 1.0])
def test_inversion(background: float, paper: float) -> None:  # I43
    spec = ImageSpec(1, 28, 28, 256, background)
    x = drawing(100, paper, 1 - round(paper))
    prepared = preprocess(grey(x), spec, Adaptation(crop="no"))
    inverted = round(paper) != background
    assert any("Inverted" in step for step in prepared.steps) == inverted
    assert abs(prepared.levels[0, 27, 27] / 255 - (1 - paper if inverted else paper)) < 0.01
    kept = preprocess(grey(x), spec, PLAIN)
    assert abs(kept.levels[0, 27, 27] / 255 - paper) < 0.01


def test_no_inversion_without_a_background() -> None:
    steps = preprocess(grey(drawing(paper=1, ink=0)), ImageSpec(1, 28, 28)).steps
    assert steps == ("Resized from 100×100 to 28×28 with antialiasing.",)


def test_a_drawn_digit_is_framed_like_mnist() -> None:
    prepared = preprocess(grey(drawing(paper=1, ink=0)), MNIST)
    rows, columns = np.nonzero(prepared.levels[0] > 127)
    assert (rows.min(), rows.max()) == (4, 23)
    assert (columns.min(), columns.max()) == (9, 18)
    assert prepared.steps == (
        "Inverted, because its border is white and the model's background black.",
        "Cropped to the content, 20×40 of 100×100 pixels, and centred it in 56×56 pixels "
        "by its mass, with a margin of 4 of the model's pixels.",
        "Resized from 56×56 to 28×28 with antialiasing.",
    )


@pytest.mark.parametrize("name", ["digits", "mnist", "fashion_mnist", "kmnist"])
def test_a_set_trained_on_in_full_is_framed_as_its_makers_did(name: str) -> None:
    framed = preprocess(grey(drawing()), MNIST, Adaptation(), name)
    full = preprocess(grey(drawing()), MNIST, Adaptation(), f"{name}:full")
    np.testing.assert_array_equal(full.levels, framed.levels)
    assert full.steps == framed.steps
    mnist = preprocess(grey(drawing()), MNIST, Adaptation(), "mnist").levels
    assert np.array_equal(full.levels, mnist) == (name == "mnist")


def test_a_small_model_has_no_margin() -> None:
    levels = preprocess(grey(drawing()), DIGITS).levels[0]
    assert (levels[:, 2:6] == 16).all()
    assert levels.sum() == 16 * 32


def test_the_centre_of_mass_is_centred_and_nothing_is_cut() -> None:
    x = np.zeros((200, 200))
    x[20:40, 20:180] = 1  # a heavy bar at the top
    x[40:180, 98:102] = 1  # and a thin stem
    levels = preprocess(grey(x), MNIST).levels[0] / 255
    rows = (levels.sum(axis=1) * (np.arange(28) + 0.5)).sum() / levels.sum()
    columns = (levels.sum(axis=0) * (np.arange(28) + 0.5)).sum() / levels.sum()
    assert abs(columns - 14) < 0.5
    assert rows < 14.5
    area = 1 / 8**2  # a pixel of the model spans 8 of the drawing
    assert levels.sum() == pytest.approx(x.sum() * area, rel=0.02)


@pytest.mark.parametrize("spec", [MNIST, DIGITS, ImageSpec(1, 16, 16, 17, 1.0)])
@pytest.mark.parametrize("times", [3, 10])
def test_framing_twice_is_framing_once(spec: ImageSpec, times: int) -> None:
    x = np.zeros((280, 280))
    x[20:40, 40:200] = x[40:180, 100:120] = x[100:120, 100:160] = 1
    once = preprocess(grey(x), spec).levels
    large = to_image(once, spec).repeat(times, axis=0).repeat(times, axis=1)
    again = preprocess(read_image(encode_png(large)), spec)
    assert np.array_equal(again.levels, once)


def test_noise_and_dust_are_no_content() -> None:
    x = np.clip(drawing(400) + np.random.default_rng(0).normal(0, 0.02, (400, 400)), 0, 1)
    x[390, 390] = 1
    clean, noisy = (preprocess(grey(a), MNIST).levels[0].astype(int) for a in (drawing(400), x))
    assert np.abs(clean - noisy).max() < 30


@pytest.mark.parametrize("side", [60, 100, 400, 1000])
def test_jpeg_noise_is_no_content(side: int) -> None:
    image = Image.fromarray(np.rint(drawing(side) * 255).astype(np.uint8))
    steps = preprocess(read_image(save(image, "JPEG", quality=40)), MNIST).steps
    width, height = map(int, re.findall(r"content, (\d+)×(\d+)", steps[0])[0])
    assert abs(width - side // 5) <= 2 and abs(height - 2 * side // 5) <= 2


def test_grey_paper_is_no_content() -> None:
    steps = preprocess(grey(drawing(100, 0.75, 0.1)), MNIST).steps
    assert "Cropped to the content, 20×40 of 100×100 pixels" in steps[1]


@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
def test_blank_is_not_cropped(value: float) -> None:
    prepared = preprocess(grey(np.full((60, 30), value)), MNIST, Adaptation(invert="no"))
    assert prepared.steps == (
        "Nothing stands out from the background, so nothing was cropped.",
        "Padded from 30×60 to 60×60 pixels with the model's background.",
        "Resized from 60×60 to 28×28 with antialiasing.",
    )
    assert prepared.levels[0, 14, 14] == round(value * 255)
    assert (prepared.levels[0, :, 0] == 0).all()


@pytest.mark.parametrize(("h", "w"), [(20, 30), (30, 20), (200, 300), (5, 9)])
def test_padding_keeps_proportions(h: int, w: int) -> None:
    spec = ImageSpec(1, 30, 30, 256, 0.0)
    levels = preprocess(grey(np.ones((h, w))), spec, PLAIN).levels[0] / 255
    side = max(h, w)
    assert levels.sum() == pytest.approx(900 * h * w / side**2, rel=0.08)
    assert np.allclose(levels, levels[::-1, ::-1], atol=0.2)


def test_padding_without_a_background_takes_the_border() -> None:
    x = np.tile(np.float32([0.2, 0.4, 0.6]), (64, 48, 1))
    prepared = preprocess(Raster(x, None, (), "PNG"), PHOTOS)
    assert prepared.steps[0] == "Padded from 48×64 to 96×64 pixels with its border's colour."
    assert (prepared.levels == np.array([51, 102, 153])[:, None, None]).all()


def test_squash() -> None:
    x = np.zeros((40, 80))
    x[:20] = 1
    prepared = preprocess(grey(x), DIGITS, Adaptation("no", "no", "squash"))
    assert (prepared.levels[0, :4] == 16).all() and (prepared.levels[0, 4:] == 0).all()
    assert prepared.steps == ("Resized from 80×40 to 8×8 with antialiasing.",)


@pytest.mark.parametrize(("h", "w"), [(75, 100), (100, 75), (16, 90), (64, 65)])
def test_cutting_keeps_the_middle_and_its_proportions(h: int, w: int) -> None:
    side = min(h, w)
    top, left = (h - side) // 2, (w - side) // 2
    x = np.random.default_rng(0).random((h, w))
    cut = preprocess(grey(x), MNIST, Adaptation("no", "no", "cut"))
    alone = preprocess(grey(x[top : top + side, left : left + side]), MNIST, PLAIN)
    np.testing.assert_array_equal(cut.levels, alone.levels)
    assert cut.steps[0] == f"Cut from {w}×{h} to {side}×{side} pixels, the same off both sides."
    # The content of a drawing is cut as a whole image is.
    drawn = preprocess(grey(drawing()), MNIST, Adaptation("no", "yes", "cut"))
    assert (drawn.levels[0, 4:-4] > 0).any()


@pytest.mark.parametrize("times", [2, 3, 10])
def test_an_enlarged_image_comes_back(times: int) -> None:
    k = np.random.default_rng(times).integers(0, 17, DIGITS.shape)
    large = to_image(k, DIGITS).repeat(times, axis=0).repeat(times, axis=1)
    assert np.array_equal(preprocess(read_image(encode_png(large)), DIGITS, PLAIN).levels, k)


@pytest.mark.parametrize("side", [5, 29, 31, 56, 100, 517])
@pytest.mark.parametrize("background", [0.0, 0.25, 1.0])
def test_an_even_background_stays_even(side: int, background: float) -> None:
    spec = ImageSpec(1, 28, 28, 256, background)
    x = np.full((side, side), background)
    x[2 * side // 5 : side // 2 + 1, 2 * side // 5 : side // 2 + 1] = 0.9 - 0.8 * background
    levels = preprocess(grey(x), spec, PLAIN).levels[0]
    assert (levels[:4] == np.rint(background * 255)).all()
    assert (levels[:, -4:] == np.rint(background * 255)).all()


def test_antialiasing() -> None:
    stripes = np.zeros((280, 290))
    stripes[:, ::2] = 1
    levels = preprocess(grey(stripes), MNIST, Adaptation("no", "no", "squash")).levels
    assert np.abs(levels.astype(int) - 127).max() < 12


def test_original_is_small_and_uninverted() -> None:
    prepared = preprocess(grey(drawing(1000, paper=1, ink=0)), MNIST)
    assert prepared.original.shape == (512, 512, 3)
    assert (prepared.original[0, 0] == 255).all()


def test_the_raster_is_not_changed() -> None:
    raster = read_image(save(Image.new("RGBA", (28, 28), (9, 9, 9, 9)), "PNG"))
    before = raster.pixels.copy(), raster.alpha.copy()
    preprocess(raster, MNIST, Adaptation("yes", "yes"))
    assert np.array_equal(raster.pixels, before[0]) and np.array_equal(raster.alpha, before[1])


## The programmer's mistakes


@pytest.mark.parametrize("field", ["invert", "crop", "fit", "bits"])
def test_unknown_choice(field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field} must be one of .*, not 'maybe'"):
        Adaptation(**{field: "maybe"})


@pytest.mark.parametrize(
    "levels",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((1, 8, 9), np.uint8),
        np.zeros((1, 8, 8), np.float32),
        np.full((1, 8, 8), 17, np.uint8),
        np.full((1, 8, 8), -1),
    ],
)
def test_to_image_refuses(levels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="^levels must"):
        to_image(levels, DIGITS)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.float32),
        np.zeros((8, 8, 2), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros(8, np.uint8),
        np.zeros((0, 8), np.uint8),
    ],
)
def test_encode_png_refuses(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="^image must"):
        encode_png(image)


## Fuzzing


def mutated(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """The file with one to eight small faults, each of a kind that files meet in the wild."""
    body = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        at = rng.randrange(len(body) + 1)
        # Most of what decides about a file stands in its first bytes.
        at = min(at, rng.randrange(80)) if rng.random() < 0.5 else at
        span = rng.choice((1, 2, 4, 16, 200))
        fault = rng.randrange(7)
        if fault == 0:
            body[at : at + 1] = bytes([rng.choice((0, 1, 127, 128, 254, 255, rng.randrange(256)))])
        elif fault == 1 and at < len(body):
            body[at] ^= 1 << rng.randrange(8)
        elif fault == 2:
            del body[at : at + span]
        elif fault == 3:
            body[at:at] = body[at : at + span]
        elif fault == 4:
            body[at:at] = rng.randbytes(span)
        elif fault == 5:
            begin = rng.randrange(len(other))
            body[at : at + span] = other[begin : begin + span]
        elif rng.random() < 0.3:
            del body[at:]
    return mended(bytes(body)) if rng.random() < 0.7 else bytes(body)


def mended(data: bytes) -> bytes:
    """A PNG file with right checksums, so that faults in its chunks reach the decoder."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    body, at = bytearray(data), 8
    while at + 12 <= len(body):
        end = at + 8 + int.from_bytes(body[at : at + 4], "big")
        if end + 4 > len(body):
            break
        body[end : end + 4] = zlib.crc32(body[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(body)


def fuzz(count: int, seed: int) -> None:
    rng = random.Random(seed)
    seeds = [case.data for case in CASES if 0 < len(case.data) < 20_000]
    strict = [True, False]
    for i in range(count):
        data = mutated(rng.choice(seeds), rng.choice(seeds), rng)
        with warnings.catch_warnings():
            warnings.simplefilter("error" if strict[i % 2] else "ignore")
            try:
                _, raster, _ = outcome(data)
                if raster is not None:
                    spec = (DIGITS, MNIST, PHOTOS)[i % 3]
                    check_prepared(preprocess(raster, spec), spec)
            except Exception as error:
                error.add_note(f"mutation {i} of seed {seed}: {data[:200]!r}, {len(data)} bytes")
                raise


def cost_of(code: str, *arguments: str) -> tuple[float, float]:
    """Runs code that finds the most CPU seconds of a file; also the memory that it took, in MB."""
    program = f"""
import resource, sys, time, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_images as t
from vae.data.images.adaptation import preprocess
from vae.data.images.decoding import ImageRefused, read_image

def measured(data):
    start = time.process_time()
    try:
        preprocess(read_image(data, t.WITH_TIFF), t.MNIST)
    except ImageRefused:
        pass
    return time.process_time() - start

list(map(measured, [case.data for case in t.CASES if len(case.data) < 2_000]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
{code}
print(worst, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seconds, megabytes = map(float, done.stdout.split())
    return seconds, megabytes


def test_no_file_costs_much() -> None:
    """The bar of the table: two seconds and 300 MB each; CPU time, whatever else runs."""
    seconds, megabytes = cost_of("worst = max(measured(case.data) for case in t.CASES)")
    assert 0 < seconds < 2 and megabytes < 300


FUZZ_COST = """
import random
rng = random.Random(int(sys.argv[1]))
seeds = [case.data for case in t.CASES if 0 < len(case.data) < 20_000]
worst = 0.0
for _ in range(int(sys.argv[2])):
    worst = max(worst, measured(t.mutated(rng.choice(seeds), rng.choice(seeds), rng)))
"""


@pytest.mark.slow
def test_no_mutated_file_costs_much() -> None:
    seconds, megabytes = cost_of(FUZZ_COST, "11", "10000")
    assert 0 < seconds < 2 and megabytes < 300


def test_fuzz() -> None:
    fuzz(300, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_fuzz_long(seed: int) -> None:
    fuzz(1000, seed)

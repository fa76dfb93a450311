"""Hostile and ordinary image files, built in code: what anybody may upload.

Each :class:`Case` says whether its bytes must be accepted or refused. The numbers are those of
the table of bad inputs that the product promises to withstand.
"""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
import zlib
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageCms

__all__ = ["CASES", "Case", "jpeg_with_exif", "orientation_exif", "png", "png_chunk", "save"]


class Case(NamedTuple):
    """One file.

    Args:
        id: The row of the table and what the file is.
        data: The bytes.
        expected: ``A`` accepted, ``R`` refused, ``AR`` either.
        note: Words that a note must hold (accepted) or the code (refused); empty for any.
    """

    id: str
    data: bytes
    expected: str
    note: str = ""


def save(image: Image.Image, format: str, **options: object) -> bytes:
    """The image as a file of the given format."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """A PNG chunk with its length and checksum."""
    checksum = zlib.crc32(kind + body)
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


def png(
    width: int,
    height: int,
    depth: int = 8,
    colour: int = 0,
    rows: bytes | None = None,
    extra: bytes = b"",
    after: bytes = b"",
) -> bytes:
    """A PNG file by hand.

    Args:
        width: The width in the header.
        height: The height in the header.
        depth: Bits per sample.
        colour: The colour type: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA.
        rows: The filtered rows before compression; zeros by default; ``b""`` for no data at all.
        extra: Chunks before the data.
        after: Chunks after the data.
    """
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    if rows is None:
        samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
        rows = bytes((1 + (width * samples * depth + 7) // 8) * height)
    data = png_chunk(b"IDAT", zlib.compress(rows)) if rows else b""
    start = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header)
    return start + extra + data + after + png_chunk(b"IEND", b"")


def orientation_exif(orientation: int) -> bytes:
    """An EXIF block whose one tag is the orientation."""
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
    return b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", 1) + entry + struct.pack(">I", 0)


def jpeg_with_exif(data: bytes, exif: bytes) -> bytes:
    """A JPEG file with an EXIF block put in by hand, so that it need not make sense."""
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


def _digit(side: int = 28) -> np.ndarray:
    """A bright seven on black, with shape (side, side)."""
    unit = side / 28
    y, x = np.mgrid[:side, :side] / unit
    bar = (y > 4) & (y < 8) & (x > 7) & (x < 21)
    leg = (y >= 7) & (y < 24) & (np.abs(x - (21 - (y - 4) * 0.45)) < 2.5)
    return np.where(bar | leg, 255, 0).astype(np.uint8)


def _scene(height: int = 40, width: int = 56) -> np.ndarray:
    """A smooth colour picture without symmetry, with shape (height, width, 3)."""
    y, x = np.mgrid[:height, :width]
    red, green = 255 * x / (width - 1), 255 * y / (height - 1)
    blue = 127 + 120 * np.sin(x / 7) * np.cos(y / 5)
    return np.stack([red, green, blue], axis=2).astype(np.uint8)


GREY = Image.fromarray(_digit())
RGB = Image.fromarray(_scene())
_RAMP = Image.fromarray((np.arange(784, dtype=np.uint16) * 83).reshape(28, 28))
_NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8))
_RED = Image.new("RGBA", (28, 28), (255, 0, 0, 0))
_PALETTE = RGB.quantize(16)
_FRAMES = [Image.fromarray(np.roll(_digit(), i, axis=1)) for i in range(5)]
_KEY = png_chunk(b"tRNS", b"\0\0")
_KEYS = png_chunk(b"tRNS", b"\0\0\0\0\0\0")
_PLTE = png_chunk(b"PLTE", b"\1\2\3\4\5\6")
_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
_JPEG = save(RGB, "JPEG", quality=90)


def _deep(colour: int, samples: int) -> bytes:
    values = np.linspace(0, 65535, 28 * 28 * samples).astype(">u2").reshape(28, -1)
    return png(28, 28, 16, colour, b"".join(b"\0" + row.tobytes() for row in values))


def _many_frames(count: int) -> bytes:
    gif = save(Image.new("L", (28, 28), 9), "GIF")
    start = gif.index(b",\0\0\0\0\x1c\0\x1c\0")
    return gif[:start] + gif[start:-1] * count + b";"


def _many_passes(count: int) -> bytes:
    # Repeats the last pass of a progressive file, which changes nothing and costs 31 bytes.
    data = save(Image.new("L", (64, 64)), "JPEG", progressive=True)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * count + b"\xff\xd9"


def _bmp(bits: int, compression: int, body: bytes, width: int = 28, height: int = 28) -> bytes:
    palette = bytes(range(256)) * 4 if bits == 8 else b""
    offset = 54 + len(palette)
    sizes = (40, width, height, 1, bits, compression, len(body), 0, 0, len(palette) // 4, 0)
    head = struct.pack("<IHHI", offset + len(body), 0, 0, offset)
    return b"BM" + head + struct.pack("<IiiHHIIiiII", *sizes) + palette + body


def _without_adobe(data: bytes) -> bytes:
    start = data.index(b"\xff\xee")
    return data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :]


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("evil.html", "<script>alert(1)</script>")
    return buffer.getvalue()


def _archives() -> list[Case]:
    """Archives, which are told by their first bytes and never unpacked."""

    def packed(*entries: tuple[str, bytes], link: bool = False) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in entries:
                info = zipfile.ZipInfo(name)
                info.external_attr = (0o120777 if link else 0o100644) << 16
                archive.writestr(info, content, zipfile.ZIP_DEFLATED)
        return buffer.getvalue()

    zeros = packed(("zeros", bytes(20_000_000)))
    kinds = {
        "of zeros in archives": packed(*((f"{i}.zip", zeros) for i in range(16))),
        "of 10000 entries": packed(*((f"{i}", b"") for i in range(10_000))),
        "in an archive": packed(("inner.zip", _zip())),
        "with names that climb": packed(("../../e.png", save(GREY, "PNG"))),
        "with links": packed(("link.png", b"/etc/passwd"), link=True),
    }
    return [Case(f"U09 ZIP {kind}", data, "R", "E-IMG-04") for kind, data in kinds.items()]


def _tones() -> list[Case]:
    cmyk = save(RGB.convert("CMYK"), "JPEG")
    return [
        Case("I01 grey PNG", save(GREY, "PNG"), "A"),
        Case("I01 grey PNG of another size", save(Image.fromarray(_digit(100)), "PNG"), "A"),
        Case("I02 RGB JPEG", _JPEG, "A"),
        Case("I03 CMYK JPEG", cmyk, "A", "CMYK"),
        Case("I03 CMYK JPEG without Adobe's mark", _without_adobe(cmyk), "A", "CMYK"),
        Case("I04 1-bit PNG", save(GREY.convert("1"), "PNG"), "A"),
        Case("I04 1-bit PNG, one value transparent", png(28, 28, 1, extra=_KEY), "A"),
        Case("I05 16-bit grey PNG", save(_RAMP, "PNG"), "A"),
        Case("I05 16-bit grey PNG, one value transparent", png(28, 28, 16, extra=_KEY), "A"),
        Case("I06 16-bit RGB PNG", _deep(2, 3), "A"),
        Case("I06 16-bit RGBA PNG", _deep(6, 4), "A"),
        Case("I06 16-bit grey and alpha PNG", _deep(4, 2), "A"),
        Case("I07 palette PNG", save(_PALETTE, "PNG"), "A"),
        Case("I07 2-bit palette PNG", save(RGB.quantize(4), "PNG", bits=2), "A"),
        Case("I07 palette GIF", save(_PALETTE, "GIF"), "A"),
        Case("I07 palette PNG with a short palette", png(28, 28, 8, 3, extra=_PLTE), "A"),
        Case("I07 palette PNG without a palette", png(28, 28, 8, 3), "AR"),
        Case("I08 palette, one entry transparent", save(_PALETTE, "PNG", transparency=3), "A"),
        Case("I08 palette, graded", save(_PALETTE, "PNG", transparency=bytes(range(16))), "A"),
        Case("I08 transparent GIF", save(_PALETTE, "GIF", transparency=3), "A"),
        Case("I08 grey, one value transparent", png(28, 28, extra=_KEY), "A"),
        Case("I08 RGB, one value transparent", png(28, 28, 8, 2, extra=_KEYS), "A"),
        Case("I08 transparent WebP", save(_RED, "WEBP", lossless=True), "A"),
        Case("I09 grey and alpha", save(GREY.convert("LA"), "PNG"), "A"),
        Case("I09 grey and alpha, invisible", save(Image.new("LA", (40, 20)), "PNG"), "A"),
        Case("I10 transparent red", save(_RED, "PNG"), "A"),
        Case("I13 sRGB profile", save(RGB, "PNG", icc_profile=_PROFILE), "A"),
        Case("I13 broken profile, PNG", save(RGB, "PNG", icc_profile=b"\xff" * 99), "A"),
        Case("I13 broken profile, JPEG", save(RGB, "JPEG", icc_profile=b"\xff" * 99), "A"),
        Case("I13 half a profile, WebP", save(RGB, "WEBP", icc_profile=_PROFILE[:200]), "A"),
    ]


def _exif() -> list[Case]:
    exif = orientation_exif(6)
    loop = exif[:-4] + struct.pack(">I", 8)
    far = b"Exif\0\0MM\0*\xff\xff\xff\xf0"
    many = (
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\3\xff\xff\xff\xff\xff\xff\xff\xff" * 99
    )
    odd = exif.replace(b"\1\x12\0\3\0\0\0\1", b"\1\x12\0\5\0\0\0\1")
    # AR: Pillow warns of these while opening, which refuses them where warnings are errors.
    return [
        *(
            Case(
                f"I11 orientation {i}", jpeg_with_exif(_JPEG, orientation_exif(i)), "A", "upright"
            )
            for i in range(2, 9)
        ),
        Case("I11 orientation in a PNG", save(RGB, "PNG", exif=exif[6:]), "A", "upright"),
        Case("I11 orientation in a WebP", save(RGB, "WEBP", exif=exif[6:]), "A", "upright"),
        Case("I12 orientation 9", jpeg_with_exif(_JPEG, orientation_exif(9)), "A"),
        Case("I12 EXIF with a loop", jpeg_with_exif(_JPEG, loop), "A", "upright"),
        Case("I12 EXIF of noise", jpeg_with_exif(_JPEG, b"Exif\0\0" + b"\xff" * 60), "A"),
        Case("I12 EXIF cut short", jpeg_with_exif(_JPEG, exif[:19]), "AR"),
        Case("I12 EXIF that points outside", jpeg_with_exif(_JPEG, far), "AR"),
        Case("I12 EXIF with 65535 entries", jpeg_with_exif(_JPEG, many), "AR"),
        Case("I12 EXIF of a wrong type", jpeg_with_exif(_JPEG, odd), "AR"),
        Case("I12 EXIF of noise in a PNG", png(28, 28, extra=png_chunk(b"eXIf", b"abc")), "A"),
    ]


def _animations() -> list[Case]:
    more = {"save_all": True, "append_images": _FRAMES[1:], "duration": 50}
    return [
        Case("I14 GIF of 5 frames", save(_FRAMES[0], "GIF", **more), "A", "first"),
        Case(
            "I14 GIF of 5 partial frames",
            save(_FRAMES[0], "GIF", disposal=2, **more),
            "A",
            "first",
        ),
        Case("I15 APNG of 5 frames", save(_FRAMES[0], "PNG", **more), "A", "first"),
        Case("I16 WebP of 5 frames", save(_FRAMES[0], "WEBP", **more), "A", "first"),
        Case("I17 GIF of 10000 frames", _many_frames(10_000), "A", "first"),
        Case(
            "I17 MPO of 2 pictures",
            save(RGB, "MPO", save_all=True, append_images=[RGB]),
            "A",
            "first",
        ),
    ]


def _formats() -> list[Case]:
    pixels = bytes(28 * 28)
    runs = (b"\x1c\x07\0\0" * 28) + b"\0\1"
    arithmetic = _JPEG.replace(b"\xff\xc0", b"\xff\xc9", 1)
    return [
        Case("I18 BMP, RGB", save(RGB, "BMP"), "A"),
        Case("I18 BMP, grey", save(GREY, "BMP"), "A"),
        Case("I18 BMP, palette", save(_PALETTE, "BMP"), "A"),
        Case("I18 BMP, 1 bit", save(GREY.convert("1"), "BMP"), "A"),
        Case("I18 BMP, 32 bits", save(RGB.convert("RGBA"), "BMP"), "A"),
        Case("I18 BMP, run lengths", _bmp(8, 1, runs), "A"),
        Case("I18 BMP, top row first", _bmp(8, 0, pixels, height=-28), "A"),
        Case("I18 BMP, an unknown compression", _bmp(8, 9, pixels), "R", "E-IMG-05"),
        Case("I18 WebP, lossy", save(RGB, "WEBP"), "A"),
        Case("I18 WebP, lossless", save(RGB, "WEBP", lossless=True), "A"),
        Case("I19 progressive JPEG", save(RGB, "JPEG", progressive=True), "A"),
        Case("I19 JPEG 4:2:0", save(RGB, "JPEG", subsampling=2), "A"),
        Case("I19 JPEG 4:4:4", save(RGB, "JPEG", subsampling=0), "A"),
        Case("I19 grey JPEG", save(GREY, "JPEG"), "A"),
        Case("I19 arithmetic JPEG", arithmetic, "AR"),
        Case("I19 JPEG of 10000 passes", _many_passes(10_000), "R", "E-IMG-10"),
        Case("I33 JPEG and ZIP", _JPEG + _zip(), "A"),
        Case("I33 JPEG and HTML", _JPEG + b"<html><script>alert(1)</script>", "A"),
        Case("I33 PNG and ZIP", save(GREY, "PNG") + _zip(), "A"),
        Case("I33 GIF and HTML", save(GREY, "GIF") + b"<html>", "A"),
        Case("I41 black", save(Image.new("L", (28, 28), 0), "PNG"), "A"),
        Case("I41 white", save(Image.new("L", (60, 60), 255), "PNG"), "A"),
        Case("I41 middle grey", save(Image.new("RGB", (60, 40), (128, 128, 128)), "PNG"), "A"),
        Case("I42 noise", save(_NOISE, "PNG"), "A"),
        Case("I42 noise, large", save(_NOISE.resize((300, 200)), "PNG"), "A"),
        Case("I43 black on white", save(Image.fromarray(255 - _digit(90)), "PNG"), "A"),
    ]


def _sizes() -> list[Case]:
    def bomb(kind: bytes, head: bytes) -> bytes:
        return png(28, 28, extra=png_chunk(kind, head + zlib.compress(bytes(60_000_000), 1)))

    profile = png_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(100)))
    wide = save(RGB, "BMP")
    wide = wide[:18] + struct.pack("<ii", 60000, 60000) + wide[26:]
    return [
        Case("I20 1×1", save(Image.new("L", (1, 1)), "PNG"), "R", "E-IMG-09"),
        Case("I20 2×2", save(Image.new("L", (2, 2)), "PNG"), "A"),
        Case("I20 1×20", save(Image.new("L", (1, 20)), "PNG"), "R", "E-IMG-09"),
        Case("I21 1×20000", png(1, 20000), "R", "E-IMG-08"),
        Case("I21 5000×1000", png(5000, 1000, rows=b""), "R", "E-IMG-07"),
        Case("I21 4000×200", png(4000, 200), "A", "blocks"),
        Case("I22 no width", png(0, 28, rows=b"\0"), "R", "E-IMG-05"),
        Case("I22 no height", png(28, 0, rows=b"\0"), "R", "E-IMG-05"),
        Case("I22 GIF without size", b"GIF89a" + bytes(7) + b";", "R", "E-IMG-05"),
        Case("I23 10000×9000, header only", png(10000, 9000, rows=b""), "R", "E-IMG-06"),
        Case("I24 13000×13000, header only", png(13000, 13000, rows=b""), "R", "E-IMG-06"),
        Case("I25 20000×20000, header only", png(20000, 20000, rows=b""), "R", "E-IMG-06"),
        Case("I25 60000×60000, BMP", wide, "R", "E-IMG-06"),
        Case("I25 65535×65535, GIF", b"GIF89a" + b"\xff" * 4 + bytes(3) + b",", "R"),
        Case("I26 2147483647 square", png(2**31 - 1, 2**31 - 1, rows=b""), "R", "E-IMG-06"),
        Case("I27 5000×5000 zeros", png(5000, 5000), "R", "E-IMG-06"),
        Case("I28 zTXt bomb", bomb(b"zTXt", b"a\0\0"), "R", "E-IMG-05"),
        Case("I28 iTXt bomb", bomb(b"iTXt", b"a\0\1\0\0\0"), "R", "E-IMG-05"),
        Case("I29 iCCP bomb", bomb(b"iCCP", b"a\0\0"), "AR"),
        Case("I29 100 profiles", png(28, 28, extra=profile * 100), "R", "E-IMG-10"),
        Case(
            "U01 one byte too many", save(GREY, "PNG").ljust(5 * 2**20 + 1, b"\0"), "R", "E-IMG-02"
        ),
    ]


def _damaged() -> list[Case]:
    whole = {
        "JPEG": _JPEG,
        "PNG": save(RGB, "PNG"),
        "GIF": save(_PALETTE, "GIF"),
        "WebP": save(RGB, "WEBP"),
        "BMP": save(RGB, "BMP"),
    }
    flipped = bytearray(whole["PNG"])
    flipped[30] ^= 0xFF  # in the checksum of the header
    return [
        *(Case(f"I30 half a {k}", d[: len(d) // 2], "R", "E-IMG-05") for k, d in whole.items()),
        *(Case(f"I31 12 bytes of a {k}", d[:12], "R", "E-IMG-05") for k, d in whole.items()),
        Case("I31 PNG without data", png(28, 28, rows=b""), "R", "E-IMG-05"),
        Case("I31 PNG with too little data", png(28, 28, rows=b"\0\0"), "R", "E-IMG-05"),
        Case("I32 PNG with a wrong checksum", bytes(flipped), "R", "E-IMG-05"),
    ]


def _foreign() -> list[Case]:
    nan = Image.fromarray(np.full((28, 28), np.nan, dtype=np.float32))
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9"/></svg>'
    entity = b'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + svg
    psd = b"8BPS\0\1" + bytes(6) + b"\0\3" + struct.pack(">IIHH", 28, 28, 8, 3) + bytes(16)
    fits = b"".join(s.ljust(80) for s in (b"SIMPLE  = T", b"BITPIX  = 8", b"NAXIS   = 2", b"END"))
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99)
    known = {
        "I35 float TIFF of NaN": save(nan, "TIFF"),
        "I36 multi-page TIFF": save(RGB, "TIFF", save_all=True, append_images=[RGB]),
        "I36 JPEG 2000": save(RGB, "JPEG2000"),
        "I36 AVIF": save(RGB, "AVIF"),
        "I36 PSD": psd,
        "I37 SVG": svg,
        "I37 SVG with a script": svg.replace(b"<rect", b"<script>alert(1)</script><rect"),
        "I37 SVG with an external entity": entity,
        "I38 EPS": save(RGB, "EPS"),
        "I38 PDF": save(RGB, "PDF"),
        "I39 HEIC": heic,
        "I40 ZIP": _zip(),
    }
    unknown = {
        "I36 ICO": save(RGB, "ICO"),
        "I36 PPM": save(RGB, "PPM"),
        "I36 FITS": fits.ljust(2880),
        "I36 DDS": save(RGB, "DDS"),
        "I40 7 bytes": b"\x13\x37\xca\xfe\x00\x99\x01",
        "I40 one byte": b"\x00",
        "I40 text": b"Dear Sir or Madam, the picture is attached.",
        "I40 HTML": b"<!DOCTYPE html><html><body><svg></svg></body></html>",
        "I40 gzip": gzip.compress(svg),
        "I40 ELF": b"\x7fELF\2\1\1" + bytes(64),
    }
    return [
        *(Case(name, data, "R", "E-IMG-04") for name, data in known.items()),
        *(Case(name, data, "R", "E-IMG-03") for name, data in unknown.items()),
        Case("I40 empty", b"", "R", "E-IMG-01"),
        Case("I40 sound that starts like a WebP", b"RIFF\0\0\0\0WAVEfmt ", "R"),
    ]


CASES = [
    *_tones(),
    *_exif(),
    *_animations(),
    *_formats(),
    *_sizes(),
    *_damaged(),
    *_foreign(),
    *_archives(),
]

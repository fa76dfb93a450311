"""The ladder as it is drawn: to scale, whole, and readable without its marks."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from vae.figures.frame import percent, plus_minus
from vae.figures.ladder import Rung, ladder_html
from vae.figures.pictures import thumbnail_url
from vae.figures.sample_elbo import pixel_map

RUNGS = [
    Rung("log p(x), exact", -90.0, 0.0, "#111", exact=True),
    Rung("L, k = 5", -91.0, 0.25, "#222"),
    Rung("ELBO", -94.0, 0.0, "#333"),
]
GAPS = [("amortisation gap", -94.0, -91.0), ("approximation gap", -91.0, -90.0)]


def lefts(html, kind):
    return [float(v) for v in re.findall(rf'class="{kind}[^"]*" style="left:([-\d.]+)%', html)]


def widths(html, kind):
    return [float(v) for v in re.findall(rf'class="{kind}" style="[^"]*width:([\d.]+)%', html)]


def test_marks_stand_to_scale():
    html = ladder_html(RUNGS, GAPS, "bounds")
    top, middle, bottom = lefts(html, "mark")
    assert 0 < bottom < middle < top < 100
    assert (top - middle) / (top - bottom) == pytest.approx(1 / 4, abs=1e-4)
    # A standard error to either side, and the gaps from end to end.
    assert widths(html, "bar")[1] == pytest.approx((top - bottom) * 0.5 / 4, abs=2e-3)
    assert widths(html, "part") == pytest.approx([middle - bottom, top - middle], abs=2e-3)


def test_the_exact_value_runs_through_every_row_and_only_where_there_is_one():
    html = ladder_html(RUNGS, GAPS, "bounds")
    assert lefts(html, "line") == lefts(html, "mark")[:1] * (len(RUNGS) + len(GAPS))
    assert not lefts(ladder_html(RUNGS[1:], [], "bounds"), "line")


def test_a_bar_of_error_stays_on_its_axis_and_a_small_one_is_no_exact_value():
    html = ladder_html(
        [Rung("far", -80.0, 9.0, "#111"), Rung("near", -79.0, 1e-3, "#222")], [], ""
    )
    (start, _), (width, _) = lefts(html, "bar"), widths(html, "bar")
    assert start > 0 and start + width < 100
    assert "±\u00a09.00" in html and "±\u00a0&lt;\u00a00.01" in html and "±\u00a00.00" not in html


def test_every_value_can_be_read_as_text():
    html = ladder_html(RUNGS, GAPS, 'all "bounds"')
    cells = re.findall(r"<td>([^<]*)</td>", html)
    assert [cell for cell in cells if cell] == [
        "−90.00",
        "−91.00",
        "±\u00a00.25",
        "−94.00",
        "3.00",
        "1.00",
    ]
    assert 'aria-label="all &quot;bounds&quot;"' in html


@pytest.mark.parametrize("spread", [0.0, 1e-4, 0.3, 7.0, 4e3])
def test_ticks_are_round_and_stand_where_they_say(spread):
    rungs = [Rung("high", -80.0, 0.0, "#111"), Rung("low", -80.0 - spread, 0.0, "#222")]
    html = ladder_html(rungs, [], "bounds")
    ticks = [
        (float(left), float(text.replace("−", "-").replace(",", "")))
        for left, text in re.findall(r'class="tick" style="left:([\d.]+)%">([^<]+)<', html)
    ]
    assert 1 <= len(ticks) <= 5
    marks = lefts(html, "mark")
    assert all(0 <= left <= 100 for left, _ in ticks)
    if spread > 0.05:
        scale = (marks[0] - marks[1]) / spread
        np.testing.assert_allclose(
            [marks[0] + (value + 80.0) * scale for _, value in ticks],
            [left for left, _ in ticks],
            atol=0.02,
        )


def test_a_small_number_does_not_read_like_none():
    assert plus_minus(0.0) == plus_minus(None) == ""
    # Non-breaking spaces keep it on the line of its value.
    texts = {
        (0.034, 4): "0.0340",
        (3e-5, 4): "<\u00a00.0001",
        (0.4, 0): "<\u00a01",
        (12.3, 0): "12",
    }
    for given, text in texts.items():
        assert plus_minus(*given) == f"\u00a0±\u00a0{text}"
    shares = {0: "0.0", 0.02: "< 0.1", 0.1: "0.1", 62.66: "62.7", 99.98: "> 99.9", 100: "100.0"}
    for share, text in shares.items():
        assert percent(share) == f"{text}\u00a0%"


def test_a_millionth_of_a_nat_is_no_letter():
    """Plotly writes 1μ for a millionth unless it is told not to."""
    figure = pixel_map(np.full((1, 4, 4), -1e-6))
    assert figure.data[0].colorbar.exponentformat == "power"
    assert figure.layout.xaxis.exponentformat == figure.layout.yaxis.exponentformat == "power"


@pytest.mark.parametrize(
    ("channels", "height", "width", "size"),
    [(1, 8, 8, (32, 32)), (1, 28, 28, (28, 28)), (3, 128, 128, (32, 32)), (3, 64, 128, (32, 16))],
)
def test_a_thumbnail_is_bounded_and_small_ones_are_enlarged_by_whole_pixels(
    channels, height, width, size
):
    image = np.random.default_rng(0).random((channels, height, width)).astype(np.float32)
    url = thumbnail_url(image, 32)
    assert len(url) <= 4 / 3 * (32 * 32 * channels + 200)  # of noise, which no PNG makes smaller
    with Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1]))) as found:
        assert found.size == size
        pixels = np.asarray(found)
    if height == 8:
        assert np.array_equal(pixels[::4, ::4], np.rint(255 * image[0]))
        assert np.array_equal(pixels, pixels[::4, ::4].repeat(4, 0).repeat(4, 1))

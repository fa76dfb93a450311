"""What a visitor may send to the screen: limits, names, drawings."""

from __future__ import annotations

import base64
from types import SimpleNamespace

import pytest

from vae.data.images.decoding import Limits
from vae.scoring.scorer import ScoreSettings
from vae.ui.components.drawing import drawn_png
from vae.ui.scoring.batches import score_in_parts
from vae.ui.scoring.scores import command_line, curl_call
from vae.ui.uploads import MOST_BYTES, MOST_FILES, admitted, display_name, display_names


def sent(name: str, data: bytes) -> SimpleNamespace:
    return SimpleNamespace(name=name, size=len(data), getvalue=lambda: data)


def test_the_limits_of_a_visit_are_stated_and_hold() -> None:
    files, sentence = admitted([sent(f"{n}.png", b"x") for n in range(MOST_FILES + 3)])
    assert len(files) == MOST_FILES
    assert sentence.startswith(f"3 of {MOST_FILES + 3} files were left out")
    large = bytes(Limits().bytes + 100)
    files, sentence = admitted([sent("a.png", large)] * 8)
    assert sum(Limits().bytes + 100 for _ in files) <= MOST_BYTES
    assert all(len(data) == Limits().bytes + 1 for _, data in files)
    assert sentence
    assert admitted([sent("a.png", b"x")]) == ([("a.png", b"x")], "")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../e.png", "e.png"), ("C:\\x\\e.png", "x/e.png"), ("a\0b\n.png", "ab.png"),
        ("\u202egnp.exe", "gnp.exe"), ("x" * 4_096, "x" * 33 + "…" + "x" * 66),
        ("good/0001.png", "good/0001.png"), ("..", "unnamed"), ("/", "unnamed"),
        ("", "unnamed"),
    ],
)  # fmt: skip
def test_a_name_is_text_and_no_path(name: str, shown: str) -> None:
    assert display_name(name) == shown


def test_names_that_differ_stay_different() -> None:
    long = [f"{part}/{'x' * 200}/{n}.png" for part in ("good", "bad") for n in range(3)]
    raw = ["good/0.png", "bad/0.png", "0.png", "0.png", "0.png", "0.png (2)", *long, *long]
    shown = display_names(raw)
    assert shown[:6] == ["good/0.png", "bad/0.png", "0.png", "0.png (2)", "0.png (3)",
                         "0.png (2) (2)"]  # fmt: skip
    assert len(set(shown)) == len(raw)
    assert [name for name, _ in admitted([sent(one, b"x") for one in raw])[0]] == shown


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["good/0.png"], ["0.png"]),
        (["good/a/0.png", "good/b/0.png"], ["a/0.png", "b/0.png"]),
        (["good/0.png", "bad/0.png"], ["good/0.png", "bad/0.png"]),
        (["good/0.png", "0.png"], ["good/0.png", "0.png"]),
        (["0.png"], ["0.png"]),
    ],
)
def test_names_begin_below_what_holds_every_file(names, shown) -> None:
    assert [name for name, _ in admitted([sent(one, b"x") for one in names])[0]] == shown


def test_a_drawing_is_the_bytes_of_a_data_url() -> None:
    url = "data:image/png;base64," + base64.b64encode(b"\x89PNG and so on").decode()
    assert drawn_png(url) == b"\x89PNG and so on"


@pytest.mark.parametrize(
    "forged",
    [
        None, "", 7, {"png": 1}, "data:image/png;base64,", "data:image/png;base64,%%%",
        "data:text/html;base64,eA==", "file:///etc/passwd",
        "data:image/png;base64," + "A" * 12_000_000,
    ],
)  # fmt: skip
def test_whatever_else_a_browser_sends_is_no_drawing(forged: object) -> None:
    assert drawn_png(forged) is None


def test_results_come_in_parts_and_the_same_bytes_once(checkpoint, monkeypatch) -> None:
    from vae.ui.scoring import batches

    calls = []
    original = batches.score_bytes

    def counted(model, named, settings):  # noqa: ANN001, ANN202
        calls.append(len(named))
        return original(model, named, settings)

    monkeypatch.setattr(batches, "score_bytes", counted)
    files = [(f"{n}.png", f"junk {n % 10}".encode()) for n in range(100)]
    states = [
        len(state) for state in score_in_parts(checkpoint("digits-2d"), files, ScoreSettings())
    ]
    assert sum(calls) == 10
    assert states == sorted(states)
    assert len(states) > 1
    assert states[-1] == 100


def test_the_calls_leave_out_what_is_usual() -> None:
    usual = ScoreSettings()
    assert command_line("m", usual) == "python -m vae score m PATH --json"
    fast = ScoreSettings(evidence=False)
    assert command_line("m", fast) == "python -m vae score m PATH --no-evidence --json"
    # The command line computes an exact log p(x) unless told not to, the server only if asked.
    call = curl_call("http://localhost:1", "m", usual, [])
    assert call == "curl -F file=@PATH 'http://localhost:1/api/score?model=m&evidence=1'"
    call = curl_call("http://localhost:1", "m", fast, ["a.png", "b c.png", "$(x).png"])
    assert call == "curl -F file=@a.png 'http://localhost:1/api/score?model=m'"
    many = curl_call("http://localhost:1", "m", ScoreSettings(seed=5, evidence=False), ["$(x)"])
    assert many == "curl -F file=@PATH 'http://localhost:1/api/score?model=m&seed=5'"

"""The benchmark of the plane: its words, and one small run."""

import json

import pytest
from browser import CHROMIUM

from vae.cli.main import main


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--points", "0"], "--points must lie in 1..2000000."),
        (["--port", "0"], "--port must lie in 1..65535, not 0."),
    ],
)
def test_a_wrong_value_is_named(capsys, arguments, sentence):
    assert main(["bench", "plane", *arguments]) == 2
    assert sentence in capsys.readouterr().err


def test_the_benchmark_stands_in_the_list(capsys):
    assert main(["bench", "--help"]) == 0
    assert "plane" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_nothing_is_asked_of_the_server_while_a_hand_moves(capsys):
    assert main(["bench", "plane", "--points", "3000", "--json"]) == 0
    measures = {one["name"]: one["value"] for one in json.loads(capsys.readouterr().out)}
    for model in ("digits-2d", "digits-2d-3000"):
        for gesture in ("hover", "pan"):
            assert measures[f"{model}: {gesture}, messages to or from the server"] == 0
            assert measures[f"{model}: {gesture}, median frame"] > 0

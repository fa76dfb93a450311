"""The benchmarks: their list, what they refuse, and a small run of each kind."""

import json

import pytest
from bench import bound, many_machines, plane, score, train
from bench.__main__ import BENCHMARKS, main
from browser import CHROMIUM

import vae


def test_the_list_has_a_line_for_each(capsys):
    main([])
    listed = capsys.readouterr().out
    for name, benchmark in BENCHMARKS.items():
        assert f"\n  {name} " in listed and benchmark.TEXT in listed
    with pytest.raises(SystemExit, match="'scoer'; choose one of: train, score, bound"):
        main(["scoer"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("train --turns 2", "at least 3 turns"),
        ("train --batch 0", "at least 1 image"),
        ("score --files 10", "--files takes at least"),
        ("many_machines --files 0", "take at least 1"),
        ("bound --turns 0", "must be at least 1"),
        ("plane --points 0", "--points must lie in 1..2000000."),
        ("film --turns 0", "--turns must be at least 1"),
        ("screens --screens cellar", "there is no screen 'cellar'"),
    ],
)
def test_a_wrong_value_is_named(arguments, sentence):
    with pytest.raises(SystemExit, match=sentence):
        main(arguments.split())


def test_training_is_measured_against_two_loops(capsys):
    flags = ["--network", "mlp", "--turns", "3", "--steps", "4", "--no-fast", "--device", "cpu"]
    train.run([*flags, "--json"])
    ratios = json.loads(capsys.readouterr().out)
    assert [(one["loop"], one["against"]) for one in ratios] == [
        ("ours, float32", "bare"),
        ("ours, float32", "conventional"),
    ]
    assert all(0 < one["low"] <= one["median"] <= one["high"] for one in ratios)


def test_the_bound_is_measured_against_a_plain_loop(capsys):
    flags = ["--importance-samples", "20", "--images", "2", "--turns", "2"]
    bound.run([*flags, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["importance_samples"] == 20 and len(found["ratios"]) == 2
    assert found["images_per_second"] > 0 and found["minutes_for_10000"] > 0


def test_the_plain_loop_computes_the_same_bound(checkpoint):
    model = checkpoint("digits-binary-2d")
    levels = model.reference.levels[:4]
    naive = bound.naive_bounds(model.model, levels, 2_000, rows=300)
    x = model.config.image.from_levels(levels)
    for value, row in zip(naive.tolist(), vae.score(model, x), strict=True):
        assert value == pytest.approx(row.log_evidence, abs=0.3)


@pytest.mark.slow
def test_scoring_is_measured_against_plain_loops(capsys):
    score.run("--files 3072 --rounds 1 --images 16 --memory-draws 2".split())
    printed = capsys.readouterr().out
    assert printed.count("(aim") == 4 and "ours / decode, then forward" in printed


@pytest.mark.slow
def test_engines_find_the_same_rows(capsys):
    many_machines.run("--files 1200 --photographs 60".split())
    printed = capsys.readouterr().out
    assert printed.count("torchrun") == 2 and "OTHER ROWS" not in printed
    assert printed.count("the same rows") + printed.count("is not installed") == 8


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_nothing_is_asked_of_the_server_while_a_hand_moves(capsys):
    plane.run(["--points", "3000", "--json"])
    measures = {one["name"]: one["value"] for one in json.loads(capsys.readouterr().out)}
    for model in ("digits-2d", "digits-2d-3000"):
        for gesture in ("hover", "pan"):
            assert measures[f"{model}: {gesture}, messages to or from the server"] == 0
            assert measures[f"{model}: {gesture}, median frame"] > 0

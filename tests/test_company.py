"""Threads that wait politely in company: when, that it works, and that nothing is left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vae.cli import company as module
from vae.cli.company import Company, considerate, seconds_waited
from vae.cli.main import main
from vae.data.bulk import cores

ROOT = Path(__file__).parents[1]
tells = pytest.mark.skipif(seconds_waited() is None, reason="the system doesn't tell who waited")


class Door:
    """Counts those who were let in and out."""

    def __init__(self) -> None:
        self.came = self.left = 0

    def __call__(self):
        self.came += 1
        return self.leave

    def leave(self) -> None:
        self.left += 1


def test_guests_come_in_company_and_leave_when_it_has_long_been_calm() -> None:
    door = Door()
    company = Company(door)
    for _ in range(100):
        company.look(0.2, 0.25)
    assert not company.polite and door.came == 0
    company.look(0.9, 0.25)
    company.look(0.9, 0.25)
    assert company.polite and door.came == 1
    # Seven quarters of a second are no two seconds, and any stir starts them anew.
    for _ in range(3):
        for _ in range(7):
            company.look(0.0, 0.25)
        company.look(0.2, 0.25)
    assert company.polite and door.left == 0
    for _ in range(8):
        company.look(0.0, 0.25)
    assert not company.polite and door.left == 1


def test_who_comes_back_is_waited_for_longer_each_time() -> None:
    company, waits = Company(Door()), []
    for _ in range(8):
        company.look(1.0, 1.0)
        seconds = 0
        while company.polite:
            company.look(0.0, 1.0)
            seconds += 1
        waits.append(seconds)
    assert waits == [2, 4, 8, 16, 32, 60, 60, 60]


def test_who_parts_sends_the_guests_away() -> None:
    door = Door()
    company = Company(door)
    company.part()
    assert door.left == 0
    company.look(1.0, 0.25)
    company.part()
    company.part()
    assert not company.polite and door.left == 1


@tells
def test_waiting_for_a_core_is_seen() -> None:
    # Two programs that share one core: each waits about half of the time.
    script = """
import os, subprocess, sys, time
from vae.cli.company import seconds_waited
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
spin = "import time\\nend = time.time() + 20\\nwhile time.time() < end: pass"
other = subprocess.Popen([sys.executable, "-c", spin])
try:
    time.sleep(0.3)
    before, end = seconds_waited(), time.time() + 1
    while time.time() < end:
        pass
    print(seconds_waited() - before)
finally:
    other.kill()
    other.wait()
"""
    assert float(_answer(script)) > 0.2


@tells
@pytest.mark.skipif(cores() < 2, reason="one core has no teams")
def test_guests_make_waiting_threads_sleep() -> None:
    # Times are no matter: a thread that spins doesn't give up its core of its own will.
    script = """
import json, os, torch
from contextlib import suppress
from vae.cli.company import _guests
def slept():
    count = 0
    for thread in os.listdir("/proc/self/task"):
        with suppress(FileNotFoundError, ProcessLookupError):
            text = open(f"/proc/self/task/{thread}/status").read()
            count += int(text.split("\\nvoluntary_ctxt_switches:")[1].split()[0])
    return count
values = torch.zeros(2**17)
def steps(count):
    for _ in range(count):
        values.add_(1)
def sleeps():
    steps(20)
    before = slept()
    steps(300)
    return slept() - before
torch.set_num_threads(2)
first = sleeps()
dismiss = _guests()
polite = sleeps()
dismiss()
print(json.dumps([first, polite, sleeps(), values.unique().tolist()]))
"""
    first, polite, last, values = json.loads(_answer(script))
    if "libgomp" not in _answer("import torch; print(open('/proc/self/maps').read())"):
        pytest.skip("this torch uses another OpenMP")
    assert polite > 100
    assert max(first, last) < polite / 3
    # What was computed is what would have been.
    assert values == [960.0]


def test_nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = threading.Event()
    monkeypatch.setattr(module, "_EVERY", 0.001)
    monkeypatch.setattr(Company, "look", lambda self, share, seconds: looked.set())
    before = threading.active_count()
    with considerate():
        assert seconds_waited() is None or looked.wait(20)
    assert threading.active_count() == before
    with pytest.raises(SystemExit):
        main(["data", "--help"])
    assert threading.active_count() == before


def test_a_system_that_does_not_tell_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "seconds_waited", lambda: None)
    before = threading.active_count()
    with considerate():
        assert threading.active_count() == before


def _answer(script: str) -> str:
    environment = {
        key: value for key, value in os.environ.items()
        if key not in ("GOMP_SPINCOUNT", "OMP_NUM_THREADS", "OMP_WAIT_POLICY")
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout

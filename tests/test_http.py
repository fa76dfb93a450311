"""The HTTP interface, against a real server process on 127.0.0.1."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np
import pytest
from browser import app_process, running_app

import vae
from vae.data.images.encoding import encode_png, to_image
from vae.store.checkpoint import Checkpoint
from vae.ui.server.routes import MOST_AT_WORK
from vae.ui.uploads import MOST_BYTES, MOST_FILES

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def port():
    with running_app() as address:
        yield urlsplit(address).port


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    document: object


def ask(port, method, path, body=None, headers=None) -> Answer:
    connection = http.client.HTTPConnection("localhost", port, timeout=60)
    connection.request(method, path, body, headers or {})
    response = connection.getresponse()
    document = json.loads(response.read())
    connection.close()
    return Answer(response.status, response.headers, document)


def multipart(files, fields=()):
    parts = [
        b'--frontier\r\nContent-Disposition: form-data; name="%b"; filename="%b"\r\n\r\n%b\r\n'
        % (b"file", name.encode(), data)
        for name, data in files
    ]
    parts += [
        b'--frontier\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (name, value)
        for name, value in fields
    ]
    return b"".join(parts) + b"--frontier--\r\n"


TYPE = {"Content-Type": "multipart/form-data; boundary=frontier"}


def send(port, files, query="model=digits-2d", **headers) -> Answer:
    return ask(port, "POST", f"/api/score?{query}", multipart(files), {**TYPE, **headers})


def png_of(model: Checkpoint, sample: int) -> bytes:
    image = model.config.image
    return encode_png(to_image(model.reference.levels[sample], image))


@pytest.mark.parametrize("name", ["digits-2d", "digits-10d"])
def test_a_reference_image_has_its_stored_score_alone_and_among_others(
    port, checkpoint, name
) -> None:
    model = checkpoint(name)
    reference = model.reference
    names = [(f"{n}.png", png_of(model, n)) for n in range(20, 32)]
    many = send(port, names, f"model={name}")
    assert many.status == 200
    assert [row["name"] for row in many.document] == [one for one, _ in names]
    found = np.array([row["elbo"] for row in many.document])
    expected = reference.elbo[20:32]
    assert (np.abs(found - expected) <= np.maximum(1e-4, 1e-6 * np.abs(expected))).all()
    (alone,) = send(port, names[:1], f"model={name}").document
    assert alone == many.document[0]


def test_the_row_is_that_of_python(port, checkpoint) -> None:
    model = checkpoint("digits-10d")
    query = "model=digits-10d&draws=16&importance_samples=50&seed=3"
    (row,) = send(port, [("a.png", png_of(model, 7))], query).document
    x = model.config.image.from_levels(model.reference.levels[7:8])
    (mine,) = vae.score(model, x, names=["a.png"], draws=16, importance_samples=50, seed=3)
    assert list(row) == list(mine._fields)
    for field, value in mine._asdict().items():
        if isinstance(value, float):
            assert row[field] == pytest.approx(value, abs=1e-4, rel=1e-6), field
        elif field == "kl_per_dim":
            assert row[field] == pytest.approx(value, abs=1e-4)
        else:
            assert row[field] == value, field


def test_the_exact_evidence_is_given_to_whoever_asks(port, checkpoint) -> None:
    model = checkpoint("digits-2d")
    files = [(f"{n}.png", png_of(model, n)) for n in (7, 8)]
    assert [row["log_evidence"] for row in send(port, files).document] == [None, None]
    rows = send(port, files, "model=digits-2d&evidence=1").document
    known = model.reference.log_evidence[7:9]
    assert [row["log_evidence"] for row in rows] == pytest.approx(known, abs=1e-3)
    assert send(port, files, "model=digits-2d&evidence=2").status == 400
    (row,) = send(port, files[:1], "model=digits-10d&evidence=1").document
    assert row["log_evidence"] is None


def test_the_clock_is_read_before_each_image(monkeypatch) -> None:
    from vae.ui import access
    from vae.ui.server import routes

    model, clock = SimpleNamespace(), iter(range(10))
    monkeypatch.setattr(access, "checkpoint", lambda name: model)
    monkeypatch.setattr(routes, "calibration_of", lambda *_: None)
    monkeypatch.setattr(routes, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    taken = []

    def score(model, named, settings):  # noqa: ANN001, ANN202
        taken.append([name for name, _ in named])
        return [SimpleNamespace(row=None)]

    monkeypatch.setattr(routes, "score_bytes", score)
    options = routes._options({"model": "mine", "evidence": "1"})
    with pytest.raises(routes._Refusal, match="Only 3 of 5 files were scored in time"):
        routes._rows(options, [(str(n), b"") for n in range(5)], deadline=2)
    assert taken == [["0"], ["1"], ["2"]]


def test_the_answer_carries_the_verdict(port, checkpoint) -> None:
    blank = encode_png(np.zeros((64, 64), np.uint8))
    (row,) = send(port, [("blank.png", blank)], "model=sprites-10d").document
    assert row["verdict"] == "suspiciously_easy" and row["p_value"] == 1
    (row,) = send(port, [("digit.png", png_of(checkpoint("digits-2d"), 5))]).document
    assert row["verdict"] == "ordinary"
    noise = np.random.default_rng(0).integers(0, 255, (8, 8)).astype(np.uint8)
    rows = send(port, [("noise.png", encode_png(noise)), ("text.png", b"text")]).document
    assert [row["verdict"] for row in rows] == ["flagged", None]


def test_refused_files_are_rows_and_names_do_no_harm(port, checkpoint) -> None:
    good = png_of(checkpoint("digits-2d"), 7)
    big = b"\x89PNG" + bytes(5 * 2**20)
    files = [("x.png", b"junk"), ("../../etc/passwd", good), ("big.png", big), ("", b"")]
    answer = send(port, files)
    assert answer.status == 200
    assert [row["error_code"] for row in answer.document] == [
        "E-IMG-03", None, "E-IMG-02", "E-IMG-01",
    ]  # fmt: skip
    assert answer.document[1]["name"] == "etc/passwd"
    assert answer.document[0]["elbo"] is None
    assert answer.document[0]["error"].endswith(".")


def test_the_list_of_models_is_that_of_the_folder(port) -> None:
    answer = ask(port, "GET", "/api/models")
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "no-store"
    names = {path.parent.name for path in ROOT.glob("checkpoints/*/manifest.json")}
    assert {one["name"] for one in answer.document} == names
    (digits,) = (one for one in answer.document if one["name"] == "digits-2d")
    assert digits["image"] == {"channels": 1, "height": 8, "width": 8, "levels": 17}
    assert digits["calibration_images"] == 499


def test_the_first_screen_by_its_name_leads_to_the_root(port) -> None:
    connection = http.client.HTTPConnection("localhost", port, timeout=60)
    connection.request("GET", "/overview?model=digits-10d&sample=3")
    response = connection.getresponse()
    connection.close()
    assert response.status == 307
    assert response.headers["Location"] == "./?model=digits-10d&sample=3"


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/api/score?model=digits-2d", 405, "E-HTTP-04"),
        ("PUT", "/api/score?model=digits-2d", 405, "E-HTTP-04"),
        ("POST", "/api/models", 405, "E-HTTP-04"),
        ("GET", "/api", 404, "E-HTTP-03"),
        ("GET", "/api/", 404, "E-HTTP-03"),
        ("GET", "/api/nothing/at/all", 404, "E-HTTP-03"),
        ("POST", "/api/score/x?model=digits-2d", 404, "E-HTTP-03"),
        ("POST", "/api/score?model=digits-2d", 415, "E-HTTP-06"),
        ("POST", "/api/score", 400, "E-HTTP-01"),
        ("POST", "/api/score?model=digits-2d&draws=0", 400, "E-HTTP-01"),
        ("POST", "/api/score?model=digits-2d&draws=1e9", 400, "E-HTTP-01"),
        ("POST", "/api/score?model=digits-2d&draws=" + "9" * 5_000, 400, "E-HTTP-01"),
        ("POST", "/api/score?model=digits-2d&importance_samples=9999999", 400, "E-HTTP-01"),
        ("POST", "/api/score?model=digits-2d&seed=-1", 400, "E-HTTP-01"),
        ("POST", "/api/score?model=digits-2d&seed=%C2%B2", 400, "E-HTTP-01"),
        ("POST", "/api/score?model=digits-2d&invert=maybe", 400, "E-HTTP-01"),
        ("POST", "/api/score?model=digits-2d&fit=stretch", 400, "E-HTTP-01"),
        ("POST", "/api/score?model=digits-2d&path=/etc", 400, "E-HTTP-01"),
    ],
)
def test_a_wrong_request_is_answered_in_json(port, method, path, status, code) -> None:
    answer = ask(port, method, path)
    assert (answer.status, answer.document["error_code"]) == (status, code)
    assert answer.document["error"].endswith(".")
    assert len(answer.document["error"]) < 300
    if status == 405:
        assert answer.headers["Allow"] in ("GET", "POST")


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("model=../../etc/passwd", "E-CKPT-01"),
        ("model=no-such-model", "E-CKPT-01"),
        ("model=digits-2d&calibration=../digits-10d", "E-CKPT-09"),
    ],
)
def test_what_is_not_there_is_named(port, checkpoint, query, code) -> None:
    answer = send(port, [("a.png", png_of(checkpoint("digits-2d"), 1))], query)
    assert (answer.status, answer.document["error_code"]) == (404, code)


@pytest.mark.parametrize(
    "body",
    [b"", b"nothing", b"--frontier\r\n", multipart([]), multipart([], [(b"draws", b"5")]),
     multipart([])[:-6], b"--frontier\r\n\r\nx\r\n--frontier--\r\n"],
)  # fmt: skip
def test_a_body_without_files_is_refused(port, body) -> None:
    answer = ask(port, "POST", "/api/score?model=digits-2d", body, TYPE)
    assert (answer.status, answer.document["error_code"]) == (400, "E-HTTP-01")


def test_a_type_without_boundary_is_refused(port) -> None:
    answer = ask(
        port, "POST", "/api/score?model=digits-2d", b"x", {"Content-Type": "multipart/form-data"}
    )
    assert (answer.status, answer.document["error_code"]) == (400, "E-HTTP-01")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://example.org"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:1"}, 403),
        ({"Host": "example.org"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "[broken"}, 403),
        ({"Host": "127.0.0.1"}, 200),
    ],
)
def test_other_sites_and_other_names_are_refused(port, headers, status) -> None:
    answer = ask(port, "GET", "/api/models", headers=headers)
    assert answer.status == status
    if status == 403:
        assert answer.document["error_code"] == "E-HTTP-02"


def test_the_apps_own_pages_may_call(port) -> None:
    headers = {"Origin": f"http://localhost:{port}"}
    assert ask(port, "GET", "/api/models", headers=headers).status == 200


def test_too_many_files_are_refused(port) -> None:
    files = [(f"{n}.png", b"junk") for n in range(MOST_FILES + 1)]
    answer = send(port, files)
    assert (answer.status, answer.document["error_code"]) == (413, "E-HTTP-05")
    assert send(port, files[:-1]).status == 200


def test_a_body_that_declares_too_much_is_refused_before_it_is_read(port) -> None:
    with socket.create_connection(("localhost", port), timeout=30) as wire:
        wire.sendall(
            b"POST /api/score?model=digits-2d HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: multipart/form-data; boundary=frontier\r\n"
            b"Content-Length: 99999999999\r\n\r\n"
        )
        assert wire.recv(4_096).startswith(b"HTTP/1.1 413")


def test_a_chunked_body_is_cut_off_at_the_limit(port) -> None:
    """Without a declared length the bytes are counted as they arrive."""
    chunk = bytes(2**20)
    sent = 0
    with socket.create_connection(("localhost", port), timeout=30) as wire:
        wire.sendall(
            b"POST /api/score?model=digits-2d HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: multipart/form-data; boundary=frontier\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        head = b'--frontier\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n'
        try:
            wire.sendall(b"%x\r\n%b\r\n" % (len(head), head))
            while sent < 4 * MOST_BYTES:
                wire.sendall(b"%x\r\n%b\r\n" % (len(chunk), chunk))
                sent += len(chunk)
        except OSError:
            pass
        answer = wire.recv(4_096) if sent == 4 * MOST_BYTES else b""
    assert sent < 4 * MOST_BYTES or answer.startswith(b"HTTP/1.1 413")
    assert ask(port, "GET", "/api/models").status == 200


def test_a_burst_is_bounded_and_the_screens_go_on(port, checkpoint) -> None:
    """More requests than there are places: the rest is sent away at once, none fails."""
    files = [(f"{n}.png", png_of(checkpoint("digits-2d"), n)) for n in range(2)]
    with concurrent.futures.ThreadPoolExecutor(4 * MOST_AT_WORK) as pool:
        burst = [pool.submit(send, port, files) for _ in range(4 * MOST_AT_WORK)]
        health = []
        while not all(one.done() for one in burst):
            with urllib.request.urlopen(
                f"http://localhost:{port}/_stcore/health", timeout=30
            ) as response:
                health.append(response.status)
        answers = [one.result() for one in burst]
    assert set(health) == {200}
    served = [one for one in answers if one.status == 200]
    turned_away = [one for one in answers if one.status == 503]
    assert len(served) + len(turned_away) == len(answers)
    assert turned_away and len(served) >= MOST_AT_WORK
    assert all(int(one.headers["Retry-After"]) > 0 for one in turned_away)
    assert {one.document["error_code"] for one in turned_away} == {"E-HTTP-08"}
    assert all(one.document == served[0].document for one in served)
    # Every place is free again.
    assert send(port, files[:1]).status == 200


def test_requests_that_break_off_leave_their_places(port) -> None:
    for _ in range(2 * MOST_AT_WORK):
        with socket.create_connection(("localhost", port), timeout=30) as wire:
            wire.sendall(
                b"POST /api/score?model=digits-2d HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: multipart/form-data; boundary=frontier\r\n"
                b"Content-Length: 5000\r\n\r\n--frontier\r\n"
            )
    deadline = time.monotonic() + 20
    while (answer := send(port, [("x", b"junk")])).status == 503 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert answer.status == 200


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_command_ends_the_server(number) -> None:
    """As systemd, a container or a closed terminal stop it."""
    with contextlib.ExitStack() as stack:
        # What tests ignore that run under nohup or in the background, their child would as well.
        before = signal.signal(number, signal.SIG_DFL)
        try:
            address, process = stack.enter_context(app_process())
        finally:
            signal.signal(number, before)
        port = urlsplit(address).port
        assert ask(port, "GET", "/api/models").status == 200
        process.send_signal(number)
        process.wait(timeout=30)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))  # refused while anybody listens
        # Neither the server nor a helper is left of the session that was started for them.
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)


def test_below_a_path_of_its_own(checkpoint) -> None:
    with running_app(base="/elbo") as address:
        port = urlsplit(address).port
        assert ask(port, "GET", "/elbo/api/models").status == 200
        body = multipart([("a.png", png_of(checkpoint("digits-2d"), 7))])
        (row,) = ask(port, "POST", "/elbo/api/score?model=digits-2d", body, TYPE).document
        expected = checkpoint("digits-2d").reference.elbo[7]
        assert row["elbo"] == pytest.approx(expected, abs=1e-4, rel=1e-6)
        for method in ("GET", "POST"):
            answer = ask(port, method, "/elbo/api/nothing")
            assert (answer.status, answer.document["error_code"]) == (404, "E-HTTP-03")
        # What lies beside the path belongs to somebody else.
        for path in ("/api/models", "/", "/score_images", "/elbow/api/models"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(f"http://localhost:{port}{path}")
            assert refused.value.code == 404
            refused.value.close()


@pytest.fixture(scope="module")
def strangers_port(tmp_path_factory):
    """A server over a model of a folder, and three that cannot be used."""
    root = tmp_path_factory.mktemp("secret") / "checkpoints"
    for name in ("mine", "no-card", "no-weights", "no-manifest"):
        shutil.copytree(ROOT / "checkpoints" / "digits-2d", root / name)
    images = root.parent / "cats"
    command = f"{sys.executable} -m vae train --data folder:{images} --out={root / 'mine'}"
    place_data(root / "mine", images, command)
    change_manifest(root / "no-card", lambda manifest: manifest.pop("card"))
    (root / "no-weights" / "model.safetensors").unlink()
    (root / "no-manifest" / "manifest.json").unlink()
    (root / "no-manifest" / "manifest.json").symlink_to(root / "nowhere")
    with running_app("--checkpoints", str(root), "--folders", str(root)) as address:
        yield urlsplit(address).port


def change_manifest(path: Path, change) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


def place_data(path: Path, images: Path, command: str) -> None:
    def change(manifest: dict) -> None:
        manifest["data"]["name"] = f"folder:{images}"
        manifest["command"] = command

    change_manifest(path, change)


def test_one_damaged_model_does_not_hide_the_others(strangers_port) -> None:
    answer = ask(strangers_port, "GET", "/api/models")
    assert answer.status == 200
    found = {one["name"]: one for one in answer.document}
    assert set(found) == {"mine", "no-card", "no-weights", "no-manifest"}
    assert found["mine"]["data"] == "folder cats" and "error" not in found["mine"]
    assert found["no-card"]["error"] == (
        "The manifest of 'no-card' lacks 'title' in 'card'. (E-CKPT-04)"
    )
    assert "(E-CKPT-02)" in found["no-weights"]["error"]
    assert "(E-CKPT-02)" in found["no-manifest"]["error"]


def test_paths_of_the_servers_disk_never_leave_it(strangers_port, checkpoint) -> None:
    files = [("a.png", png_of(checkpoint("digits-2d"), 7))]
    answers = [ask(strangers_port, "GET", "/api/models")]
    names = ("mine", "no-card", "no-weights", "no-manifest", "nothing", "../secret")
    answers += [send(strangers_port, files, f"model={name}") for name in names]
    answers.append(send(strangers_port, files, "model=mine&calibration=../secret"))
    assert [one.status for one in answers] == [200, 200, *[404] * 6]
    for answer in answers:
        text = json.dumps(answer.document).replace("../secret", "")
        assert "secret" not in text and str(ROOT) not in text

"""The HTTP interface on the app's own server: ``POST /api/score`` and ``GET /api/models``.

The rows are those of the command line and the downloads, with the same error codes. Streamlit's
limits and checks do not reach these routes, so everything is enforced here: who may call, the size
while it arrives, the number of requests at work. One request is scored at a time, in a thread of
its own, and a few may wait; a burst beyond that is sent away with 503 and cannot take the
processor or the memory from the screens.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple, get_args, get_type_hints
from urllib.parse import urlsplit

import anyio
import streamlit as st
from starlette.datastructures import Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.middleware import Middleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from vae.data.images.adaptation import Adaptation
from vae.data.images.decoding import Limits
from vae.elbo.expectation import DRAWS
from vae.scoring.calibration_sets import calibration_of, calibrations
from vae.scoring.files import score_bytes
from vae.scoring.rows import ScoreRow, to_json
from vae.scoring.scorer import ScoreSettings
from vae.store.contents import CheckpointError
from vae.ui.links import base_path
from vae.ui.uploads import MOST_BYTES, MOST_FILES, display_names

__all__ = ["MOST_AT_WORK", "routes"]

MOST_AT_WORK = 4
_MOST_BUFFERED = 2 * MOST_BYTES  # bytes of all requests that are in memory at once
_MOST_IN_A_BODY = MOST_BYTES + 64 * 1024  # its files, with boundaries and headers
_BODY_SECONDS = 30.0
_WAIT_SECONDS = 30.0
_SCORE_SECONDS = 60.0
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

_log = logging.getLogger("elboscope")

# Stable, like the codes of images and checkpoints: a number is never given a second meaning.
_STATUS = {
    "E-HTTP-01": 400,  # a parameter or the body cannot be understood
    "E-HTTP-02": 403,  # asked by another site, or under a name that this server doesn't answer to
    "E-HTTP-03": 404,  # no such address
    "E-HTTP-04": 405,  # not with this method
    "E-HTTP-05": 413,  # too many files or bytes
    "E-HTTP-06": 415,  # not multipart
    "E-HTTP-07": 408,  # the files came too slowly
    "E-HTTP-08": 503,  # too much to do; come back
    "E-APP-01": 500,
}


def routes() -> list[BaseRoute]:
    """The routes of the interface; everything else below ``/api`` is answered 404 in JSON.

    Streamlit puts its own routes below ``server.baseUrlPath``, and an app's own as they are given.
    """
    score = _Scoring().answer
    answers = [
        *(Route(path, score, methods=["POST"]) for path in ("/score", "/score/")),
        *(Route(path, _models, methods=["GET"]) for path in ("/models", "/models/")),
    ]
    for route in answers:
        route.methods.discard("HEAD")  # which Starlette adds to GET
    checks = [Middleware(ExceptionMiddleware, _HANDLERS), Middleware(_CallerCheck)]
    interface, base = Router(answers, redirect_slashes=False, middleware=checks), base_path()
    return [
        Route(f"{base}/api", interface),
        Mount(f"{base}/api", interface),
        # Streamlit knows the first screen by the root alone, and calls its name a page not found.
        Route(f"{base}/overview", _to_the_root),
    ]


async def _to_the_root(request: Request) -> Response:
    # Relative, for an app below a path of its own.
    return RedirectResponse(f"./?{request.url.query}")


def _json(document: object, status: int = 200, **headers: str) -> Response:
    body = json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    return Response(body, status, _HEADERS | headers, "application/json")


# -- refusals -------------------------------------------------------------------------------------


class _Refusal(Exception):
    """What a request is answered with instead of rows."""

    def __init__(self, code: str, sentence: str, status: int = 0, **headers: str) -> None:
        super().__init__(sentence)
        self.code, self.status = code, status or _STATUS[code]
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


async def _refused(request: Request, refusal: _Refusal) -> Response:
    document = {"error_code": refusal.code, "error": str(refusal)}
    return _json(document, refusal.status, **refusal.headers)


async def _not_routed(request: Request, error: HTTPException) -> Response:
    if error.status_code == 404:
        sentence = "There is no such address; use POST /api/score or GET /api/models."
        return await _refused(request, _Refusal("E-HTTP-03", sentence))
    path, method = request.scope["route"].path.rstrip("/"), error.headers["Allow"]
    sentence = f"/api{path} answers {method}, not {request.method[:20]}."
    return await _refused(request, _Refusal("E-HTTP-04", sentence, Allow=method))


async def _unforeseen(request: Request, error: Exception) -> Response:
    number = secrets.token_hex(3).upper()
    _log.error("error %s in the HTTP interface", number, exc_info=error)
    sentence = f"The server met an error that nobody foresaw; its log has it as {number}."
    return await _refused(request, _Refusal("E-APP-01", sentence))


async def _gone(request: Request, error: ClientDisconnect) -> None:
    """Nobody is left to be answered."""


_HANDLERS = {
    _Refusal: _refused,
    HTTPException: _not_routed,
    ClientDisconnect: _gone,
    Exception: _unforeseen,
}


class _CallerCheck:
    """Refuses other sites, and names that don't belong to this server (DNS rebinding)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        allowed = [one.strip().lower() for one in st.get_option("server.allowedHosts") or ["*"]]
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            name = ""
        if not name or not any(
            one in (name, "*") or (one.startswith("*.") and name.endswith(one[1:]))
            for one in allowed
        ):
            raise _Refusal("E-HTTP-02", "This server doesn't answer to that host name.")
        # A browser names the page's site with every POST; the app's own pages have the same host.
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            raise _Refusal("E-HTTP-02", "Pages of another site may not call this server.")
        await self._app(scope, receive, send)


def _busy(retry_after: int) -> _Refusal:
    return _Refusal("E-HTTP-08", "The server is busy; try again.", Retry_After=str(retry_after))


def _too_large() -> _Refusal:
    sentence = (
        f"Send at most {MOST_FILES} files and {MOST_BYTES // 2**20} MB at once; for more, use "
        "the command line."
    )
    return _Refusal("E-HTTP-05", sentence, Connection="close")


# -- POST /api/score ------------------------------------------------------------------------------


class _Scoring:
    """Answers requests for scores, within the limits that they share."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(MOST_AT_WORK)
        # One request at a time: two would only take turns on the same cores.
        self._turn = asyncio.Lock()
        self._buffered = 0

    async def answer(self, request: Request) -> Response:
        options = _options(request.query_params)
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            raise _Refusal("E-HTTP-06", "Send the files as multipart/form-data.")
        declared = request.headers.get("content-length", "0")
        if declared.isdecimal() and len(declared) < 20 and int(declared) > _MOST_IN_A_BODY:
            raise _too_large()
        if self._places.locked():
            raise _busy(2)
        arrived = 0

        async def counted() -> AsyncIterator[bytes]:
            nonlocal arrived
            async for chunk in request.stream():
                arrived += len(chunk)
                self._buffered += len(chunk)
                if arrived > _MOST_IN_A_BODY:
                    raise _too_large()
                if self._buffered > _MOST_BUFFERED:
                    raise _busy(2)
                yield chunk

        async with self._places:
            try:
                files = await _files(request.headers, counted())
                rows = await self._rows_in_turn(request, options, files)
            finally:
                self._buffered -= arrived
        return Response(to_json(rows), media_type="application/json", headers=_HEADERS)

    async def _rows_in_turn(
        self, request: Request, options: _Options, files: list[tuple[str, bytes]]
    ) -> list[ScoreRow]:
        try:
            with anyio.fail_after(_WAIT_SECONDS):
                await self._turn.acquire()
        except TimeoutError:
            raise _busy(5) from None
        try:
            if await request.is_disconnected():
                raise ClientDisconnect
            deadline = time.monotonic() + _SCORE_SECONDS
            return await anyio.to_thread.run_sync(_rows, options, files, deadline)
        finally:
            self._turn.release()


class _InMemory(MultiPartParser):
    """Keeps files in memory, whose size is bounded here, instead of on the server's disk."""

    spool_max_size = _MOST_IN_A_BODY + 1


async def _files(headers: Headers, body: AsyncIterator[bytes]) -> list[tuple[str, bytes]]:
    """The names and bytes of the files in a body."""
    try:
        with anyio.fail_after(_BODY_SECONDS):
            form = await _InMemory(headers, body, max_files=MOST_FILES, max_fields=1).parse()
    except TimeoutError:
        raise _Refusal("E-HTTP-07", "The files did not arrive in time.") from None
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise _too_large() from error
        raise _Refusal("E-HTTP-01", "The body is no valid multipart/form-data.") from error
    names, files = [], []
    for name, part in form.multi_items():
        if not isinstance(part, UploadFile):
            sentence = f"{name[:40]!r} is no file; settings belong in the address."
            raise _Refusal("E-HTTP-01", sentence)
        names.append(part.filename or "")
        # One byte above the limit is enough for the reader to refuse the file by name.
        files.append(await part.read(Limits().bytes + 1))
    if not files:
        raise _Refusal("E-HTTP-01", "Send at least one file.")
    return list(zip(display_names(names), files, strict=True))


class _Options(NamedTuple):
    """The query of ``/api/score``."""

    model: str
    settings: ScoreSettings


def _options(query: Mapping[str, str]) -> _Options:
    choices = {name: query.get(name, usual) for name, usual in asdict(Adaptation()).items()}
    known = {*("model", "calibration"), *choices, *_WHOLE}
    if unknown := sorted(set(query) - known):
        sentence = f"{unknown[0][:40]!r} is no parameter; there are {', '.join(sorted(known))}."
        raise _Refusal("E-HTTP-01", sentence)
    if not query.get("model"):
        sentence = "Name a model, as in /api/score?model=NAME; GET /api/models lists them."
        raise _Refusal("E-HTTP-01", sentence)
    for name, kind in get_type_hints(Adaptation).items():
        if choices[name] not in get_args(kind):
            sentence = f"{name} must be one of {', '.join(get_args(kind))}."
            raise _Refusal("E-HTTP-01", sentence)
    settings = ScoreSettings(
        adaptation=Adaptation(**choices),
        calibration=query.get("calibration") or None,
        **{name: kind(_whole(query, name, *limits)) for name, (kind, *limits) in _WHOLE.items()},
    )
    return _Options(query["model"], settings)


# Kind, least, most and usual value of each setting that is a number. The exact log p(x) takes
# thousands of decodings for an image, so it is only for whoever wants it.
_WHOLE = {
    "draws": (int, 1, 4_096, DRAWS),
    "importance_samples": (int, 0, 5_000, 0),
    "seed": (int, 0, 2**32 - 1, 0),
    "evidence": (bool, 0, 1, 0),
}


def _whole(query: Mapping[str, str], name: str, low: int, high: int, usual: int) -> int:
    text = query.get(name, str(usual))
    # Ten digits are enough for every bound, and few enough for int().
    if not (text.isascii() and text.isdecimal() and len(text) <= 10 and low <= int(text) <= high):
        sentence = f"{name} must be a whole number in {low}..{high}, not {text[:20]!r}."
        raise _Refusal("E-HTTP-01", sentence)
    return int(text)


def _rows(options: _Options, files: list[tuple[str, bytes]], deadline: float) -> list[ScoreRow]:
    """Scores files; runs in a thread of its own."""
    # Imported here: cached functions choose their store when they are made, and app.py imports
    # this file before there is a server.
    from vae.ui import access

    try:
        model = access.checkpoint(options.model)
        calibration_of(model, options.settings.calibration)
    except KeyError as error:
        known = ", ".join(access.entries()) or "none"
        sentence = f"There is no model named {options.model[:80]!r}. There are: {known}."
        raise _Refusal("E-CKPT-01", sentence, 404) from error
    except CheckpointError as error:
        raise _Refusal(error.code, error.message, 404) from error
    rows: list[ScoreRow] = []
    # One at a time, so that no image waits for another's evidence before the clock is read.
    for file in files:
        if time.monotonic() > deadline:
            sentence = f"Only {len(rows)} of {len(files)} files were scored in time; send fewer."
            raise _Refusal("E-HTTP-08", sentence, Retry_After="10")
        (scored,) = score_bytes(model, [file], options.settings)
        rows.append(scored.row)
    return rows


# -- GET /api/models ------------------------------------------------------------------------------


async def _models(request: Request) -> Response:
    return _json(await anyio.to_thread.run_sync(_model_list))


def _model_list() -> list[dict[str, Any]]:
    """What a client needs to know of each model; from the manifests, so that none is opened."""
    from vae.ui import access

    found = []
    for name, entry in access.entries().items():
        if entry.card is None:
            found.append({"name": name, "error": entry.damage})
            continue
        card, image = entry.card, entry.card.image
        found.append(
            {
                "name": name,
                "title": card.title,
                "description": card.description,
                "data": card.data.title,
                "image": {
                    key: getattr(image, key) for key in ("channels", "height", "width", "levels")
                },
                "latent_dim": card.latent_dim,
                "likelihood": card.model.likelihood,
                "elbo": card.metrics.elbo,
                "calibration_images": card.data.images["calibration"],
                "calibrations": list(calibrations(entry)),
                "weights_sha256": card.weights_sha256,
            }
        )
    return found

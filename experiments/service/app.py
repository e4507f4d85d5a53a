"""The HTTP interface of an exported model: POST /recommend, GET /health.

    POST /recommend   {"user": 7, "sessions": [[{"item": "i3", "clicked": true}]], "k": 10, "seen": "masked"}
    200               {"user": 7, "items": [...], "scores": [...], "seen_items": "masked", "unknown_items": 0, ...}

A request is a history as `sessionrec recommend` reads it, with two more keys: k (50, or all that the program finds) and
seen ("kept"). An error is {"error": "..."} with 400 (the history cannot be read), 404, 405, 413 (too long), 415 or 503
(too many requests wait).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any, get_args

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from experiments.service.micro_batches import Busy, MicroBatches, Size
from sessionrec_jax.data.windows import Windows
from sessionrec_jax.errors import InputError
from sessionrec_jax.serving.answers import Best, Seen
from sessionrec_jax.serving.batch import HistoryBatch, pack, seen_pairs
from sessionrec_jax.serving.exported import ExportedModel
from sessionrec_jax.serving.histories import Histories, Reader
from sessionrec_jax.serving.limits import newest

_DEFAULT_K = 50
_OWN_KEYS = ("k", "seen")
"""The keys of a request that are not of the history."""


class Service:
    """One model behind HTTP."""

    def __init__(self, model: ExportedModel, size: Size, body_bytes: int):
        """`body_bytes` is the size of a request's body, at most. Compiles every program."""
        self._model, self._size, self._body_bytes = model, size, body_bytes
        self._batches = MicroBatches(model, size)
        empty = self._read({"user": None, "sessions": [], "times": []})
        self._batches.compile(self._one(empty, newest(empty, model.answering.limits), "kept"))

    @property
    def app(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route("/recommend", self._recommend, methods=["POST"]),
                Route("/health", self._health, methods=["GET"]),
            ],
            exception_handlers={HTTPException: _explained, Exception: _failed},
            lifespan=self._running,
        )

    @contextlib.asynccontextmanager
    async def _running(self, _: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(self._batches.run())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _health(self, _: Request) -> Response:
        facts = self._model.facts
        found = {"status": "ok", "model": facts["run_id"], "items": facts["log"]["items"], "k": facts["k"]}
        if self._model.index is None:
            return JSONResponse(found | {"search": "exact"})
        return JSONResponse(found | {"search": "approximate"} | {f"search_{x}": y for x, y in facts["search"].items()})

    async def _recommend(self, request: Request) -> Response:
        asked = _parsed(await self._body(request))
        try:
            own = {name: asked.pop(name) for name in _OWN_KEYS if name in asked}
            k, seen = self._k(own.get("k")), _seen(own.get("seen", "kept"))
            histories = self._read(asked)
            recent = newest(histories, self._model.answering.limits)
        except InputError as error:
            raise HTTPException(400, str(error)) from None
        best: list[Best] = []
        one = self._one(histories, recent, seen)
        if one.sessions_GB[0]:
            try:
                item_K, score_K = await self._batches.best(one)
            except Busy:
                headers = {"Retry-After": "1"}
                raise HTTPException(503, "too many requests wait; try again", headers=headers) from None
            best = [(item_K[:k], score_K[:k])]
        [answer] = self._model.answering.answers(histories, k, seen, lambda *_: best, recent)
        return JSONResponse(answer)

    async def _body(self, request: Request) -> bytes:
        most, body = self._body_bytes, bytearray()
        with contextlib.suppress(ClientDisconnect):
            async for part in request.stream():
                body += part
                if len(body) > most:
                    raise HTTPException(413, f"the body has more than {most:,} bytes; send fewer sessions, the newest")
        return bytes(body)

    def _k(self, k: Any) -> int:
        if k is None:
            return min(_DEFAULT_K, self._model.k)
        if type(k) is not int or not 1 <= k <= self._model.k:
            raise InputError(f"k is {k!r}; expected a whole number from 1 to {self._model.k}")
        return k

    def _read(self, user: dict[str, Any]) -> Histories:
        reader = Reader(self._model.names, self._model.codes)
        reader.add(user, "the request", others=_OWN_KEYS)
        histories = reader.histories()
        count, most = len(histories.log.item_N) + int(histories.unknown_items_U.sum()), self._size.exposures
        if count > most:
            raise HTTPException(413, f"the history has {count:,} exposures; send the newest, {most:,} at most")
        return histories

    def _one(self, histories: Histories, recent: Windows, seen: Seen) -> HistoryBatch:
        """Returns the history, of which the model reads `recent`, as a batch of one place."""
        limits, context = self._model.answering.limits, self._model.facts["context_read"]
        read_W = np.flatnonzero(recent.first_W < recent.last_W)  # none, if the history has no known item
        one = pack(recent, read_W, limits=limits, context=context, places=1)
        if seen == "masked":
            pairs = seen_pairs(histories.log, np.arange(1), len(self._model.answering.published))
            one = one._replace(left_out_GM=pairs)
        return one


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        asked = json.loads(body, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the body is no valid JSON ({error})") from None
    if not isinstance(asked, dict):
        raise HTTPException(400, "the body is no JSON object; expected one with user and sessions")
    return asked


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _seen(seen: Any) -> Seen:
    if seen not in get_args(Seen):
        raise InputError(f"seen is {seen!r}; expected {' or '.join(get_args(Seen))}")
    return seen


async def _explained(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


async def _failed(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": f"the service failed ({type(error).__name__}); its log has the reason"}, 500)

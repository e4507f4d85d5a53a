"""Histories of many requests answered together: one call of the program costs little more for many than for one.

    batches = MicroBatches(model, Size(most=32, wait_seconds=0.002, waiting=1024, exposures=1000))
    batches.compile()                       # before the service listens
    task = asyncio.create_task(batches.run())
    item_K, score_K = await batches.best(one)

The first history waits at most `wait_seconds` for others. Batches have a few numbers of places, so that few programs
exist, and all of them are compiled before the first request.
"""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from sessionrec_jax.serving.answers import Best, found
from sessionrec_jax.serving.batch import HistoryBatch, joined
from sessionrec_jax.serving.exported import ExportedModel


class Busy(RuntimeError):
    """Too many histories wait already."""


class Size(NamedTuple):
    """The sizes of batches and of the queue before them."""

    most: int
    """Histories that are answered together, at most."""
    wait_seconds: float
    """Time for which the first history of a batch waits for others, at most."""
    waiting: int
    """Histories that may wait; a further one is refused."""
    exposures: int
    """Exposures of a history, at most: as many items may have to be left out."""

    @property
    def places(self) -> list[int]:
        """The numbers of places that batches have: powers of four below `most`, and `most`."""
        return [*(4**n for n in range(self.most.bit_length()) if 4**n < self.most), self.most]


class MicroBatches:
    """The queue in front of one model. Used by one event loop; the model computes in a thread of its own."""

    def __init__(self, model: ExportedModel, size: Size):
        self._model, self._size = model, size
        self._queue: asyncio.Queue[tuple[HistoryBatch, asyncio.Future[Best]]] = asyncio.Queue(size.waiting)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")

    def compile(self, empty: HistoryBatch) -> None:
        """Compiles the programs for each number of places, with and without items to leave out. `empty` is a batch of
        one place."""
        shapes = [(places, self._pairs(places, masked)) for places in self._size.places for masked in (False, True)]
        with ThreadPoolExecutor() as compilers:
            list(compilers.map(lambda shape: self._model.compile(joined([empty], *shape)), shapes))

    async def best(self, one: HistoryBatch) -> Best:
        """Returns the best items of a batch of one place. Raises Busy if too many wait."""
        future: asyncio.Future[Best] = asyncio.get_running_loop().create_future()
        try:
            self._queue.put_nowait((one, future))
        except asyncio.QueueFull:
            raise Busy from None
        return await future

    async def run(self) -> None:
        """Answers batch after batch, until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            asked = [(one, future) for one, future in await self._next() if not future.cancelled()]
            if not asked:
                continue
            try:
                answers = await loop.run_in_executor(self._thread, self._answer, [one for one, _ in asked])
            except Exception as error:  # noqa: BLE001 - each request gets it
                answers = [error] * len(asked)
            for (_, future), answer in zip(asked, answers, strict=True):
                if future.cancelled():  # its client has gone
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)

    async def _next(self) -> list[tuple[HistoryBatch, asyncio.Future[Best]]]:
        found = [await self._queue.get()]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._size.wait_seconds):
                while len(found) < self._size.most:
                    found.append(await self._queue.get())
        return found

    def _answer(self, ones: list[HistoryBatch]) -> list[Best]:
        places = next(places for places in self._size.places if places >= len(ones))
        is_masked = any((one.left_out_GM[0] == 0).any() for one in ones)
        item_BK, score_BK = self._model.call(joined(ones, places, self._pairs(places, is_masked)))
        return list(found(item_BK[: len(ones)], score_BK[: len(ones)]))

    def _pairs(self, places: int, is_masked: bool) -> int:
        return places * self._size.exposures if is_masked else 1

"""Server-sent events: what changed in a study, and in the list of studies.

One look a second at each study that somebody watches, whatever the number of pages.  An event's identity is the study's position,
so that a client which comes back with `Last-Event-ID` is told what it missed.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import anyio
from fastapi import APIRouter, Request
from starlette.responses import StreamingResponse

from nas.errors import NasError
from nas.web.problems import Problem
from nas.web.reading import rate, record_of, spelled, state_of

if TYPE_CHECKING:
    from nas.store import StudyRecord
    from nas.web.state import State

api = APIRouter()

LOOK_S, ALIVE_S = 1.0, 15.0
MOST_ENDED = 500  # trials that one event names
_QUEUED = 64  # events that a slow reader may be behind; beyond that it is told to load anew
_HEADERS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}


def event(kind: str, data: Any, identity: str | None = None) -> str:
    """An event as its standard has it."""
    mark = "" if identity is None else f"id: {identity}\n"
    return f"{mark}event: {kind}\ndata: {json.dumps(data, allow_nan=False)}\n\n"


class Feed:
    """Looks at one thing for all who watch it.

    Args:
        look: called in a thread: the events since the last look, as texts; raises a `Problem` where there is nothing any more.
    """

    def __init__(self, look: Callable[[], list[str]]) -> None:
        self._look = look
        self._readers: set[asyncio.Queue[str | None]] = set()
        self._task: asyncio.Task[None] | None = None

    @property
    def readers(self) -> int:
        """How many watch."""
        return len(self._readers)

    async def events(self, first: list[str], request: Request) -> AsyncIterator[str]:
        """What one reader is sent: `first`, then everything that comes."""
        queue: asyncio.Queue[str | None] = asyncio.Queue(_QUEUED)
        self._readers.add(queue)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._watch())
        try:
            yield "retry: 1000\n\n" + "".join(first)
            while True:
                try:
                    text = await asyncio.wait_for(queue.get(), ALIVE_S)
                except TimeoutError:
                    if await request.is_disconnected():
                        return
                    yield ": alive\n\n"
                    continue
                if text is None:
                    return
                yield text
        finally:
            self._readers.discard(queue)

    async def _watch(self) -> None:
        while self._readers:
            await asyncio.sleep(LOOK_S)
            try:
                found = await anyio.to_thread.run_sync(self._look)
            except Problem as problem:
                if problem.status == 503:
                    continue  # the database is away for a while
                self._send([event("gone", {"detail": problem.detail})], last=True)
                return
            except NasError:
                continue
            self._send(found)

    def _send(self, texts: list[str], *, last: bool = False) -> None:
        for queue in list(self._readers):
            for text in [*texts, *([None] if last else [])]:
                if queue.full():
                    while not queue.empty():
                        queue.get_nowait()
                    queue.put_nowait(event("reload", {}))
                queue.put_nowait(text)

    def close(self) -> None:
        """Tell everybody that the server ends."""
        if self._task is not None:
            self._task.cancel()
        self._send([], last=True)


class Watched:
    """A study, and the position up to which its events were sent."""

    def __init__(self, state: State, name: str, record: StudyRecord) -> None:
        self._state, self._name = state, name
        self._created = record.created
        position = record.position()
        self._at = (position.finished, position.added, position.front_version)
        self._worked = bool(record.leases())

    def look(self) -> list[str]:
        """Events since the last look."""
        record = self._state.opened.study(self._name)
        if record.created != self._created:
            raise Problem(404, f"study {self._name!r} was deleted, and another has its name")
        position = record.position()
        now = (position.finished, position.added, position.front_version)
        leases = record.leases()
        texts = []
        if now != self._at:
            texts.append(change(record, self._at[0], self._at[2]))
        if self._worked and not leases:
            texts.append(event("idle", {"counts": position.counts}))
        self._at, self._worked = now, bool(leases)
        return texts


def change(record: StudyRecord, after: int, front_version: int) -> str:
    """The event of everything since a position."""
    position = record.position()
    ended = record.ended(min(after, position.finished), MOST_ENDED) if position.finished >= after else []
    workers: dict[str, int] = {}
    for lease in record.leases():
        workers[lease.worker] = workers.get(lease.worker, 0) + 1
    data = {
        "position": spelled(position),
        "counts": position.counts,
        "ended": [{"place": one.place, "number": one.number, "state": one.state} for one in ended],
        "more": position.finished != after + len(ended),
        "front_version": position.front_version,
        "front_changed": position.front_version != front_version,
        "workers": [{"worker": worker, "trials": count} for worker, count in sorted(workers.items())],
        "rate_per_s": rate(record.recent_times()),
    }
    return event("change", data, spelled(position))


def _position(said: str | None) -> tuple[int, int, int] | None:
    """The position that a client was at."""
    parts = (said or "").split(".")
    if len(parts) != 3 or not all(part.isascii() and part.isdecimal() and len(part) < 12 for part in parts):
        return None
    finished, added, version = map(int, parts)
    return finished, added, version


@api.get(
    "/studies/{study}/events",
    response_class=StreamingResponse,
)
async def study_events(request: Request, study: str) -> StreamingResponse:
    """What changes in a study, as server-sent events."""
    state = state_of(request)

    def begin() -> tuple[Feed, list[str]]:
        record = record_of(request, study)
        feed = state.feed((study, record.created), lambda: Watched(state, study, record).look)
        was = _position(request.headers.get("last-event-id"))
        if was is None:
            return feed, [change(record, record.position().finished, record.position().front_version)]
        return feed, [change(record, was[0], was[2])]

    feed, first = await anyio.to_thread.run_sync(begin)
    return StreamingResponse(feed.events(first, request), media_type="text/event-stream", headers=_HEADERS)


class Overview:
    """The list of studies."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._was = self._now()

    def _now(self) -> dict[str, Any]:
        return {one.name: (one.created, one.counts, one.front_size) for one in self._state.opened.store.studies()}

    def look(self) -> list[str]:
        """An event where studies changed."""
        now, was = self._now(), self._was
        self._was = now
        changed = sorted(name for name in now.keys() | was.keys() if now.get(name) != was.get(name))
        return [event("studies", {"changed": changed[:200], "at": time.time()})] if changed else []


@api.get("/events", response_class=StreamingResponse)
async def events(request: Request) -> StreamingResponse:
    """Which studies change, as server-sent events."""
    state = state_of(request)
    feed = await anyio.to_thread.run_sync(lambda: state.feed(None, lambda: Overview(state).look))
    return StreamingResponse(feed.events([], request), media_type="text/event-stream", headers=_HEADERS)

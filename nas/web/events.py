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
from nas.web.asking import record_of, state_of
from nas.web.problems import Problem
from nas.web.reading import activity, spelled

if TYPE_CHECKING:
    from nas.store import StudyRecord
    from nas.store.looking import Position
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


#: How far a study is: trials finished, trials added, version of the front.  An event is of one; None where it is of none.
Mark = tuple[int, int, int]
Event = tuple[Mark | None, str]


class Feed:
    """Looks at one thing for all who watch it.

    Args:
        look: called in a thread: the events since the last look; raises a `Problem` where there is nothing any more.
    """

    def __init__(self, look: Callable[[], list[Event]]) -> None:
        self._look = look
        self._readers: set[asyncio.Queue[Event | None]] = set()
        self._task: asyncio.Task[None] | None = None

    @property
    def readers(self) -> int:
        """How many watch."""
        return len(self._readers)

    def join(self) -> asyncio.Queue[Event | None]:
        """Begin to watch: from now on every event is put into the queue; `events` reads it."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue(_QUEUED)
        self._readers.add(queue)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._watch())
        return queue

    async def events(
        self, queue: asyncio.Queue[Event | None], first: Event | None, request: Request
    ) -> AsyncIterator[str]:
        """What one reader is sent: `first`, which was read after it joined, then what comes and is not in that already."""
        known = None if first is None else first[0]
        try:
            yield "retry: 1000\n\n" + ("" if first is None else first[1])
            while True:
                try:
                    found = await asyncio.wait_for(queue.get(), ALIVE_S)
                except TimeoutError:
                    if await request.is_disconnected():
                        return
                    yield ": alive\n\n"
                    continue
                if found is None:
                    return
                mark, text = found
                if not (mark and known and all(new <= old for new, old in zip(mark, known, strict=True))):
                    yield text
        finally:
            self.leave(queue)

    def leave(self, queue: asyncio.Queue[Event | None]) -> None:
        """Watch no more."""
        self._readers.discard(queue)

    async def _watch(self) -> None:
        while self._readers:
            await asyncio.sleep(LOOK_S)
            try:
                found = await anyio.to_thread.run_sync(self._look)
            except Problem as problem:
                if problem.status == 503:
                    continue  # the database is away for a while
                self._send([(None, event("gone", {"detail": problem.detail}))], last=True)
                return
            except NasError:
                continue
            self._send(found)

    def _send(self, found: list[Event], *, last: bool = False) -> None:
        for queue in list(self._readers):
            for one in [*found, *([None] if last else [])]:
                if queue.full():
                    while not queue.empty():
                        queue.get_nowait()
                    queue.put_nowait((None, event("reload", {})))
                queue.put_nowait(one)

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
        self._at = mark_of(record.position())
        self._worked = bool(record.leases())

    def look(self) -> list[Event]:
        """Events since the last look."""
        record = self._state.opened.study(self._name)
        if record.created != self._created:
            raise Problem(404, f"study {self._name!r} was deleted, and another has its name")
        position, leases = record.position(), record.leases()
        found = [] if mark_of(position) == self._at else [change(record, position, self._at)]
        if self._worked and not leases:
            found.append((None, event("idle", {"counts": position.counts})))
        self._at, self._worked = mark_of(position), bool(leases)
        return found


def mark_of(position: Position) -> Mark:
    """A position without its counts."""
    return position.finished, position.added, position.front_version


def change(record: StudyRecord, position: Position, since: Mark) -> Event:
    """The event of everything between two positions."""
    after, _, front_version = since
    few = min(MOST_ENDED, max(0, position.finished - after))
    ended = record.ended(after, few) if few else []
    data = {
        "position": spelled(position),
        "counts": position.counts,
        "ended": [{"place": one.place, "number": one.number, "state": one.state} for one in ended],
        "more": position.finished != after + len(ended),
        "front_version": position.front_version,
        "front_changed": position.front_version != front_version,
        **activity(record),
    }
    return mark_of(position), event("change", data, spelled(position))


def _position(said: str | None) -> Mark | None:
    """The position that a client was at."""
    parts = (said or "").split(".")
    if len(parts) != 3 or not all(part.isascii() and part.isdecimal() and len(part) < 12 for part in parts):
        return None
    finished, added, version = map(int, parts)
    return finished, added, version


def _stream(feed: Feed, queue: asyncio.Queue[Event | None], first: Event | None, request: Request) -> StreamingResponse:
    return StreamingResponse(feed.events(queue, first, request), media_type="text/event-stream", headers=_HEADERS)


@api.get("/studies/{study}/events", response_class=StreamingResponse)
async def study_events(request: Request, study: str) -> StreamingResponse:
    """What changes in a study, as server-sent events."""
    state = state_of(request)
    record = await anyio.to_thread.run_sync(lambda: record_of(request, study))

    def first() -> Event:
        position = record.position()
        return change(record, position, _position(request.headers.get("last-event-id")) or mark_of(position))

    feed = await state.feed((study, record.created), lambda: Watched(state, study, record).look)
    queue = feed.join()  # before it is read what there is, so that nothing is missed in between
    try:
        return _stream(feed, queue, await anyio.to_thread.run_sync(first), request)
    except BaseException:
        feed.leave(queue)
        raise


class Overview:
    """The list of studies."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._was = self._now()

    def _now(self) -> dict[str, Any]:
        return {one.name: (one.created, one.counts, one.front_size) for one in self._state.opened.store.studies()}

    def look(self) -> list[Event]:
        """An event where studies changed."""
        now, was = self._now(), self._was
        self._was = now
        changed = sorted(name for name in now.keys() | was.keys() if now.get(name) != was.get(name))
        return [(None, event("studies", {"changed": changed[:200], "at": time.time()}))] if changed else []


@api.get("/events", response_class=StreamingResponse)
async def events(request: Request) -> StreamingResponse:
    """Which studies change, as server-sent events."""
    state = state_of(request)
    feed = await state.feed(None, lambda: Overview(state).look)
    return _stream(feed, feed.join(), None, request)

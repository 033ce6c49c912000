"""Pages that watch are told what changes, and miss nothing when they come back."""

from __future__ import annotations

import contextlib
import json
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nas.store import open_store
from tests.web.served import add, running, toy, until


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "toy.db"
    toy(found)
    return found


class Watching:
    """Events of a stream, read in a thread."""

    def __init__(self, address: str, last: str | None = None) -> None:
        self.found: list[tuple[str, str, Any]] = []
        request = urllib.request.Request(address, headers={} if last is None else {"Last-Event-ID": last})
        self._answer = urllib.request.urlopen(request, timeout=300)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # the server has ended
            self._take_in()

    def _take_in(self) -> None:
        identity, kind = "", ""
        for line in self._answer:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "id":
                identity = value
            elif name == "event":
                kind = value
            elif name == "data":
                self.found.append((kind, identity, json.loads(value)))

    def kinds(self) -> list[str]:
        return [kind for kind, _, _ in self.found]

    def ended(self) -> list[int]:
        return [one["number"] for kind, _, data in self.found if kind == "change" for one in data["ended"]]


@pytest.fixture
def address(path: Path) -> Iterator[str]:
    with running(path) as found:
        yield f"{found}/api/v1"


def test_trials_that_finish_are_told_once_each(path: Path, address: str) -> None:
    one, two = Watching(f"{address}/studies/toy/events"), Watching(f"{address}/studies/toy/events")
    until(lambda: one.found and two.found)
    assert one.found[0][2]["counts"]["COMPLETED"] == 20
    assert one.ended() == []
    add(path, 3)
    until(lambda: len(one.ended()) == 3 and len(two.ended()) == 3)
    add(path, 2)
    until(lambda: len(one.ended()) == 5)
    assert one.ended() == [24, 25, 26, 27, 28]
    assert one.found[-1][2]["counts"]["COMPLETED"] == 25


def test_who_comes_back_is_told_what_was_missed(path: Path, address: str) -> None:
    one = Watching(f"{address}/studies/toy/events")
    until(lambda: one.found)
    position = one.found[-1][1]
    add(path, 4)
    two = Watching(f"{address}/studies/toy/events", last=position)
    until(lambda: two.found)
    assert two.ended() == [24, 25, 26, 27]
    assert not two.found[0][2]["more"]
    for strange in ("x", "1.2", "9.9.9.9", "-1.0.0", "1e3.0.0"):
        other = Watching(f"{address}/studies/toy/events", last=strange)
        until(lambda other=other: other.found)
        assert other.ended() == []


def test_a_position_of_a_longer_history_asks_to_load_anew(path: Path, address: str) -> None:
    one = Watching(f"{address}/studies/toy/events", last="900.900.1")
    until(lambda: one.found)
    assert one.found[0][2]["more"], "trials were tried again in between"


def test_the_end_of_a_run_and_of_a_study_are_told(path: Path, address: str) -> None:
    from nas.store import NewTrial

    with open_store(path) as store:
        record = store.open_study("toy")
        record.add([NewTrial("a" * 32, [0, 0, 0])], worker="w")
        one = Watching(f"{address}/studies/toy/events")
        until(lambda: one.found)
        assert one.found[0][2]["workers"] == [{"worker": "w", "trials": 1}]
        record.release("w")
        until(lambda: "idle" in one.kinds())
        store.delete_study("toy")
    until(lambda: "gone" in one.kinds())


def test_the_list_of_studies_is_watched(path: Path, address: str) -> None:
    one = Watching(f"{address}/events")
    add(path, 1)
    until(lambda: one.found, "nothing was told")
    assert one.found[0][2]["changed"] == ["toy"]
    toy(path, "second", trials=2)
    until(lambda: any("second" in data["changed"] for _, _, data in one.found))


def test_a_reader_that_is_slow_is_told_to_load_anew() -> None:
    import asyncio

    from nas.web.events import Feed, event

    class Request:
        async def is_disconnected(self) -> bool:
            return False

    async def watch() -> list[str]:
        feed = Feed(lambda: [])
        reader = feed.events(feed.join(), None, Request())  # type: ignore[arg-type]
        seen = [await anext(reader)]
        for at in range(1000):
            feed._send([(None, event("change", at))])
        feed._send([], last=True)
        async for text in reader:
            seen.append(text)
        return seen

    seen = asyncio.run(watch())
    assert len(seen) < 200
    assert any("event: reload" in text for text in seen)
    assert "data: 999" in seen[-1]


def test_what_happens_while_a_reader_joins_is_told_once() -> None:
    import asyncio

    from nas.web.events import Feed

    async def watch() -> list[str]:
        feed = Feed(lambda: [])
        queue = feed.join()
        feed._send([((3, 5, 1), "before it was read")])  # what is read then has it
        first = ((4, 5, 1), "read")
        feed._send([((4, 5, 1), "as it was read"), ((4, 6, 1), "after"), ((5, 6, 2), "later")])
        feed._send([], last=True)
        return [text async for text in feed.events(queue, first, None)]  # type: ignore[arg-type]

    assert asyncio.run(watch()) == ["retry: 1000\n\nread", "after", "later"]

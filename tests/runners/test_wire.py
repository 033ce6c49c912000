from __future__ import annotations

import contextlib
import math
import socket
import struct
import threading
import time
from collections.abc import Iterator
from multiprocessing import AuthenticationError
from typing import Any

import numpy as np
import pytest

from nas.runners import Outcome, Task, wire
from nas.runners.wire import Port, Wire, reach
from nas.runners.work import Work, answer
from tests.conformance.patience import PATIENCE_S
from tests.conformance.runner import RowSpace, double, tasks

KEY = b"k" * 32


@pytest.fixture
def ends() -> Iterator[tuple[Wire, Wire]]:
    """The driver's and the worker's."""
    port = Port("127.0.0.1", KEY)
    found: list[Wire] = []
    thread = threading.Thread(target=lambda: found.append(port.accept()))
    thread.start()
    driver = reach(port.address, KEY)
    thread.join(PATIENCE_S)
    yield driver, found[0]
    driver.close()
    found[0].close()


def test_tasks_and_outcomes_arrive_as_they_were(ends: tuple[Wire, Wire]) -> None:
    driver, worker = ends
    rows = [Task(2**40, (1.0, None, 0.1 + 0.2)), Task(1, ()), Task(2, (0.0,), 12.0)]
    driver.give(rows)
    assert worker.recv() == rows
    outcomes = [
        Outcome(1, "COMPLETED", {"params": 2**60 + 1, "accuracy": 1 / 3}, "", 1.5, 0.25, "w"),
        Outcome(2, "INFEASIBLE", {}, 'too "large"\n', 0.0, 0.0, "w"),
    ]
    worker.send(outcomes)
    assert driver.poll(5.0)
    assert driver.outcomes() == outcomes


def test_numbers_of_numpy_become_pythons(ends: tuple[Wire, Wire]) -> None:
    driver, worker = ends
    worker.send([Outcome(1, "COMPLETED", {"a": np.float32(0.5), "b": np.int64(3)})])  # type: ignore[dict-item]
    worker.send([Outcome(2, "FAILED", {"a": math.inf})])
    assert driver.outcomes()[0].measurements == {"a": 0.5, "b": 3}
    assert driver.outcomes()[0].measurements == {"a": math.inf}


def test_the_other_end_sees_that_one_is_closed(ends: tuple[Wire, Wire]) -> None:
    driver, worker = ends
    driver.close()
    with pytest.raises(EOFError):
        worker.recv()


def test_who_does_not_know_the_key_is_sent_away_and_the_driver_let_in() -> None:
    port = Port("127.0.0.1", KEY)
    found: list[Wire] = []
    thread = threading.Thread(target=lambda: found.append(port.accept()))
    thread.start()
    socket.create_connection(port.address, timeout=5).close()
    with pytest.raises(Exception, match="digest sent was rejected"):
        reach(port.address, b"x" * 32)
    with reach(port.address, KEY)._connection:
        thread.join(PATIENCE_S)
        assert len(found) == 1
        found[0].close()


def _drip(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            end.send(b"\0")
            time.sleep(0.02)


STRANGERS = {
    "silent": lambda end: None,
    "garbage": lambda end: end.sendall(b"GET / HTTP/1.1\r\n\r\n" * 100),
    "huge": lambda end: end.sendall(struct.pack("!iQ", -1, 2**60) + b"x"),
    "long": lambda end: end.sendall(struct.pack("!i", 2**31 - 1)),
    "negative": lambda end: end.sendall(struct.pack("!i", -7)),
    "drip": lambda end: threading.Thread(target=_drip, args=(end,), daemon=True).start(),
    "gone": lambda end: end.close(),
}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_strangers_do_not_keep_the_driver_waiting(stranger: str) -> None:
    port = Port("127.0.0.1", KEY)
    ends = [socket.create_connection(port.address) for _ in range(20)]
    for end in ends:
        STRANGERS[stranger](end)
    found: list[Wire] = []
    thread = threading.Thread(target=lambda: found.append(port.accept()))
    thread.start()
    driver = reach(port.address, KEY)
    thread.join(wire._HANDSHAKE_S / 2)  # none of the strangers was waited for
    assert len(found) == 1
    driver.give(tasks(1))
    assert found[0].recv() == tasks(1)
    for one in (*ends, driver, *found):
        one.close()


@pytest.mark.parametrize("stranger", ["silent", "drip", "garbage", "huge", "gone"])
def test_a_stranger_in_the_place_of_a_worker_is_left_when_time_is_up(
    stranger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "_HANDSHAKE_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ends: list[socket.socket] = []

        def answer_somehow() -> None:
            ends.append(listener.accept()[0])
            STRANGERS[stranger](ends[0])

        thread = threading.Thread(target=answer_somehow)
        thread.start()
        with pytest.raises((OSError, EOFError, AuthenticationError)):
            reach(listener.getsockname(), KEY)
        thread.join(10)
        ends[0].close()


def test_a_stranger_is_sent_away_when_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_HANDSHAKE_S", 0.2)
    port = Port("127.0.0.1", KEY)
    threading.Thread(target=port.accept, daemon=True).start()
    with socket.create_connection(port.address, timeout=10) as end:
        while end.recv(1000):  # the challenge, then the end
            pass
    reach(port.address, KEY).close()


def test_a_port_where_nobody_answers_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = free.getsockname()
    with pytest.raises(OSError, match="refused"):
        reach(address, KEY)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_worker_answers_until_its_driver_leaves(ends: tuple[Wire, Wire], at_once: bool) -> None:
    driver, worker = ends
    driver.give(tasks(5))
    ended: list[Any] = []

    def work() -> None:
        try:
            answer(worker, Work(RowSpace(), double, "w"), at_once=at_once)
        except EOFError as error:
            ended.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    found: list[Outcome] = []
    while len(found) < 5:
        message = driver.outcomes()
        assert len(message) == 1 or not at_once
        found += message
    assert [outcome.measurements["twice"] for outcome in found] == [0.0, 2.0, 4.0, 6.0, 8.0]
    driver.close()
    thread.join(PATIENCE_S)
    assert len(ended) == 1

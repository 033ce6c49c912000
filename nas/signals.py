"""Signals that ask a program to end are Ctrl-C: what was begun is handed back before it ends.

SIGTERM is what `docker stop`, systemd, Slurm and a machine that is preempted or shut down send; SIGHUP, a terminal that closes.
Only signals are taken over that would otherwise end the program: one that is ignored (`nohup`) or has a handler of the user's
keeps its meaning.  Handlers are the main thread's; in another thread nothing changes.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

#: A signal that comes again sooner is the same one: terminals, `timeout` and containers tell a program twice, by its group too.
REPEAT_S = 1.0
_TAKEN = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
_DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)


class Ended(KeyboardInterrupt):
    """The program was asked to end, by a signal that is not Ctrl-C."""

    def __init__(self, number: int) -> None:
        self.number = signal.Signals(number)
        super().__init__(f"ended by {self.number.name}")


class _Handler:
    """Raises at the first signal, or notes it; a second one that comes later is immediate in any case."""

    def __init__(self, *, noting: bool) -> None:
        self._noting = noting
        self._last = 0.0
        self.number: int | None = None
        """Of the first signal that came."""

    def __call__(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        now = time.monotonic()
        if self.number is not None and now - self._last < REPEAT_S:
            return
        first, self._last = self.number is None, now
        self.number = self.number or number
        if not (first and self._noting):
            raise _error(number)

    def check(self) -> None:
        """Raise what the signal that has come should have raised."""
        if self.number is not None:
            raise _error(self.number)


class Witness:
    """A handler that remembers that the signal came, and does what `handler` does."""

    def __init__(self, arrived: list[int], handler: Callable[[int, FrameType | None], Any]) -> None:
        self._arrived, self._handler = arrived, handler

    def __call__(self, number: int, frame: FrameType | None) -> Any:
        """Remember and pass on."""
        self._arrived.append(number)
        return self._handler(number, frame)


def exit_code(error: KeyboardInterrupt) -> int:
    """Of a program that ends by this: 128 and the signal's number, as shells count."""
    return 128 + (error.number if isinstance(error, Ended) else signal.SIGINT)


@contextmanager
def raising() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP raise `Ended`, which is a KeyboardInterrupt.

    A second signal while what was begun is handed back raises again, unless it comes within `REPEAT_S` of the first.  What
    somebody inside swallows (a bare `except` of an evaluator's, a destructor) is raised at the end, or by `check`.
    """
    with _raising():
        yield


@contextmanager
def exiting() -> Iterator[None]:
    """As `raising`, for what a program calls: `Ended` becomes SystemExit(128 + number) unless it is taken care of outside."""
    handler = None
    try:
        with _raising() as handler:
            yield
    except Ended as error:
        if handler is None or handler.number is None:
            raise
        raise SystemExit(exit_code(error)) from None


@contextmanager
def noting() -> Iterator[Callable[[], bool]]:
    """Gives a function that says whether one of the signals has come, Ctrl-C among them; a second one, later, raises.

    The signal is not lost: when the block has ended it does what it does outside.
    """
    handler = _Handler(noting=True)
    try:
        with _handling(handler, inside=True):
            yield lambda: handler.number is not None
    finally:
        if handler.number is not None:
            signal.raise_signal(handler.number)


@contextmanager
def kept() -> Iterator[None]:
    """What is called inside takes over no signal for good, as `ray.init` would."""
    before = {number: signal.getsignal(number) for number in _TAKEN}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                if handler is not None and signal.getsignal(number) is not handler:
                    signal.signal(number, handler)


def check() -> None:
    """Raise what a signal that has come should have raised, and somebody has swallowed."""
    for handler in _active:
        handler.check()


def leave() -> None:
    """Take over none in this process: a worker's, which others end."""
    _TAKEN.clear()


_active: list[_Handler] = []


@contextmanager
def _raising() -> Iterator[_Handler]:
    with _handling(_Handler(noting=False), inside=False) as handler:
        try:
            yield handler
        except OSError:  # a terminal that was closed cannot be written to
            handler.check()
            raise
        handler.check()


@contextmanager
def _handling(handler: _Handler, *, inside: bool) -> Iterator[_Handler]:
    """Take over signals that have their default handlers, or, `inside` another block, those of that block; then restore them."""
    taken: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in _TAKEN:
            before = signal.getsignal(number)
            if before in _DEFAULTS or (inside and isinstance(before, (_Handler, Witness))):
                taken[number] = before
                signal.signal(number, handler)
    _active.append(handler)
    try:
        yield handler
    finally:
        _active.remove(handler)
        for taken_over, before in taken.items():
            if signal.getsignal(taken_over) is handler:
                signal.signal(taken_over, before)


def _error(number: int) -> KeyboardInterrupt:
    return KeyboardInterrupt() if number == signal.SIGINT else Ended(number)

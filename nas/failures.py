"""What an exception of a user's code says, as text: the one place where failures become sentences.

Evaluators, jobs, tasks, models and devices raise whatever they like: errors whose text cannot be made, `SystemExit`,
`KeyboardInterrupt` without Ctrl-C.  Each is one failure with a reason.
"""

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from nas.errors import LONGEST, Infeasible, NasError, brief, text_of
from nas.measurements import usable
from nas.signals import Witness


def describe(error: BaseException) -> str:
    """One line for the record: kind, text, and the line of code it came from unless the text stands alone."""
    text = brief(error, LONGEST // 2) or "no message"
    if isinstance(error, NasError):
        return text
    frames = traceback.extract_tb(error.__traceback__, limit=-1)
    where = f" ({frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno} in {frames[-1].name})" if frames else ""
    return f"{brief(type(error).__name__, 200)}: {text}{where}"


def verdict(error: BaseException) -> tuple[Literal["INFEASIBLE", "FAILED"], dict[str, float], str]:
    """What an exception that an evaluation ended with says of its trial: state, what was measured, and why."""
    if not isinstance(error, Infeasible):
        return "FAILED", {}, describe(error)
    try:  # a subclass may have forgotten to set what `Infeasible` has
        return "INFEASIBLE", usable(error.measurements)[0], text_of(error.reason)
    except Exception:
        return "INFEASIBLE", {}, brief(error) or "no reason given"


def outcome(
    evaluate: Callable[[], Mapping[str, Any]],
) -> tuple[Literal["COMPLETED", "INFEASIBLE", "FAILED"], dict[str, float], str]:
    """What a call of an evaluation says of its trial: state, what was measured, and why it is not COMPLETED.

    Whatever the call raises is an outcome too, unless a signal has raised it.
    """
    with interrupts() as is_interrupt:
        try:
            measured, fault = usable(evaluate())
        except BaseException as error:
            if is_interrupt(error):
                raise
            return verdict(error)
    return ("COMPLETED", measured, "") if fault is None else ("FAILED", measured, fault)


@contextmanager
def interrupts() -> Iterator[Callable[[BaseException], bool]]:
    """Gives a function that tells what a signal raised inside the block from what the code in it raised by itself.

    Ctrl-C is a signal, and so is the end of a preempted machine; `raise KeyboardInterrupt` and `sys.exit()` are a failure of the
    code that says so.  Handlers that are there still run, and raise what they raise.  Signals reach the main thread only: in any
    other thread nothing is an interrupt.
    """
    arrived: list[int] = []
    replaced: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in _SIGNALS}
        replaced = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number, handler in replaced.items():
        signal.signal(number, Witness(arrived, handler))
    try:
        yield lambda error: bool(arrived) and not isinstance(error, Exception)
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

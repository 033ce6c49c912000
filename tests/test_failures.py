from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading

import pytest

from nas.errors import LONGEST, EvaluationError, Infeasible, text_of
from nas.failures import describe, interrupts, outcome, verdict


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


class Odd(BaseException):
    pass


class Forgetful(Infeasible):
    def __init__(self) -> None:
        """Sets nothing."""


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("out of\n cheese"), "ValueError: out of cheese (test_failures.py:"),
        (ValueError(), "ValueError: no message (test_failures.py:"),
        (EvaluationError("one sentence"), "one sentence"),
        (SystemExit(0), "SystemExit: 0 (test_failures.py:"),
        (SystemExit(), "SystemExit: no message ("),
        (KeyboardInterrupt(), "KeyboardInterrupt: no message ("),
        (GeneratorExit(), "GeneratorExit: no message ("),
        (asyncio.CancelledError(), "CancelledError: no message ("),
        (StopIteration(3), "StopIteration: 3 ("),
        (Odd("odd"), "Odd: odd ("),
        (Mute(), "Mute: a Mute that has no text ("),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_is_raised_is_one_line(error: BaseException, text: str) -> None:
    assert describe(raised(error)).startswith(text)
    assert verdict(raised(error)) == ("FAILED", {}, describe(error))


def test_a_huge_text_is_cut_and_still_says_where() -> None:
    found = describe(raised(ValueError("x " * 10**6)))
    assert len(found) <= LONGEST
    assert "in raised)" in found


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("heads must divide width", "heads must divide width"),
        (MemoryError("does not fit"), "MemoryError: does not fit"),
        (MemoryError(), "MemoryError"),
        (Mute(), "Mute: a Mute that has no text"),
        (None, "None"),
        (3, "3"),
        (b"bytes", "b'bytes'"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_reason_is_text_whatever_it_was_made_of(reason: object, text: str) -> None:
    error = Infeasible(reason, {"params": 3.0})
    assert (error.reason, str(error)) == (text, text)
    assert verdict(raised(error)) == ("INFEASIBLE", {"params": 3.0}, text)


def test_a_huge_reason_is_cut() -> None:
    assert len(Infeasible("x" * 10**7).reason) <= LONGEST
    assert text_of("x" * LONGEST) == "x" * LONGEST


def test_an_infeasible_that_is_no_whole_one_is_infeasible() -> None:
    assert verdict(raised(Forgetful())) == ("INFEASIBLE", {}, "no reason given")
    spoiled = Infeasible("too large")
    spoiled.measurements = None  # type: ignore[assignment]
    assert verdict(raised(spoiled)) == ("INFEASIBLE", {}, "too large")


def test_measurements_of_an_infeasible_arch_that_are_none_are_left_out() -> None:
    error = Infeasible("slow", {"params": 3, "accuracy": float("nan"), "a b": 1.0})
    assert verdict(raised(error)) == ("INFEASIBLE", {"params": 3}, "slow")


def test_an_evaluation_ends_with_an_outcome_whatever_it_does() -> None:
    def refuse() -> dict[str, float]:
        raise Infeasible("slow", {"params": 3})

    assert outcome(lambda: {"accuracy": 1}) == ("COMPLETED", {"accuracy": 1.0}, "")
    state, measured, reason = outcome(lambda: {"accuracy": float("nan"), "params": 3})
    assert (state, measured) == ("FAILED", {"params": 3.0})
    assert "'accuracy'" in reason
    assert outcome(refuse) == ("INFEASIBLE", {"params": 3.0}, "slow")
    assert outcome(lambda: next(iter(())))[0] == "FAILED"
    assert outcome(lambda: sys.exit(0))[0] == "FAILED"


def test_an_evaluation_that_a_signal_breaks_off_has_no_outcome() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            outcome(lambda: {"sent": float(os.kill(os.getpid(), signal.SIGINT) or 0)})
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(0), GeneratorExit()])
def test_what_code_raises_is_no_interrupt(error: BaseException) -> None:
    with interrupts() as is_interrupt:
        assert not is_interrupt(raised(error))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_a_signal_raises_is_an_interrupt(number: int) -> None:
    before = signal.signal(number, signal.default_int_handler)
    try:
        with interrupts() as is_interrupt:
            with pytest.raises(KeyboardInterrupt) as raised_by_handler:
                os.kill(os.getpid(), number)
            assert is_interrupt(raised_by_handler.value)
            assert not is_interrupt(ValueError())
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)


def test_outside_the_main_thread_nothing_is_an_interrupt() -> None:
    found: list[bool] = []

    def ask() -> None:
        with interrupts() as is_interrupt:
            found.append(is_interrupt(KeyboardInterrupt()))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert found == [False]

"""Signals that ask a program to end: Ctrl-C, SIGTERM, SIGHUP."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from nas import signals
from nas.failures import interrupts
from nas.signals import Ended, exiting, noting, raising

ENDING = [signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def handlers_are_restored() -> Iterator[None]:
    before = [signal.getsignal(number) for number in (signal.SIGINT, *ENDING)]
    yield
    assert [signal.getsignal(number) for number in (signal.SIGINT, *ENDING)] == before
    assert not signals._active


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_that_ends_is_a_keyboard_interrupt_with_its_number(number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt, match=f"ended by {number.name}") as caught, raising():
        signal.raise_signal(number)
    assert signals.exit_code(caught.value) == 128 + number


def test_ctrl_c_stays_itself() -> None:
    for block in (raising, exiting):
        with pytest.raises(KeyboardInterrupt) as caught, block():
            signal.raise_signal(signal.SIGINT)
        assert not isinstance(caught.value, Ended)
        assert signals.exit_code(caught.value) == 130


@pytest.mark.parametrize("number", ENDING)
def test_the_outermost_call_ends_the_program_with_the_code_of_the_signal(number: signal.Signals) -> None:
    with pytest.raises(SystemExit) as caught, exiting(), exiting():
        signal.raise_signal(number)
    assert caught.value.code == 128 + number
    with pytest.raises(Ended), raising(), exiting():  # who is outside decides
        signal.raise_signal(number)


def test_a_terminal_that_was_closed_cannot_be_written_to_and_that_is_no_other_end() -> None:
    @exiting()
    def run() -> None:
        try:
            signal.raise_signal(signal.SIGHUP)
        finally:
            raise OSError(5, "Input/output error")

    with pytest.raises(SystemExit) as caught:
        run()
    assert caught.value.code == 129
    with pytest.raises(OSError, match="disk"), exiting():
        raise OSError("a disk")


def test_what_somebody_swallows_is_raised_later() -> None:
    seen = []

    @exiting()
    def run() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException:
            seen.append(True)
        with pytest.raises(Ended):
            signals.check()

    with pytest.raises(SystemExit):
        run()
    assert seen == [True]


def test_a_second_signal_is_immediate_and_the_same_one_told_twice_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []

    @exiting()
    def run() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)  # from the group, as `timeout` does
            signal.raise_signal(signal.SIGINT)
            steps.append("handing back")
            monkeypatch.setattr(signals, "REPEAT_S", 0.0)
            with pytest.raises(Ended):
                signal.raise_signal(signal.SIGTERM)
            steps.append("given up")

    with pytest.raises(SystemExit):
        run()
    assert steps == ["handing back", "given up"]


@pytest.mark.parametrize("number", [signal.SIGINT, *ENDING])
def test_a_signal_may_be_noted_and_acts_at_the_end(number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []

    @raising()
    def run() -> None:
        with noting() as pressed:
            steps.append(pressed())
            signal.raise_signal(number)
            signal.raise_signal(number)
            steps.append(pressed())

    with pytest.raises(KeyboardInterrupt) as caught:
        run()
    assert steps == [False, True]
    assert signals.exit_code(caught.value) == 128 + number
    monkeypatch.setattr(signals, "REPEAT_S", 0.0)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert steps == [False, True, False]


@pytest.mark.parametrize("number", ENDING)
def test_what_the_program_has_given_a_meaning_keeps_it(number: signal.Signals) -> None:
    came: list[int] = []

    def handler(number: int, frame: Any) -> None:
        came.append(number)

    for meaning in (handler, signal.SIG_IGN):
        before = signal.signal(number, meaning)
        try:
            with exiting(), noting() as pressed:
                signal.raise_signal(number)
                assert not pressed()
        finally:
            signal.signal(number, before)
    assert came == [number]


def test_another_thread_takes_nothing_over() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[Any] = []

    def work() -> None:
        with exiting(), noting() as pressed:
            seen.append((signal.getsignal(signal.SIGTERM), pressed()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(before, False)]


def test_what_a_library_takes_over_meanwhile_is_given_back() -> None:
    with raising():
        ours = signal.getsignal(signal.SIGTERM)
        with signals.kept():
            signal.signal(signal.SIGTERM, lambda *_: None)
        assert signal.getsignal(signal.SIGTERM) is ours


@pytest.mark.parametrize("number", [signal.SIGINT, *ENDING])
def test_a_training_inside_an_evaluation_ends_its_step_first(number: signal.Signals) -> None:
    """And the evaluation passes on what the signal raised then, as no failure of its own."""
    steps = []

    @raising()
    def run() -> None:
        with interrupts() as is_interrupt:
            try:
                with exiting(), noting() as pressed:
                    signal.raise_signal(number)
                    steps.append(pressed())
            except BaseException as error:
                steps.append(is_interrupt(error))
                raise

    with pytest.raises(KeyboardInterrupt):
        run()
    assert steps == [True, True]

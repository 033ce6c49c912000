from __future__ import annotations

import io

import pytest
from rich.console import Console

from nas.train.log import Reporter
from tests.conformance.patience import Clock


def reporter(*, terminal: bool, show: bool = True, every_s: float = 5.0) -> tuple[Reporter, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100)
    return Reporter(100, show=show, every_s=every_s, console=console), out


def test_a_log_gets_a_plain_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    one, out = reporter(terminal=False, every_s=0.05)
    with one:
        for step in range(20):
            one.step(step, "loss 0.5")
            clock.now += 0.01
        one.say("[done]")
    lines = out.getvalue().splitlines()
    assert len(lines) - 1 == 3
    assert all(line.startswith("step ") and line.endswith("/100  loss 0.5") for line in lines[:-1])
    assert lines[-1] == "[done]"
    assert "\x1b" not in out.getvalue()


def test_a_terminal_gets_a_bar() -> None:
    one, out = reporter(terminal=True)
    with one:
        one.step(40, "loss 0.5")
    assert "40/100" in out.getvalue()
    assert "loss 0.5" in out.getvalue()


def test_quiet_is_quiet() -> None:
    one, out = reporter(terminal=True, show=False)
    with one:
        one.step(1, "loss")
        one.say("done")
    assert out.getvalue() == ""

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
    assert all(line.startswith("step ") and "/100  loss 0.5  about " in line for line in lines[:-1])
    assert lines[0].endswith("about 1 s left")
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


def test_lines_name_the_epoch_and_how_long_this_run_still_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    out = io.StringIO()
    one = Reporter(1000, show=True, done=400, per_epoch=200, every_s=5.0, console=Console(file=out, width=100))
    with one:
        clock.now += 60.0
        one.step(450, "loss 0.5")
        one.measured(1000, "loss 0.4")
    assert out.getvalue().splitlines() == [
        "step 450/1000  epoch 2.25/5  loss 0.5  about 11 min left",
        "step 1000/1000  epoch 5/5  loss 0.4",
    ]

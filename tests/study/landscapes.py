"""Spaces and evaluators with known answers, importable by worker processes."""

from __future__ import annotations

import os
import random
import signal
import time
from typing import Any

import pyglove as pg

import nas
from nas.search import ALGORITHMS
from nas.space import Arch, Space

#: Algorithms that need no more than their name, in a study of any evaluators.
BY_NAME = sorted(set(ALGORITHMS) - {"given", "multi-fidelity", "policy", "robot", "transfer"})


def grid(side: int = 8, axes: int = 2) -> Space:
    """`side ** axes` archs."""
    return Space(pg.Dict({f"x{axis}": pg.oneof(list(range(side))) for axis in range(axes)}), name="grid")


def trade_off(arch: Arch) -> dict[str, float]:
    """On the front exactly where all but x0 are 0: quality x0 costs x0 squared."""
    values = [float(value) for value in arch.choices.values()]
    rest = sum(values[1:])
    return {"quality": values[0] - rest, "cost": values[0] ** 2 + rest}


def slow_trade_off(arch: Arch) -> dict[str, float]:
    time.sleep(0.01)
    return trade_off(arch)


def suicidal(arch: Arch) -> dict[str, float]:
    """Now and then the worker is killed."""
    if random.random() < 0.05:
        os.kill(os.getpid(), signal.SIGKILL)
    return slow_trade_off(arch)


def broken(arch: Arch) -> dict[str, float]:
    raise RuntimeError("out of cheese")


def wrong(arch: Arch) -> dict[str, Any]:
    """Every way in which a metric can come back wrong, and right for x0 = 4 and more."""
    kind = arch.choices["x0"]
    bad: list[dict[str, Any]] = [
        {"quality": float("nan"), "cost": 1.0},
        {"cost": 1.0},
        {"quality": "high", "cost": 1.0},
    ]
    return trade_off(arch) if kind >= 3 else bad[kind]


class Counting:
    """Counts its calls in a file, so that a test sees how often an arch was evaluated."""

    metrics = ("quality", "cost")

    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self, arch: Arch) -> dict[str, float]:
        with open(self.path, "a", encoding="utf-8") as calls:
            calls.write(arch.key + "\n")
        return trade_off(arch)


def study(store: Any, name: str = "grid", **changes: Any) -> nas.Study:
    """Quality against cost on the grid."""
    declared: dict[str, Any] = {
        "space": grid(),
        "objectives": ["max quality", "min cost"],
        "evaluators": [trade_off],
        "algorithm": nas.RandomSearch(seed=1),
        "store": store,
        "trials": 30,
    }
    return nas.Study(name, **{**declared, **changes})


def readme_evaluator(arch: Arch) -> dict[str, float]:
    """The metrics that the README's filters name."""
    width = float(arch.choices["width"])
    return {"accuracy": width / 100, "latency_ms": width / 64, "params": width * width}

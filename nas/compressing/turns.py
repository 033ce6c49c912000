"""Latencies of the original and of tuned networks, measured in turns: what else the machine does slows all of them alike.

A network that is measured an hour after the original is compared with another machine's original, where neighbours came or went.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nas import reading
from nas.compressing.kept import kept
from nas.compressing.settings import named
from nas.evaluate import Latency
from nas.evaluate.subnets import Source, sample_for
from nas.hardware import Device, Rounds, exclusive, measure_rounds
from nas.supernet import Supernet

if TYPE_CHECKING:
    from nas.space import Arch

ROUNDS, BUDGET_S = 10, 0.03


class Beside(Latency):
    """Latency of an arch as a share of the largest one's, measured in turns with it, times what the largest had first.

    A budget is a share of the original's time. One that was measured a minute before the machine had other work to do, or none,
    would make every network after it seem slower or faster than it is.

    Args:
        source: a supernet or a checkpoint's folder.
        device: one of this machine.
        folder: where the first latency of the largest is kept, for every process and every later call.
        rounds: visits of both for each arch.
    """

    device: Device
    metrics = ("latency_ms", "latency_spread_ms", "latency_noisy")

    def __init__(self, source: Source, device: Device, folder: Path, rounds: int = 4) -> None:
        super().__init__(source, device)
        self.folder, self.rounds = folder, rounds

    def __call__(self, arch: Arch) -> dict[str, float]:
        """Median and interquartile range in ms, and 1.0 if they are not to be trusted."""
        net = self.weights.get(arch.space)
        largest = arch.space.largest
        path = self.folder / f"original-{named(vars(self.device))}.json"
        original = kept(path, lambda: self._told(_in_rounds(net, [largest], self.device, 2 * ROUNDS)), self.metrics)
        if arch == largest:
            return original
        found = _in_rounds(net, [arch, largest], self.device, self.rounds)
        return self._told(found, original["latency_ms"] / float(found.ms[1]))

    def describe(self) -> dict[str, Any]:
        """JSON-able name, device and rounds."""
        return {"name": "Beside", "device": vars(self.device).copy(), "rounds": self.rounds, "budget_s": BUDGET_S}

    @staticmethod
    def _told(found: Rounds, scale: float = 1.0) -> dict[str, float]:
        """Of the first module."""
        low, high = np.percentile(found.visits[:, 0], [25, 75])
        values = (scale * found.ms[0], scale * (high - low), found.noisy[0])
        return dict(zip(Beside.metrics, map(float, values), strict=True))


def _in_rounds(net: Supernet, archs: Sequence[Arch], device: Device, rounds: int) -> Rounds:
    with reading.any_weights():
        modules = [net.extract(arch).eval() for arch in archs]
    with exclusive():
        return measure_rounds(
            modules, [sample_for(net, arch) for arch in archs], device, rounds=rounds, budget_s=BUDGET_S
        )


def in_turns(net: Supernet, archs: Sequence[Arch], device: Device, folder: Path) -> dict[Arch, float]:
    """Milliseconds of each, of what was measured together; a file of the folder keeps them.

    Args:
        net: weights of all; times do not depend on their values.
        archs: the original's among them.
        device: one of this machine.
        folder: for a file of these archs on this device.

    Raises:
        StudyError: the file cannot be written.
    """
    each = {arch.key: arch for arch in archs}

    def measured() -> dict[str, float]:
        found = _in_rounds(net, list(each.values()), device, ROUNDS)
        return dict(zip(each, map(float, found.ms), strict=True))

    path = folder / f"turns-{named(vars(device), list(each), ROUNDS, BUDGET_S)}.json"
    ms = kept(path, measured, each)
    return {arch: ms[key] for key, arch in each.items()}

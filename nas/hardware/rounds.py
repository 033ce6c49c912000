"""Many modules measured in turns: a machine that slows down slows all of them, and the reference says by how much.

Each round visits every module once, in another order; a visit is a few calls after a warm-up, and as many calls of the
reference.  A visit's time is its median, multiplied by what the reference takes usually and divided by what it took during the
visit.  The figure of a module is the median over rounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from nas.errors import DeviceError
from nas.hardware.device import Device
from nas.hardware.latency import NOISY, Reference, clock_of, quiet, runnable
from nas.supernet.inputs import Inputs

Floats = NDArray[np.float64]
LEAST_CALLS, WARM_UP = 5, 2


@dataclass(frozen=True)
class Rounds:
    """What rounds of visits found.

    Args:
        visits: (rounds, n) ms, corrected for drift.
        references: (rounds, n) ms of the reference during each visit.
    """

    visits: Floats
    references: Floats

    @property
    def ms(self) -> Floats:
        """(n,) the figure of each module."""
        return np.asarray(np.median(self.visits, axis=0))

    @property
    def noisy(self) -> NDArray[np.bool_]:
        """(n,) whether the interquartile range over rounds exceeds a quarter of the median."""
        low, middle, high = np.percentile(self.visits, [25, 50, 75], axis=0)
        return np.asarray(high - low > NOISY * middle)

    def halves(self) -> tuple[Floats, Floats]:
        """(n,) and (n,): figures of the even and of the odd rounds, two measurements of the same."""
        return np.median(self.visits[::2], axis=0), np.median(self.visits[1::2], axis=0)

    @property
    def drift(self) -> float:
        """Largest over smallest median of the reference in a round."""
        each = np.median(self.references, axis=1)
        return float(each.max() / each.min())


def measure_rounds(
    modules: Sequence[nn.Module],
    inputs: Sequence[Inputs],
    device: Device | None = None,
    *,
    rounds: int = 10,
    budget_s: float = 0.02,
    seed: int = 0,
    tick: Callable[[int, int], None] | None = None,
) -> Rounds:
    """Measure modules in turns.

    Args:
        modules: any number, all kept in memory.
        inputs: one sample for each.
        device: the default is one thread of the CPU, one sample, float32.
        rounds: visits of each module; 2 or more.
        budget_s: of one visit.
        seed: of the orders.
        tick: told rounds done and wanted.

    Raises:
        DeviceError: the device is not there, inputs do not fit, or fewer than two rounds are asked for.
    """
    device = device or Device()
    device.check()
    if rounds < 2 or not modules or len(modules) != len(inputs):
        raise DeviceError(
            f"{len(modules)} modules with {len(inputs)} inputs in {rounds} rounds; give one input for each, and 2 rounds or more"
        )
    clock, rng = clock_of(device), np.random.default_rng(seed)
    visits, references = np.empty((rounds, len(modules))), np.empty((rounds, len(modules)))
    with ExitStack() as stack, quiet(device.threads):
        runs = [
            clock.ready(stack.enter_context(runnable(module, given, device)))
            for module, given in zip(modules, inputs, strict=True)
        ]
        reference = clock.ready(Reference().to(device.torch_device))
        for turn in range(rounds):
            for place in rng.permutation(len(runs)):
                visits[turn, place], references[turn, place] = _visit(runs[place], reference, clock, budget_s)
            if tick is not None:
                tick(turn + 1, rounds)
    return Rounds(visits * np.median(references) / references, references)


def _visit(run: Callable[[], Any], reference: Callable[[], Any], clock: Any, budget_s: float) -> tuple[float, float]:
    """Medians of calls of both, one after the other."""
    for _ in range(WARM_UP):
        clock.ms(run)
        clock.ms(reference)
    times: list[float] = []
    references: list[float] = []
    start = time.perf_counter()
    while len(times) < LEAST_CALLS or time.perf_counter() - start < budget_s:
        times.append(clock.ms(run))
        references.append(clock.ms(reference))
    return float(np.median(times)), float(np.median(references))

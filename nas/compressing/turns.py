"""Latencies of the original and of tuned networks, measured in turns: what else the machine does slows all of them alike.

A network that is measured an hour after the original is compared with another machine's original, where neighbours came or went.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nas import reading
from nas.compressing.kept import kept
from nas.compressing.settings import named
from nas.evaluate.subnets import sample_for
from nas.hardware import Device, exclusive, measure_rounds
from nas.supernet import Supernet

if TYPE_CHECKING:
    from nas.space import Arch

ROUNDS, BUDGET_S = 10, 0.03


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
        with reading.any_weights():
            modules = [net.extract(arch).eval() for arch in each.values()]
        inputs = [sample_for(net, arch) for arch in each.values()]
        with exclusive():
            found = measure_rounds(modules, inputs, device, rounds=ROUNDS, budget_s=BUDGET_S)
        return dict(zip(each, map(float, found.ms), strict=True))

    path = folder / f"turns-{named(vars(device), list(each), ROUNDS, BUDGET_S)}.json"
    ms = kept(path, measured, each)
    return {arch: ms[key] for key, arch in each.items()}

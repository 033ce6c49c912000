"""Latencies of the original and of tuned networks, measured in turns: what else the machine does slows all of them alike.

A network that is measured an hour after the original is compared with another machine's original, where neighbours came or went.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nas import files, reading
from nas.compressing.settings import named
from nas.errors import StudyError
from nas.evaluate.subnets import sample_for
from nas.hardware import Device, exclusive, measure_rounds
from nas.supernet import Supernet

if TYPE_CHECKING:
    from nas.space import Arch

ROUNDS, BUDGET_S = 16, 0.03


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
    each = list(dict.fromkeys(archs))
    path = folder / f"turns-{named(vars(device), [arch.key for arch in each], ROUNDS, BUDGET_S)}.json"
    try:
        return dict(zip(each, map(float, json.loads(path.read_text(encoding="utf-8"))), strict=True))
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):  # or a damaged one
        pass
    with reading.any_weights():
        modules = [net.extract(arch).eval() for arch in each]
    inputs = [sample_for(net, arch) for arch in each]
    with exclusive():
        found = measure_rounds(modules, inputs, device, rounds=ROUNDS, budget_s=BUDGET_S)
    with files.explained(path, StudyError):
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, json.dumps([float(ms) for ms in found.ms]))
    return dict(zip(each, map(float, found.ms), strict=True))

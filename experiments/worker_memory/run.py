"""How much memory do N workers of one machine take that evaluate subnets of one supernet: its weights once, or N times?

Every worker runs the largest subnet, so that it has read all of the weights; then the kernel says what the workers hold.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyglove as pg
import torch
from torch import Tensor, nn

import nas
from nas.runners import LocalRunner, Task

LAYERS = 4
MIB = 2**20


@nas.model
def stack(width: int, depth: int) -> nn.Module:
    """Square layers without bias."""
    return nn.Sequential(*[nn.Linear(width, width, bias=False) for _ in range(depth)])


def space(width: int) -> nas.Space:
    return nas.Space(stack(width=width, depth=pg.oneof(list(range(1, LAYERS + 1)))), name=f"stack-{width}")


class Touch:
    """Runs the subnet of an arch; with `copy`, on a copy of the weights of its own, as a worker without mapping has."""

    def __init__(self, supernet: nas.Supernet, width: int, *, copy: bool = False) -> None:
        self.supernet, self.width, self.copy = supernet, width, copy
        self.own: list[Tensor] = []

    def __call__(self, arch: nas.Arch) -> dict[str, float]:
        if self.copy and not self.own:
            self.own = [parameter.detach().clone() for parameter in self.supernet.parameters()]
        with torch.no_grad():
            out = self.supernet(torch.ones(1, self.width), arch)
        time.sleep(0.05)  # so that no worker does the work of all
        return {"sum": float(out.abs().sum()), "pid": float(os.getpid())}


def held(pids: list[int], weights: Path) -> dict[str, float]:
    """MiB of processes: their proportional share of all memory, and of it what is the weights' file."""
    found = {"all": 0.0, "weights": 0.0, "weights_written": 0.0}
    for pid in pids:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        found["all"] += sum(int(kib) for kib in re.findall(r"^Pss:\s+(\d+) kB", rollup, re.M)) / 1024
        for mapping in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path(f"/proc/{pid}/smaps").read_text(), flags=re.M):
            if str(weights) in mapping:
                found["weights"] += int(re.findall(r"^Pss:\s+(\d+) kB", mapping, re.M)[0]) / 1024
                found["weights_written"] += int(re.findall(r"^Private_Dirty:\s+(\d+) kB", mapping, re.M)[0]) / 1024
    return found


def measure(kind: str, workers: int, width: int, folder: Path, *, copy: bool = False) -> dict[str, float]:
    """What `workers` workers hold once each of them has evaluated the largest arch."""
    found = space(width)
    supernet = nas.Supernet.load(folder, found)
    (weights,) = folder.glob("weights-*.safetensors")
    with _runner(kind, found, Touch(supernet, width, copy=copy), workers) as runner:
        seen: set[float] = set()
        number = 0
        while len(seen) < workers:
            runner.submit([Task(number + i, tuple(found.largest.row())) for i in range(2 * workers)])
            number += 2 * workers
            done = 0
            while done < 2 * workers:
                for outcome in runner.wait(1.0):
                    assert outcome.state == "COMPLETED", outcome
                    seen.add(outcome.measurements["pid"])
                    done += 1
        return held(runner.pids, weights)


def _runner(kind: str, found: nas.Space, evaluate: Touch, workers: int) -> Any:
    if kind == "local":
        return LocalRunner(found, evaluate, workers)
    from nas.runners import RayRunner

    return RayRunner(found, evaluate, workers)


def compared(kind: str, workers: int, width: int, folder: Path, *, copy: bool = False) -> dict[str, float]:
    """MiB for a large supernet beside those for a tiny one, which is what Python, torch and Ray take."""
    large = measure(kind, workers, width, folder / "large", copy=copy)
    tiny = measure(kind, workers, 8, folder / "tiny", copy=copy)
    size = LAYERS * width * width * 4 / MIB
    return {
        "processes_mib": tiny["all"],
        "with_weights_mib": large["all"],
        "weights_mapped_mib": large["weights"],
        "weights_written_mib": large["weights_written"],
        "copies": (large["all"] - tiny["all"]) / size,
    }


def spread(runs: list[dict[str, float]]) -> dict[str, list[float]]:
    """Lowest, median and highest of each figure."""
    return {name: [round(sorted(run[name] for run in runs)[i], 3) for i in (0, len(runs) // 2, -1)] for name in runs[0]}


def main() -> None:
    """Save, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="4 MB, one local worker, once")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    width = 500 if options.smoke else 5000
    kinds = ["local"] if options.smoke else ["local", "ray"]
    counts = [1] if options.smoke else [1, 2, 4]
    repeats = 1 if options.smoke else options.repeats
    torch.set_num_threads(1)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part, size in (("large", width), ("tiny", 8)):
            nas.Supernet(space(size)).save(folder / part)
        for kind in kinds:
            for count in counts:
                runs = []
                for repeat in range(repeats):
                    runs.append(compared(kind, count, width, folder))
                    print(f"{kind}, {count} workers, repeat {repeat}: {runs[-1]}", file=sys.stderr)
                figures[f"{kind}_{count}"] = spread(runs)
        if not options.smoke:
            # What the figure would be without mapping: each of two workers has a copy, beside the one that is mapped.
            figures["copied_2"] = spread([compared("local", 2, width, folder, copy=True) for _ in range(repeats)])
    mib = LAYERS * width * width * 4 / MIB
    print(json.dumps({"experiment": "worker_memory", "supernet_mib": round(mib, 1), "repeats": repeats, **figures}))


if __name__ == "__main__":
    main()

"""Step time of distillation with a running and with a stored teacher.

    python experiments/teacher_store/run.py

--smoke takes seconds.  One JSON line last.  See README.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import nas
from nas.train import as_supernet


class Net(nn.Module):
    """Images (n, 1, 16, 16) to logits (n, 62)."""

    def __init__(self, width: int, depth: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.layers = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(depth))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(depth))
        self.head = nn.Linear(width, 62)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = torch.relu(x + norm(layer(x)))
        found: Tensor = self.head(x.mean((2, 3)))
        return found


def task(samples: int, batch: int) -> nas.Task:
    """Noise: what is measured is time."""
    draw = torch.Generator().manual_seed(0)
    x, u = torch.randn(samples, 1, 16, 16, generator=draw), torch.randn(batch, 1, 16, 16, generator=draw)
    return nas.Classification(
        (x, torch.arange(samples) % 62), (u, torch.arange(batch) % 62), batch=batch, calibration=batch
    )


def seconds(data: nas.Task, teacher: nn.Module, student: nn.Module, outputs: nas.TeacherOutputs | None) -> float:
    """Median time of a step of one epoch."""
    times: list[float] = []

    class Timed(nas.Teacher):
        """Notes when each batch is judged: once a step."""

        def __call__(self, output: object, batch: nas.train.Batch, step: nas.train.Step) -> Tensor:
            times.append(time.perf_counter())
            return super().__call__(output, batch, step)

    training = nas.Training(
        as_supernet(student, example=data.example),
        data,
        sampler=nas.Uniform(1),
        loss=Timed(teacher, outputs=outputs),
        epochs=1,
        validate_every=10**6,
    )
    training.run(progress=False)
    return statistics.median(after - before for before, after in itertools.pairwise(times))


def main() -> None:
    """Rounds of: teacher runs, is stored, is read; interleaved."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--rounds", type=int, default=5)
    words.add_argument("--smoke", action="store_true")
    options = words.parse_args()
    torch.set_num_threads(1)
    rounds, batch, steps = (1, 8, 4) if options.smoke else (options.rounds, 128, 20)
    data, found = task(batch * steps, batch), []
    for students in (8, 16, 32):
        teacher, student = Net(8 if options.smoke else 32), Net(students)
        kinds: dict[str, list[float]] = {"running": [], "storing": [], "stored": []}
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                outputs = nas.TeacherOutputs(Path(folder))
                kinds["running"].append(seconds(data, teacher, student, None))
                kinds["storing"].append(seconds(data, teacher, student, outputs))
                kinds["stored"].append(seconds(data, teacher, student, outputs))
        ratios = {
            name: [one / running for one, running in zip(kinds[name], kinds["running"], strict=True)]
            for name in ("storing", "stored")
        }
        row = {"student": students, "running_ms": round(1e3 * statistics.median(kinds["running"]), 2)}
        found.append(row | {name: round(statistics.median(each), 3) for name, each in ratios.items()})
        low, high = min(ratios["stored"]), max(ratios["stored"])
        print(
            f"student of width {students}: {row['running_ms']} ms a step; stored {low:.2f} to {high:.2f} of it",
            flush=True,
        )
    print(json.dumps({"steps": found}))


if __name__ == "__main__":
    main()

"""A convolutional network at 75, 50 and 35 % of its operations: nas.compress beside uniform scaling and others.

    python experiments/compress_cnn/run.py --glyphs FILE --runs FOLDER

goes on where it stopped; --report prints the figures of the runs; --smoke takes seconds.  One JSON line last.  See README.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from compress_common.compare import Case, figures, original_of, parser, run, trained
from glyphs.letters import glyphs
from net import Net
from runs_common.folder import carry_out
from torch import nn

import nas

BUDGETS = ("75%", "50%", "35%")
LEARNT, TRAIN, VALID, TEST = 300, 120, 100, 150
"""Typefaces: of the original's training, those of them that compressions train with, and the splits that judge."""


def original(task: nas.Task, folder: Path, smoke: bool) -> nn.Module:
    """The network, trained to its end; kept in the folder."""
    torch.manual_seed(0)
    return trained(
        Net(8, 8) if smoke else Net(24, 32),
        task,
        folder / "original",
        steps=60 if smoke else 2000,
        lr=1e-2 if smoke else 3e-3,
        sampler=nas.Uniform(1),
    )


def main() -> None:
    """Runs what is asked for and prints the figures."""
    words = parser(__doc__, BUDGETS, epochs=6)
    words.add_argument("--glyphs", type=Path, help="glyphs.npz: images (n, 16, 16), labels, typeface")
    options = words.parse_args()
    if options.smoke:
        options.budgets, options.ways, options.seeds, options.epochs = ["50%"], ["ours", "magnitude"], 1, 3
    carry_out(everything, options, words, ["glyphs"])


def data(options: argparse.Namespace, seed: int, train_on: int = TRAIN) -> nas.Task:
    """The glyphs, or the digits."""
    if options.smoke:
        return nas.digits(batch=128, seed=seed)
    return glyphs(options.glyphs, seed=seed, train=train_on, valid=VALID, test=TEST, batch=128)


def everything(options: argparse.Namespace, folder: Path) -> None:
    """All runs that are not there yet, and the figures."""
    for seed in range(0 if options.report else options.seeds):
        task, net = data(options, seed), original(data(options, 0, LEARNT), folder, options.smoke)
        original_of(net, task, folder)
        for budget in options.budgets:
            for way in options.ways:
                case = Case(
                    model=net,
                    task=task,
                    budget=f"macs <= {budget}",
                    device=None,
                    folder=folder / f"{budget}-{seed}",
                    epochs=options.epochs,
                    training={"lr": 1e-3},
                    options={},
                    trials=12 if options.smoke else 120,
                    best="min loss",
                )
                run(case, way, folder / f"{budget}, {way}, {seed}.json")
                print(f"{budget}, {way}, {seed}: done", flush=True)
    print(json.dumps(figures(folder, "accuracy")))


if __name__ == "__main__":
    main()

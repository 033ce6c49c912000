"""A decoder at 75, 50 and 35 % of its latency on this CPU, or of its weights and cache, judged by bits per byte of source code.

    python experiments/compress_lm/run.py --runs FOLDER
    python experiments/compress_lm/run.py --runs FOLDER --searches

goes on where it stopped; --report prints the figures of the runs; --smoke takes seconds.  One JSON line last.  See README.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))

from compress_common.compare import Case, figures, original_of, parser, run
from corpus import corpus, shorter
from original import LIMIT, SIZES, SMALL, STEPS, original
from runs_common.folder import carry_out
from searches import compared
from torch import nn

import nas
from nas.train.text import LanguageModelling

METRICS = {"latency": "latency_ms", "memory": "memory_mib"}
BUDGETS = tuple(f"{kind} {share}" for share in ("50%", "75%", "35%") for kind in METRICS)
CACHE = (8, 1024)
TRAIN, HELD = 32_768, 32_768
"""Tokens of an epoch, and of the splits that judge."""


def main() -> None:
    """Runs what is asked for and prints the figures."""
    words = parser(__doc__, BUDGETS, epochs=3)
    words.add_argument("--lr", type=float, default=1e-3, help="highest rate of every way")
    words.add_argument("--searches", action="store_true", help="compare searches at equal evaluations instead")
    words.add_argument("--evaluations", type=int, default=240, help="of NSGA-II; the others have half")
    options = words.parse_args()
    if options.smoke:
        options.budgets, options.ways, options.seeds, options.epochs = ["memory 70%"], ["ours", "magnitude"], 1, 1
        options.evaluations = 12
    carry_out(everything, options, words)


def prepared(folder: Path, smoke: bool) -> tuple[LanguageModelling, nn.Module]:
    """A small part of the language, and the trained decoder."""
    if smoke:
        task = nas.python_corpus(32, 4, merges=16, limit=90_000)
        return shorter(task, 3_000, 1_100), original(task, folder / "original", SMALL, 5)
    task = corpus(folder, limit=LIMIT, batch=8)
    net = original(dataclasses.replace(task, batch=16), folder / "original", SIZES, STEPS)
    return shorter(task, TRAIN, HELD), net


def everything(options: argparse.Namespace, folder: Path) -> None:
    """All runs that are not there yet, and the figures."""
    found: dict[str, Any] = {}
    if not options.report:
        task, net = prepared(folder, options.smoke)
        original_of(net, task, folder)
        if options.smoke or not options.searches:
            for seed in range(options.seeds):
                compressed(options, folder, dataclasses.replace(task, seed=seed), net)
    if options.smoke or options.searches:
        given = None if options.report else (net, task)
        sizes = {"seeds": options.seeds, "evaluations": options.evaluations, "granule": granule(options)}
        found["searches"] = compared(given, folder, **sizes)
    if options.smoke or not options.searches or options.report:
        found |= figures(folder, "bits_per_byte")
    print(json.dumps(found))


def granule(options: argparse.Namespace) -> int:
    """What widths are multiples of."""
    return 8 if options.smoke else 64


def compressed(options: argparse.Namespace, folder: Path, task: LanguageModelling, net: nn.Module) -> None:
    """Every way at every budget, with one seed."""
    for budget in options.budgets:
        kind, share = budget.split()
        for way in options.ways:
            case = Case(
                model=net,
                task=task,
                budget=f"{METRICS[kind]} <= {share}",
                device="cpu" if kind == "latency" else None,
                folder=folder / f"{budget}-{task.seed}",
                epochs=options.epochs,
                training={"lr": options.lr},
                options={"granule": granule(options)},
                trials=12 if options.smoke else 120,
                best="min loss",
                cache=None if kind == "latency" else (2, 32) if options.smoke else CACHE,
                shared=True,
            )
            run(case, way, folder / f"{budget}, {way}, {task.seed}.json")
            print(f"{budget}, {way}, {task.seed}: done", flush=True)


if __name__ == "__main__":
    main()

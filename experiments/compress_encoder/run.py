"""A sentence encoder with real weights at 75, 50 and 35 % of its time on this CPU, judged by the search for code.

    python experiments/compress_encoder/run.py --weights FOLDER --runs FOLDER

goes on where it stopped; --report prints the figures of the runs, --again measures the networks of `nas.compress` once more, on a
quiet machine, say; --smoke takes seconds.  One JSON line last.  See README.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "minilm"))
sys.path.insert(0, str(Path(__file__).parent.parent))

from compress_common.compare import Case, again, figures, original_of, parser, run
from encoder import numbered, pretrained
from functions import Pair, splits
from runs_common.folder import carry_out
from torch import Tensor

import nas

BUDGETS = ("75%", "50%", "35%")
LENGTH = 32
"""Tokens of a line or a function; longer ones are cut."""


def search_for_code(folder: str | None, counts: tuple[int, int, int], seed: int) -> nas.Task:
    """Pairs of a docstring's first line and its function; no package is in two splits, test pairs are of the standard library."""

    def tokens(pairs: list[Pair]) -> tuple[Tensor, Tensor]:
        return (
            numbered([line for line, _ in pairs], folder, LENGTH),
            numbered([source for _, source in pairs], folder, LENGTH),
        )

    train, valid, test = map(tokens, splits(*counts))
    return nas.Embedding(train, valid, test, batch=32, seed=seed, ranks=(1, 10))


def main() -> None:
    """Runs what is asked for and prints the figures."""
    words = parser(__doc__, BUDGETS, epochs=1)
    words.add_argument("--weights", help="folder with config.json, model.safetensors and tokenizer.json")
    words.add_argument("--pairs", type=int, default=8000, help="to train on")
    words.add_argument("--again", action="store_true", help="only measure what was tuned once more, all in turns")
    options = words.parse_args()
    if options.smoke:
        options.budgets, options.ways, options.seeds = ["50%"], ["magnitude"], 1
        options.weights, options.pairs = None, 64
    carry_out(everything, options, words, ["weights"], free=["again"])


def everything(options: argparse.Namespace, folder: Path) -> None:
    """All runs that are not there yet, and the figures."""
    held, granule = ((32, 32), 8) if options.smoke else ((600, 600), 64)
    if options.again:
        task = search_for_code(options.weights, (64, *held), 0)
        print(json.dumps(again(pretrained(options.weights), task, folder, {"granule": granule})))
        return
    for seed in range(0 if options.report else options.seeds):
        task = search_for_code(options.weights, (options.pairs, *held), seed)
        net = pretrained(options.weights)
        original_of(net, task, folder)
        for budget in options.budgets:
            for way in options.ways:
                case = Case(
                    model=net,
                    task=task,
                    budget=f"{'macs' if options.smoke else 'latency_ms'} <= {budget}",
                    device="cpu",
                    folder=folder / f"{budget}-{seed}",
                    epochs=options.epochs,
                    training={"lr": 1e-4},
                    options={"granule": granule},
                    trials=100,
                    best="max mrr",
                )
                run(case, way, folder / f"{budget}, {way}, {seed}.json")
                print(f"{budget}, {way}, {seed}: done", flush=True)
    print(json.dumps(figures(folder, "mrr")))


if __name__ == "__main__":
    main()

"""A sentence encoder with real weights at 75, 50 and 35 % of its time on this CPU, judged by the search for code.

    python experiments/compress_encoder/run.py --weights FOLDER --runs FOLDER

goes on where it stopped; --report prints the figures of the runs; --smoke takes seconds.  One JSON line last.  See README.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "minilm"))
sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from compress_common.compare import WAYS, Case, figures, run
from encoder import pretrained
from functions import Pair, splits
from torch import Tensor

import nas
from nas.train import as_supernet

BUDGETS = ("75%", "50%", "35%")
LENGTH = 32
"""Tokens of a line or a function; longer ones are cut."""


def numbered(texts: list[str], folder: str | None) -> Tensor:
    """(n, LENGTH) tokens of all texts; without a folder words by number."""
    if folder is not None:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder)
        found: Tensor = tokenizer(
            texts, return_tensors="pt", padding="max_length", truncation=True, max_length=LENGTH
        ).input_ids
        return found
    rows = [[1 + sum(map(ord, word)) % 127 for word in text.split()][:LENGTH] for text in texts]
    return torch.tensor([row + [0] * (LENGTH - len(row)) for row in rows])


def search_for_code(folder: str | None, counts: tuple[int, int, int], seed: int) -> nas.Task:
    """Pairs of a docstring's first line and its function; no package is in two splits, test pairs are of the standard library."""

    def tokens(pairs: list[Pair]) -> tuple[Tensor, Tensor]:
        return numbered([line for line, _ in pairs], folder), numbered([source for _, source in pairs], folder)

    train, valid, test = map(tokens, splits(*counts))
    return nas.Embedding(train, valid, test, batch=32, seed=seed, ranks=(1, 10))


def main() -> None:
    """Runs what is asked for and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="folder with config.json, model.safetensors and tokenizer.json")
    parser.add_argument("--runs", type=Path, help="folder of the runs")
    parser.add_argument("--budgets", nargs="+", default=list(BUDGETS))
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=2000, help="to train on")
    parser.add_argument("--report", action="store_true", help="only the figures of what was run")
    parser.add_argument("--smoke", action="store_true", help="a small random model, seconds")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.smoke:
        options.budgets, options.ways, options.seeds, options.epochs = ["50%"], ["magnitude"], 1, 1
        options.weights, options.pairs = None, 64
        with tempfile.TemporaryDirectory() as folder:
            everything(options, Path(folder))
        return
    if options.runs is None or (options.weights is None and not options.report):
        parser.error("--weights and --runs are needed (or --smoke); see README.md")
    options.runs.mkdir(parents=True, exist_ok=True)
    everything(options, options.runs)


def everything(options: argparse.Namespace, folder: Path) -> None:
    """All runs that are not there yet, and the figures."""
    held, granule = ((32, 32), 8) if options.smoke else ((600, 600), 64)
    for seed in range(0 if options.report else options.seeds):
        task = search_for_code(options.weights, (options.pairs, *held), seed)
        net = pretrained(options.weights)
        whole = folder / "original.json"
        if not whole.exists():
            quality = nas.Accuracy(as_supernet(net, example=task.example), task, split="test")
            whole.write_text(json.dumps(quality.measure_module(net)))
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
    print(json.dumps({"original": json.loads((folder / "original.json").read_text())["mrr"], **figures(folder, "mrr")}))


if __name__ == "__main__":
    main()

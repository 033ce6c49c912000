"""One encoder of glosses at every depth and length: which nested training leaves the best embeddings?  See README.md.

    python experiments/glosses/run.py --wordnet /usr/share/wordnet --runs FOLDER [--seeds 3] [--ways NAME …]
    python experiments/glosses/run.py --report --runs FOLDER      (figures of the runs)
    python experiments/glosses/run.py --smoke

A run is a file of the folder, and what is there is not repeated.  Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
import wordnet
from runs_common.folder import kept, opened
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional

import nas
from nas.train import (
    AllGranularities,
    FixedList,
    Granular,
    Loss,
    Sampler,
    SoftSimilarities,
    SortedExits,
    Training,
    TwoDimensional,
)
from searchspaces import sentences

DIMS = (2, 4, 8, 16, 32, 48)
"""Lengths of the embedding; the first at the first block, and so on."""
TEMPERATURE = 0.05
VALID, TEST = 0.05, 0.1
"""Shares of the senses."""
WHOLE = FixedList([{}])
soft = partial(Granular, kl=1.0, divergence=SoftSimilarities(TEMPERATURE))


def ways(dims: Sequence[int]) -> dict[str, tuple[Sampler, Loss, dict[str, Any]]]:
    """Sampler, loss, and what differs in the space."""
    fixed = FixedList([{"depth": depth, "dim": dim} for depth, dim in diagonal(dims)])
    own: dict[str, Any] = {"heads": "separate"}
    return {
        "whole": (WHOLE, Granular(), {}),
        "whole, own heads": (WHOLE, Granular(), own),
        "matryoshka": (AllGranularities(("dim",)), Granular(), {}),
        "fixed": (fixed, Granular(), {}),
        "two dimensional": (TwoDimensional(), Granular(), {}),
        "fixed, kl": (fixed, soft(), {}),
        "two dimensional, kl": (TwoDimensional(), soft(), {}),
        "exits": (SortedExits(), Granular(), own),
        "exits by depth": (SortedExits(), Granular(axis="depth", weights="proportional"), own),
        "alone, smallest": (WHOLE, Granular(), {"depths": (1,), "dims": dims[:1]}),
        "alone, first exit": (WHOLE, Granular(), {"depths": (1,), "dims": dims[-1:]}),
    }


def diagonal(dims: Sequence[int]) -> list[tuple[int, int]]:
    """(depth, length of the embedding)."""
    return list(enumerate(dims, 1))


class Data:
    """Pairs to train with, and what embeddings are judged by: senses that no pair has."""

    def __init__(self, senses: Sequence[wordnet.Sense], options: argparse.Namespace) -> None:
        draw = np.random.default_rng(0)
        order = draw.permutation(len(senses))
        valid, test = (round(share * len(senses)) for share in (VALID, VALID + TEST))
        kept = set(order[test:].tolist())
        taxonomy = wordnet.Taxonomy(senses)
        self._texts = torch.from_numpy(
            wordnet.tokens([one.gloss for one in senses], options.vocabulary, options.length)
        )
        pairs = [(place, top) for place in sorted(kept) for top in senses[place].above if top in kept]
        self.train = self._both(np.array(pairs))
        self.valid, self.valid_scores = self._graded(taxonomy, order[:valid], options.pairs // 5, draw)
        self.test, self.scores = self._graded(taxonomy, order[valid:test], options.pairs, draw)
        asked = [place for place in order[valid:test].tolist() if kept.intersection(senses[place].above)][
            : options.asked
        ]
        tops = sorted({top for place in asked for top in senses[place].above if top in kept})
        self.queries, self.items = self._texts[asked], self._texts[tops]
        self.right = torch.tensor([[top in senses[place].above for top in tops] for place in asked])

    def _both(self, pairs: np.ndarray) -> tuple[Tensor, Tensor]:
        return self._texts[pairs[:, 0]], self._texts[pairs[:, 1]]

    def _graded(
        self, taxonomy: wordnet.Taxonomy, places: np.ndarray, count: int, draw: np.random.Generator
    ) -> tuple[tuple[Tensor, Tensor], Tensor]:
        pairs, scores = wordnet.graded(taxonomy, places, count, draw)
        return self._both(pairs), torch.from_numpy(scores)

    def task(self, seed: int, options: argparse.Namespace) -> nas.Embedding:
        """A gloss belongs to that of a hypernym."""
        return nas.Embedding(
            self.train, (self.valid, self.valid_scores), temperature=TEMPERATURE, batch=options.batch, seed=seed
        )


def supernet(way: str, seed: int, options: argparse.Namespace) -> nas.Supernet:
    """Fresh."""
    sizes = {"depths": range(1, len(options.dims) + 1), "dims": options.dims}
    settings = {
        "pooling": options.pooling,
        "width": options.width,
        "vocabulary": options.vocabulary,
        "length": options.length,
    }
    return sentences.supernet(sentences.space(**{**sizes, **settings, **ways(options.dims)[way][2]}), seed=seed)


def judge(net: nas.Supernet, data: Data) -> dict[str, list[float]]:
    """By "depth dim": Spearman's correlation with similarity in the taxonomy, and reciprocal rank of a hypernym; percent."""
    texts = [*data.test, data.queries, data.items]
    net.eval()
    with torch.no_grad():
        trunk: Any = net.bind(net.space.largest).module
        features = [list(map(torch.cat, zip(*map(trunk.trunk, one.split(512)), strict=True))) for one in texts]
        found = {}
        for arch in net.space.enumerate():
            module: Any = net.bind(arch).module
            left, right, queries, items = (functional.normalize(module.read(one)) for one in features)
            correlation = spearmanr((left * right).sum(1).numpy(), data.scores.numpy()).statistic
            likeness = queries @ items.T
            best = likeness.masked_fill(~data.right, -torch.inf).amax(1, keepdim=True)
            rank = 1 + (likeness > best).sum(1)
            found["{depth} {dim}".format(**arch.choices)] = [100 * float(correlation), 100 * float((1 / rank).mean())]
    return found


def run(way: str, seed: int, data: Data, options: argparse.Namespace) -> dict[str, Any]:
    """One training, judged on test senses at every depth and length."""
    sampler, loss, _ = ways(options.dims)[way]
    net = supernet(way, seed, options)
    settings = {"steps": options.steps, "validate_every": options.steps, "lr": options.lr}
    training = Training(net, data.task(seed, options), sampler=sampler, loss=loss, seed=seed, **settings)
    begun = time.process_time()
    training.run(progress=False)
    seconds = time.process_time() - begun
    return {"seconds": round(seconds, 1), "steps": options.steps, "qualities": judge(net, data)}


def play(folder: Path, options: argparse.Namespace) -> None:
    """All runs that are not there yet."""
    senses = wordnet.exceptions() if options.smoke else wordnet.nouns(options.wordnet)
    data = Data(senses, options)
    print(f"{len(senses)} senses, {len(data.train[0])} pairs, {len(data.scores)} scored, {len(data.items)} hypernyms")
    for seed in range(options.seeds):
        for way in options.ways:
            file = folder / f"{way}, {seed}.json"
            found = kept(file, lambda w=way, s=seed, d=data: run(w, s, d, options))
            print(f"{way}, {seed}: {found['seconds']} s, {show(found['qualities'], options.dims)}", flush=True)


def show(qualities: dict[str, list[float]], dims: Sequence[int]) -> str:
    """The diagonal."""
    there = [f"{depth} {dim}" for depth, dim in diagonal(dims) if f"{depth} {dim}" in qualities] or list(qualities)
    return ", ".join(f"{qualities[name][0]:.1f}" for name in there)


def figures(folder: Path, dims: Sequence[int]) -> dict[str, Any]:
    """Means and deviations over seeds, printed as tables: the diagonal, full depth, exits at full length."""
    found: dict[str, Any] = {}
    pairs = diagonal(dims)
    lines = {
        "the diagonal": pairs,
        "all blocks": [(len(dims), dim) for dim in dims],
        "exits, whole embedding": [(depth, dims[-1]) for depth, _ in pairs],
    }
    runs = {way: [json.loads(one.read_text()) for one in sorted(folder.glob(f"{way}, ?.json"))] for way in ways(dims)}
    for title, places in lines.items():
        for at, metric in enumerate(("Spearman", "MRR")):
            print(f"\n{metric}, {title}\n\n| way | {' | '.join(map(str, places))} |")
            print(f"|---|{'---|' * len(places)}")
            for way, some in runs.items():
                cells = []
                for depth, dim in places:
                    values = [
                        one["qualities"][f"{depth} {dim}"][at] for one in some if f"{depth} {dim}" in one["qualities"]
                    ]
                    if values:
                        pair = [
                            round(statistics.fmean(values), 2),
                            round(statistics.stdev(values), 2) if values[1:] else 0.0,
                        ]
                        found.setdefault(metric, {}).setdefault(way, {})[f"{depth} {dim}"] = pair
                        cells.append(f"{pair[0]:.1f} ± {pair[1]:.1f}" if values[1:] else f"{pair[0]:.1f}")
                    else:
                        cells.append("")
                if any(cells):
                    print(f"| {way} | {' | '.join(cells)} |")
    found["seconds"] = {way: statistics.fmean(one["seconds"] for one in some) for way, some in runs.items() if some}
    found["seeds"] = {way: len(some) for way, some in runs.items() if some}
    return found


def arguments() -> argparse.ArgumentParser:
    """Options."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--wordnet", type=Path, help="folder with data.noun (Debian's wordnet-base: /usr/share/wordnet)")
    words.add_argument("--runs", type=Path, help="folder of the runs")
    words.add_argument("--report", action="store_true", help="only print the figures of the runs")
    words.add_argument("--smoke", action="store_true", help="seconds, on Python's exceptions")
    words.add_argument("--ways", nargs="+", choices=list(ways(DIMS)), default=list(ways(DIMS)))
    words.add_argument("--dims", type=int, nargs=6, default=DIMS, help="the same for all runs of a folder")
    words.add_argument("--seeds", type=int, default=3)
    words.add_argument("--pooling", choices=("mean", "first"), default="mean")
    words.add_argument("--steps", type=int, default=500)
    words.add_argument("--batch", type=int, default=64, help="pairs")
    words.add_argument("--lr", type=float, default=2e-3)
    words.add_argument("--width", type=int, default=48)
    words.add_argument("--vocabulary", type=int, default=8_192)
    words.add_argument("--length", type=int, default=12, help="words of a gloss at most")
    words.add_argument("--pairs", type=int, default=5_000, help="scored ones of the test split")
    words.add_argument("--asked", type=int, default=2_000, help="glosses of the test split that ask for a hypernym")
    return words


def main() -> None:
    """Runs what is asked for and prints the figures."""
    words = arguments()
    options = words.parse_args()
    if options.smoke:
        options.seeds, options.steps, options.batch, options.vocabulary, options.pairs = 1, 3, 8, 64, 100
        options.ways = ["fixed", "exits by depth"]
    with opened(options, words, needs=["wordnet"]) as folder:
        if not options.report:
            try:
                play(folder, options)
            except wordnet.Missing as error:
                sys.exit(f"error: {error}")
        print(json.dumps(figures(folder, options.dims)))


if __name__ == "__main__":
    main()

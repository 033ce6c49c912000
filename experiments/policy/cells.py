"""Policies on the cells of NAS-Bench-201: DARTS, GDAS, ENAS, the score function, uniform training with a search, random cells.

    python experiments/policy/cells.py --glyphs FILE --table FOLDER --runs FOLDER

goes on where it stopped; --report prints the figures of the runs; --smoke takes seconds.  One JSON line last.  See README.md.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from glyphs.letters import CAPITALS, glyphs
from run import BATCH, CALIBRATION, kept_rows, rows_in, summary
from runs_common.folder import opened
from scipy.stats import spearmanr

import nas
from nas.train import published, subnet_metrics
from searchspaces import nasbench201
from searchspaces.nasbench201 import EDGES, OPS, Table
from searchspaces.nasbench201_table import all_cells, made_up

COLUMNS = {"accuracy": "c10_test_200", "c100": "c100_test_200", "in16": "in16_test_200"}
"""Test accuracy after 200 epochs on CIFAR-10, CIFAR-100 and ImageNet16-120, %."""


@dataclass(frozen=True)
class Sizes:
    """How long everything is."""

    passes: int = 800
    """Of each way, in batches that go forward and backward through a network; a forward alone is a third."""
    looks: int = 24
    """Cells whose shared weights a study measures."""
    alone: int = 200
    """Steps of a chosen cell by itself."""
    short: int = 80
    """The same where random cells are compared."""
    compared: int = 20
    """Cells of a rank correlation on shared weights."""
    trained: int = 12
    """Cells of a rank correlation of networks by themselves."""
    seeds: int = 3
    ways: tuple[str, ...] | None = None
    """All, unless given."""


LONG = Sizes(passes=8000, short=400, alone=1000)
SMOKE = Sizes(
    passes=12, looks=2, alone=1, short=6, compared=2, trained=2, seeds=1, ways=("random", "uniform", "darts", "enas")
)


class Cells(nas.Supernet):
    """Of a space in which every cell can be built, so that nobody builds one to find that out."""

    def has(self, arch: nas.Arch) -> bool:  # noqa: ARG002
        """Yes."""
        return True


class Bench:
    """One seed: data, space, table."""

    def __init__(self, options: argparse.Namespace, sizes: Sizes, table: Table, seed: int) -> None:
        self.sizes, self.seed, self.table = sizes, seed, table
        split = {"train": 300, "valid": 30, "test": 30, "batch": BATCH, "calibration": CALIBRATION}
        self.task = (
            nas.digits(batch=BATCH, seed=seed)
            if options.glyphs is None
            else glyphs(options.glyphs, seed=seed, characters=CAPITALS, side=8, **split)
        )
        classes = int(self.task.train[1].max()) + 1
        self.space = nasbench201.space(width=8, cells=1, stages=2, channels=1, classes=classes)
        self.draw = random.Random(seed)

    def alone(self, arch: nas.Arch, steps: int, split: Any) -> float:
        """Accuracy of a cell that is trained by itself."""
        torch.manual_seed(self.seed)
        single = nas.as_supernet(self.space.build(arch))
        nas.Training(
            single, self.task, sampler=nas.Uniform(1), loss=nas.Labels(), steps=steps, validate_every=steps, seed=self.seed
        ).run(progress=False)  # fmt: skip
        return subnet_metrics(single, single.space.largest, self.task, split)["accuracy"]

    def weights(self, passes: float, each: float, **options: Any) -> nas.Supernet:
        """A supernet that is trained for `passes`, of which a step takes `each`."""
        net = Cells(self.space, example=torch.zeros(1, 1, 8, 8), seed=self.seed)
        steps = max(2, round(passes / each))
        given = {"sampler": nas.Uniform(1), "loss": nas.Labels(), **options}
        nas.Training(net, self.task, steps=steps, validate_every=steps, seed=self.seed, **given).run(progress=False)
        return net

    @property
    def looking(self) -> float:
        """Passes of all looks: forwards for statistics and over the validation split."""
        return self.sizes.looks * (CALIBRATION + len(self.task.valid[0])) / BATCH / 3

    def chosen(self, net: nas.Supernet, algorithm: nas.search.Algorithm | str) -> nas.Arch:
        """The best on shared weights that a study finds."""
        with tempfile.TemporaryDirectory() as folder:
            study = nas.Study(
                "looks",
                space=self.space,
                objectives=["max accuracy"],
                evaluators=[nas.Accuracy(net, self.task)],
                algorithm=algorithm,
                store=Path(folder) / "study.db",
            )
            study.run(self.sizes.looks, workers=0, progress=False)
            arch = study.arch(int(str(study.best().name)))
            study.close()
        return arch


# -- the ways


def randomly(bench: Bench) -> dict[str, Any]:
    """The best of random cells after a short training each."""
    archs = [bench.space.sample(bench.draw) for _ in range(max(1, round(bench.sizes.passes / bench.sizes.short)))]
    reached = [bench.alone(arch, bench.sizes.short, "valid") for arch in archs]
    return {"arch": archs[reached.index(max(reached))]}


def uniform(bench: Bench) -> dict[str, Any]:
    """Uniform training, then the default search."""
    net = bench.weights(bench.sizes.passes - bench.looking, 1)
    return {"arch": bench.chosen(net, "surrogate"), "net": net}


def scored(bench: Bench, *, enas: bool) -> dict[str, Any]:
    """The score function with 4 draws every 4 steps after a quarter, or ENAS; then looks at what it proposes."""
    share = min(1.0, Sizes.passes / bench.sizes.passes)  # logits go as far in longer trainings
    made: dict[str, Any] = published.enas(every=8, lr=0.2 * share) if enas else {}
    policy = made.get("policy") or nas.Policy(every=4, lr=0.1 * share)
    each = 1 + (1 - policy.warmup) * policy.estimator.draws / 3 / policy.every
    net = bench.weights(max(8, bench.sizes.passes - bench.looking), each, **{"policy": policy, **made})
    return {"arch": bench.chosen(net, nas.PolicySearch(policy.logits)), "net": net, "policy": policy}


def relaxed(bench: Bench, *, setting: Callable[..., dict[str, Any]], each: float, lr: float) -> dict[str, Any]:
    """DARTS or GDAS, at a rate for the shortest training, and the likeliest cell."""
    made = setting(lr=lr * min(1.0, Sizes.passes / bench.sizes.passes))
    net = bench.weights(bench.sizes.passes, each, **made)
    return {"arch": made["policy"].likeliest, "net": net, "policy": made["policy"]}


MADE: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "random": randomly,
    "uniform": uniform,
    "darts": partial(relaxed, setting=published.darts, each=2, lr=0.015),
    "darts, larger steps": partial(relaxed, setting=published.darts, each=2, lr=0.06),
    "enas": partial(scored, enas=True),
    "score function": partial(scored, enas=False),
    "gdas": partial(relaxed, setting=published.gdas, each=1 + 4 / 3, lr=0.085),
}


# -- what is asked of them


def rows(bench: Bench) -> Iterator[dict[str, Any]]:
    """All figures of one seed."""
    sizes = bench.sizes
    drawn = list(dict.fromkeys(bench.space.sample(bench.draw) for _ in range(2 * sizes.compared)))[: sizes.compared]
    few = drawn[: sizes.trained]
    truth = [bench.alone(arch, sizes.short, "test") for arch in few]
    yield {"archs": "drawn uniformly", "weights": "of each alone", **against(bench, few, truth)}
    plain: nas.Supernet | None = None
    for way in sizes.ways or MADE:
        begun = time.process_time()
        found = MADE[way](bench)
        seconds, arch = time.process_time() - begun, found["arch"]
        row: dict[str, Any] = {"way": way, "seconds": seconds, "cell": [arch.choices[edge] for edge in EDGES]}
        row |= {column: float(value) for column, value in bench.table(arch).items()}
        row |= {op: sum(one == op for one in row["cell"]) / len(EDGES) for op in OPS}
        row["alone"] = bench.alone(arch, sizes.alone, "test")
        if "policy" in found:
            learnt = found["policy"].learnt
            row["entropy"] = learnt.entropy(bench.space.largest)[0]
            row |= {
                f"p({op})": float(np.mean([learnt.probabilities(p, range(5))[at] for p in range(6)]))
                for at, op in enumerate(OPS)
            }
        yield row
        if "net" not in found:
            continue
        yield {"archs": "drawn uniformly", "weights": way, **ranked(bench, found["net"], drawn)}
        plain = plain or found["net"]
        if "policy" in found:
            own = found["policy"].archs(sizes.compared)
            for name, net in ((way, found["net"]), ("uniform", plain)):
                yield {"archs": f"drawn from {way}", "weights": name, **ranked(bench, net, own)}


def ranked(bench: Bench, net: nas.Supernet, archs: Sequence[nas.Arch]) -> dict[str, float]:
    """Accuracy on shared weights against the table."""
    return against(bench, archs, [subnet_metrics(net, arch, bench.task, "test")["accuracy"] for arch in archs])


def against(bench: Bench, archs: Sequence[nas.Arch], reached: Sequence[float]) -> dict[str, float]:
    """Spearman's correlation with the table's accuracy, and what the table says of these cells."""
    told = [bench.table(arch)["accuracy"] for arch in archs]
    spearman = float(spearmanr(reached, told)[0]) if min(len({*reached}), len({*told})) > 1 else float("nan")
    return {
        "spearman": spearman,
        "mean": statistics.mean(told),
        "spread": statistics.pstdev(told),
        "of": float(len(archs)),
    }


def told(folder: Path | None) -> Table:
    """The table; one that nobody measured where there is none."""
    if folder is None:
        folder = Path(tempfile.mkdtemp())
        made_up(
            folder, all_cells(), {name: np.random.default_rng(0).uniform(10, 90, 5**6) for name in COLUMNS.values()}
        )
    others = {name: column for name, column in COLUMNS.items() if name != "accuracy"}
    return Table(folder, COLUMNS["accuracy"], None, **others)


def main() -> None:
    """Runs what is asked for and prints the figures."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--glyphs", type=Path, help="glyphs.npz: images (n, 16, 16), labels, typeface; else the digits")
    words.add_argument("--table", type=Path, help="folder of NAS-Bench-201's tables; else one that is made up")
    words.add_argument("--runs", type=Path, help="folder of the raw rows")
    words.add_argument("--report", action="store_true", help="print the figures of the rows that are there")
    words.add_argument("--long", action="store_true", help=f"{LONG.passes:,} passes in place of {Sizes.passes:,}")
    words.add_argument("--smoke", action="store_true")
    options = words.parse_args()
    sizes, table = SMOKE if options.smoke else LONG if options.long else Sizes(), told(options.table)
    with opened(options, words, optional=True) as folder:
        for seed in range(0 if options.report else sizes.seeds):
            kept_rows(folder / f"{seed}.json", lambda s=seed: rows(Bench(options, sizes, table, s)))
        found = rows_in(folder)
    every = table.values(list(COLUMNS.values()))
    known = {
        f"all cells: {name}": [float(every[:, at].mean()), float(every[:, at].max())] for at, name in enumerate(COLUMNS)
    }
    print(json.dumps({**known, **summary(found)}))


if __name__ == "__main__":
    main()

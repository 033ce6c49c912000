"""A policy trained beside the weights, uniform training with the default search, and random archs at equal passes.

    python experiments/policy/run.py --glyphs FILE --runs FOLDER

goes on where it stopped; --report prints the figures of the runs; --smoke takes seconds.  One JSON line last.  See README.md.
"""

from __future__ import annotations

import argparse
import json
import math
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

import torch
from glyphs.letters import CAPITALS, glyphs
from runs_common.folder import kept, opened
from scipy.stats import spearmanr

import nas
from nas.train import subnet_metrics
from searchspaces import conv

BATCH, CALIBRATION = 64, 256
FLIP = 1.4
"""Other options of a decision, on average over those of an arch."""


@dataclass(frozen=True)
class Sizes:
    """How long everything is."""

    passes: int = 1000
    """Of each way, in batches that go forward and backward; a forward alone is a third."""
    looks: int = 24
    """Archs whose shared weights a study measures."""
    alone: int = 300
    """Steps of a network that is judged by itself."""
    short: int = 100
    """Steps of each random arch that is a candidate."""
    compared: int = 10
    """Archs of a rank correlation."""
    drawn: int = 60
    """Archs whose operations are averaged."""
    seeds: int = 3


LONG = Sizes(passes=20_000, alone=1000, short=500, compared=20)
SMOKE = Sizes(passes=40, looks=2, alone=4, short=20, compared=2, drawn=4, seeds=1)


def data(options: argparse.Namespace, seed: int) -> nas.Classification:
    """The glyphs, or the digits."""
    if options.glyphs is not None:
        sizes = {"train": 300, "valid": 30, "test": 150, "batch": BATCH, "calibration": CALIBRATION}
        return glyphs(options.glyphs, seed=seed, characters=CAPITALS, side=8, **sizes)
    return nas.digits(batch=BATCH, seed=seed)


def space(classes: int, fixed: bool) -> nas.Space:
    """Width (unless `fixed`) and depth of two stages, kernel and ratio of each block, which count where the block is there."""
    widths = ((12,), (24,)) if fixed else ((8, 12), (16, 24))
    return conv.space(widths=widths, depths=(1, 2), kernels=(3, 5), ratios=(1, 2, 3), stem=8, classes=classes)


class Bench:
    """One seed: data, space, target, and networks by themselves."""

    def __init__(self, options: argparse.Namespace, sizes: Sizes, seed: int) -> None:
        self.sizes, self.seed = sizes, seed
        self.task = data(options, seed)
        self.space = space(int(self.task.train[1].max()) + 1, options.fixed)
        self.counter = self.supernet()
        self.draw = random.Random(seed)
        drawn = random.Random(0)
        self.target = float(statistics.median(self.macs(self.space.sample(drawn)) for _ in range(sizes.drawn)))

    def supernet(self) -> nas.Supernet:
        """Fresh weights."""
        return conv.supernet(self.space, seed=self.seed)

    def macs(self, arch: nas.Arch) -> float:
        """Operations of one image."""
        return float(self.counter.macs(arch))

    def near(self, count: int) -> list[nas.Arch]:
        """Random archs that cost the target, to 5 %."""
        found: dict[nas.Arch, None] = {}
        while len(found) < count:
            arch = self.space.sample(self.draw)
            if 0.93 * self.target <= self.macs(arch) <= 1.02 * self.target:
                found[arch] = None
        return list(found)

    def alone(self, arch: nas.Arch, steps: int, split: Any, seed: int) -> float:
        """Accuracy of an arch that is trained by itself."""
        torch.manual_seed(seed)
        single = nas.as_supernet(self.space.build(arch))
        nas.Training(
            single, self.task, sampler=nas.Uniform(1), loss=nas.Labels(), steps=steps, validate_every=steps, seed=seed
        ).run(progress=False)
        return subnet_metrics(single, single.space.largest, self.task, split)["accuracy"]

    @property
    def look(self) -> float:
        """Passes of a look at shared weights: forwards for statistics and over the validation split."""
        return (CALIBRATION + len(self.task.valid[0])) / BATCH / 3

    def chosen(self, net: nas.Supernet, algorithm: nas.search.Algorithm | str) -> nas.Arch:
        """The best on shared weights within the target that a study finds."""
        with tempfile.TemporaryDirectory() as folder:
            study = nas.Study(
                "looks",
                space=self.space,
                objectives=["max accuracy"],
                evaluators=[nas.Costs(net), nas.Accuracy(net, self.task)],
                constraints=[f"macs <= {1.02 * self.target:.0f}"],
                algorithm=algorithm,
                store=Path(folder) / "study.db",
            )
            looks = self.sizes.looks
            while True:
                study.run(looks, workers=0, progress=False)
                done = study.trials()
                measured = int((done["state"] == "COMPLETED").sum())
                if measured >= self.sizes.looks or len(done) < looks or looks > 40 * self.sizes.looks:
                    break
                looks += self.sizes.looks - measured
            best = study.best()
            arch = study.arch(int(str(best.name)))
            study.close()
        return arch


# -- the ways


def weights(bench: Bench, steps: int, policy: nas.Policy | None = None) -> nas.Supernet:
    """A supernet of which one arch is trained a step."""
    net = bench.supernet()
    nas.Training(
        net, bench.task, sampler=nas.Uniform(1), loss=nas.Labels(), steps=steps, validate_every=steps, seed=bench.seed,
        policy=policy,
    ).run(progress=False)  # fmt: skip
    return net


def uniform(bench: Bench) -> dict[str, Any]:
    """Uniform training, then the default search."""
    net = weights(bench, round(bench.sizes.passes - bench.sizes.looks * bench.look))
    return {"arch": bench.chosen(net, "surrogate"), "net": net}


def policy(
    bench: Bench, *, weight: float = -0.3, lr: float = 0.05, flips: int = 0, gates: bool = False
) -> dict[str, Any]:
    """TuNAS's reward; a step on 2 batches every 4 steps of the weights, with 4 draws, or a draw and flips or gates."""
    policy = nas.Policy(
        nas.Costs(bench.counter),
        bench.target,
        metric="macs",
        reward=nas.AbsoluteReward(weight),
        estimator=nas.MaskGates(1) if gates else nas.Flip(1, flips) if flips else nas.ScoreFunction(4),
        batch=BATCH,
        batches=2,
        every=4,
        warmup=0.25,
        lr=lr,
    )
    forwards = 1 + 3 if gates else 1 + FLIP * flips if flips else 4  # a backward is two
    each = 1 + (1 - policy.warmup) * forwards * 2 / 3 / 4
    net = weights(bench, round((bench.sizes.passes - bench.sizes.looks * bench.look) / each), policy)
    arch = bench.chosen(net, nas.PolicySearch(policy.logits))
    return {"arch": arch, "net": net, "policy": policy}


def randomly(bench: Bench) -> dict[str, Any]:
    """Random archs of the target's cost, a short training each."""
    archs = bench.near(max(1, round(bench.sizes.passes / bench.sizes.short)))
    reached = [bench.alone(arch, bench.sizes.short, "valid", bench.seed) for arch in archs]
    return {"arch": archs[reached.index(max(reached))], "mean": archs}


MADE: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "uniform": uniform,
    "policy": policy,
    "random": randomly,
    "policy, larger steps": partial(policy, weight=-1.0, lr=0.2),
    "policy, heavier cost": partial(policy, weight=-3.0),
    "policy, flips": partial(policy, weight=-1.0, lr=0.2, flips=3),
    "policy, flips, heavier cost": partial(policy, weight=-3.0, flips=3),
    "policy, gates": partial(policy, weight=-3.0, lr=0.2, gates=True),  # of a loss, not of an accuracy
}
FIRST = ("uniform", "policy", "random")


# -- what is asked of them


def rows(bench: Bench, ways: Sequence[str], brief: bool) -> Iterator[dict[str, Any]]:
    """All figures of one seed."""
    nets: dict[str, nas.Supernet] = {}
    sets = {"uniform": list(dict.fromkeys(bench.space.sample(bench.draw) for _ in range(2 * bench.sizes.compared)))}
    sets = {
        "uniform draws": sets["uniform"][: bench.sizes.compared],
        "near the target": bench.near(bench.sizes.compared),
    }
    for way in ways:
        begun = time.perf_counter()
        found = MADE[way](bench)
        seconds = time.perf_counter() - begun
        arch = found["arch"]
        tests = [bench.alone(arch, bench.sizes.alone, "test", 100 + again) for again in range(2)]
        row = {"way": way, "macs": bench.macs(arch) / bench.target, "test": statistics.mean(tests), "seconds": seconds}
        if "net" in found:
            nets[way] = found["net"]
            row["shared"] = subnet_metrics(found["net"], arch, bench.task, "test")["accuracy"]
        if "policy" in found:
            learnt = found["policy"].learnt
            drawn = [learnt.draw(bench.draw) for _ in range(bench.sizes.drawn)]
            row["drawn"] = statistics.mean(bench.macs(one) for one in drawn) / bench.target
            row["spread"] = statistics.pstdev(bench.macs(one) for one in drawn) / bench.target
            row["entropy"] = statistics.mean(learnt.entropy(one)[0] for one in drawn)
            sets[way] = found["policy"].archs(bench.sizes.compared)
        yield row
    for name, archs in sets.items() if "uniform" in ways and not brief else ():  # both weights are compared on all
        truth = [bench.alone(arch, bench.sizes.alone // 2, "test", 7) for arch in archs]
        yield {"truth": name, "mean": statistics.mean(truth), "spread": statistics.pstdev(truth)}
        for way, net in nets.items():
            shared = [subnet_metrics(net, arch, bench.task, "test")["accuracy"] for arch in archs]
            yield {"archs": name, "weights": way, "spearman": float(spearmanr(shared, truth)[0])}


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over the seeds of every figure."""
    values: dict[str, list[float]] = {}
    for row in found:
        name = ", ".join(str(row[key]) for key in ("way", "archs", "weights", "truth") if key in row)
        name = f"alone, {name}" if "truth" in row else name
        for key, value in row.items():
            if isinstance(value, float) and math.isfinite(value):
                values.setdefault(f"{name}: {key}", []).append(value)
    return {name: [statistics.mean(some), statistics.pstdev(some), len(some)] for name, some in values.items()}


def kept_rows(file: Path, make: Callable[[], Iterator[dict[str, Any]]]) -> None:
    """Rows that an earlier run left, else those that are measured now, each told as it comes."""

    def made() -> dict[str, Any]:
        every = []
        for row in make():
            print(file.stem, row, flush=True)
            every.append(row)
        return {"rows": every}

    kept(file, made)


def rows_in(folder: Path) -> list[dict[str, Any]]:
    """Of all runs of a folder."""
    return [row for file in sorted(folder.glob("*.json")) for row in json.loads(file.read_text())["rows"]]


def main() -> None:
    """Runs what is asked for and prints the figures."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--glyphs", type=Path, help="glyphs.npz: images (n, 16, 16), labels, typeface; else the digits")
    words.add_argument("--ways", nargs="+", choices=list(MADE), default=list(FIRST), help="default: %(default)s")
    words.add_argument("--fixed", action="store_true", help="widths of one choice, where gates are exact")
    words.add_argument("--brief", action="store_true", help="no rank correlations")
    words.add_argument("--long", action="store_true", help=f"{LONG.passes:,} passes in place of {Sizes.passes:,}")
    words.add_argument("--runs", type=Path, help="folder of the raw rows")
    words.add_argument("--report", action="store_true", help="print the figures of the rows that are there")
    words.add_argument("--smoke", action="store_true")
    options = words.parse_args()
    sizes = SMOKE if options.smoke else LONG if options.long else Sizes()
    ways = "-".join(options.ways).replace(", ", "_").replace(" ", "_")
    with opened(options, words, optional=True) as folder:
        for seed in range(0 if options.report else sizes.seeds):
            kept_rows(
                folder / f"{seed}-{ways}.json",
                lambda s=seed: rows(Bench(options, sizes, s), options.ways, options.brief),
            )
        print(json.dumps(summary(rows_in(folder))))


if __name__ == "__main__":
    main()

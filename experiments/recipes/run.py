"""Which way of training a supernet leaves the best networks, at equal passes?  See README.md.

    python experiments/recipes/run.py --glyphs FILE --runs FOLDER [--parts teach calibration sample shrink alone start]

goes on where it stopped; --report prints the figures of the runs; --smoke takes seconds.  One JSON line last.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from glyphs.letters import ALL, CAPITALS_AND_DIGITS, glyphs
from runs_common.folder import kept, opened
from torch import nn
from torch.nn import functional

import nas
from nas.pareto import hypervolume, non_dominated
from nas.train import (
    DIST,
    KL,
    RKD,
    AdaptiveAlpha,
    AttentionTransfer,
    Attentive,
    BalancedKL,
    BatchScore,
    Comparison,
    Delayed,
    Features,
    Hint,
    InPlace,
    Interpolated,
    Labels,
    Loss,
    NormAndDirection,
    Phase,
    Progressive,
    Ramped,
    Sampler,
    Sandwich,
    SimilarityPreserving,
    Snapshots,
    StandardizedKL,
    Teacher,
    Uniform,
    Unlabelled,
    as_supernet,
    subnet_metrics,
)
from nas.train.taps import tapped
from searchspaces import conv

EACH = 4
"""Passes of a sandwich step: largest, smallest, two random networks."""
TUNED = 300
"""Steps of a network that is tuned by itself."""
COMPARISONS: dict[str, Comparison] = {
    "hint": Hint(),
    "attention": AttentionTransfer(),
    "rkd": RKD(25.0, 50.0),
    "similarity": SimilarityPreserving(),
}
AUTHORS = {"hint": 1.0, "attention": 1000.0, "rkd": 1.0, "similarity": 3000.0}
SHARE = 0.2
"""Of the gradient's length, that of a comparison of features, where it is balanced."""
SMALL = tuple(one for one in ALL if one not in CAPITALS_AND_DIGITS)
LAYERS = ("stages.0", "stages.1")
EPOCHS, ARCHS = (180, 120, 25, 120, 25, 120), (1, 1, 2, 2, 4, 4)
"""Of the phases of progressive shrinking (Cai et al. 2020), and networks a step in each."""
SHORT, LONG = 1 / 12, 1 / 4
"""Highest rates of the phases after the kernels', as parts of that (0.0025 and 0.0075 beside 0.03 in the paper's program)."""


class Bench:
    """One seed: data, family, budget, and networks by themselves, each trained once."""

    def __init__(self, options: argparse.Namespace, folder: Path, seed: int) -> None:
        self.seed, self.passes, self.lr, self.folder = seed, options.passes, options.lr, folder
        self.smoke, self.drawn = options.smoke, options.archs
        self.glyphs: Path = options.glyphs
        self.task: nas.Classification
        if options.smoke:
            self.task, classes = nas.digits(batch=32, seed=seed), 10
        else:
            classes = len(CAPITALS_AND_DIGITS)
            self.task = glyphs(options.glyphs, seed=seed, characters=CAPITALS_AND_DIGITS, side=8)
        self.space = conv.space(
            widths=((8, 12), (16, 24)), depths=(1, 2), kernels=(3, 5), ratios=(1, 2, 3), stem=8, classes=classes
        )

    def fresh(self) -> nas.Supernet:
        """The same weights for every way."""
        return conv.supernet(self.space, seed=self.seed)

    @property
    def steps(self) -> int:
        """Of a sandwich."""
        return self.passes // EACH

    def unlabelled(self) -> nas.Task:
        """The training images without their labels, and small letters of the same typefaces, which are no class of the task."""
        images = self.task.train[0]
        if self.smoke:
            return Unlabelled(self.task, images, batch=self.task.batch, seed=self.seed)
        small = glyphs(self.glyphs, seed=self.seed, characters=SMALL, side=8).train[0]
        return Unlabelled(self.task, torch.cat([images, small]), batch=self.task.batch, seed=self.seed)

    def train(self, net: nas.Supernet, steps: int, sampler: Sampler, loss: Loss, **options: Any) -> nas.Supernet:
        """Trains it; `sampler.schedule` where a sampler has one."""
        if isinstance(sampler, Progressive):
            options = {"warmup": 0, "schedule": sampler.schedule(steps), **options}
        settings: dict[str, Any] = {"lr": self.lr, "seed": self.seed, "validate_every": steps, **options}
        task = settings.pop("task", self.task)
        nas.Training(net, task, steps=steps, sampler=sampler, loss=loss, **settings).run(progress=False)
        return net

    def alone(self, arch: nas.Arch, steps: int) -> nas.Supernet:
        """A network by itself, on labels."""
        torch.manual_seed(self.seed)
        net = as_supernet(self.space.build(arch), example=self.task.example)
        return self.train(net, steps, Uniform(1), Labels())

    def largest(self) -> nas.Supernet:
        """The largest network trained alone for the steps of a sandwich, in a supernet; kept in the folder."""
        net, file = self.fresh(), self.folder / f"largest, {self.seed}.pt"
        if file.exists():
            net.load_state_dict(torch.load(file, weights_only=True))
            return net
        self.train(net, self.steps, Progressive([Phase(self.steps)]), Labels())
        half = file.with_suffix(".half")
        torch.save(net.state_dict(), half)
        half.replace(file)
        return net

    def teacher(self) -> nn.Module:
        """It, as a module."""
        net = self.largest()
        return net.extract(net.space.largest)

    def chosen(self) -> list[nas.Arch]:
        """Smallest, largest and random ones, the same for every seed and way."""
        draw = random.Random(2024)
        found = dict.fromkeys([self.space.smallest, self.space.largest])
        while len(found) < self.drawn + 2:
            found[self.space.sample(draw)] = None
        return list(found)


def teach(bench: Bench) -> dict[str, Callable[[], nas.Supernet]]:
    """What the subnets of a sandwich learn from."""

    def of(loss: Callable[[], Loss]) -> Callable[[], nas.Supernet]:
        return lambda: bench.train(bench.fresh(), bench.steps, Sandwich(2), loss())

    def features(name: str, weight: float | None) -> Loss:
        compare = COMPARISONS[name]
        return Features(LAYERS, compare, InPlace(), balanced(bench, compare) if weight is None else weight)

    balances = {f"KL and {name}": of(lambda name=name: features(name, None)) for name in COMPARISONS}
    return {
        "labels": of(Labels),
        "KL": of(InPlace),
        "adaptive alpha": of(lambda: InPlace(divergence=AdaptiveAlpha())),
        "trained teacher": of(lambda: Teacher(bench.teacher(), weight=0.5)),
        "trained teacher, no labels": of(lambda: Teacher(bench.teacher(), weight=1.0)),
        "TAID": of(lambda: Interpolated(bench.teacher(), steps=bench.steps, pace=5e-4)),
        "KL, half labels": of(lambda: InPlace(labels=0.5)),
        "DIST": of(lambda: InPlace(divergence=DIST())),
        **balances,
        "reverse KL": of(lambda: InPlace(divergence=KL("reverse"))),
        "KL and attention, authors' weight": of(lambda: features("attention", AUTHORS["attention"])),
    }


def calibration(bench: Bench) -> dict[str, Callable[[], nas.Supernet]]:
    """What the subnets of a sandwich learn from, judged by what their probabilities are worth too."""

    def of(loss: Callable[[], Loss], **options: Any) -> Callable[[], nas.Supernet]:
        return lambda: bench.train(bench.fresh(), bench.steps, Sandwich(2), loss(), **options)

    def directed() -> Loss:
        teacher = bench.teacher()
        return NormAndDirection("stages", teacher, Teacher(teacher, weight=0.5))

    def stored(top: int) -> Loss:
        """The most probable classes and what all others have together, as a store of them keeps it."""
        outputs = nas.TeacherOutputs(bench.folder / "outputs", top=top)
        return Teacher(bench.teacher(), weight=0.5, outputs=outputs)

    return {
        "labels": of(Labels),
        "KL": of(InPlace),
        "standardized KL": of(lambda: InPlace(divergence=StandardizedKL())),
        "standardized KL, half labels": of(lambda: InPlace(labels=0.5, divergence=StandardizedKL())),
        "balanced KL": of(lambda: InPlace(divergence=BalancedKL())),
        "trained teacher": of(lambda: Teacher(bench.teacher(), weight=0.5)),
        "trained teacher, five classes": of(lambda: stored(5)),
        "trained teacher, one class": of(lambda: stored(1)),
        "norm and direction": of(directed),
        "trained teacher, no labels": of(lambda: Teacher(bench.teacher(), weight=1.0)),
        "trained teacher, more images": lambda: of(
            lambda: Teacher(bench.teacher(), weight=1.0), task=bench.unlabelled()
        )(),
    }


def sample(bench: Bench) -> dict[str, Callable[[], nas.Supernet]]:
    """Which networks a step trains."""

    def attentive(best: bool) -> nas.Supernet:
        net = bench.fresh()
        return bench.train(net, bench.steps, _attentive(net, bench, best), InPlace())

    return {
        "best up": lambda: attentive(True),
        "one random": lambda: bench.train(bench.fresh(), bench.passes, Uniform(1), Labels()),
        "two random": lambda: bench.train(bench.fresh(), bench.passes // 2, Uniform(2), Labels()),
        "worst up": lambda: attentive(False),
    }


def shrink(bench: Bench) -> dict[str, Callable[[], nas.Supernet]]:
    """Smaller networks only after the largest: DεpS and once-for-all."""
    start = bench.passes // (1 + EACH)
    parts = _shares(bench.passes)

    def delayed(loss: Loss, share: float = 1.0) -> nas.Supernet:
        """As many steps of the largest as of the sandwich."""
        steps = int(start * share)
        return bench.train(bench.fresh(), 2 * steps, Delayed(Sandwich(2), steps), loss)

    def full() -> nas.Supernet:
        return bench.train(bench.fresh(), parts[0], Progressive([Phase(parts[0])]), Labels())

    def progressive() -> nas.Supernet:
        net, phases = full(), _phases(bench.space, parts)
        loss = Teacher(net.extract(bench.space.largest), weight=0.5)
        return bench.train(net, sum(parts[1:]), Progressive(phases), loss, lr=bench.lr / 2)

    def joint(n: int) -> nas.Supernet:
        net = full()
        loss = Teacher(net.extract(bench.space.largest), weight=0.5)
        return bench.train(net, (bench.passes - parts[0]) // n, Uniform(n), loss, lr=bench.lr / 2, warmup=0)

    return {
        "delayed": lambda: delayed(InPlace()),
        "progressive": progressive,
        "joint, four": lambda: joint(4),
        "joint, one": lambda: joint(1),
        "delayed and ramped": lambda: delayed(Ramped(InPlace(), start, max(1, start // 4))),
        "delayed, with earlier teachers": lambda: delayed(Snapshots((start // 2, start // 2 + start // 4))),
        "delayed, 65 % of the passes": lambda: delayed(InPlace(), 0.65),
    }


def start(bench: Bench) -> dict[str, Callable[[], nas.Supernet]]:
    """From trained weights, with a tenth of the passes and with all of them."""

    def ways(name: str, passes: int) -> dict[str, Callable[[], nas.Supernet]]:
        def of(steps: int, sampler: Sampler, loss: Loss) -> Callable[[], nas.Supernet]:
            return lambda: bench.train(bench.largest(), steps, sampler, loss)

        def attentive() -> nas.Supernet:
            net = bench.largest()
            return bench.train(net, passes // EACH, _attentive(net, bench, True), InPlace())

        alone = passes // (1 + EACH)
        return {
            f"{name}, sandwich and KL": of(passes // EACH, Sandwich(2), InPlace()),
            f"{name}, one random": of(passes, Uniform(1), Labels()),
            f"{name}, two random": of(passes // 2, Uniform(2), Labels()),
            f"{name}, best up": attentive,
            f"{name}, delayed": of(2 * alone, Delayed(Sandwich(2), alone), InPlace()),
            f"{name}, one random, teacher": lambda: bench.train(
                bench.largest(), passes, Uniform(1), Teacher(bench.teacher(), weight=0.5)
            ),
        }

    return {**ways("short", max(10, bench.passes // 10)), **ways("long", bench.passes)}


PARTS = {"teach": teach, "calibration": calibration, "sample": sample, "shrink": shrink, "start": start}


def balanced(bench: Bench, compare: Comparison) -> float:
    """Weight with which the comparison has `SHARE` of the gradient's length, for the smallest network of a young supernet.

    The supernet has had a thirtieth of its steps of the sandwich; the gradient is that of the compared stages.
    """
    steps = max(2, bench.steps // 30)
    net = bench.train(bench.fresh(), steps, Sandwich(2), InPlace())
    student, teacher = (net.extract(arch).train() for arch in (bench.space.smallest, bench.space.largest))
    inputs = next(iter(bench.task.train_batches(0))).inputs
    with torch.no_grad(), tapped(teacher, LAYERS) as theirs:
        target = torch.softmax(teacher(inputs), -1)
    with tapped(student, LAYERS) as ours:
        soft = functional.cross_entropy(student(inputs), target)
    draw, distance = torch.Generator().manual_seed(bench.seed), torch.zeros(())
    for name in LAYERS:
        projection = compare.adapt(name, ours[name], theirs[name], draw)
        distance = distance + compare(ours[name], theirs[name], projection)
    tensors = [one for name, one in student.named_parameters() if name.startswith("stages")]
    lengths = [
        torch.cat([one.flatten() for one in torch.autograd.grad(value, tensors, retain_graph=True)]).norm()
        for value in (soft, distance)
    ]
    return SHARE / (1 - SHARE) * float(lengths[0] / lengths[1])


def measured(net: nas.Supernet, bench: Bench) -> dict[str, float]:
    """Test accuracy in percent of smallest, largest and random networks, their front, and three of them after tuning."""
    archs = bench.chosen()
    found = [_accuracy(net, arch, bench) for arch in archs]
    costs = [net.macs(arch) / net.macs(bench.space.largest) for arch in archs]
    points = np.array([[100 - one, cost] for one, cost in zip(found, costs, strict=True)])
    front = hypervolume(points[non_dominated(points)], np.array([100.0, 1.0])) / 100
    tuned = [_tuned(net, archs[place], bench) for place in (0, 2, 3)]
    return {
        "smallest": found[0],
        "largest": found[1],
        "random": statistics.mean(found[2:]),
        "hypervolume": front,
        "smallest, tuned": tuned[0],
        "three, tuned": statistics.mean(tuned),
    }


def calibrated(net: nas.Supernet, bench: Bench) -> dict[str, float]:
    """Test accuracy and expected calibration error, in percent, and loss of smallest, largest and random networks."""
    task = bench.task
    names = ["accuracy", "calibration_error"]
    options: dict[str, Any] = {"batch": task.batch, "calibration": task.calibration, "seed": task.seed}
    judge = nas.Task.of(task.train, task.valid, test=task.test, loss="cross_entropy", metrics=names, **options)
    every = [subnet_metrics(net, arch, judge, "test") for arch in bench.chosen()]
    found: dict[str, float] = {}
    for label, rows in (("smallest", every[:1]), ("largest", every[1:2]), ("random", every[2:])):
        right, error, loss = (statistics.mean(row[name] for row in rows) for name in (*names, "loss"))
        found |= {label: 100 * right, f"{label}, error": 100 * error, f"{label}, loss": loss}
    return found


def operations(sampler: Sampler, net: nas.Supernet, steps: int) -> float:
    """Of all forwards of a training, multiply-accumulates of one sample: the mean of 40 steps that are spread over it."""
    count = min(40, steps)
    places = [steps * at // count for at in range(count)]
    each = [sum(net.macs(arch) for arch in sampler.archs(net.space, at, random.Random(at))) for at in places]
    return steps * statistics.mean(each)


def alone(bench: Bench) -> dict[str, float]:
    """Smallest and two random networks, each trained alone for as many steps as the sandwich."""
    archs = bench.chosen()
    found = [
        _accuracy(net, net.space.largest, bench) for net in (bench.alone(archs[at], bench.steps) for at in (0, 2, 3))
    ]
    top = bench.largest()
    return {
        "smallest": found[0],
        "two random": statistics.mean(found[1:]),
        "largest": _accuracy(top, bench.space.largest, bench),
    }


def _attentive(net: nas.Supernet, bench: Bench, best: bool) -> Attentive:
    width = (net.macs(bench.space.largest) - net.macs(bench.space.smallest)) / 10
    return Attentive(BatchScore(net, bench.task), net.macs, width, best=best, n=2, pool=20 if bench.smoke else 500)


def _shares(passes: int) -> list[int]:
    """Steps of each phase of progressive shrinking that make so many passes in all."""
    unit = passes / sum(epochs * archs for epochs, archs in zip(EPOCHS, ARCHS, strict=True))
    return [max(1, round(epochs * unit)) for epochs in EPOCHS]


def _phases(space: nas.Space, parts: Sequence[int]) -> list[Phase]:
    """Kernels, depths and ratios, the first two phases of each of the last two without the smallest; widths with ratios."""
    _, kernels, depth, depths, ratio, ratios = parts
    labels = {one.name: one.labels for one in space.decisions}
    return [
        Phase(kernels, {"kernels": None}),
        Phase(depth, {"depths": labels["depths[0]"][1:]}, n=2, lr=SHORT),
        Phase(depths, {"depths": None}, n=2, lr=LONG),
        Phase(ratio, {"ratios": labels["ratios[0][0]"][1:]}, n=4, sort=True, lr=SHORT),
        Phase(ratios, {"ratios": None, "widths": None}, n=4, sort=True, lr=LONG),
    ]


def _accuracy(net: nas.Supernet, arch: nas.Arch, bench: Bench) -> float:
    return 100 * subnet_metrics(net, arch, bench.task, "test")["accuracy"]


def _tuned(net: nas.Supernet, arch: nas.Arch, bench: Bench) -> float:
    """After some steps by itself on labels, from its weights in the supernet."""
    own = as_supernet(net.extract(arch), example=bench.task.example)
    bench.train(own, TUNED if not bench.smoke else 2, Uniform(1), Labels(), lr=bench.lr / 4)
    return _accuracy(own, own.space.largest, bench)


JUDGES = {"calibration": calibrated}


def run(options: argparse.Namespace, folder: Path, seed: int) -> None:
    """Whatever is not there yet of one seed."""
    bench = Bench(options, folder, seed)
    for part in options.parts:
        ways: dict[str, Callable[[], Any]] = {"alone": lambda: None} if part == "alone" else PARTS[part](bench)
        for name in ways if options.ways is None else [way for way in ways if way in options.ways]:

            def made(part: str = part, name: str = name, ways: dict[str, Any] = ways) -> dict[str, Any]:
                begun = time.process_time()
                row = alone(bench) if part == "alone" else JUDGES.get(part, measured)(ways[name](), bench)
                seconds = round(time.process_time() - begun, 1)
                return {"part": part, "way": name, "seed": seed, "passes": bench.passes, **row, "seconds": seconds}

            row = kept(folder / f"{part}, {name}, {seed}.json", made)
            print(f"{part}, {name}, {seed}: {row['smallest']:.2f} % of the smallest, {row['seconds']} s", flush=True)


def figures(folder: Path) -> dict[str, Any]:
    """Mean and deviation of each figure of each way over its seeds."""
    rows = [json.loads(file.read_text()) for file in sorted(folder.glob("*, *.json"))]
    found: dict[str, Any] = {"experiment": "recipes", "passes": sorted({row["passes"] for row in rows})}
    for part, way in dict.fromkeys((row["part"], row["way"]) for row in rows):
        own = [row for row in rows if (row["part"], row["way"]) == (part, way)]
        names = [name for name in own[0] if name not in ("part", "way", "seed", "passes")]
        table = {name: [row[name] for row in own] for name in names}
        found[f"{part}: {way}"] = {"seeds": len(own)} | {
            name: [round(statistics.mean(values), 3), round(statistics.pstdev(values), 3)]
            for name, values in table.items()
        }
    return found


def main() -> None:
    """Runs what is asked for and prints the figures."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--glyphs", type=Path, help="glyphs.npz: images (n, 16, 16), labels, typeface")
    words.add_argument("--runs", type=Path, help="folder of the runs")
    words.add_argument("--parts", nargs="+", choices=[*PARTS, "alone"], default=[*PARTS, "alone"])
    words.add_argument("--ways", nargs="+", help="only these of the parts, by their names in the tables")
    words.add_argument("--seeds", type=int, default=3)
    words.add_argument("--first-seed", type=int, default=0)
    words.add_argument("--passes", type=int, default=12_000, help="forward and backward, of every way")
    words.add_argument("--lr", type=float, default=1e-2)
    words.add_argument("--archs", type=int, default=10, help="random networks that are measured")
    words.add_argument("--report", action="store_true", help="only the figures of what was run")
    words.add_argument("--smoke", action="store_true", help="seconds")
    options = words.parse_args()
    if options.smoke:
        options.seeds, options.passes, options.archs = 1, 40, 2
        options.ways = [
            "KL",
            "KL and hint",
            "norm and direction",
            "trained teacher, more images",
            "best up",
            "progressive",
            "short, delayed",
            "alone",
        ]
    with opened(options, words, needs=["glyphs"]) as folder:
        for seed in range(options.first_seed, options.first_seed + (0 if options.report else options.seeds)):
            run(options, folder, seed)
        print(json.dumps(figures(folder)))


if __name__ == "__main__":
    main()

"""Does a network that is trained module by module reach what end-to-end training reaches, for 60 % of its operations?

    python experiments/incubation/run.py --glyphs FILE --runs FOLDER

goes on where it stopped; --report prints the figures of the runs; --smoke takes seconds.  One JSON line last.  See README.md.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from compress_common.compare import trained
from glyphs.letters import CAPITALS_AND_DIGITS, glyphs
from runs_common.folder import by_seed, carry_out, kept
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

import nas
from nas.train import Hybrid, Uniform, train_modules
from searchspaces import vit

MODULES = 4
PUBLISHED = (2 / 7, 3 / 7, 2 / 7)
"""Parts of the operations that 300, 100 and 100 epochs take (meta model, modules, fine-tuning), of 12 blocks in four modules."""
REST = 1 - PUBLISHED[0]


@dataclass(frozen=True)
class Way:
    """What a training of the network spends.

    Attributes:
        share: of the operations of the end-to-end training.
        parts: of that, for the meta model, the modules in it and fine-tuning; None trains the whole at once.
        teacher: way whose network teaches the modules (m2mKD).
    """

    share: float
    parts: tuple[float, float, float] | None = None
    teacher: str | None = None


WAYS = {
    "end to end": Way(1.0),
    "end to end, 60 %": Way(0.6),
    "incubation": Way(0.6, PUBLISHED),
    "m2mKD": Way(0.6, PUBLISHED, "incubation"),
    "m2mKD, teacher end to end": Way(0.6, PUBLISHED, "end to end"),
    "incubation, more fine-tuning": Way(0.6, (PUBLISHED[0], 0.2 * REST, 0.8 * REST)),
    "incubation, no fine-tuning": Way(0.6, (PUBLISHED[0], REST, 0.0)),
    "incubation, as long as published": Way(7 / 6, PUBLISHED),
}
BASE = "end to end, 60 %"
PLACES = ("modules in the meta model", "teachers in the meta model")
Row = dict[str, Any]


class Tokens(nn.Module):
    """The embedding of the patches of a vision transformer: (n, channels, side, side) -> (n, tokens, width)."""

    def __init__(self, net: vit.ViT) -> None:
        super().__init__()
        self.patches, self.positions = net.patches, net.positions

    def forward(self, images: Tensor) -> Tensor:
        """With their positions."""
        return self.patches(images).flatten(2).transpose(1, 2) + self.positions


class Classifier(nn.Module):
    """The last layers of a vision transformer: (n, tokens, width) -> (n, classes)."""

    def __init__(self, net: vit.ViT) -> None:
        super().__init__()
        self.norm, self.head = net.norm, net.head

    def forward(self, x: Tensor) -> Tensor:
        """Of the mean of the tokens."""
        y: Tensor = self.head(self.norm(x).mean(1))
        return y


class Bench:
    """One seed: data, networks, and how many steps a share of the operations is."""

    def __init__(self, options: argparse.Namespace, folder: Path, seed: int) -> None:
        self.options, self.folder, self.seed = options, folder, seed
        self.task: nas.Classification = (
            nas.digits(batch=32, seed=seed)
            if options.smoke
            else glyphs(options.glyphs, seed=seed, characters=CAPITALS_AND_DIGITS)
        )
        self.total = options.steps * operations(nn.Sequential(*self.network()), self.batch)

    @property
    def batch(self) -> tuple[Tensor, Tensor]:
        """A batch of training data."""
        size = self.task.batch
        return self.task.train[0][:size], self.task.train[1][:size]

    def network(self, depth: int | None = None) -> list[nn.Module]:
        """Modules with `depth` blocks each, the same ones for every way; None is the depth of the network that is wanted."""
        each = depth or self.options.depth
        torch.manual_seed(1000 * self.seed + each)
        width, blocks = self.options.width, MODULES * each
        side = self.task.example.shape[-1]
        net = vit.ViT(
            width=width, heads=[2] * blocks, hidden=[2 * width] * blocks, head=width // 2, side=side, patch=side // 4,
            channels=1, classes=int(self.task.train[1].max()) + 1,
        )  # fmt: skip
        parts = [list(net.blocks[each * place : each * (place + 1)]) for place in range(MODULES)]
        return [nn.Sequential(*one) for one in ([Tokens(net), *parts[0]], *parts[1:-1], [*parts[-1], Classifier(net)])]

    def trained(
        self, net: nn.Module, name: str, steps: int, phase: int, lr: float | None = None
    ) -> tuple[nn.Module, Row]:
        """A network after a training of its own, and how good it is."""
        settings, begun = {**self._settings, "steps": steps, "lr": lr or self.options.lr}, time.process_time()
        made = trained(net, self._task(phase), self.folder / name, **settings)
        seconds = time.process_time() - begun
        return made, kept(
            self.folder / f"{name}.json", lambda: {**self.judge(made), "steps": steps, "seconds": seconds}
        )

    def meta(self, steps: int) -> tuple[list[nn.Module], Row]:
        """One block a module, trained end to end."""
        net, row = self.trained(nn.Sequential(*self.network(1)), f"meta {steps}", steps, phase=0)
        return list(net.children()), row

    def modules(
        self, name: str, meta: list[nn.Module], teachers: list[nn.Module] | None, steps: int
    ) -> tuple[nn.Sequential, Row]:
        """The modules of the network, each trained in the meta model; assembled."""
        begun = time.process_time()
        settings = {**self._settings, "lr": self.options.module_lr or self.options.lr, "steps": steps}
        settings.pop("sampler")
        parts = train_modules(
            self.network(), meta, self._task(1), teachers=teachers, path=self.folder / name, **settings
        )
        seconds = time.process_time() - begun

        def row() -> Row:
            return {
                **self.judge(parts),
                PLACES[0]: self.places(meta, list(parts)),
                PLACES[1]: None if teachers is None else self.places(meta, teachers),
                "steps": steps,
                "seconds": seconds,
            }

        return parts, kept(self.folder / f"{name}.json", row)

    def places(self, meta: Sequence[nn.Module], parts: Sequence[nn.Module]) -> list[float]:
        """Accuracy of the meta model with each of the parts in its place."""
        return [self.judge(hybrid)["accuracy"] for hybrid in hybrids(meta, parts)]

    def judge(self, net: nn.Module) -> Row:
        """Accuracy in percent, and loss."""
        found = self.task.evaluate(copy.deepcopy(net).eval(), self.options.split)
        return {"accuracy": 100 * found["accuracy"], "loss": found["loss"]}

    @property
    def _settings(self) -> dict[str, Any]:
        return {"sampler": Uniform(1), "seed": self.seed, "validate_every": 10**6, "checkpoint_every": 1000}

    def _task(self, phase: int) -> nas.Classification:
        """Another order of the batches for each phase."""
        return dataclasses.replace(self.task, seed=10 * self.seed + phase)


def hybrids(meta: Sequence[nn.Module], parts: Sequence[nn.Module]) -> list[Hybrid]:
    """The frozen meta model with each of the parts in its place."""
    return [Hybrid(copy.deepcopy(list(meta)), place, copy.deepcopy(part)) for place, part in enumerate(parts)]


def operations(net: nn.Module, batch: tuple[Tensor, Tensor], teacher: nn.Module | None = None) -> float:
    """Multiply-accumulates of a training step: of each layer's outputs, inputs' gradients and weights' gradients, once each.

    Only what a step computes is counted: no gradients of frozen weights, and none of what comes before all that is trained.
    Of a product of two activations (attention) both gradients are.  A teacher's outputs are counted too.
    """
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:  # of the fused kernels on CPUs it knows nothing
        cross_entropy(net(batch[0]), batch[1]).backward()
        if teacher is not None:
            with torch.no_grad():
                teacher(batch[0])
    return counter.get_total_flops() / 2


def made(bench: Bench, way: str) -> tuple[nn.Module, Row]:
    """The network that a way ends with, and its row; what has been trained is taken from its folder."""
    return whole(bench, way) if WAYS[way].parts is None else assembled(bench, way)


def whole(bench: Bench, way: str) -> tuple[nn.Module, Row]:
    """End to end."""
    steps = max(1, int(WAYS[way].share * bench.options.steps))
    net, row = bench.trained(nn.Sequential(*bench.network()), way, steps, phase=2)
    return net, {**row, "share": steps / bench.options.steps}


def assembled(bench: Bench, way: str) -> tuple[nn.Module, Row]:
    """Module by module."""
    share, parts, teaching = WAYS[way].share, WAYS[way].parts, WAYS[way].teacher
    assert parts is not None
    for_meta, for_modules, for_tuning = (part * share * bench.total for part in parts)
    spent = Spent(bench)
    meta, first = bench.meta(spent.steps(for_meta, [nn.Sequential(*bench.network(1))]))
    teachers = None if teaching is None else list(made(bench, teaching)[0].children())
    beside = None if teachers is None else hybrids(meta, teachers)
    steps = spent.steps(for_modules, hybrids(meta, bench.network()), beside)
    net, second = bench.modules(f"{way}, modules", meta, teachers, steps)
    rows, whole_net = [first, second], net
    if for_tuning:
        steps = spent.steps(for_tuning, [net])
        whole_net, last = bench.trained(net, f"{way}, tuned", steps, phase=2, lr=bench.options.tuning_lr)
        rows.append(last)
    return whole_net, {
        **{name: rows[-1][name] for name in ("accuracy", "loss")},
        "share": spent.operations / bench.total,
        "steps": [row["steps"] for row in rows],
        "seconds": sum(row["seconds"] for row in rows),
        "meta": first["accuracy"],
        "untuned": second["accuracy"],
        **{name: second[name] for name in PLACES},
    }


class Spent:
    """Operations of a training in phases."""

    def __init__(self, bench: Bench) -> None:
        self.batch, self.operations = bench.batch, 0.0

    def steps(self, budget: float, nets: Sequence[nn.Module], teachers: Sequence[nn.Module] | None = None) -> int:
        """As many of each of the networks as fit the budget, at least one; they are counted as spent."""
        pairs = zip(nets, teachers or [None] * len(nets), strict=True)
        each = sum(operations(copy.deepcopy(net).train(), self.batch, teacher) for net, teacher in pairs)
        found = max(1, int(budget / each))
        self.operations += found * each
        return found


# -- figures


def everything(options: argparse.Namespace, folder: Path) -> None:
    """Whatever is not there yet, and the figures."""
    for seed in range(options.first_seed, options.first_seed + (0 if options.report else options.seeds)):
        bench = Bench(options, folder / f"seed {seed}", seed)
        for way in options.ways:
            row = kept(folder / f"{way}, {seed}.json", functools.partial(row_of, bench, way))
            print(f"{way}, seed {seed}: {row['accuracy']:.2f} %, {row['share']:.1%} of the operations", flush=True)
    print(json.dumps(figures(folder)))


def row_of(bench: Bench, way: str) -> Row:
    """What is measured of a way."""
    return made(bench, way)[1]


def figures(folder: Path) -> dict[str, Any]:
    """Mean and deviation over the seeds of each figure of each way, printed as tables."""
    every = {way: rows for way in WAYS if (rows := by_seed(folder, way))}
    found: dict[str, Any] = {"experiment": "incubation"}
    line("way", "seeds", "accuracy", "loss", "operations", "CPU seconds", f"above {BASE}, by seed")
    line(*["---"] * 7)
    for way, rows in every.items():
        base = every.get(BASE, {})
        above = [round(row["accuracy"] - base[seed]["accuracy"], 2) for seed, row in rows.items() if seed in base]
        own = {name: [row[name] for row in rows.values()] for name in ("accuracy", "loss", "share", "seconds")}
        found[way] = {"seeds": len(rows), "above": above, **{name: told(values) for name, values in own.items()}}
        cells = [cell(own["accuracy"], 1), cell(own["loss"], 3), f"{statistics.fmean(own['share']):.1%}"]
        line(way, str(len(rows)), *cells, cell(own["seconds"], 0), ", ".join(f"{one:+.1f}" for one in above))
    print()
    line("way", "steps", "meta model", "with a module", "with a teacher's module", "assembled", "fine-tuned")
    line(*["---"] * 7)
    for way in (way for way in every if WAYS[way].parts is not None):
        rows_now = list(every[way].values())
        single = {name: [row[name] for row in rows_now] for name in ("meta", "untuned", "accuracy")}
        several = {name: [one for row in rows_now for one in row[name] or []] for name in PLACES}
        own = {name: values for name, values in (single | several).items() if values}
        found[way] |= {"steps": rows_now[0]["steps"], **{name: told(values) for name, values in own.items()}}
        cells = [cell(own[name], 1) if name in own else "—" for name in ("meta", *PLACES, "untuned", "accuracy")]
        line(way, " / ".join(map(str, rows_now[0]["steps"])), *cells)
    return found


def line(*cells: str) -> None:
    """Of a table."""
    print(f"| {' | '.join(cells)} |")


def told(values: Sequence[float]) -> list[float]:
    """Mean and deviation."""
    return [round(statistics.fmean(values), 4), round(statistics.pstdev(values), 4)]


def cell(values: Sequence[float], digits: int) -> str:
    """The same as text."""
    mean, deviation = statistics.fmean(values), statistics.pstdev(values)
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def main() -> None:
    """Runs what is asked for and prints the figures."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--glyphs", type=Path, help="glyphs.npz: images (n, 16, 16), labels, typeface")
    words.add_argument("--runs", type=Path, help="folder of the runs")
    words.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    words.add_argument("--seeds", type=int, default=3)
    words.add_argument("--first-seed", type=int, default=0)
    words.add_argument("--steps", type=int, default=3000, help="of the end-to-end training")
    words.add_argument("--lr", type=float, default=8e-3)
    words.add_argument("--module-lr", type=float, help="of the modules in the meta model; as --lr where it is left out")
    words.add_argument("--tuning-lr", type=float, help="of the fine-tuning; as --lr where it is left out")
    words.add_argument("--width", type=int, default=32)
    words.add_argument("--depth", type=int, default=3, help="blocks of each of the four modules")
    words.add_argument("--split", choices=("valid", "test"), default="test", help="that judges")
    words.add_argument("--report", action="store_true", help="only print the figures of the runs")
    words.add_argument("--smoke", action="store_true", help="seconds, on digits")
    options = words.parse_args()
    if options.smoke:
        options.seeds, options.steps, options.width, options.depth = 1, 20, 8, 2
        options.ways = ["end to end, 60 %", "incubation", "m2mKD"]
    carry_out(everything, options, words, needs=("glyphs",))


if __name__ == "__main__":
    main()

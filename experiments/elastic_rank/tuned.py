"""Quality against parameters and time for every rank of a vision transformer: tuned once for all ranks, or each by itself.

    python experiments/elastic_rank/tuned.py --glyphs FILE --runs FOLDER [--picture FILE.png]

goes on where it stopped; --report prints the figures of the runs; --smoke takes seconds.  One JSON line last.  See README.md.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
from baselines import Near, Truncated
from glyphs.letters import CAPITALS, glyphs
from runs_common.folder import carry_out, kept
from torch import nn

import nas
from nas.compressing.uniform import ladder, largest_within
from nas.convert.spelling import spelled
from nas.hardware import exclusive, measure_rounds
from nas.train import Features, FixedList, Hint, Labels, Loss, Sampler, Training, as_supernet
from searchspaces.vit import ViT

SHARES = {"1/2": 1 / 2, "1/3": 1 / 3, "1/6": 1 / 6, "1/12": 1 / 12}
"""Of the rank at which two factors take as many operations as the layer, and so of its operations."""
DENSE = "dense"
EACH = {
    "weights": "ranks of the weights (SVD)",
    "outputs": "ranks of the outputs (nas.factorize)",
    "pela": "PELA",
    "trp": "TRP",
    "widths": "uniform widths",
}
ONCE = {"once": "elastic rank, tuned once", "once, all": "the same, as many steps as all"}
UNTUNED = {"weights, untuned": "ranks of the weights, untuned", "outputs, untuned": "ranks of the outputs, untuned"}
REFERENCE = "outputs"
BATCHES = (1, 64)
"""Of the time that is measured."""
Row = dict[str, float]


class Setting:
    """A trained network, and the levels at which it is made smaller.

    Args:
        options: of the command.
        seed: of weights and batches.
        folder: keeps the trained network.
    """

    def __init__(self, options: argparse.Namespace, seed: int, folder: Path) -> None:
        self.options, self.seed = options, seed
        self.task = _task(options, seed)
        self.model = self._trained(folder / f"{seed}-model.pt")
        self.layers = [
            name for name, one in self.model.named_modules() if isinstance(one, nn.Linear) and name != "head"
        ]
        self.ranks = {level: {name: self._rank(name, share) for name in self.layers} for level, share in SHARES.items()}
        every = sorted({rank for ranks in self.ranks.values() for rank in ranks.values()})
        example = self.task.example[:1]
        self.space = nas.elastic(
            self.model,
            example,
            rank=every,
            width=(1.0, 1.0),
            heads=False,
            depth=False,
            exclude=["head"],
            check=options.check,
        )
        self.choices: dict[str, Mapping[str, Any]] = {
            level: {f"{spelled(name)}.rank": rank for name, rank in ranks.items()}
            for level, ranks in self.ranks.items()
        }
        self.choices[DENSE] = {}

    def net(self) -> nas.Supernet:
        """The trained network with its factors, anew."""
        return nas.Supernet(self.space, example=self.task.example[:1], weights=self.model)

    def arch(self, level: str) -> nas.Arch:
        """The network of a level."""
        return self.space.arch({**self.space.largest.choices, **self.choices[level]})

    @functools.cached_property
    def narrow(self) -> tuple[nas.Supernet, dict[str, nas.Arch]]:
        """The trained network with elastic widths in the order of activations, and those of as many operations as the ranks."""
        example = self.task.example[:1]
        space = nas.elastic(self.model, example, depth=False, check=self.options.check)
        net, whole = nas.Supernet(space, example=example, weights=self.model), self.net()
        nas.reorder(net, by="activations", task=self.task)
        steps = ladder(space)
        return net, {
            level: largest_within(steps, net.macs, whole.macs(self.arch(level))) or space.smallest for level in SHARES
        }

    def tune(self, net: nas.Supernet, steps: int, sampler: Sampler, loss: Loss | None = None) -> None:
        """So many steps of one arch each."""
        Training(
            net, self.task, sampler=sampler, loss=loss or Labels(), steps=steps, lr=self.options.tune_lr,
            weight_decay=0.0, validate_every=steps, seed=self.seed,
        ).run(progress=False)  # fmt: skip

    def judge(self, net: nas.Supernet, arch: nas.Arch) -> Row:
        """On the test split."""
        return nas.Accuracy(net, self.task, split="test", calibrate=False)(arch)

    def _rank(self, layer: str, share: float) -> int:
        outputs, inputs = self.model.get_parameter(f"{layer}.weight").shape
        return max(1, round(share * inputs * outputs / (inputs + outputs)))

    def _trained(self, file: Path) -> nn.Module:
        options, example = self.options, self.task.example
        torch.manual_seed(self.seed)
        side, classes = example.shape[-1], int(self.task.train[1].max()) + 1
        made: dict[str, Any] = {"side": side, "patch": side // 4, "channels": 1, "classes": classes}
        heads, hidden = [options.width // 32 or 1] * options.depth, [4 * options.width] * options.depth
        model = ViT(width=options.width, heads=heads, hidden=hidden, head=min(options.width, 32), **made)
        if not file.exists():
            net = as_supernet(model, example=example[:1])
            Training(
                net, self.task, sampler=FixedList([{}]), loss=Labels(), steps=options.train_steps, lr=options.train_lr,
                validate_every=options.train_steps, seed=self.seed,
            ).run(progress=False)  # fmt: skip
            part = file.with_suffix(".part")
            torch.save(net.extract(net.space.largest).state_dict(), part)
            part.replace(file)
        model.load_state_dict(torch.load(file, weights_only=True))
        return model.eval()


def _task(options: argparse.Namespace, seed: int) -> nas.Classification:
    if options.smoke:
        return nas.digits(batch=32, seed=seed)
    return glyphs(options.glyphs, seed=seed, characters=CAPITALS, valid=20, batch=options.batch)


# -- the ways


def untuned(setting: Setting, way: str, level: str) -> dict[str, Row]:  # noqa: ARG001
    """All levels."""
    net = setting.net()
    if way.startswith("outputs"):
        nas.factorize(net, task=setting.task)
    levels = [*SHARES, DENSE] if way.startswith("weights") else list(SHARES)
    return {level: setting.judge(net, setting.arch(level)) for level in levels}


def each(setting: Setting, way: str, level: str) -> dict[str, Row]:
    """One level by itself."""
    if way == "widths":
        source, archs = setting.narrow
        net, arch = _again(source), archs[level]
        setting.tune(net, setting.options.steps, FixedList([arch.choices]))
        return {level: setting.judge(net, arch)}
    net, arch = setting.net(), setting.arch(level)
    if way == "outputs":
        nas.factorize(net, task=setting.task)
    sampler: Sampler = FixedList([setting.choices[level]])
    loss: Loss | None = None
    if way == "pela":
        blocks = [f"blocks.{place}" for place in range(setting.options.depth)]
        features = Features(blocks, Hint("none"), teacher=copy.deepcopy(setting.model))
        loss = Near(net, setting.model, setting.ranks[level], features)
    if way == "trp":
        sampler = Truncated(setting.ranks[level])
    setting.tune(net, setting.options.steps, sampler, loss)
    if way == "trp":
        nas.factorize(net)
    return {level: setting.judge(net, arch)}


def once(setting: Setting, way: str, level: str) -> dict[str, Row]:  # noqa: ARG001
    """All levels, the whole network among them, one drawn for each step."""
    net = setting.net()
    nas.factorize(net, task=setting.task)
    levels = [*SHARES, DENSE]
    steps = setting.options.steps * (len(levels) if way == "once, all" else 1)
    setting.tune(net, steps, FixedList([setting.choices[level] for level in levels], n=1))
    return {level: setting.judge(net, setting.arch(level)) for level in levels}


def _again(net: nas.Supernet) -> nas.Supernet:
    """A copy."""
    twin = nas.Supernet(net.space, example=net.example)
    twin.load_state_dict(net.state_dict())
    return twin


def costs(setting: Setting) -> dict[str, dict[str, Row]]:
    """Parameters, operations and milliseconds of every network, measured in turns; the median over turns."""
    net, (thin, archs) = setting.net(), setting.narrow
    networks = {("ranks", level): (net, setting.arch(level)) for level in [*SHARES, DENSE]}
    networks |= {("widths", level): (thin, arch) for level, arch in archs.items()}
    found: dict[str, dict[str, Row]] = {"ranks": {}, "widths": {}}
    for (kind, level), (source, arch) in networks.items():
        found[kind][level] = {"params": source.params(arch), "macs": source.macs(arch)}
    modules = [source.extract(arch).eval() for source, arch in networks.values()]
    dense, one = list(networks).index(("ranks", DENSE)), setting.task.example[:1]
    for batch in BATCHES:
        with exclusive():
            turns = measure_rounds(
                modules, [one] * len(modules), nas.Device(batch=batch), rounds=setting.options.turns, budget_s=0.08
            )
        ratios = turns.visits / turns.visits[:, [dense]]  # (turns, networks)
        for place, (kind, level) in enumerate(networks):
            found[kind][level] |= {
                f"ms_{batch}": float(turns.ms[place]),
                f"ratio_{batch}": float(np.median(ratios[:, place])),
                f"ratios_{batch}": float(ratios[:, place].std()),
            }
    return found


# -- runs and figures


def everything(options: argparse.Namespace, folder: Path) -> None:
    """All runs that are not there yet."""
    for seed in range(options.seeds):
        setting = functools.lru_cache(None)(functools.partial(Setting, options, seed, folder))
        runs: list[tuple[Any, str, str]] = [(untuned, way, "") for way in UNTUNED]
        runs += [(each, "outputs", DENSE), *((once, way, "") for way in ONCE if way in options.ways)]
        runs += [(each, way, level) for way in EACH if way in options.ways for level in SHARES]
        for make, way, level in runs:
            file = folder / f"{seed}-{way}-{level.replace('/', '_')}.json"
            kept(file, lambda m=make, w=way, at=level, get=setting: {"way": w, "levels": m(get(), w, at)})
        kept(folder / "costs.json", lambda get=setting: costs(get()))


Table = dict[str, dict[str, list[float]]]


def accuracies(folder: Path) -> Table:
    """Of every way and level, in percent, one for each seed."""
    found: Table = {}
    for file in sorted(folder.glob("[0-9]-*.json")):
        run = json.loads(file.read_text())
        for level, row in run["levels"].items():
            found.setdefault(run["way"], {}).setdefault(level, []).append(100 * row["accuracy"])
    return found


def figures(folder: Path) -> dict[str, Any]:
    """Prints the tables, and gives their numbers."""
    table, cost = accuracies(folder), json.loads((folder / "costs.json").read_text())
    line("network", "parameters", "MACs", *(f"ms, batch {batch} (of dense)" for batch in BATCHES))
    line(*["---"] * (3 + len(BATCHES)))
    for kind, rows in cost.items():
        for level, row in rows.items():
            times = [f"{row[f'ms_{b}']:.3f} ({row[f'ratio_{b}']:.2f} ± {row[f'ratios_{b}']:.2f})" for b in BATCHES]
            line(f"{kind}, {level}", f"{row['params']:,}", f"{row['macs']:,}", *times)
    ways = {way: name for way, name in {**UNTUNED, **EACH, **ONCE}.items() if way in table}
    levels = [*SHARES, DENSE]
    columns(
        levels, {name: {level: spread(values) for level, values in table[way].items()} for way, name in ways.items()}
    )
    columns(levels, {name: differences(table, way) for way, name in ways.items() if way in (*EACH, *ONCE)})
    means = {way: {level: round(statistics.fmean(values), 2) for level, values in table[way].items()} for way in ways}
    return {"accuracy": means, "costs": cost}


def differences(table: Table, way: str) -> dict[str, str]:
    """To the ranks of the outputs, each tuned by itself, within each seed."""
    pairs = {level: zip(values, table[REFERENCE].get(level, []), strict=False) for level, values in table[way].items()}
    return {level: spread([a - b for a, b in both], "+") for level, both in pairs.items()} if way != REFERENCE else {}


def columns(levels: list[str], rows: Mapping[str, Mapping[str, str]]) -> None:
    """Print a table."""
    print()
    line("way", *levels)
    line(*["---"] * (1 + len(levels)))
    for name, cells in rows.items():
        if cells:
            line(name, *(cells.get(level, "") for level in levels))


def deviation(values: list[float]) -> float:
    """Standard, of a sample; 0 of one."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def spread(values: list[float], sign: str = "") -> str:
    """Mean and standard deviation."""
    return f"{statistics.fmean(values):{sign}.1f} ± {deviation(values):.1f}" if values else ""


def line(*cells: str) -> None:
    """Of a table."""
    print(f"| {' | '.join(cells)} |")


def picture(folder: Path, file: Path) -> None:
    """Accuracy of the tuned ways against parameters, and against time of a batch."""
    from matplotlib.figure import Figure

    table, cost = accuracies(folder), json.loads((folder / "costs.json").read_text())
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    panels = {"params": ("thousand parameters", 1e-3), **{f"ms_{b}": (f"ms, batch of {b}", 1.0) for b in BATCHES}}
    for axes, (column, (name, unit)) in zip(figure.subplots(1, len(panels), sharey=True), panels.items(), strict=True):
        for way, label in {**EACH, **ONCE}.items():
            levels = [level for level in SHARES if level in table.get(way, {})]
            where = cost["widths" if way == "widths" else "ranks"]
            at = [unit * where[level][column] for level in levels]
            accuracy = [statistics.fmean(table[way][level]) for level in levels]
            error = [deviation(table[way][level]) for level in levels]
            style = "--" if way == "widths" else "-"
            axes.errorbar(at, accuracy, error, marker="o", ms=4, lw=1.2, capsize=2, ls=style, label=label)
        whole = unit * cost["ranks"][DENSE][column]
        axes.scatter([whole], [statistics.fmean(table["weights, untuned"][DENSE])], marker="*", c="black", label=DENSE)
        axes.set_xlabel(name)
        axes.grid(alpha=0.25)
    figure.axes[0].legend(frameon=False, fontsize=7)
    figure.axes[0].set_ylabel("test accuracy, %")
    figure.savefig(file, dpi=110)


def main() -> None:
    """Runs what is asked for and prints the figures."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--glyphs", type=Path, help="glyphs.npz: images (n, 16, 16), labels, typeface")
    words.add_argument("--runs", type=Path, help="folder of the runs")
    words.add_argument("--report", action="store_true", help="only print the figures of the runs")
    words.add_argument("--picture", type=Path, help="draw them into this file (needs matplotlib)")
    words.add_argument("--smoke", action="store_true", help="seconds, on digits")
    words.add_argument("--seeds", type=int, default=3)
    words.add_argument("--ways", nargs="+", choices=[*EACH, *ONCE], default=[*EACH, *ONCE])
    words.add_argument("--train-steps", type=int, default=1500, help="of the network that is made smaller")
    words.add_argument("--train-lr", type=float, default=2e-3)
    words.add_argument("--steps", type=int, default=150, help="of tuning")
    words.add_argument("--tune-lr", type=float, default=1e-3)
    words.add_argument("--batch", type=int, default=64)
    words.add_argument("--width", type=int, default=96)
    words.add_argument("--depth", type=int, default=3)
    words.add_argument("--turns", type=int, default=9, help="measurements of time")
    options = words.parse_args()
    options.check = not options.smoke
    if options.smoke:
        options.seeds, options.train_steps, options.steps, options.turns = 1, 4, 2, 2
        options.width, options.depth = 32, 1

    def all_of_it(options: argparse.Namespace, folder: Path) -> None:
        if not options.report:
            everything(options, folder)
        if not (folder / "costs.json").exists():
            words.error(f"{folder} has no runs to report; leave --report out to make them")
        if options.picture:
            picture(folder, options.picture)
        print(json.dumps(figures(folder)))

    carry_out(all_of_it, options, words, ["glyphs"], free=["picture"])


if __name__ == "__main__":
    main()

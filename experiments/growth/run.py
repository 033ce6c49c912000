"""Steps and operations to the loss of a vision transformer trained from scratch, growing it on the way.

    python experiments/growth/run.py --glyphs FILE --runs FOLDER

goes on where it stopped; --report prints the figures of the runs; --smoke takes seconds.  One JSON line last.  See README.md.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from runs_common.folder import opened
from torch import Tensor
from torch.nn import functional

import nas
from nas import files
from searchspaces import vit

WAYS: dict[str, dict[str, Any]] = {
    "drawn": {},
    "next": {"units": "next"},
    "fpi": {"width": "fpi"},
    "aki, stacked": {"width": "aki", "depth": "stacked"},
    "stacked": {"depth": "stacked"},
}
"""Arguments of `nas.grow`."""
TRAIN, VALID = 300, 20
"""Typefaces."""
LAST = 3
"""Measurements that a loss is the mean of."""


class Data:
    """Images and labels to train and to measure with, and how large they are."""

    def __init__(self, options: argparse.Namespace) -> None:
        if options.smoke:
            batches = list(nas.digits(batch=32).train_batches(0))
            images = torch.cat([batch.inputs for batch in batches])
            labels = torch.cat([batch.targets for batch in batches])
            self.train, self.valid = (images[256:], labels[256:]), (images[:256], labels[:256])
            self.settings = {"side": 8, "patch": 2, "classes": 10}
            return
        data = np.load(options.glyphs)
        images = torch.tensor(data["images"]).float()[:, None] / 255
        labels, typeface = torch.tensor(data["labels"]).long(), data["typeface"]
        order = np.random.default_rng(0).permutation(typeface.max() + 1)
        self.train, self.valid = (
            (images[rows], labels[rows])
            for rows in (torch.tensor(np.isin(typeface, some)) for some in (order[:TRAIN], order[1000 : 1000 + VALID]))
        )
        self.settings = {"side": 16, "patch": 4, "classes": 62}

    def batch(self, seed: int, step: int, size: int) -> tuple[Tensor, Tensor]:
        """Of a step: the same for every way."""
        draw = torch.Generator().manual_seed(1_000_000 * seed + step)
        rows = torch.randint(len(self.train[0]), (size,), generator=draw)
        return self.train[0][rows], self.train[1][rows]

    def loss(self, net: nas.Supernet, arch: nas.Arch) -> tuple[float, float]:
        """Cross-entropy and accuracy on images of typefaces that were not trained with."""
        net.eval()
        with torch.no_grad():
            logits = torch.cat([net(images, arch) for images in self.valid[0].split(256)])
        net.train()
        labels = self.valid[1]
        return float(functional.cross_entropy(logits, labels)), float((logits.argmax(1) == labels).float().mean())


def spaces(data: Data, options: argparse.Namespace) -> tuple[nas.Space, nas.Space]:
    """One network, and a space that has it and one of twice its width, heads and depth."""
    width, depth = options.width, options.depth
    small = vit.space(widths=(width,), depths=(depth,), heads=(2,), ratios=(2,), head=width // 2, **data.settings)
    both = (width, 2 * width), (depth, 2 * depth)
    large = vit.space(widths=both[0], depths=both[1], heads=(2, 4), ratios=(2,), head=width // 2, **data.settings)
    return small, large


def optimizer_of(net: nas.Supernet, options: argparse.Namespace) -> torch.optim.Optimizer:
    """A constant rate, so that losses of all steps can be compared."""
    return torch.optim.AdamW(net.parameters(), lr=options.lr, weight_decay=0.01)


def train(
    net: nas.Supernet,
    optimizer: torch.optim.Optimizer,
    data: Data,
    options: argparse.Namespace,
    *,
    seed: int,
    first: int,
    last: int,
) -> list[list[float]]:
    """Steps of the largest arch; (step, loss, accuracy) of every measurement."""
    arch, found = net.space.largest, []
    net.train()
    for step in range(first, last):
        for group in optimizer.param_groups:
            group["lr"] = options.lr * min(1.0, (step + 1) / options.warmup)
        images, labels = data.batch(seed, step, options.batch)
        optimizer.zero_grad()
        functional.cross_entropy(net.bind(arch)(images), labels).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % options.every == 0:
            found.append([step + 1, *data.loss(net, arch)])
    return found


def again(net: nas.Supernet, optimizer: torch.optim.Optimizer, options: argparse.Namespace) -> tuple[Any, Any]:
    """A copy of both."""
    twin = vit.supernet(net.space)
    twin.load_state_dict(net.state_dict())
    other = optimizer_of(twin, options)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # else both would have the same counters of steps
    return twin, other


def grown(way: str, begun: Any, large: nas.Space, data: Data, options: argparse.Namespace) -> Any:
    """One growth of what has begun, and the rest of the steps."""
    net, optimizer = again(*begun, options)
    first, last = int(options.share * options.steps), max(options.steps, options.limit)
    old = net.space.largest
    before = data.loss(net, old)[0]
    began = time.perf_counter()
    bigger = nas.grow(net, vit.supernet(large, seed=options.seed), optimizer=optimizer, **WAYS[way])
    seconds = time.perf_counter() - began
    there = large.from_row(old.row(), net.space.schema())
    after = {"largest": data.loss(bigger, large.largest)[0], "old": data.loss(bigger, there)[0]}
    curve = train(bigger, optimizer, data, options, seed=options.seed, first=first, last=last)
    return {"before": before, **after, "seconds": seconds, "curve": curve, "old_last": data.loss(bigger, there)[0]}


def everything(options: argparse.Namespace, folder: Path, data: Data) -> None:
    """All runs that are not there yet."""
    small, large = spaces(data, options)
    for seed in range(options.seeds):
        options.seed = seed
        if not (file := folder / f"{seed}-scratch.json").exists():
            net = vit.supernet(large, seed=seed)
            curve = train(net, optimizer_of(net, options), data, options, seed=seed, first=0, last=options.steps)
            macs = [vit.supernet(one).macs(one.largest) for one in (small, large)]
            files.write(file, json.dumps({"curve": curve, "macs": macs}))
        net = vit.supernet(small, seed=seed)
        optimizer, done = optimizer_of(net, options), 0
        for share in options.shares:
            options.share = share
            wanted = {way: folder / f"{seed}-{share}-{way}.json" for way in options.ways}
            stop = int(share * options.steps)
            train(net, optimizer, data, options, seed=seed, first=done, last=stop)
            done = stop
            for way, file in wanted.items():
                if not file.exists():
                    files.write(file, json.dumps(grown(way, (net, optimizer), large, data, options)))


def smooth(curve: list[list[float]], column: int = 1) -> list[tuple[float, float]]:
    """(step, mean of the last measurements)."""
    values = [row[column] for row in curve]
    return [(row[0], statistics.fmean(values[max(0, at - LAST + 1) : at + 1])) for at, row in enumerate(curve)]


def figures(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Means over seeds, printed as a table."""
    seeds = [json.loads(file.read_text()) for file in sorted(folder.glob("*-scratch.json"))]
    targets = [smooth(one["curve"])[-1][1] for one in seeds]
    accuracies = [smooth(one["curve"], 2)[-1][1] for one in seeds]
    small, large = seeds[0]["macs"]
    found: dict[str, Any] = {
        "scratch": {"loss": statistics.fmean(targets), "accuracy": statistics.fmean(accuracies)},
        "macs": [small, large],
    }
    print(
        f"from scratch: loss {mean(targets)}, accuracy {mean(accuracies)}; operations of a step {small / large:.2f} : 1\n"
    )
    names = ["grown at", "way", "loss before", "largest after", "old arch after", "reached", "steps", "operations"]
    row(*names, "last loss", "accuracy", "old arch at the end", "all operations", "loss from scratch for as many")
    row(*["---"] * (len(names) + 5))
    for share in options.shares:
        for way in options.ways:
            files = [folder / f"{seed}-{share}-{way}.json" for seed in range(len(seeds))]
            runs = [json.loads(file.read_text()) for file in files if file.exists()]
            if not runs:
                continue
            steps = [reached(run["curve"], target) for run, target in zip(runs, targets, strict=False)]
            hits = [one for one in steps if one is not None]
            begun, total = share * options.steps, options.steps
            cost = [(begun * small + (one - begun) * large) / (total * large) for one in hits]
            last = [smooth(run["curve"])[-1][1] for run in runs]
            spent = (begun * small + (runs[0]["curve"][-1][0] - begun) * large) / large
            equal = [at(smooth(one["curve"]), spent) for one in seeds[: len(runs)]]
            right = [smooth(run["curve"], 2)[-1][1] for run in runs]
            line = {name: [run[name] for run in runs] for name in ("before", "largest", "old", "old_last")}
            every = len(hits) == len(runs)
            found[f"{share} {way}"] = {
                **{name: statistics.fmean(values) for name, values in line.items()},
                "reached": len(hits),
                "steps": statistics.fmean(hits) if every else None,
                "operations": statistics.fmean(cost) if every else None,
                "last": statistics.fmean(last),
                "spent": spent / total,
                "scratch, as many operations": statistics.fmean(equal),
                "accuracy": statistics.fmean(right),
            }
            told = [mean(line[name]) for name in ("before", "largest", "old")]
            pays = [f"{statistics.fmean(hits):.0f}", f"{statistics.fmean(cost):.0%}"] if every else ["—", "—"]
            hit = f"{len(hits)} of {len(runs)}"
            row(
                f"{share:.0%}",
                way,
                *told,
                hit,
                *pays,
                mean(last),
                mean(right),
                mean(line["old_last"]),
                f"{spent / total:.0%}",
                mean(equal),
            )
    return found


def at(curve: list[tuple[float, float]], step: float) -> float:
    """The loss after so many steps, between two measurements."""
    return float(np.interp(step, *zip(*curve, strict=True)))


def row(*cells: str) -> None:
    """Of a table."""
    print(f"| {' | '.join(cells)} |")


def reached(curve: list[list[float]], target: float) -> float | None:
    """The first step from which the loss is that of the training from scratch, or less."""
    return next((step for step, loss in smooth(curve)[LAST - 1 :] if loss <= target), None)


def mean(values: list[float]) -> str:
    """With the standard deviation."""
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{spread}"


def main() -> None:
    """Runs what is asked for and prints the figures."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--glyphs", type=Path, help="glyphs.npz: images (n, 16, 16), labels, typeface")
    words.add_argument("--runs", type=Path, help="folder of the runs")
    words.add_argument("--report", action="store_true", help="only print the figures of the runs")
    words.add_argument("--smoke", action="store_true", help="seconds, on digits")
    words.add_argument("--seeds", type=int, default=3)
    words.add_argument("--steps", type=int, default=400)
    words.add_argument("--limit", type=int, default=0, help="steps of the networks that grow, if more")
    words.add_argument("--shares", type=float, nargs="+", default=[0.25, 0.5, 0.75], help="of the steps, before growth")
    words.add_argument("--batch", type=int, default=64)
    words.add_argument("--lr", type=float, default=2e-3)
    words.add_argument("--warmup", type=int, default=30)
    words.add_argument("--every", type=int, default=20, help="steps between measurements")
    words.add_argument("--width", type=int, default=32, help="of the small network")
    words.add_argument("--depth", type=int, default=2, help="of the small network")
    words.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    options = words.parse_args()
    if options.smoke:
        options.seeds, options.steps, options.width, options.depth, options.every = 1, 16, 8, 1, 2
        options.ways = ["drawn", "fpi"]
    with opened(options, words, needs=["glyphs"], free=["shares"]) as folder:
        if not options.report:
            everything(options, folder, Data(options))
        print(json.dumps(figures(options, folder)))


if __name__ == "__main__":
    main()

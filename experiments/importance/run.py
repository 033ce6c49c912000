"""What is a score of importance worth before any tuning, and what does it cost?  See README.md.

    python experiments/importance/run.py [--smoke] [--seeds 3] [--glyphs FILE] [--weights FOLDER]

Prints one line a network, and one JSON line last.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "minilm"))

import torch
from encoder import pretrained
from letters import glyphs
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

import nas
from nas.supernet import importances
from nas.train import digits

SCORES: dict[str, Any] = {
    "magnitude": nas.Magnitude(),
    "mean_activation": nas.MeanActivation(),
    "activations": nas.Activations(),
    "taylor": nas.Taylor(),
    "taylor, absolute": nas.Taylor(absolute=True),
    "fisher": nas.Fisher(),
    "group_fisher": nas.GroupFisher(),
    "hesso": nas.HESSO(),
}
SHARES = (0.75, 0.5)


# -- trained networks, narrowed without tuning


class Residual(nn.Module):
    """Two convolutions beside a shortcut, the inner ones wider."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.up, self.down = nn.Conv2d(width, inner, 3, padding=1), nn.Conv2d(inner, width, 3, padding=1)
        self.first, self.second = nn.BatchNorm2d(inner), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.second(self.down(self.first(self.up(x)).relu()))).relu()


class Convolutions(nn.Module):
    """Two stages of residual blocks."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width)
        self.early = Residual(width, 2 * width)
        self.turn = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.late = Residual(2 * width, 2 * width)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.early(self.norm(self.stem(x)).relu())
        found: Tensor = self.head(self.late(self.turn(x).relu()).mean((2, 3)))
        return found


class Block(nn.Module):
    """Attention and a perceptron, each after a norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(self.before(x)).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, width)
        x = x + self.out(mixed)
        found: Tensor = x + self.down(functional.gelu(self.up(self.between(x))))
        return found


class Transformer(nn.Module):
    """Patches of 4 × 4 pixels (2 × 2 of the digits) through blocks of attention."""

    def __init__(self, width: int, heads: int, depth: int, size: int, classes: int) -> None:
        super().__init__()
        self.patch = size // 4
        self.stem = nn.Conv2d(1, width, self.patch, stride=self.patch)
        self.place = nn.Parameter(0.02 * torch.randn(16, width))
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2) + self.place
        for block in self.blocks:
            x = block(x)
        found: Tensor = self.head(self.norm(x).mean(1))
        return found


def trained(model: nn.Module, task: nas.Classification, steps: int) -> nn.Module:
    """The model after some steps of AdamW with a cosine schedule."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    done, epoch = 0, 0
    model.train()
    while done < steps:
        for batch in task.train_batches(epoch):
            if done == steps:
                break
            loss = task.loss(model(batch.inputs), batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            done += 1
        epoch += 1
    return model.eval()


def narrowed(space: nas.Space, share: float) -> nas.Arch:
    """Every width the choice that is nearest to a share of the whole, every block there."""
    top = dict(space.largest.choices)
    for decision in space.decisions:
        choices = [label for label in decision.labels if isinstance(label, int) and not isinstance(label, bool)]
        if choices and decision.name in top:
            top[decision.name] = min(choices, key=lambda choice: abs(choice - share * max(choices)))
    return space.arch(top)


def shuffled(net: nas.Supernet, seed: int) -> None:
    """Units in a random order."""
    generator = torch.Generator().manual_seed(seed)

    class Random(nas.Score):
        name, needs = "random", "weights"

        def measure(self, largest: Any, data: Any) -> dict[str, Tensor]:  # noqa: ARG002
            return {atom: torch.rand(size, generator=generator).double() for atom, size in largest.units.whole.items()}

    nas.reorder(net, by=Random())


def judged(net: nas.Supernet, task: nas.Classification) -> dict[str, list[float]]:
    """Loss and accuracy of each share; with the statistics of norms as they are, and taken again."""
    found = {}
    net.eval()
    for share in SHARES:
        arch = narrowed(net.space, share)
        buffers = net.calibrate(arch, task.calibration_inputs())
        rows = [task.evaluate(net.bind(arch), "test")]
        rows.append(task.evaluate(partial(net.bind(arch), buffers=buffers), "test") if buffers else rows[0])
        found[f"{share:.0%}"] = [round(row[name], 4) for row in rows for name in ("loss", "accuracy")]
    return found


def networks(args: argparse.Namespace, seed: int, task: nas.Classification) -> dict[str, nn.Module]:
    """Convolutions and a transformer for the task."""
    size, classes = task.train[0].shape[-1], int(task.train[1].max()) + 1
    torch.manual_seed(seed)
    width = 8 if args.smoke else 16
    found: dict[str, nn.Module] = {"convolutions": Convolutions(width, classes)}
    found["transformer"] = Transformer(2 * width if args.smoke else 64, 4, 1 if args.smoke else 3, size, classes)
    return found


def worth(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Quality under every order, of every network of a seed."""
    task = glyphs(args.glyphs, seed) if args.glyphs else digits(seed=seed)
    example, rows = task.train[0][:2], {}
    for name, model in networks(args, seed, task).items():
        trained(model, task, args.steps)
        space = nas.elastic(model, example, width=(0.25, 1.0), granule=2 if args.smoke else 4, depth=False)
        net = nas.Supernet(space, example=example, weights=model)
        whole = task.evaluate(model, "test")
        row: dict[str, Any] = {"whole": [round(whole["loss"], 4), round(whole["accuracy"], 4)]}
        row["params"] = [net.params(each) for each in (space.largest, *(narrowed(space, s) for s in SHARES))]
        row["no order"] = judged(net, task)
        for draw in range(1 if args.smoke else 3):
            random = copy.deepcopy(net)
            shuffled(random, draw)
            row[f"random {draw}"] = judged(random, task)
        for by, score in SCORES.items():
            ordered, began = copy.deepcopy(net), time.perf_counter()
            nas.reorder(ordered, by=score, **({} if score.needs == "weights" else {"task": task}))
            row[by] = {**judged(ordered, task), "seconds": round(time.perf_counter() - began, 2)}
        rows[name] = row
        print(json.dumps({"seed": seed, "network": name, **row}), flush=True)
    return rows


def summary(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds, and of random orders over draws too: [loss, accuracy, loss, accuracy with new statistics]."""
    found: dict[str, Any] = {}
    for name in seeds[0]:
        table: dict[str, Any] = {
            "whole": _mean([row[name]["whole"] for row in seeds]),
            "params": seeds[0][name]["params"],
        }
        for by in ("no order", "random", *SCORES):
            keys = [key for key in seeds[0][name] if key == by or (by == "random" and key.startswith("random "))]
            for share in map("{:.0%}".format, SHARES):
                values = [row[name][key][share] for row in seeds for key in keys]
                table[f"{by} {share}"] = _mean(values)
        found[name] = table
    return found


def _mean(rows: list[list[float]]) -> list[float]:
    return [round(statistics.mean(column), 4) for column in zip(*rows, strict=True)]


# -- cost


def peak(function: Callable[[], object]) -> int:
    """Bytes that are allocated at once while a function runs, beside those before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        function()
    assert profiled.profiler is not None
    now = most = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


def cost(args: argparse.Namespace) -> dict[str, Any]:
    """Memory and time of one pass of a sentence encoder under every score, beside plain passes of the same batches."""
    model = pretrained(args.weights)
    length = 64 if args.weights else 16
    tokens = torch.randint(1, 128, (2 if args.smoke else 8, 16, length), generator=torch.Generator().manual_seed(0))
    batches = list(tokens)
    example = batches[0][:2]
    space = nas.elastic(model, example, granule=64 if args.weights else 8)
    net = nas.Supernet(space, example=example, weights=model).eval()
    weights = sum(each.numel() * each.element_size() for each in model.parameters())

    def loss(network: Any, batch: Tensor) -> Tensor:
        found = network(batch)
        return (found @ found.T).square().mean()

    def forward(many: list[Tensor]) -> None:
        with torch.no_grad():
            for batch in many:
                model(batch)

    def backward(many: list[Tensor]) -> None:
        for batch in many:
            model.zero_grad()
            loss(model, batch).backward()
        model.zero_grad()

    plain = {"inputs": forward, "gradients": backward}
    bytes_of = {needs: peak(lambda run=run: run(batches[:1])) for needs, run in plain.items()}
    seconds = {}
    for needs, run in plain.items():
        began = time.perf_counter()
        run(batches)
        seconds[needs] = time.perf_counter() - began
    found: dict[str, Any] = {"weights_mib": round(weights / 2**20, 1)}
    for needs, most in bytes_of.items():
        found[f"plain {needs}"] = {"mib": round(most / 2**20, 1), "seconds": round(seconds[needs], 2)}
    for by, score in SCORES.items():
        needs = score.needs if score.needs != "weights" else "inputs"
        given: dict[str, Any] = {"batches": batches, "loss": loss} if score.needs == "gradients" else {}
        given |= {"batches": batches} if score.needs == "inputs" else {}
        few = given | ({"batches": batches[:2]} if given else {})
        most = peak(lambda score=score, few=few: importances(net, by=score, **few))
        began = time.perf_counter()
        importances(net, by=score, **given)
        found[by] = {
            "mib": round(most / 2**20, 1),
            "ratio": round(most / bytes_of[needs], 3),
            "ratio_with_weights": round((weights + most) / (weights + bytes_of[needs]), 3),
            "seconds": round(time.perf_counter() - began, 2),
        }
    return found


def main() -> None:
    """Train, narrow under every order, measure the cost, and print the figures as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1500, help="of training")
    parser.add_argument("--glyphs", help="file of images; without it the digits of scikit-learn")
    parser.add_argument(
        "--weights", help="folder of a sentence encoder (see experiments/minilm); without it a small one"
    )
    parser.add_argument("--smoke", action="store_true", help="a few seconds")
    args = parser.parse_args()
    if args.smoke:
        args.seeds, args.steps, args.glyphs, args.weights = 1, 20, None, None
    torch.set_num_threads(1)
    costs = cost(args)
    print(json.dumps(costs), flush=True)
    quality = summary([worth(args, seed) for seed in range(args.seeds)])
    print(json.dumps({"experiment": "importance", "seeds": args.seeds, "cost": costs, "quality": quality}))


if __name__ == "__main__":
    main()

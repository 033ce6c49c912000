"""What does folding layers save, and what does a network lose that is trained to be folded?  See README.md.

    python experiments/folding/run.py --runs FOLDER [--glyphs FILE] [--seeds 3] [--steps 1000] [--smoke]

Goes on where it stopped.  Prints one line a measurement or training, and one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "importance"))
sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from letters import glyphs
from runs_common.folder import kept, opened
from torch import Tensor, nn
from torch.nn import functional

import nas
from nas.hardware import exclusive, measure_rounds
from nas.train import Classification, Labels, Training, Uniform, as_supernet
from searchspaces import conv, nasbench201, ofa

# -- latency of the convolutional families


def families(smoke: bool) -> Iterator[tuple[str, nas.Space, Tensor]]:
    """Name, space, and one sample."""
    yield "conv", conv.space(), torch.randn(1, 1, 8, 8)
    if smoke:
        return
    yield "nasbench201", nasbench201.space(), torch.randn(1, 3, 32, 32)
    yield "ofa mobilenet", ofa.published(resolutions=None), torch.randn(1, 3, 128, 128)
    yield "ofa resnet", ofa.resnet_space(), torch.randn(1, 1, 32, 32)


def latencies(name: str, space: nas.Space, sample: Tensor, smoke: bool) -> dict[str, Any]:
    """Milliseconds of the largest, the smallest and random archs as they are and folded, in turns."""
    rng = random.Random(0)
    archs = list(dict.fromkeys([space.largest, space.smallest, *(space.sample(rng) for _ in range(0 if smoke else 4))]))
    rows = []
    for arch in archs:
        plain = space.build(arch).eval()
        done = nas.fold(plain, sample)
        with exclusive():
            found = measure_rounds([plain, done.module], [sample, sample], rounds=4 if smoke else 30)
        ratios = found.visits[:, 1] / found.visits[:, 0]
        norms = sum(isinstance(one, nn.BatchNorm2d) for one in plain.modules())
        rows.append(
            {
                "ms": round(float(found.ms[0]), 4),
                "folded_ms": round(float(found.ms[1]), 4),
                "ratio": round(float(statistics.median(ratios)), 3),
                "norms": norms,
                "merged": len(done.merged),
                "left": len(done.left),
            }
        )
        print(json.dumps({"family": name, **rows[-1]}), flush=True)
    return {"archs": rows, "ratio": spread([row["ratio"] for row in rows])}


# -- networks that are trained to be folded


class Block(nn.Sequential):
    """Two pointwise convolutions, or the one that they become; then ReLU and pooling, as a block of VanillaNet."""

    def __init__(self, way: str, inputs: int, outputs: int) -> None:
        between = {"deep": nn.ReLU(), "linear": nn.Identity(), "mergeable": nas.Fade(nn.ReLU(), nn.Identity())}
        first = [nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs)]
        second = [between[way], nn.Conv2d(outputs, outputs, 1), nn.BatchNorm2d(outputs)] if way in between else []
        super().__init__(*first, *second, nn.MaxPool2d(2), nn.ReLU())


class Vanilla(nn.Sequential):
    """A stem that sees 4×4 pixels, blocks that double the channels and halve the image, an average, a classifier."""

    def __init__(self, way: str, width: int, classes: int) -> None:
        stem = [nn.Conv2d(1, width, 4, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
        blocks = [Block(way, width, 2 * width), Block(way, 2 * width, 4 * width)]
        super().__init__(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, classes))


def norm(way: str, width: int) -> nn.Module:
    """A norm over the last axis."""
    if way == "mergeable":
        return nas.Fade(nn.LayerNorm(width), nas.RepNorm(width))
    return nn.LayerNorm(width) if way == "layer norm" else nas.RepNorm(width)


class Attention(nn.Module):
    """A block of a transformer with norms before its layers."""

    def __init__(self, way: str, width: int) -> None:
        super().__init__()
        self.before, self.between = norm(way, width), norm(way, width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(n, tokens, width) -> the same."""
        heads = self.qkv(self.before(x)).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*heads)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.between(x))))


class Encoder(nn.Module):
    """Patches of 4×4 pixels as tokens, blocks, the mean over tokens, a norm, a classifier."""

    def __init__(self, way: str, width: int, side: int, classes: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 4 if side >= 16 else 2, stride=4 if side >= 16 else 2)
        tokens = (side // self.patches.stride[0]) ** 2
        self.places = nn.Parameter(0.02 * torch.randn(1, tokens, width))
        self.blocks = nn.Sequential(*(Attention(way, width) for _ in range(3)))
        self.norm, self.head = norm(way, width), nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(n, 1, side, side) -> (n, classes)."""
        x = self.blocks(self.patches(images).flatten(2).transpose(1, 2) + self.places)
        y: Tensor = self.head(self.norm(x.mean(1)))
        return y


WAYS = {"vanilla": ("deep", "mergeable", "linear", "merged"), "encoder": ("layer norm", "mergeable", "rep norm")}
SHARE = {"vanilla": 1 / 3, "encoder": 2 / 3}
"""Of the steps, over which a layer fades: VanillaNet's third, and most of the training as SLAB's."""


def trained(kind: str, way: str, seed: int, task: Classification, args: argparse.Namespace) -> dict[str, Any]:
    """One network, its folded one, and what both are worth on the test split."""
    torch.manual_seed(seed)
    side, classes = task.example.shape[-1], int(task.train[1].max()) + 1
    width = 8 if args.smoke else 32
    model: nn.Module = Vanilla(way, width, classes) if kind == "vanilla" else Encoder(way, 2 * width, side, classes)
    net = as_supernet(model, example=task.example)
    sampler: Any = Uniform(1)
    if way == "mergeable":
        sampler = nas.Fading(sampler, steps=max(1, int(SHARE[kind] * args.steps)))
    began = time.perf_counter()
    training = Training(
        net, task, sampler=sampler, loss=Labels(), steps=args.steps, lr=3e-3, seed=seed, validate_every=args.steps
    )
    training.run(progress=False)
    seconds = time.perf_counter() - began
    module = net.extract(net.space.largest)
    done = nas.fold(module, task.example)
    with exclusive():
        found = measure_rounds([module, done.module], [task.example[:1]] * 2, rounds=4 if args.smoke else 20)
    row = {
        "kind": kind,
        "way": way,
        "seed": seed,
        "accuracy": round(100 * task.evaluate(module, "test")["accuracy"], 3),
        "folded_accuracy": round(100 * task.evaluate(done.module, "test")["accuracy"], 3),
        "params": sum(one.numel() for one in module.parameters()),
        "folded_params": sum(one.numel() for one in done.module.parameters()),
        "merged": len(done.merged),
        "left": len(done.left),
        "ms": round(float(found.ms[0]), 4),
        "folded_ms": round(float(found.ms[1]), 4),
        "ratio": round(float(statistics.median(found.visits[:, 1] / found.visits[:, 0])), 3),
        "seconds": round(seconds, 1),
    }
    print(json.dumps(row), flush=True)
    return row


def ends(kind: str, smoke: bool) -> dict[str, Any]:
    """Time of what a mergeable network ends as over that of the one that keeps its layers, both folded, in turns."""
    nets = []
    sample = torch.randn(1, 1, 16, 16)
    for way in WAYS[kind][:2]:
        net = Vanilla(way, 32, 26) if kind == "vanilla" else Encoder(way, 64, 16, 26)
        for module in net.modules():
            if isinstance(module, nas.Fade):
                module.faded_share.fill_(1.0)
        nets.append(nas.fold(net, sample).module)
    with exclusive():
        found = measure_rounds(nets, [sample, sample], rounds=4 if smoke else 60)
    ratio = round(float(statistics.median(found.visits[:, 1] / found.visits[:, 0])), 3)
    return {
        "kind": kind,
        "kept_ms": round(float(found.ms[0]), 4),
        "ended_ms": round(float(found.ms[1]), 4),
        "ratio": ratio,
    }


def spread(values: list[float]) -> list[float]:
    """Mean and standard deviation."""
    return [round(statistics.mean(values), 3), round(statistics.stdev(values) if len(values) > 1 else 0.0, 3)]


def main() -> None:
    """Everything that the folder does not have yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="folder of the results; without it nothing is kept")
    parser.add_argument("--glyphs", help="file of images; without it the digits of scikit-learn")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--smoke", action="store_true", help="a few seconds")
    args = parser.parse_args()
    if args.smoke:
        args.seeds, args.steps, args.glyphs = 1, 6, None
    with opened(args, parser, optional=True) as folder:
        figures: dict[str, Any] = {}
        for name, space, sample in families(args.smoke):
            file = folder / f"{name.replace(' ', '_')}.json"
            found = kept(file, lambda name=name, space=space, sample=sample: latencies(name, space, sample, args.smoke))
            figures[name] = {"ratio": found["ratio"], "left": sum(row["left"] for row in found["archs"])}
        for kind in WAYS:
            found = kept(folder / f"{kind}-ends.json", lambda kind=kind: ends(kind, args.smoke))
            figures[f"{kind}, end over kept"] = found["ratio"]
        rows = []
        for seed in range(args.seeds):
            task = glyphs(args.glyphs, seed) if args.glyphs else nas.digits(batch=64, seed=seed)
            for kind, ways in WAYS.items():
                for way in ways[1:3] if args.smoke else ways:
                    file = folder / f"{kind}-{way.replace(' ', '_')}-{seed}.json"
                    rows.append(kept(file, lambda k=kind, w=way, s=seed, t=task: trained(k, w, s, t, args)))
    for kind, ways in WAYS.items():
        for way in ways:
            ours = [row for row in rows if (row["kind"], row["way"]) == (kind, way)]
            if ours:
                columns = ("accuracy", "folded_accuracy", "ratio", "folded_ms", "folded_params", "seconds")
                figures[f"{kind}, {way}"] = {name: spread([row[name] for row in ours]) for name in columns}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

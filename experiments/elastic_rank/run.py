"""What low rank and linear maps leave of a sentence encoder with real weights, beside narrower and shorter ones.

    python experiments/elastic_rank/run.py --weights FOLDER [--pairs 2000]

--smoke takes seconds.  One line a network, and one JSON line last.  See README.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "minilm"))
sys.path.insert(0, str(Path(__file__).parent.parent / "compress_encoder"))

import torch
from encoder import pretrained
from run import search_for_code
from torch import nn

import nas
from nas.compressing.uniform import ladder, largest_within
from nas.convert.elastic import ElasticSpace

REMOVED = (1, 2, 4)
"""Blocks that are taken out."""


class Table:
    """Rows as they come, printed.

    Args:
        net: whose operations count.
        task: gives the test split.
        divergence: of outputs from the original's.
    """

    def __init__(self, net: nas.Supernet, task: nas.Task, divergence: nas.Calibration) -> None:
        self.rows: list[dict[str, Any]] = []
        self._net, self._task, self._divergence = net, task, divergence

    def add(self, way: str, share: str, arch: nas.Arch, net: nas.Supernet, module: nn.Module | None = None) -> None:
        """Measure a network, or what is composed in its place."""
        found = net.extract(arch) if module is None else module
        mrr = nas.Accuracy(net, self._task, split="test", calibrate=False).measure_module(found)["mrr"]
        row = {
            "way": way,
            "share": share,
            "macs": net.macs(arch) / self._net.macs(self._net.space.largest),
            "params": net.params(arch) / self._net.params(self._net.space.largest),
            "mrr": mrr,
            "divergence": self._divergence.measure_module(found)["divergence"],
        }
        self.rows.append(row)
        print(json.dumps(row), flush=True)


def main() -> None:
    """Measures all of them."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--weights", help="folder with config.json, model.safetensors and tokenizer.json")
    words.add_argument("--pairs", type=int, default=2000, help="to fit and to teach on")
    words.add_argument("--tests", type=int, default=300, help="to judge by")
    words.add_argument("--steps", type=int, default=0, help="of every block that is taught; 0 teaches none")
    words.add_argument("--smoke", action="store_true")
    options = words.parse_args()
    torch.set_num_threads(1)
    if options.smoke:
        options.weights, options.pairs, options.steps = None, 64, 2
    elif options.weights is None:
        words.error("--weights is needed (or --smoke); see README.md")
    task = search_for_code(options.weights, (options.pairs, *((32, 32) if options.smoke else (100, options.tests))), 0)
    model = pretrained(options.weights)
    with tempfile.TemporaryDirectory() as folder:
        rows = everything(model, task, options, Path(folder))
    figures: dict[str, dict[str, float]] = {}
    for row in rows:
        figures.setdefault(row["way"], {})[row["share"]] = round(row["mrr"], 4)
    print(json.dumps(figures))


def everything(model: nn.Module, task: nas.Task, options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Ranks of all layers at once, widths at as many operations, and blocks taken out in three ways."""
    granule = 8 if options.smoke else 16
    space = nas.elastic(model, task.example, rank=True, linear=True, granule=granule)
    net = nas.Supernet(space, example=task.example, weights=model).eval()
    table = Table(net, task, nas.Calibration(net, task, batches=4))
    table.add("original", "1", space.largest, net)
    levels = dict(ranks(space))
    for share, arch in levels.items():
        table.add("ranks, of the weights", share, arch, net)
    nas.factorize(net, task=task)
    for share, arch in levels.items():
        table.add("ranks, of the outputs", share, arch, net)
    narrow(model, task, [net.macs(arch) for arch in levels.values()], list(levels), table)
    errors = nas.fit_linear(net, task=task)
    blocks(net, task, errors, table)
    if options.steps:
        taught(net, levels, nas.Blocks(net, task, folder, steps=options.steps, lr=3e-4), table)
    return table.rows


def ranks(space: ElasticSpace) -> Iterator[tuple[str, nas.Arch]]:
    """Every layer at three, two and one quarter of the rank at which two factors take what one layer does."""
    about = [one for one in space.decisions if one.name.endswith(".rank")]
    for place, share in ((-2, "3/4"), (-3, "2/4"), (-4, "1/4")):
        chosen = {one.name: sorted(one.candidates)[max(place, -len(one.candidates))] for one in about}
        yield share, space.arch({**space.largest.choices, **chosen})


def narrow(model: nn.Module, task: nas.Task, costs: Iterable[int], shares: Iterable[str], table: Table) -> None:
    """Uniform widths of as many operations, channels in the order of activations."""
    space = nas.elastic(model, task.example, depth=False)
    net = nas.Supernet(space, example=task.example, weights=model).eval()
    nas.reorder(net, by="activations", task=task)
    for share, cost in zip(shares, costs, strict=True):
        arch = largest_within(ladder(space), net.macs, cost) or space.smallest
        table.add("uniform widths", share, arch, net)


def blocks(net: nas.Supernet, task: nas.Task, errors: Mapping[str, float], table: Table) -> None:
    """The outermost blocks that are missed least, by loss with one alone replaced, taken out together."""
    space = net.space
    assert isinstance(space, ElasticSpace)
    outer = [name for name in errors if not any(name.startswith(f"{other}.") for other in errors)]
    judge = nas.Calibration(net, task, batches=2)
    for way, choice in (("left out", False), ("linear maps", "linear")):
        keys = {name: next(d.name for d in space.decisions if d.name == f"{spelled(name)}.keep") for name in outer}
        lost = {name: judge(space._with({keys[name]: choice}))["divergence"] for name in outer}
        order = sorted(outer, key=lambda name: lost[name])
        for count in REMOVED:
            if count <= len(outer):
                table.add(f"blocks {way}", str(count), space._with({keys[name]: choice for name in order[:count]}), net)


def taught(net: nas.Supernet, levels: Mapping[str, nas.Arch], library: nas.Blocks, table: Table) -> None:
    """The same ranks, with every block taught by itself."""
    largest = net.space.largest.choices
    for name in library.blocks:  # all shares of a block from one pass of the original
        inside = {choice for one in library.alternatives(name) for choice in one}
        library.learn(
            [name],
            [{k: v for k, v in arch.choices.items() if k in inside and v != largest[k]} for arch in levels.values()],
        )
    for share, arch in levels.items():
        table.add("ranks, blocks taught", share, arch, net, library.extract(arch))


def spelled(path: str) -> str:
    """As names of decisions are."""
    from nas.convert.spelling import spelled as as_decisions

    return as_decisions(path)


if __name__ == "__main__":
    main()

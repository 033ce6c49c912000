"""A supernet of 22.7 million parameters from its training to extracted networks, beside one of 153,000.

    python experiments/real_size/run.py --weights FOLDER --glyphs FILE --runs FOLDER

goes on where it stopped; --report prints the figures of the runs; --smoke takes seconds.  One JSON line last.  See README.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "compress_cnn"))
sys.path.insert(0, str(Path(__file__).parent.parent / "minilm"))
sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "compress_encoder"))

import torch
from compress_common.compare import trained
from encoder import pretrained
from glyphs.letters import glyphs
from net import Net
from run import search_for_code
from runs_common.folder import carry_out, kept
from torch import nn

import nas
from nas.compressing.uniform import ladder, largest_within

SHARES = (0.75, 0.5, 0.35)
"""Of the original's latency."""


@dataclass(frozen=True)
class Size:
    """What is made elastic.

    Attributes:
        model: trained.
        task: data, and the metrics that judge.
        metric: of them, the one that decides.
        options: of `nas.elastic`.
        lr: highest rate of the supernet's training.
    """

    model: nn.Module
    task: nas.Task
    metric: str
    options: dict[str, Any]
    lr: float


def encoder(options: argparse.Namespace, _: Path) -> Size:
    """The sentence encoder, and pairs of a line and a function."""
    pairs, held, granule = (64, 32, 8) if options.smoke else (options.pairs, 600, 64)
    task = search_for_code(options.weights, (pairs, held, held), 0)
    return Size(pretrained(options.weights), task, "mrr", {"granule": granule}, 1e-4)


def convolutions(options: argparse.Namespace, folder: Path) -> Size:
    """The residual network of `compress_cnn`, and the images that it was trained on."""
    if options.smoke:
        task, steps = nas.digits(batch=128), 40
    else:
        task, steps = glyphs(options.glyphs, seed=0, train=300, valid=100, test=150, batch=128), 2000
    torch.manual_seed(0)
    net = Net(8, 8) if options.smoke else Net(24, 32)
    model = trained(net, task, folder / "original", steps=steps, lr=3e-3, sampler=nas.Uniform(1))
    return Size(model, task, "accuracy", {}, 1e-3)


SIZES = {"encoder": encoder, "convolutions": convolutions}


def main() -> None:
    """Runs what is asked for and prints the figures."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--runs", type=Path, help="folder of the runs")
    words.add_argument("--weights", help="folder with config.json, model.safetensors and tokenizer.json")
    words.add_argument("--glyphs", type=Path, help="glyphs.npz: images (n, 16, 16), labels, typeface")
    words.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    words.add_argument("--pairs", type=int, default=20_000, help="that the encoder is trained on")
    words.add_argument("--epochs", type=int, default=6, help="of the supernet, one random network a step")
    words.add_argument("--trials", type=int, default=100, help="of the search")
    words.add_argument("--report", action="store_true", help="only the figures of what was run")
    words.add_argument("--smoke", action="store_true", help="seconds")
    options = words.parse_args()
    if options.smoke:
        options.weights, options.sizes, options.epochs, options.trials = None, ["encoder"], 1, 6
    carry_out(everything, options, words, ["weights", "glyphs"])


def everything(options: argparse.Namespace, folder: Path) -> None:
    """All sizes that are not there yet, and the figures."""
    for name in () if options.report else options.sizes:
        file = folder / f"{name}.json"
        if not file.exists():
            size = SIZES[name](options, folder / name)
            kept(file, lambda size=size, name=name: path(size, options, folder / name))  # type: ignore[misc]
        print(f"{name}: {file.read_text()}", flush=True)
    print(json.dumps({file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}))


def path(size: Size, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """From the model to networks within each share of its latency, on the test split."""
    untrained, net = ordered(size), ordered(size)
    training = nas.Training(
        net,
        size.task,
        path=folder / "training",
        sampler=nas.Uniform(1),
        loss=nas.Teacher(size.model, weight=0.5),
        epochs=options.epochs,
        lr=size.lr,
    )
    trained_s = timed(training.run, folder / "training.json")
    net = training.load()
    study = nas.Study(
        "real-size",
        space=net.space,
        objectives=[f"max {size.metric}", "min latency_ms"],
        evaluators=[nas.Accuracy(net, size.task), nas.Latency(net, "cpu"), nas.Costs(net)],
        store=folder / "nas.db",
        trials=options.trials,
    )
    searched_s = timed(lambda: study.run(workers=0, progress=True), folder / "search.json")
    clock = nas.Latency(net, "cpu", budget_s=0.5)
    whole = clock(net.space.largest)["latency_ms"]
    rows = {"largest": row(net.space.largest, net, untrained, size)}
    for share in SHARES:
        rows[f"search, {share:.0%}"] = found(study, share * whole, net, untrained, size)
        arch = largest_within(ladder(net.space), lambda arch: clock(arch)["latency_ms"], share * whole)
        if arch is not None:
            rows[f"uniform, {share:.0%}"] = row(arch, net, untrained, size)
    rows["smallest"] = row(net.space.smallest, net, untrained, size)
    judged = nas.Accuracy(net, size.task, split="test")
    return {
        "original": judged.measure_module(size.model)[size.metric],
        "latency_ms": whole,
        "params": net.params(net.space.largest),
        "networks": net.space.shown_size,
        "steps": training.steps,
        "front": len(study.front()),
        "seconds": {"training": trained_s, "search": searched_s},
        "rows": rows,
    }


def timed(run: Callable[[], Any], file: Path) -> int:
    """Seconds of the processor that a step takes, of its last part where it was killed; a file keeps them."""

    def made() -> dict[str, float]:
        begun = time.process_time()
        run()
        return {"seconds": round(time.process_time() - begun)}

    return int(kept(file, made)["seconds"])


def ordered(size: Size) -> nas.Supernet:
    """The model with what matters first, untrained."""
    net = nas.Supernet(
        nas.elastic(size.model, size.task.example, **size.options), example=size.task.example, weights=size.model
    )
    nas.reorder(net, by="group_fisher", task=size.task)
    return net


def found(
    study: nas.Study, bound: float, net: nas.Supernet, untrained: nas.Supernet, size: Size
) -> dict[str, Any] | None:
    """The best network of the search within a latency, taken out of the study; None where there is none."""
    front = study.front(f"latency_ms <= {bound!r}")
    if front.empty:
        return None
    number = int(front[size.metric].idxmax())
    taken = nas.Accuracy(net, size.task, split="test").measure_module(study.extract(number))[size.metric]
    latency = float(front.loc[number, "latency_ms"])
    return {**row(study.arch(number), net, untrained, size), "taken out": taken, "latency_ms": latency}


def row(arch: nas.Arch, net: nas.Supernet, untrained: nas.Supernet, size: Size) -> dict[str, Any]:
    """Quality on the test split with the weights of the training and without it, and what the network costs."""
    quality, before = (nas.Accuracy(one, size.task, split="test")(arch)[size.metric] for one in (net, untrained))
    return {size.metric: quality, "untrained": before, "params": net.params(arch), "macs": net.macs(arch)}


if __name__ == "__main__":
    main()

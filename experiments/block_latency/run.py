"""Latency of whole networks from measured operators: the sum, and the sum corrected by a few whole networks.

    python experiments/block_latency/run.py --runs FOLDER [--weights FOLDER]

goes on where it stopped; --report prints the figures of the runs; --smoke takes seconds.  One JSON line last.  See README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "compress_cnn"))
sys.path.insert(0, str(Path(__file__).parent.parent / "compress_lm"))
sys.path.insert(0, str(Path(__file__).parent.parent / "minilm"))
sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import torch
from encoder import pretrained
from net import Net
from numpy.typing import NDArray
from original import SIZES, SMALL, decoder
from runs_common.folder import carry_out, kept
from torch import nn

import nas
from nas.hardware import Device, Rounds, exclusive, measure_rounds
from nas.predict import LookUp, scores

Floats = NDArray[np.float64]
VOCABULARY = 769
FITTED = 12
"""Whole networks that a correction is fitted to, the smallest and the largest among them."""


def cnn(_: argparse.Namespace) -> tuple[nn.Module, torch.Tensor, int]:
    """A residual network for 16×16 images."""
    return Net(24, 32), torch.randn(1, 1, 16, 16), 8


def encoder(options: argparse.Namespace) -> tuple[nn.Module, torch.Tensor, int]:
    """A sentence encoder, of 22 million parameters with weights and of a few thousand without."""
    return pretrained(options.weights), torch.ones(1, 32, dtype=torch.long), 64 if options.weights else 8


def language(options: argparse.Namespace) -> tuple[nn.Module, torch.Tensor, int]:
    """The decoder that `compress_lm` makes smaller."""
    sizes = SMALL if options.smoke else SIZES
    return decoder(VOCABULARY, **sizes), torch.randint(VOCABULARY, (1, 128)), 8 if options.smoke else 64


MODELS: dict[str, Callable[[argparse.Namespace], tuple[nn.Module, torch.Tensor, int]]] = {
    "convolutions": cnn,
    "encoder": encoder,
    "decoder": language,
}


def main() -> None:
    """Measures what is asked for and prints the figures."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--runs", type=Path, help="folder of the runs")
    words.add_argument("--weights", help="of the sentence encoder: folder with config.json and model.safetensors")
    words.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    words.add_argument("--archs", type=int, default=40, help="whole networks of each model")
    words.add_argument("--rounds", type=int, default=24)
    words.add_argument("--divisions", type=int, default=20, help="into networks to fit to and others")
    words.add_argument("--report", action="store_true", help="only the figures of what was run")
    words.add_argument("--smoke", action="store_true", help="seconds")
    options = words.parse_args()
    if options.smoke:
        options.models, options.archs, options.rounds, options.divisions = ["convolutions", "decoder"], 15, 2, 2
    carry_out(everything, options, words)


def everything(options: argparse.Namespace, folder: Path) -> None:
    """All models that are not there yet, and the figures."""
    for name in () if options.report else options.models:
        found = kept(folder / f"{name}.json", lambda name=name: compared(name, options))
        print(f"{name}: {json.dumps(found)}", flush=True)
    print(json.dumps({file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}))


def compared(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Errors of sums for one model."""
    torch.manual_seed(0)
    model, example, granule = MODELS[name](options)
    space = nas.elastic(model, example, granule=granule)
    net = nas.Supernet(space, example=example, weights=model)
    archs = sampled(space, options.archs)
    look = LookUp(space, "cpu", example=example, operators=True)
    missing = look.missing(archs)
    whole = measured([net.extract(arch).eval() for arch in archs], [example] * len(archs), options.rounds, 0.01)
    parts = measured([part.module for part in missing.values()], [()] * len(missing), options.rounds // 3 + 2, 0.002)
    look.add(dict(zip(missing, map(float, parts.ms), strict=True)))
    macs = np.array([net.macs(arch) for arch in archs], float)
    ms, sums, rng = whole.ms, look.sums(archs), np.random.default_rng(0)
    errors: dict[str, list[float]] = {"sum": [], "corrected sum": [], "operations, a line": []}
    counts = []
    for _ in range(options.divisions):
        order = np.concatenate([[0, 1], 2 + rng.permutation(len(archs) - 2)])
        train, test = order[:FITTED], order[FITTED:]
        look.fit([archs[place] for place in train], ms[train])
        errors["sum"] += off(sums[test], ms[test])
        errors["corrected sum"] += off(look.predict([archs[place] for place in test])[0], ms[test])
        errors["operations, a line"] += off(line(macs[train], ms[train], macs[test]), ms[test])
        counts.append(look.errors["mape"])
    first, second = whole.halves()
    return {
        "archs": len(archs),
        "operators": len(missing),
        "latency_ms": [round(float(ms.min()), 3), round(float(ms.max()), 3)],
        "errors": {way: spread(values) for way, values in errors.items()},
        "said by cross-validation": round(float(np.mean(counts)), 4),
        "repeatability": spread(off(first, second)),
        "rank correlation of sums": round(scores(ms, sums)["spearman"], 4),
        "load": round(os.getloadavg()[0], 1),
        "seconds": round(time.process_time()),
    }


def sampled(space: nas.Space, count: int) -> list[nas.Arch]:
    """The smallest, the largest, and random ones."""
    rng, found = random.Random(0), {space.smallest: None, space.largest: None}
    while len(found) < count:
        found[space.sample(rng)] = None
    return list(found)


def measured(modules: Sequence[nn.Module], inputs: Sequence[Any], rounds: int, budget_s: float) -> Rounds:
    """All of them in turns, while no other program of ours works."""
    with exclusive():
        return measure_rounds(modules, inputs, Device(), rounds=rounds, budget_s=budget_s)


def line(x: Floats, y: Floats, at: Floats) -> Floats:
    """Least squares of relative errors."""
    weights = np.linalg.lstsq(np.stack([1 / y, x / y], axis=1), np.ones(len(y)), rcond=None)[0]
    return np.asarray(weights[0] + weights[1] * at)


def off(predicted: Floats, true: Floats) -> list[float]:
    """Absolute relative errors."""
    return [float(value) for value in np.abs(predicted / true - 1.0)]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and 90th percentile."""
    return {"median": round(float(np.median(values)), 4), "90th percentile": round(float(np.percentile(values, 90)), 4)}


if __name__ == "__main__":
    main()

"""Latency of this machine's CPU predicted from 100 measurements: convolutional and transformer families.

python experiments/latency_here/run.py
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import nas
from nas import files
from nas.errors import PredictorError
from nas.hardware import Device, Rounds, exclusive, measure_rounds
from nas.hardware.device import machine
from nas.predict import Learned, LookUp, Predictor, scores
from nas.predict.pieces import realised
from nas.space import Arch
from searchspaces import conv, vit

Floats = NDArray[np.float64]
BLOCKS = ("Block",)
DEVICE = Device()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--archs", type=int, default=200, help="of each family: half to learn from, half unseen")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=5, help="divisions of the archs")
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    archs, rounds, seeds = (10, 2, 1) if arguments.smoke else (arguments.archs, arguments.rounds, arguments.seeds)
    started = time.perf_counter()
    figures: dict[str, object] = {"processor": machine(), "torch": torch.__version__, "archs": archs, "rounds": rounds}
    for name, supernet in families(arguments.smoke).items():
        figures[name] = family(name, supernet, archs, rounds, range(seeds))
    figures["seconds"] = round(time.perf_counter() - started)
    if not arguments.smoke:
        files.write(Path(__file__).parent / "results.json", json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures))


def families(smoke: bool) -> dict[str, nas.Supernet]:
    """Both at 32×32 with three channels: some milliseconds a network."""
    if smoke:
        small = conv.space(widths=((8, 12), (12, 16)), depths=(1, 2), kernels=(3,), ratios=(1, 2), stem=8)
        return {"conv": conv.supernet(small), "vit": vit.supernet(vit.space(depths=(1, 2)))}
    convolutional = conv.space(widths=((16, 24), (32, 48), (64, 96)), channels=3)
    transformer = vit.space(
        widths=(96, 128, 160), depths=(3, 4, 5, 6), heads=(2, 3, 4), head=32, side=32, patch=4, channels=3
    )
    return {"conv": conv.supernet(convolutional, side=32), "vit": vit.supernet(transformer)}


def family(name: str, supernet: nas.Supernet, count: int, rounds: int, seeds: Sequence[int]) -> dict[str, object]:
    archs = sampled(supernet.space, count)
    modules = [supernet.extract(arch).eval() for arch in archs]
    measured = in_turns(name, modules, [supernet.example] * count, rounds, 0.02)
    ms = measured.ms
    tables = {
        blocks: parts_table(f"{name} parts{' and blocks' if blocks else ''}", supernet, archs, blocks, rounds)
        for blocks in ((), BLOCKS)
    }
    made = {method: make() for method, make in predictors(supernet, tables).items()}  # they keep the archs' features
    found: dict[str, list[dict[str, float]]] = {method: [] for method in made}
    chosen: list[str] = []
    macs = np.array([supernet.macs(arch) for arch in archs], float)
    linear: list[dict[str, float]] = []
    for seed in seeds:
        order = np.random.default_rng(seed).permutation(count)
        train, test = order[: count // 2], order[count // 2 :]
        for method, one in made.items():
            one.fit([archs[place] for place in train], ms[train])
            found[method].append(scores(ms[test], one.predict([archs[place] for place in test])[0]))
            if method == "learned, chosen by cross-validation" and isinstance(one, Learned):
                chosen.append(one.regressor)
        linear.append(scores(ms[test], line(macs[train], ms[train], macs[test])))
        print(f"{name}: division {seed + 1} of {len(seeds)} predicted", flush=True)
    table = {"MACs, a line": summary(linear), **{method: summary(each) for method, each in found.items()}}
    return {
        "methods": table,
        "best": min(table, key=lambda method: table[method]["mape"]),
        "chosen": {kind: chosen.count(kind) for kind in sorted(set(chosen))},
        "repeatability": {key: round(value, 4) for key, value in scores(*measured.halves()).items()},
        "noisy_share": round(float(measured.noisy.mean()), 3),
        "drift": round(measured.drift, 3),
        "latency_ms": {
            "least": round(float(ms.min()), 3),
            "median": round(float(np.median(ms)), 3),
            "most": round(float(ms.max()), 3),
        },
        "parts": {"kernels": len(tables[()]), "blocks": len(tables[BLOCKS])},
    }


def sampled(space: nas.Space, count: int) -> list[Arch]:
    rng, found = random.Random(0), {space.smallest: None, space.largest: None}
    while len(found) < count:
        found[space.sample(rng)] = None
    return list(found)


def in_turns(
    what: str, modules: Sequence[torch.nn.Module], inputs: Sequence[object], rounds: int, budget_s: float
) -> Rounds:
    def tick(done: int, of: int) -> None:
        print(f"{what}: {len(modules)} measured, round {done} of {of}", flush=True)

    with exclusive():
        return measure_rounds(modules, inputs, DEVICE, rounds=rounds, budget_s=budget_s, tick=tick)  # type: ignore[arg-type]


def parts_table(
    what: str, supernet: nas.Supernet, archs: Sequence[Arch], blocks: Sequence[str], rounds: int
) -> dict[str, float]:
    """Every part of these archs by itself, in turns."""
    look = LookUp(supernet.space, example=supernet.example, blocks=blocks)
    missing = look.missing(archs)
    real = [realised(part) for part in missing.values()]
    found = in_turns(what, [module for module, _ in real], [inputs for _, inputs in real], max(2, rounds // 3), 0.004)
    return dict(zip(missing, map(float, found.ms), strict=True))


def predictors(
    supernet: nas.Supernet, tables: dict[tuple[str, ...], dict[str, float]]
) -> dict[str, Callable[[], Predictor]]:
    space, example = supernet.space, supernet.example

    def look(blocks: tuple[str, ...], fitted: bool) -> Predictor:
        return LookUp(space, example=example, blocks=blocks, table=tables[blocks], line=fitted)

    def learned(kind: str, features: str) -> Predictor:
        return Learned(space, regressor=kind, features=features, example=example)

    return {
        "sum of kernels": lambda: look((), False),
        "sum of kernels, a line through it": lambda: look((), True),
        "sum of blocks, a line through it": lambda: look(BLOCKS, True),
        "ridge on decisions": lambda: learned("ridge", "onehot"),
        "ridge on kernels' work": lambda: learned("ridge", "structure"),
        "process on kernels' work": lambda: learned("gp", "structure"),
        "learned, chosen by cross-validation": lambda: learned("auto", "onehot+structure"),
    }


def line(x: Floats, y: Floats, at: Floats) -> Floats:
    """Least squares of relative errors."""
    weights = np.linalg.lstsq(np.stack([1 / y, x / y], axis=1), np.ones(len(y)), rcond=None)[0]
    return weights[0] + weights[1] * at


def summary(found: Sequence[dict[str, float]]) -> dict[str, float]:
    names = ("mape", "within10", "spearman")
    means = {name: round(float(np.mean([one[name] for one in found])), 4) for name in names}
    return {**means, "mape_sd": round(float(np.std([one["mape"] for one in found])), 4)}


if __name__ == "__main__":
    try:
        main()
    except PredictorError as error:
        raise SystemExit(f"latency_here: {error}") from error

"""Latency of a new device from ten measurements: HELP's protocol on NAS-Bench-201.

python experiments/latency_fewshot/run.py --tables FOLDER
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas import files
from nas.predict import Encoding, FewShot, Known, scores
from nas.predict.scoring import spearman
from nas.predict.transfer import ridge_weights as ridge
from nas.space import Arch, Space
from searchspaces import nasbench201

Floats = NDArray[np.float64]
TRAIN = [
    "1080ti_1",
    "1080ti_32",
    "1080ti_256",
    "silver_4114",
    "silver_4210r",
    "samsung_a50",
    "pixel3",
    "essential_ph_1",
    "samsung_s7",
]
VALID = ["titanx_1", "titanx_32", "titanx_256", "gold_6240"]
UNSEEN = ["titan_rtx_256", "gold_6226", "fpga", "pixel2", "raspi4", "eyeriss"]
LEARNT = 900  # archs of which the known devices' latencies are known; queries come after them
SHOTS = 10
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
SOURCES = (
    "no tables in {folder}: it needs core.parquet (columns e10 to e32, flops_m_c10_official) and help_latency.parquet "
    "(columns help_DEVICE, ms) with one row for each of the 15,625 cells; the latencies are in "
    "https://github.com/HayeonLee/HELP under data/nasbench201/latency"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=Path, help="folder of core.parquet and help_latency.parquet")
    parser.add_argument(
        "--seeds",
        type=int,
        default=10,
        help="random nine tenths of the first 900 archs, of which references are chosen",
    )
    parser.add_argument("--smoke", action="store_true", help="invented devices, a few seconds")
    arguments = parser.parse_args()
    if arguments.tables is None and not arguments.smoke:
        parser.error("--tables FOLDER is needed: " + SOURCES.format(folder="the default"))
    data = invented() if arguments.smoke else Data.read(arguments.tables)
    figures = experiment(data, range(2 if arguments.smoke else arguments.seeds))
    if not arguments.smoke:
        files.write(Path(__file__).parent / "results.json", json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures))


class Data:
    """Latencies of all cells on all devices, and their operations."""

    def __init__(self, space: Space, archs: Sequence[Arch], flops: Floats, ms: dict[str, Floats], learnt: int) -> None:
        self.space, self.archs, self.flops, self.ms, self.learnt = space, archs, flops, ms, learnt
        self.first = list(archs[:learnt])

    @classmethod
    def read(cls, folder: Path) -> Data:
        import pandas as pd

        files = [folder / name for name in ("core.parquet", "help_latency.parquet")]
        if not all(file.is_file() for file in files):
            sys.exit(SOURCES.format(folder=folder))
        table = pd.read_parquet(files[0]).merge(pd.read_parquet(files[1]), on="idx").sort_values("idx")
        space = nasbench201.space()
        ops = ["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"]
        cells = table[["e10", "e20", "e21", "e30", "e31", "e32"]]
        archs = [space.arch({e: ops[op] for e, op in zip(cells.columns, row, strict=True)}) for row in cells.to_numpy()]
        ms = {device: table[f"help_{device}"].to_numpy(float) for device in TRAIN + VALID + UNSEEN}
        return cls(space, archs, table["flops_m_c10_official"].to_numpy(float), ms, LEARNT)

    def query(self, device: str) -> NDArray[np.intp]:
        """Archs from the 901st on, without the fastest and the slowest tenth."""
        ms = self.ms[device][self.learnt :]
        order = np.argsort(ms, kind="stable") + self.learnt
        return order[int(0.1 * len(order)) : int(0.9 * len(order))]


def live(archs: Sequence[Arch]) -> Floats:
    """(n, 6): whether an edge is on a way from the cell's input to its output."""
    used = np.array([[op != "none" for op in arch.choices.values()] for arch in archs])
    into, out = np.zeros((len(used), 4), bool), np.zeros((len(used), 4), bool)
    into[:, 0] = out[:, 3] = True
    for edge, (source, target) in enumerate(EDGES):
        into[:, target] |= used[:, edge] & into[:, source]
    for edge, (source, target) in reversed(list(enumerate(EDGES))):
        out[:, source] |= used[:, edge] & out[:, target]
    alive = [used[:, edge] & into[:, source] & out[:, target] for edge, (source, target) in enumerate(EDGES)]
    return np.stack(alive, axis=1).astype(float)


def cell_features(space: Space) -> Callable[[Sequence[Arch]], Floats]:
    """Decisions and counts, of all edges and of those that are alive: runtimes drop the others, or they do not."""
    encoding = Encoding(space, "onehot+counts")

    def features(archs: Sequence[Arch]) -> Floats:
        onehot, alive = space.features(archs, "onehot"), live(archs)
        each = (onehot.reshape(len(archs), 6, -1) * alive[:, :, None]).reshape(len(archs), -1)
        counts = each.reshape(len(archs), 6, -1).sum(1)
        first, second = np.triu_indices(counts.shape[1])
        products = counts[:, first] * counts[:, second]
        blocks = [encoding(archs), each, counts, np.sqrt(counts), products, alive.max(1, keepdims=True)]
        return np.concatenate(blocks, axis=1)

    return features


def few(data: Data, known: Sequence[str], seed: int, features: Callable[[Sequence[Arch]], Floats] | None) -> FewShot:
    """A predictor that knows latencies of the first archs on the known devices."""
    devices = [Known(device, data.first, data.ms[device][: data.learnt]) for device in known]
    return FewShot(data.space, "new", devices, features=features, seed=seed)


def predicted(one: FewShot, data: Data, device: str, pool: Sequence[int], count: int = SHOTS) -> Floats:
    """Of every arch, from archs of the pool that `one` chooses and their latencies on the device."""
    places = {data.archs[place]: place for place in pool}
    shots = one.choose(count, list(places))
    one.fit(shots, [data.ms[device][places[arch]] for arch in shots])
    return one.predict(data.archs)[0]


def untuned_ridge(data: Data, known: Sequence[str], device: str, pool: Sequence[int]) -> Floats:
    """Ridge on the known devices' true latencies of every arch, penalty 1, from ten random archs."""
    x = np.log(np.stack([data.ms[name] for name in known], axis=1))
    x = (x - x.mean(0)) / x.std(0)
    rows, y = list(pool[:SHOTS]), np.log(data.ms[device])
    a = x[rows] - x[rows].mean(0)
    return (x - x[rows].mean(0)) @ np.linalg.solve(a.T @ a + np.eye(x.shape[1]), a.T @ (y[rows] - y[rows].mean()))


def alone(data: Data, device: str, rows: Sequence[int]) -> Floats:
    """What many measurements of the device alone give: ridge on decisions and counts (BRP-NAS takes 900)."""
    x = Encoding(data.space, "onehot+counts")(data.archs)
    width = np.where(x[rows].std(0) > 1e-12, x[rows].std(0), 1.0)
    x = (x - x[rows].mean(0)) / width
    weights = ridge(x[rows], data.ms[device][rows])
    return weights[0] + x @ weights[1:]


def experiment(data: Data, seeds: Sequence[int]) -> dict[str, object]:
    started = time.perf_counter()
    unseen = [device for device in UNSEEN if device in data.ms]
    train, valid = ([device for device in names if device in data.ms] for names in (TRAIN, VALID))
    graph = cell_features(data.space) if data.space.name == nasbench201.space().name else None
    tuned = few(data, train, 0, graph)
    print(f"left out in turn: {tuned.left_out}", flush=True)
    results: dict[str, dict[str, list[float]]] = {}
    errors: dict[str, list[float]] = {}

    def note(method: str, device: str, guess: Floats) -> None:
        rows = data.query(device)
        results.setdefault(method, {}).setdefault(device, []).append(spearman(guess[rows], data.ms[device][rows]))
        if method == "ours":
            errors.setdefault(device, []).append(scores(data.ms[device][rows], np.maximum(guess[rows], 1e-9))["mape"])

    known_sets = {
        "ours": (train, graph),
        "ours, decisions only": (train, None),
        "ours, 13 devices": (train + valid, graph),
    }
    for method, (known, features) in [*known_sets.items(), ("ours, no other device", ([], None))]:
        one = few(data, known, 0, features)
        for seed in seeds:
            pool = np.random.default_rng(seed).permutation(data.learnt)[: 9 * data.learnt // 10]
            one.seed = seed
            for device in unseen:
                note(method, device, predicted(one, data, device, pool))
        print(f"{method}: {_mean(results[method]):.3f} ({time.perf_counter() - started:.0f} s)", flush=True)
    for seed in seeds:
        pool = np.random.default_rng(seed).permutation(data.learnt)
        for device in unseen:
            note("ridge on other devices, untuned", device, untuned_ridge(data, train, device, pool))
            note("ten random archs alone", device, alone(data, device, pool[:SHOTS]))
    for device in unseen:
        note("FLOPs", device, data.flops)
        note("BRP-like, 900 archs", device, alone(data, device, np.arange(data.learnt)))
    return {
        "seeds": len(seeds),
        "mean_spearman": {method: round(_mean(found), 4) for method, found in results.items()},
        "sd_over_seeds": {method: round(_spread(found), 4) for method, found in results.items()},
        "by_device": {
            method: {device: round(float(np.mean(values)), 4) for device, values in found.items()}
            for method, found in results.items()
        },
        "worst_seed_of_ours": {device: round(min(values), 4) for device, values in results["ours"].items()},
        "devices_below_flops": sum(
            float(np.mean(values)) < results["FLOPs"][device][0] for device, values in results["ours"].items()
        ),
        "mape_of_ours": {device: round(float(np.mean(values)), 4) for device, values in errors.items()},
        "left_out_training_devices": {device: round(value, 4) for device, value in tuned.left_out.items()},
        "strengths": asdict(tuned.strengths),
        "seconds": round(time.perf_counter() - started, 1),
    }


def _mean(found: dict[str, list[float]]) -> float:
    return float(np.mean([np.mean(values) for values in found.values()]))


def _spread(found: dict[str, list[float]]) -> float:
    """Standard deviation over seeds of the mean over devices."""
    return float(np.std(np.mean(list(found.values()), axis=0)))


def invented() -> Data:
    """Small cells and devices that weigh operations differently, for a quick run."""
    space = nasbench201.space(cells=1, stages=1)
    archs = list(space.enumerate())[::13]
    rng = np.random.default_rng(0)
    archs = [archs[place] for place in rng.permutation(len(archs))]
    x = Encoding(space, "counts")(archs)[:, :5]
    names = [*TRAIN[:4], *UNSEEN[:3]]
    ms = {name: 1.0 + x @ rng.random(5) + 0.1 * rng.random(len(x)) for name in names}
    return Data(space, archs, x @ np.array([0.0, 0.0, 1.0, 9.0, 0.1]), ms, 300)


if __name__ == "__main__":
    main()

"""Is the first part of a Matryoshka embedding as good as an embedding of that length?  See README.md.

    python experiments/matryoshka_digits/run.py [--smoke] [--seeds 3] [--device cpu|cuda] [--scale small|full]

Prints one line a seed and model, and one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

import nas
from nas import files
from nas.retrieval import Index, nearest_accuracy, recall
from nas.train import AllGranularities, Classification, FixedList, Granular, Training, digits
from searchspaces import matryoshka

HERE = Path(__file__).parent
DIMS = (2, 4, 8, 16, 32, 64)
K = 10
SHORTLISTS = (20, 50, 100, 200, 400)


def options(args: argparse.Namespace) -> dict[str, Any]:
    """Sizes of the encoder; `full` is for a GPU."""
    if args.scale == "full":
        return {"dims": (8, 16, 32, 64, 128, 256), "depths": (8,), "width": 256, "head": 32, "patch": 1}
    return {"dims": DIMS, "depths": (2,) if args.smoke else (4,)}


def fit(net: nas.Supernet, task: Classification, sampler: Any, seed: int, args: argparse.Namespace) -> nas.Supernet:
    """The one recipe of all models."""
    steps = {"steps": args.steps, "validate_every": args.steps, "lr": args.lr, "device": args.device}
    Training(net, task, sampler=sampler, loss=Granular(), seed=seed, **steps).run(progress=False)
    return net


def embed(net: nas.Supernet, arch: nas.Arch, images: torch.Tensor) -> np.ndarray:
    module = net.extract(arch)
    with torch.no_grad():
        return module.embed(images.to(net.device)).cpu().numpy()


def qualities(task: Classification, train: np.ndarray, test: np.ndarray, dim: int) -> dict[str, float]:
    """1-NN and linear accuracy of a prefix in percent: items and the classifier's data are the training split."""
    classes, truth = task.train[1].numpy(), task.test[1].numpy()
    linear = LogisticRegression(max_iter=300).fit(train[:, :dim], classes)
    return {
        "nearest": 100 * nearest_accuracy(train, classes, test, truth, dim=dim),
        "linear": 100 * linear.score(test[:, :dim], truth),
    }


def models(task: Classification, seed: int, args: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Per method a row for each prefix."""
    sizes = options(args)
    dims, found = sizes["dims"], {}
    methods = {
        "mrl": ("separate", AllGranularities(("dim",))),
        "mrl_e": ("shared", AllGranularities(("dim",))),
        "truncated": ("shared", FixedList([{"dim": max(dims)}])),
    }
    for method, (heads, sampler) in methods.items():
        begun = time.perf_counter()
        net = matryoshka.supernet(matryoshka.space(**sizes, heads=heads), seed=seed)
        net = fit(net, task, sampler, seed, args)
        seconds = time.perf_counter() - begun
        train, test = (embed(net, net.space.largest, part[0]) for part in (task.train, task.test))
        found[method] = [{"dim": dim, **qualities(task, train, test, dim), "seconds": seconds} for dim in dims]
        if method == "mrl":
            found["retrieval"] = retrieve(train, test, task, dims)
        elif method == "truncated":
            found["retrieval_truncated"] = retrieve(train, test, task, dims)
    found["separate"] = []
    for dim in dims:
        begun = time.perf_counter()
        net = matryoshka.supernet(matryoshka.space(**{**sizes, "dims": (dim,)}), seed=seed)
        net = fit(net, task, FixedList([{"dim": dim}]), seed, args)
        train, test = (embed(net, net.space.largest, part[0]) for part in (task.train, task.test))
        found["separate"].append(
            {"dim": dim, **qualities(task, train, test, dim), "seconds": time.perf_counter() - begun}
        )
    return found


def retrieve(train: np.ndarray, test: np.ndarray, task: Classification, dims: tuple[int, ...]) -> list[dict[str, Any]]:
    """Recall of the ten nearest by the whole embedding, and cost a query, of every prefix and shortlist."""
    index = Index(train)
    whole = index.search(test, K)
    rows = []
    for dim in dims:
        ways = [((), dim), *((((dim, keep),), max(dims)) for keep in SHORTLISTS if dim < max(dims))]
        for shortlists, last in ways:
            found = index.search(test, K, dim=last, shortlists=shortlists)
            right = task.train[1].numpy()[found.items] == task.test[1].numpy()[:, None]
            rows.append(
                {
                    "prefix": dim,
                    "shortlist": shortlists[0][1] if shortlists else 0,
                    "macs": found.macs,
                    "recall": recall(found, whole),
                    "precision": float(right.mean()),
                }
            )
    return rows


def cheapest(rows: list[dict[str, Any]], wanted: float) -> dict[str, Any]:
    """The cheapest way with at least this recall; the whole search has recall 1."""
    return min((row for row in rows if row["recall"] >= wanted), key=lambda row: row["macs"])


def step_cost(args: argparse.Namespace, repeats: int) -> dict[str, Any]:
    """Forward and backward of six prefixes in one trunk, against one full model: medians, interleaved."""
    from nas.train.trunk import groups, outputs

    task, sizes = digits(), options(args)
    batch = next(task.train_batches(0)).to(args.device)
    plain_net = matryoshka.supernet(matryoshka.space(**sizes)).to(args.device)
    plain = plain_net.extract(plain_net.space.largest).train()

    def alone() -> None:
        plain.zero_grad()
        task.loss(plain(batch.inputs), batch).backward()

    def nested(net: nas.Supernet, archs: list[nas.Arch], *, shared: bool) -> None:
        net.zero_grad()
        for group in groups(net, archs) if shared else [[arch] for arch in archs]:
            losses = [task.loss(output, batch) for _, output in outputs(net, group, batch.inputs)]
            torch.stack(losses).sum().backward()

    ways: dict[str, Any] = {"full model": alone}
    for heads in ("separate", "shared"):
        net = matryoshka.supernet(matryoshka.space(**sizes, heads=heads)).to(args.device).train()
        archs = AllGranularities(("dim",)).archs(net.space, 0, None)  # type: ignore[arg-type]
        ways[heads] = lambda net=net, archs=archs: nested(net, archs, shared=True)
        ways[f"{heads}, trunk not shared"] = lambda net=net, archs=archs: nested(net, archs, shared=False)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 3):
        for name, act in ways.items():
            begun = time.perf_counter()
            act()
            if args.device != "cpu":
                torch.cuda.synchronize()
            if turn >= 3:
                times[name].append(1e3 * (time.perf_counter() - begun))
    full = statistics.median(times["full model"])
    ratios = {
        name: round(
            statistics.median(one / other for one, other in zip(times[name], times["full model"], strict=True)), 3
        )
        for name in ways
    }
    return {"prefixes": len(sizes["dims"]), "full_model_ms": round(full, 2), "ratio": ratios}


def summary(seeds: list[dict[str, list[dict[str, Any]]]]) -> dict[str, Any]:
    """Means and deviations over the seeds."""
    table: dict[str, Any] = {}
    for method in ("mrl", "mrl_e", "truncated", "separate"):
        table[method] = {
            str(rows[0]["dim"]): {
                name: [round(statistics.mean(values), 2), round(statistics.pstdev(values), 2)]
                for name in ("nearest", "linear")
                for values in [[row[name] for row in rows]]
            }
            for rows in zip(*(seed[method] for seed in seeds), strict=True)
        }
        table[method]["seconds"] = round(
            statistics.mean(sum({row["seconds"] for row in seed[method]}) for seed in seeds), 1
        )
    retrieval = {}
    for name in ("retrieval", "retrieval_truncated"):
        of_seeds = zip(*(seed[name] for seed in seeds), strict=True)
        rows = [
            {
                **group[0],
                **{key: round(statistics.mean(row[key] for row in group), 4) for key in ("recall", "precision")},
            }
            for group in of_seeds
        ]
        retrieval[name] = {
            "whole": next(row for row in rows if row["recall"] == 1.0 and not row["shortlist"]),
            **{f"recall {wanted}": cheapest(rows, wanted) for wanted in (0.9, 0.95, 0.99)},
        }
    return {"accuracy": table, **retrieval}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="seconds, to see that it runs; writes no results")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--steps", type=int, default=None, help="optimizer steps of every model; 400, or 3000 at full scale"
    )
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scale", choices=("small", "full"), default="small")
    args = parser.parse_args()
    args.steps = 10 if args.smoke else args.steps or (3000 if args.scale == "full" else 400)
    args.seeds = 1 if args.smoke else args.seeds
    torch.set_num_threads(1)
    begun = time.perf_counter()
    cost = step_cost(args, 5 if args.smoke else 60)
    print(cost, flush=True)
    seeds = []
    for seed in range(args.seeds):
        seeds.append(models(digits(seed=seed, shift=1), seed, args))
        for method in ("mrl", "mrl_e", "truncated", "separate"):
            print(
                seed,
                method,
                [(row["dim"], round(row["nearest"], 1), round(row["linear"], 1)) for row in seeds[-1][method]],
            )
    figures = {"experiment": "matryoshka_digits", "steps": args.steps, "seeds": args.seeds, "step_cost": cost}
    figures |= {**summary(seeds), "seconds": round(time.perf_counter() - begun)}
    if not args.smoke and args.scale == "small":
        files.write(HERE / "results.json", json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

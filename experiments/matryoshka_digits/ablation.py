"""Why is the whole Matryoshka embedding behind one trained for itself?  See README.md.

    python experiments/matryoshka_digits/ablation.py [--smoke] [--seeds 3]

Trains MRL by one changed setting at a time, on seeds that the comparison does not report, and looks at the validation split
only.  Prints one line a seed and variant, and one JSON line last.
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

from nas import files
from nas.retrieval import nearest_accuracy
from nas.train import AllGranularities, Classification, FixedList, Granular, Training, digits
from searchspaces import matryoshka

HERE = Path(__file__).parent
DIMS = (2, 4, 8, 16, 32, 64)
FIRST_SEED = 10
ALL, WHOLE = AllGranularities(("dim",)), FixedList([{"dim": max(DIMS)}])


def weights(power: float) -> dict[int, float]:
    """c_m ∝ m^power, with a mean of 1."""
    raw = {dim: float(dim) ** power for dim in DIMS}
    return {dim: len(DIMS) * value / sum(raw.values()) for dim, value in raw.items()}


VARIANTS: dict[str, dict[str, Any]] = {
    "as reported": {},
    "no clipping": {"clip": None},
    "clip at 6": {"clip": 6.0},
    "mean of six losses": {"weights": dict.fromkeys(DIMS, 1 / 6)},
    "half the rate": {"lr": 1e-3},
    "twice the rate": {"lr": 4e-3},
    "c_m ∝ √m": {"weights": weights(0.5)},
    "c_m ∝ m": {"weights": weights(1.0)},
    "three times the steps": {"steps": 3},
    "whole only": {"sampler": WHOLE},
    "whole only, three times the steps": {"sampler": WHOLE, "steps": 3},
}


def standardised(reference: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Each number of the embedding with mean 0 and deviation 1 over `reference`: no number rules the cosine."""
    return (other - reference.mean(0)) / (reference.std(0) + 1e-6)


def measure(task: Classification, seed: int, steps: int, variant: dict[str, Any]) -> dict[str, Any]:
    """1-NN of each prefix in percent; the same with standardised numbers; how unequal the numbers' variances are."""
    settings = {"lr": 2e-3, "clip": 1.0, **{key: variant[key] for key in ("lr", "clip") if key in variant}}
    space = matryoshka.space(dims=DIMS, depths=(4,), heads="separate")
    net = matryoshka.supernet(space, seed=seed)
    total = steps * variant.get("steps", 1)
    Training(
        net,
        task,
        sampler=variant.get("sampler", ALL),
        loss=Granular(weights=variant.get("weights")),
        seed=seed,
        steps=total,
        validate_every=total,
        **settings,
    ).run(progress=False)
    module = net.extract(net.space.largest)
    with torch.no_grad():
        train, valid = (module.embed(part[0]).numpy() for part in (task.train, task.valid))
    classes, truth = task.train[1].numpy(), task.valid[1].numpy()
    power = np.sort(train.var(0))[::-1]
    equal = [standardised(train, part) for part in (train, valid)]
    return {
        "nearest": [100 * nearest_accuracy(train, classes, valid, truth, dim=dim) for dim in DIMS],
        "standardised": 100 * nearest_accuracy(equal[0], classes, equal[1], truth),
        "first_two": float(train.var(0)[:2].sum() / power.sum()),
        "own": 100 * task.evaluate(module, "valid")["accuracy"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="seconds, to see that it runs; writes no results")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    args = parser.parse_args()
    steps, count = (5, 1) if args.smoke else (args.steps, args.seeds)
    torch.set_num_threads(1)
    begun = time.perf_counter()
    variants = dict(list(VARIANTS.items())[:2]) if args.smoke else VARIANTS
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in variants}
    for seed in range(FIRST_SEED, FIRST_SEED + count):
        task = digits(seed=seed, shift=1)
        for name, variant in variants.items():
            found[name].append(measure(task, seed, steps, variant))
            print(seed, name, json.dumps(found[name][-1]), flush=True)
    table = {
        name: {
            "nearest": [
                round(statistics.mean(values), 2) for values in zip(*(r["nearest"] for r in rows), strict=True)
            ],
            "whole_deviation": round(statistics.pstdev(row["nearest"][-1] for row in rows), 2),
            **{
                key: round(statistics.mean(row[key] for row in rows), 3) for key in ("standardised", "first_two", "own")
            },
        }
        for name, rows in found.items()
    }
    figures = {"experiment": "matryoshka_digits", "part": "ablation", "steps": steps, "first_seed": FIRST_SEED}
    figures |= {"seeds": count, "variants": table, "seconds": round(time.perf_counter() - begun)}
    if not args.smoke:
        files.write(HERE / "ablation.json", json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(figures, ensure_ascii=False))


if __name__ == "__main__":
    main()

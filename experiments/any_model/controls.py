"""Are wrong conversions refused?  See README.md.

    python experiments/any_model/controls.py [--cases 100] [--smoke]

Of every model of `hand` and of six transformers a few right plans are made wrong: one axis of one parameter is left out of what
is cut together, or heads are taken for channels.  Prints a line for each model and one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from cases import catalogue
from decisions import _models

import nas
from nas.convert import controls

EACH = 3  # wrong plans of a model


def models(seed: int) -> Iterator[tuple[str, Any, Any]]:
    """Name, model and inputs: the six transformers, then nets as people write them, in random order."""
    for name, (model, inputs, _) in _models(2).items():
        yield name, model, inputs
    names = [name for name in catalogue() if name.startswith("hand/")]
    random.Random(seed).shuffle(names)
    for name in names:
        torch.manual_seed(seed)
        case = catalogue()[name]()
        yield name, case.model, case.inputs


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="six cases")
    args = parser.parse_args()
    wanted = 6 if args.smoke else args.cases
    made, refused, missed = Counter[str](), Counter[str](), []
    for name, model, inputs in models(args.seed):
        model.eval()
        space = nas.elastic(model, inputs)
        found = controls.sample(space.plan, min(EACH, wanted - made.total()), args.seed)
        for one in found:
            made[one.kind] += 1
            if controls.tried(model, one, inputs, args.seed):
                refused[one.kind] += 1
            else:
                missed.append([name, one.kind, one.what])
        print(
            f"{name:32} {len(found)} wrong plans, {sum(1 for miss in missed if miss[0] == name)} not refused",
            flush=True,
        )
        if made.total() >= wanted:
            break
    print(json.dumps({"cases": made.total(), "refused": refused.total(), "made": made, "missed": missed}))


if __name__ == "__main__":
    main()

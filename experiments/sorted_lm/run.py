"""Nested models of one set of weights: what exits cost, sorted fine-tuning with drafting, and SortedNet.

    python experiments/sorted_lm/run.py --runs FOLDER [--parts cost soft sortednet alone]

goes on where it stopped; --smoke takes seconds.  Prints one JSON line last.  See README.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "compress_lm"))
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))

import soft
import sortednet
from cost import cost_of_exits
from original import DEEP, SIZES, SMALL, SMALL_DEEP, decoder, deep
from runs_common.folder import kept, opened

from searchspaces import sorted_lm

PARTS = ("cost", "soft", "sortednet", "alone")
SOFT: dict[str, Any] = {"steps": 1000, "new": 64, "prompts": 6, "drafters": (1, 2, 3), "drafts": (2, 4)}
SORTEDNET: dict[str, Any] = {"steps": 1350, "widths": (32, 64, 96), "depths": (2, 4, 6), "head": 16}
SMOKE = {
    "soft": {"steps": 3, "new": 6, "prompts": 1, "drafters": (1,), "drafts": (2,)},
    "sortednet": {"steps": 6, "widths": (8, 16), "depths": (1, 2), "head": 4},
}


def main() -> None:
    """Runs what is asked for and prints the figures."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--runs", type=Path, help="folder of the runs, the same as of layer_dropping")
    words.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    words.add_argument("--seeds", type=int, default=3)
    words.add_argument("--smoke", action="store_true", help="seconds, in a folder that is thrown away")
    options = words.parse_args()
    with opened(options, words) as folder:
        print(json.dumps(everything(options, folder)))


def everything(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The figures of the parts; what the folder has is not run again."""
    task, model = deep(folder, smoke=options.smoke)
    seeds, found = 1 if options.smoke else options.seeds, {}
    if "cost" in options.parts:
        few = dataclasses.replace(task, batch=4)
        shapes = (SMALL_DEEP, SMALL) if options.smoke else (DEEP, SIZES)
        nets = {f"width {one['width']}": sorted_lm.pretrained(decoder(task.vocabulary, **one)) for one in shapes}
        rounds = 2 if options.smoke else 11
        found["cost"] = kept(
            folder / "sorted_lm/cost.json",
            lambda: {name: cost_of_exits(net, few, rounds) for name, net in nets.items()},
        )
    if "soft" in options.parts:
        sizes = SMOKE["soft"] if options.smoke else SOFT
        found["soft"] = soft.compare(task, model, folder / "sorted_lm", seeds=seeds, **sizes)
    if {"sortednet", "alone"} & {*options.parts}:
        sizes = {**(SMOKE["sortednet"] if options.smoke else SORTEDNET), "alone": "alone" in options.parts}
        found["sortednet"] = sortednet.compare(task, folder / "sorted_lm", seeds=seeds, **sizes)
    return found


if __name__ == "__main__":
    main()

"""What does a trained decoder lose by its most similar blocks, beside every other choice?

    python experiments/layer_dropping/run.py --runs FOLDER [--seeds 3]

goes on where it stopped; --smoke takes seconds.  Prints one JSON line last.  See README.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import statistics
import sys
from collections.abc import Sequence
from itertools import combinations, islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "compress_lm"))
sys.path.insert(0, str(Path(__file__).parent.parent))

from corpus import shorter
from original import deep
from runs_common.folder import kept, opened
from torch import nn

from nas.train import LanguageModelling, drop, similarities
from nas.train.dropping import Similarity, ranked

LAYERS = "model.layers.*"
KINDS: dict[str, dict[str, Any]] = {
    "blocks": {"blocks": LAYERS},
    "attention": {"branches": [(f"{LAYERS}.input_layernorm", f"{LAYERS}.self_attn")]},
    "perceptrons": {"branches": [(f"{LAYERS}.post_attention_layernorm", f"{LAYERS}.mlp")]},
}
KINDS["attention and perceptrons"] = {"branches": KINDS["attention"]["branches"] + KINDS["perceptrons"]["branches"]}
COUNTS = (1, 2)
BATCHES = 16
"""Of training windows that similarities are measured on."""
JUDGED = 16_384
"""Tokens of the test split."""
MOST = 40
"""Choices that are measured; of more, so many are drawn."""

Choice = tuple[int, ...]


def measured(task: LanguageModelling, model: nn.Module, seed: int) -> dict[str, Any]:
    """Bits per byte of the whole model; of each kind and count, the choice of similarity and what every choice loses."""
    whole = bits(model, task)
    inputs = [batch.inputs for batch in islice(task.train_batches(0), BATCHES)]
    rng, row = random.Random(seed), {"whole": whole}
    for kind, patterns in KINDS.items():
        found = similarities(model, inputs, **patterns)
        for count in COUNTS:
            similar = tuple(sorted(found.index(one) for one in ranked(found)[:count]))
            every = list(combinations(range(len(found)), count))
            others = every if len(every) <= MOST else rng.sample(every, MOST)
            lost = {choice: bits(without(model, found, choice), task) - whole for choice in {*others, similar}}
            row[f"{count} of {kind}"] = compared(found, similar, {choice: lost[choice] for choice in others}, lost)
    return row


def compared(
    found: Sequence[Similarity], similar: Choice, random_: dict[Choice, float], lost: dict[Choice, float]
) -> dict[str, Any]:
    """What similarity's choice loses, the mean of all choices, and of those that leave the first and the last block alone."""
    places = [block(one) for one in found]
    ends = {min(places), max(places)}
    inner = [loss for choice, loss in random_.items() if not ends & {places[index] for index in choice}]
    return {
        "similar": lost[similar],
        "inner": statistics.fmean(inner),
        "random": statistics.fmean(random_.values()),
        "best": min(random_.values()),
        "better choices": sum(loss < lost[similar] for loss in random_.values()),
        "choices": len(random_),
        "dropped": [found[index].name.removeprefix("model.layers.") for index in similar],
        "cosines": [round(one.cosine, 4) for one in found],
    }


def without(model: nn.Module, found: Sequence[Similarity], choice: Choice) -> nn.Module:
    """A copy in which these modules do nothing."""
    marked = [dataclasses.replace(one, cosine=float(index in choice)) for index, one in enumerate(found)]
    return drop(model, marked, len(choice))


def block(one: Similarity) -> int:
    """Index of the block that a module is, or is in."""
    return int(one.name.removeprefix("model.layers.").split(".")[0])


def bits(module: nn.Module, task: LanguageModelling) -> float:
    """Bits per byte on the test split."""
    module.eval()
    return float(task.evaluate(module, "test")["bits_per_byte"])


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and deviation over decoders of what is lost, in bits per byte."""
    found: dict[str, Any] = {"whole": [round(row["whole"], 4) for row in rows]}
    for name in [name for name in rows[0] if name != "whole"]:
        cases = [row[name] for row in rows]
        found[name] = {how: spread([case[how] for case in cases]) for how in ("similar", "inner", "random", "best")}
        found[name]["ordered"] = sum(case["similar"] < case["inner"] < case["random"] for case in cases)
        found[name] |= {how: [case[how] for case in cases] for how in ("better choices", "choices", "dropped")}
    return found


def spread(values: Sequence[float]) -> list[float]:
    """Mean and standard deviation."""
    return [round(statistics.mean(values), 4), round(statistics.stdev(values), 4) if len(values) > 1 else 0.0]


def main() -> None:
    """Measures what the folder does not have yet, and prints the figures."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--runs", type=Path, help="folder of the runs, the same as of sorted_lm")
    words.add_argument("--seeds", type=int, default=1, help="decoders; each further one is trained first")
    words.add_argument("--smoke", action="store_true", help="seconds, in a folder that is thrown away")
    options = words.parse_args()
    with opened(options, words) as folder:
        rows = []
        for seed in range(1 if options.smoke else options.seeds):
            file = folder / f"layer_dropping/{seed}.json"
            rows.append(kept(file, lambda seed=seed: one_decoder(folder, seed, smoke=options.smoke)))
            print(f"decoder {seed}: done", flush=True)
        print(json.dumps(summary(rows)))


def one_decoder(folder: Path, seed: int, *, smoke: bool) -> dict[str, Any]:
    """The figures of one decoder, which is trained first where it is not."""
    task, model = deep(folder, smoke=smoke, seed=seed)
    return measured(task if smoke else shorter(task, len(task.train), JUDGED), model, seed)


if __name__ == "__main__":
    main()

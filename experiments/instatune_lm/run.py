"""Fine-tune a pretrained language model once as a supernet and search it, or fine-tune each subnet by itself?  See README.md.

    python experiments/instatune_lm/run.py [--smoke] [--seeds 3] [--device cpu|cuda] [--scale small|full]

Prints one line a seed and one JSON line last.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import statistics
import sysconfig
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import nas
from nas import files
from nas.train import Sampler
from nas.train.text import BytePairs, LanguageModelling, split_by_file
from searchspaces import pretrained

HERE = Path(__file__).parent
OTHER = ("idlelib", "tkinter", "turtledemo")
SPARE = ("email", "http", "urllib", "xmlrpc")  # in the place of OTHER, which some systems' Pythons are without
"""Packages to fine-tune on: windows and drawing.  The rest of the library is what the model is pretrained on."""
LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "_bundled"}
BUDGETS = (0.4, 0.55, 0.7, 0.85)
"""Most parameters of the blocks, as fractions of the whole model's."""
SCALES: dict[str, dict[str, Any]] = {
    "smoke": {"width": 16, "layers": 2, "heads": 2, "hidden": 32, "context": 32, "batch": 4, "merges": 32}
    | {"limit": 150_000, "pretraining": 4, "steps": 3, "candidates": 2, "depths": (1, 2), "sizes": 2},
    "small": {"width": 64, "layers": 4, "heads": 4, "hidden": 192, "context": 64, "batch": 8, "merges": 256}
    | {"limit": 2_000_000, "pretraining": 800, "steps": 200, "candidates": 12, "depths": (2, 3, 4), "sizes": 3},
    "full": {"width": 512, "layers": 12, "heads": 8, "hidden": 1536, "context": 512, "batch": 32, "merges": 2048}
    | {"limit": 12_000_000, "pretraining": 6000, "steps": 1000, "candidates": 24, "depths": (6, 8, 10, 12), "sizes": 3},
}


def corpora(scale: dict[str, Any], seed: int) -> tuple[LanguageModelling, LanguageModelling]:
    """The task of the pretraining and that of the fine-tuning; the tokenizer knows the former's training files only."""
    root = Path(sysconfig.get_paths()["stdlib"])
    texts: tuple[dict[str, str], dict[str, str]] = ({}, {})
    other = OTHER if all((root / name).is_dir() for name in OTHER) else SPARE
    print(f"fine-tuning on {', '.join(other)}", flush=True)
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        if not LEFT_OUT & set(parts):
            texts[parts[0] in other]["/".join(parts)] = path.read_text(encoding="utf-8", errors="replace")
    first, second = (split_by_file(each, scale["limit"], (0.03, 0.08), seed) for each in texts)
    tokenizer = BytePairs.train(first[0], scale["merges"])
    return _task(first, tokenizer, scale, seed), _task(second, tokenizer, scale, seed)


def _task(splits: Any, tokenizer: BytePairs, scale: dict[str, Any], seed: int) -> LanguageModelling:
    train, valid, test = (
        torch.from_numpy(np.concatenate([[*tokenizer.encode(text), tokenizer.end] for text in split]).astype(np.int64))
        for split in splits
    )
    return LanguageModelling(train, valid, test, tokenizer, scale["context"], scale["batch"], seed)


def pretrain(task: LanguageModelling, scale: dict[str, Any], seed: int, device: str) -> nn.Module:
    """A small Llama, trained on the first part of the corpus."""
    config = LlamaConfig(
        vocab_size=task.vocabulary,
        hidden_size=scale["width"],
        num_hidden_layers=scale["layers"],
        num_attention_heads=scale["heads"],
        num_key_value_heads=scale["heads"],
        intermediate_size=scale["hidden"],
        max_position_embeddings=scale["context"],
        tie_word_embeddings=True,
        use_cache=False,
    )
    torch.manual_seed(seed)
    net = pretrained.supernet(LlamaForCausalLM(config), example=task.example)
    options = {"steps": scale["pretraining"], "validate_every": scale["pretraining"], "lr": 4e-3, "device": device}
    nas.Training(net, task, sampler=Only(net.space.largest), loss=nas.Labels(), seed=seed, **options).run(False)
    return net.cpu().extract(net.space.largest)


class Only(Sampler):
    """One arch at each step: that subnet by itself."""

    def __init__(self, arch: nas.Arch) -> None:
        self.arch = arch

    def archs(self, space: nas.Space, step: int, rng: random.Random) -> list[nas.Arch]:  # noqa: ARG002
        return [self.arch]

    def describe(self) -> dict[str, Any]:
        return {"class": "Only", "arch": self.arch.key}


def size(net: nas.Supernet, arch: nas.Arch) -> float:
    """Parameters of the blocks, as a fraction of the whole model's."""
    inside = [
        sum(tensor.numel() for name, tensor in net.cut(each).items() if ".layers." in name)
        for each in (arch, net.space.largest)
    ]
    return inside[0] / inside[1]


def searched(net: nas.Supernet, task: LanguageModelling, count: int, seed: int) -> list[nas.Arch]:
    """For each budget the best on the validation split of `count` random archs that use most of it."""
    draw, measure = random.Random(seed), nas.Accuracy(net, task)
    found = []
    for budget in BUDGETS:
        values: dict[nas.Arch, float] = {}
        for _ in range(300 * count):
            arch = net.space.sample(draw)
            if arch not in values and budget - 0.15 <= size(net, arch) <= budget:
                values[arch] = measure(arch)["loss"]
            if len(values) == count:
                break
        found.append(min(values, key=values.__getitem__))
    return found


def compare(seed: int, scale: dict[str, Any], device: str) -> dict[str, Any]:
    """Both ways from the same pretrained weights, with the same archs and as many forward and backward passes."""
    first, task = corpora(scale, seed)
    model = pretrain(first, scale, seed, device)
    halvings = [2**power for power in range(scale["sizes"])]
    start = pretrained.supernet(
        model,
        example=task.example,
        blocks="model.layers.*",
        units=pretrained.llama_units(model.config),
        choices={
            "heads": [max(1, scale["heads"] // part) for part in halvings],
            "neurons": [scale["hidden"] // part for part in halvings],
        },
        depths=scale["depths"],
    )

    def tuned(sampler: Sampler, loss: Any) -> tuple[nas.Supernet, float]:
        options = {"steps": scale["steps"], "validate_every": scale["steps"], "device": device, "seed": seed}
        training = nas.Training(copy.deepcopy(start), task, sampler=sampler, loss=loss, **options)
        return training.supernet, training.run(progress=False).seconds

    def bits(net: nas.Supernet, arch: nas.Arch) -> float:
        return nas.Accuracy(net, task, split="test")(arch)["bits_per_byte"]

    net, once_s = tuned(nas.Sandwich(2), nas.InPlace())  # largest, smallest and two at random: four passes a step
    begun = time.perf_counter()
    archs = searched(net, task, scale["candidates"], seed)
    search_s, rows, each_s = time.perf_counter() - begun, [], 0.0
    start.to(device)
    for budget, arch in zip(BUDGETS, archs, strict=True):
        alone, seconds = tuned(Only(arch), nas.Labels())  # four of them: as many passes
        each_s += seconds
        row = {"once": bits(net, arch), "each": bits(alone, arch), "not_tuned": bits(start, arch)}
        rows.append({"budget": budget, "size": size(net, arch), **row})
    whole = net.space.largest
    alone, _ = tuned(Only(whole), nas.Labels())
    row = {"once": bits(net, whole), "each": bits(alone, whole), "not_tuned": bits(start, whole)}
    rows.append({"budget": 1.0, "size": 1.0, **row})
    return {"rows": rows, "archs": net.space.size, "once_s": once_s, "search_s": search_s, "each_s": each_s}


def summary(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Means and deviations over the seeds, and of the paired difference of both ways, by budget."""
    table = []
    for rows in zip(*(seed["rows"] for seed in seeds), strict=True):
        values = {name: [row[name] for row in rows] for name in ("size", "once", "each", "not_tuned")}
        values["gap"] = [row["once"] - row["each"] for row in rows]
        table.append(
            {"budget": rows[0]["budget"]}
            | {name: [round(statistics.mean(v), 4), round(statistics.pstdev(v), 4)] for name, v in values.items()}
        )
    seconds = {
        name: round(statistics.mean(seed[name] for seed in seeds), 1) for name in ("once_s", "search_s", "each_s")
    }
    return {"bits_per_byte": table, "archs": float(seeds[0]["archs"]), **seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="seconds, to see that it runs; writes no results")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scale", choices=("small", "full"), default="small")
    args = parser.parse_args()
    scale = SCALES["smoke" if args.smoke else args.scale]
    count = 1 if args.smoke else args.seeds
    torch.set_num_threads(1)
    begun = time.perf_counter()
    seeds = []
    for seed in range(count):
        seeds.append(compare(seed, scale, args.device))
        print(seed, json.dumps(seeds[-1]), flush=True)
    figures = {
        "experiment": "instatune_lm",
        "pretraining": scale["pretraining"],
        "steps": scale["steps"],
        "seeds": count,
    }
    figures |= {**summary(seeds), "seconds": round(time.perf_counter() - begun)}
    if not args.smoke and args.scale == "small":
        files.write(HERE / "results.json", json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

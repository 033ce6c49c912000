"""What does a language model lose by its most similar blocks, beside random ones?  See README.md.

    python experiments/layer_dropping/run.py [--smoke] [--seeds 3] [--steps 400] [--device cpu|cuda] [--scale small|full]

Prints a line a seed and one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from nas import files
from nas.train import Labels, LanguageModelling, Training, Uniform, as_supernet, drop, python_corpus, similarities
from nas.train.dropping import Similarity

HERE = Path(__file__).parent
SCALES: dict[str, dict[str, int]] = {
    "small": {"width": 48, "depth": 6, "context": 64, "batch": 8, "limit": 1_000_000, "merges": 256},
    "full": {"width": 512, "depth": 16, "context": 512, "batch": 32, "limit": 12_000_000, "merges": 2048},
    "smoke": {"width": 16, "depth": 3, "context": 16, "batch": 4, "limit": 60_000, "merges": 8},
}
LAYERS = "model.model.layers.*"
KINDS: dict[str, dict[str, Any]] = {
    "blocks": {"blocks": LAYERS},
    "attention": {"branches": [(f"{LAYERS}.input_layernorm", f"{LAYERS}.self_attn")]},
    "perceptrons": {"branches": [(f"{LAYERS}.post_attention_layernorm", f"{LAYERS}.mlp")]},
}
KINDS["attention and perceptrons"] = {"branches": KINDS["attention"]["branches"] + KINDS["perceptrons"]["branches"]}


class Logits(nn.Module):
    """A Llama that gives its logits as they are.

    Args:
        model: of transformers.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, length) -> (n, length, vocabulary)."""
        logits: Tensor = self.model(tokens, use_cache=False).logits
        return logits


def llama(scale: dict[str, int], vocabulary: int, seed: int) -> Logits:
    """A small Llama of transformers' own class."""
    torch.manual_seed(seed)
    width = scale["width"]
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=scale["depth"],
        num_attention_heads=width // 16,
        num_key_value_heads=width // 16,
        max_position_embeddings=2 * scale["context"],
    )
    return Logits(LlamaForCausalLM(config))


def bits(module: nn.Module, task: LanguageModelling, device: str) -> float:
    """Bits per byte on the test files."""
    module.to(device).eval()
    return float(task.evaluate(module, "test", device=device)["bits_per_byte"])


def shuffled(found: Sequence[Similarity], rng: random.Random) -> list[Similarity]:
    """The same modules with each other's similarities: what is dropped then is chosen by lot."""
    cosines = [each.cosine for each in found]
    rng.shuffle(cosines)
    return [Similarity(each.name, each.kind, cosine, each.extras) for each, cosine in zip(found, cosines, strict=True)]


def play(seed: int, scale: dict[str, int], args: argparse.Namespace) -> dict[str, Any]:
    """One trained model: bits per byte whole, without the most similar, and without as many at random (mean of the draws)."""
    task = python_corpus(
        scale["context"], scale["batch"], seed=seed, merges=scale["merges"], limit=scale["limit"], test=0.04
    )
    module = llama(scale, task.vocabulary, seed)
    supernet = as_supernet(module)
    options = {"lr": args.lr, "validate_every": args.steps, "device": args.device, "seed": seed}
    Training(supernet, task, sampler=Uniform(1), loss=Labels(), steps=args.steps, **options).run(progress=False)
    trained = supernet.extract(supernet.space.largest)
    row: dict[str, Any] = {"whole": bits(trained, task, args.device)}
    inputs = [batch.inputs.to(args.device) for batch in islice(task.train_batches(0), args.batches)]
    for kind, patterns in KINDS.items():
        found = similarities(trained, inputs, **patterns)
        rng = random.Random(seed)
        for count in args.counts:
            by_lot = [bits(drop(trained, shuffled(found, rng), count), task, args.device) for _ in range(args.draws)]
            row[f"{kind} -{count}"] = {
                "similar": bits(drop(trained, found, count), task, args.device),
                "random": statistics.fmean(by_lot),
                "random best": min(by_lot),
            }
    return row


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and deviation over seeds of what is lost, in bits per byte, and in how many seeds similarity lost less than chance."""
    out: dict[str, Any] = {"whole": _mean([row["whole"] for row in rows])}
    for name in [name for name in rows[0] if name != "whole"]:
        lost = {how: [row[name][how] - row["whole"] for row in rows] for how in rows[0][name]}
        out[name] = {how: _mean(values) for how, values in lost.items()}
        wins = sum(a < b for a, b in zip(lost["similar"], lost["random"], strict=True))
        out[name]["seeds where similar lost less"] = wins
    return out


def _mean(values: Sequence[float]) -> list[float]:
    return [round(statistics.fmean(values), 4), round(statistics.pstdev(values), 4)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2], help="how many modules are dropped")
    parser.add_argument("--draws", type=int, default=5, help="random choices that are averaged")
    parser.add_argument("--batches", type=int, default=8, help="training batches that similarity is measured on")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scale", choices=("small", "full"), default="small")
    parser.add_argument("--smoke", action="store_true", help="seconds, to see that it runs; writes no results")
    args = parser.parse_args()
    scale = SCALES["smoke" if args.smoke else args.scale]
    if args.smoke:
        args.seeds, args.steps, args.counts, args.draws, args.batches = 1, 3, [1], 1, 1
    torch.set_num_threads(1)
    rows, begun = [], time.perf_counter()
    for seed in range(args.seeds):
        rows.append(play(seed, scale, args))
        print(json.dumps({"seed": seed, **rows[-1]}), flush=True)
    figures = {
        **summary(rows),
        "seeds": args.seeds,
        "steps": args.steps,
        "depth": scale["depth"],
        "seconds": round(time.perf_counter() - begun),
    }
    if not args.smoke:
        text = json.dumps({"figures": figures, "rows": rows}, indent=1)
        files.write(HERE / "results.json", text + "\n")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

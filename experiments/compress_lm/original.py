"""Decoders with grouped-query attention, trained on source code: what experiments make smaller or fine-tune.

    python experiments/compress_lm/original.py --runs FOLDER

trains what `run.py` makes smaller;

    python experiments/compress_lm/original.py --runs FOLDER --deep

the deeper and narrower one that `sorted_lm` and `layer_dropping` begin with, which find it in the same folder.  Both go on
where they stopped, and end with the model's bits per byte on the test split.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from compress_common.compare import trained
from corpus import corpus, shorter
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import nas
from nas.train import FixedList, as_supernet
from nas.train.text import LanguageModelling

SIZES = {"width": 256, "layers": 6, "heads": 8, "groups": 4, "hidden": 768}
SMALL = {"width": 32, "layers": 2, "heads": 4, "groups": 2, "hidden": 64}
"""Of the smoke mode."""
LIMIT, STEPS = 12_000_000, 1400
DEEP = {"width": 128, "layers": 8, "heads": 4, "groups": 2, "hidden": 384}
"""Of the decoder of others: half as wide."""
SMALL_DEEP = {"width": 16, "layers": 4, "heads": 2, "groups": 1, "hidden": 48}
"""Of their smoke modes."""
DEEP_STEPS = 2000
HELD = 32_768
"""Tokens of the splits that judge it."""


def decoder(
    vocabulary: int, *, width: int, layers: int, heads: int, groups: int, hidden: int, seed: int = 0
) -> nn.Module:
    """As Llama is built: rotary positions, grouped queries, gated perceptrons, the head tied to the embedding."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        intermediate_size=hidden,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        use_cache=False,
    )
    net: nn.Module = LlamaForCausalLM(config)
    return net


def original(task: LanguageModelling, folder: Path, sizes: dict[str, int], steps: int) -> nn.Module:
    """The decoder, trained with the task's seed; the training in `folder` is finished first where it is not."""
    return trained(
        decoder(task.vocabulary, **sizes, seed=task.seed),
        task,
        folder,
        steps=steps,
        lr=2e-3,
        sampler=FixedList([{}]),
        checkpoint_every=min(50, steps),
        validate_every=min(200, steps),
    )


def deep(folder: Path, *, smoke: bool = False, seed: int = 0) -> tuple[LanguageModelling, nn.Module]:
    """The task, its test split short, and the deeper decoder, trained; what of this is in `folder` is not done again.

    Decoders of other seeds than 0 are trained for half as many steps.
    """
    place = folder / f"deep-{seed}"
    if smoke:
        task = dataclasses.replace(nas.python_corpus(32, 4, merges=16, limit=90_000), seed=seed)
        return shorter(task, len(task.train), 1_100), original(task, place, SMALL_DEEP, 5)
    task = corpus(folder, limit=LIMIT, batch=16, seed=seed)
    task = shorter(task, len(task.train), HELD)
    return task, original(task, place, DEEP, DEEP_STEPS if seed == 0 else DEEP_STEPS // 2)


def main() -> None:
    """Trains and measures."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--runs", type=Path, required=True, help="folder of the runs")
    words.add_argument("--deep", action="store_true", help="the deeper and narrower one")
    options = words.parse_args()
    torch.set_num_threads(1)
    if options.deep:
        task, net = deep(options.runs)
    else:
        task = corpus(options.runs, limit=LIMIT, batch=16)
        net = original(task, options.runs / "original", SIZES, STEPS)
    size = sum(parameter.numel() for parameter in net.parameters())
    measured = nas.Accuracy(as_supernet(net, example=task.example), task, split="test").measure_module(net)
    print(json.dumps({"params": size, "train_tokens": len(task.train), **measured}))


if __name__ == "__main__":
    main()

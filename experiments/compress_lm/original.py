"""A decoder with grouped-query attention, trained on source code: what `run.py` makes smaller.

    python experiments/compress_lm/original.py --runs FOLDER

goes on where it stopped, and ends with the model's bits per byte on the test split.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from compress_common.compare import trained
from corpus import corpus
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import nas
from nas.train import FixedList, as_supernet
from nas.train.text import LanguageModelling

SIZES = {"width": 256, "layers": 6, "heads": 8, "groups": 4, "hidden": 768}
SMALL = {"width": 32, "layers": 2, "heads": 4, "groups": 2, "hidden": 64}
"""Of the smoke mode."""
LIMIT, STEPS = 12_000_000, 1400


def decoder(vocabulary: int, *, width: int, layers: int, heads: int, groups: int, hidden: int) -> nn.Module:
    """As Llama is built: rotary positions, grouped queries, gated perceptrons, the head tied to the embedding."""
    torch.manual_seed(0)
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
    """The trained decoder; the training in `folder` is finished first where it is not."""
    return trained(
        decoder(task.vocabulary, **sizes),
        task,
        folder,
        steps=steps,
        lr=2e-3,
        sampler=FixedList([{}]),
        checkpoint_every=min(50, steps),
        validate_every=min(200, steps),
    )


def main() -> None:
    """Trains and measures."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--runs", type=Path, required=True, help="folder of the runs")
    words.add_argument("--steps", type=int, default=STEPS)
    options = words.parse_args()
    torch.set_num_threads(1)
    task = corpus(options.runs, limit=LIMIT, batch=16)
    net = original(task, options.runs / "original", SIZES, options.steps)
    size = sum(parameter.numel() for parameter in net.parameters())
    measured = nas.Accuracy(as_supernet(net, example=task.example), task, split="test").measure_module(net)
    print(json.dumps({"params": size, "train_tokens": len(task.train), **measured}))


if __name__ == "__main__":
    main()

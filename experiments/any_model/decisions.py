"""Does the conversion find what the hand-written families decide about?  See README.md.

    python experiments/any_model/decisions.py [--smoke]

Prints a line for each model and one JSON line last.  Models are of transformers, with random weights.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from typing import Any

import torch
import transformers

import nas
from nas.convert.spelling import keep

TEXT = {
    **{"vocab_size": 211, "hidden_size": 64, "intermediate_size": 160},
    **{"num_attention_heads": 4, "max_position_embeddings": 64},
}
BLOCK = (".*heads", ".*hidden", r"\.keep")
"""What is decided about in a block of a transformer."""
SIGHT = {"image_size": 64, "num_labels": 10}


def _models(depth: int) -> dict[str, tuple[Any, Any, list[str]]]:
    """Model, inputs, and patterns of names of what hand-written families decide about, each for every block."""
    each = range(depth)
    words, images = {"input_ids": torch.randint(3, 200, (1, 13))}, {"pixel_values": torch.randn(1, 3, 64, 64)}
    text = TEXT | {"num_hidden_layers": depth}
    sight = SIGHT | {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": depth, "num_attention_heads": 4}
    blocks = [f"stages\\[{stage}\\]\\.layers\\[{block}\\]" for stage in range(4) for block in range(2)]
    inner = [rf"{block}.*hidden" for block in blocks]
    resnet = {"embedding_size": 16, "hidden_sizes": [16, 32, 48, 64], "depths": [2] * 4, "layer_type": "basic"}
    swin = {"patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
    return {
        "resnet18": (  # searchspaces/ofa.py: widths of stages, inner widths and depth
            transformers.ResNetForImageClassification(transformers.ResNetConfig(**resnet, num_labels=10)),
            images,
            ["width", *inner, r"layers\[1\].*keep"],
        ),
        "bert": (  # searchspaces/pretrained.py: heads, neurons, depth
            transformers.BertForSequenceClassification(transformers.BertConfig(**text, num_labels=5)),
            words,
            [rf"layer\[{n}\]{what}" for n in each for what in BLOCK],
        ),
        "vit": (  # searchspaces/vit.py: width, heads, hidden, depth
            transformers.ViTForImageClassification(transformers.ViTConfig(**sight, patch_size=16)),
            images,
            ["width", *(rf"layers?\[{n}\]{what}" for n in each for what in BLOCK)],
        ),
        "llama": (  # searchspaces/pretrained.py: heads of keys with their queries, neurons, depth
            transformers.LlamaForCausalLM(transformers.LlamaConfig(**text, num_key_value_heads=2, use_cache=False)),
            words,
            [rf"layers\[{n}\]{what}" for n in each for what in BLOCK],
        ),
        "convnext": (  # no hand-written family: widths of stages, inner widths and depth are what one would write
            transformers.ConvNextForImageClassification(
                transformers.ConvNextConfig(depths=[2] * 4, hidden_sizes=[16, 24, 32, 48], num_labels=10)
            ),
            images,
            ["width", *inner, *(rf"{block}\.keep" for block in blocks)],
        ),
        "swin": (  # likewise: heads, neurons, depth
            transformers.SwinForImageClassification(transformers.SwinConfig(image_size=64, **swin, num_labels=10)),
            images,
            ["width", *(rf"layers\[{s}\]\.blocks\[{b}\]{what}" for s in range(2) for b in range(2) for what in BLOCK)],
        ),
    }


def found_in(model: Any, inputs: Any, patterns: list[str]) -> dict[str, Any]:
    """What the conversion decides about, and what of the patterns it does not."""
    space = nas.elastic(model.eval(), inputs)
    names = [decision.name for decision in space.decisions]
    missing = [pattern for pattern in patterns if not any(re.search(pattern, name) for name in names)]
    kinds = Counter(decision.kind for decision in space.plan.decisions)
    return {
        "decisions": dict(sorted(kinds.items())),
        "depth": sum(keep(unit.name) in names for unit in space.plan.units),
        "by_hand": len(patterns),
        "missing": missing,
        "execution": space.report.execution,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="one model of one block")
    args = parser.parse_args()
    rows = {}
    for name, case in _models(1 if args.smoke else 3).items():
        if args.smoke and name != "bert":
            continue
        rows[name] = found_in(*case)
        print(name, rows[name], flush=True)
    print(json.dumps({"experiment": "any_model_decisions", **rows}))


if __name__ == "__main__":
    main()

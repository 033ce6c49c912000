"""What a resized network costs beside the same class built at that size: forward and a training step, in one process.

python experiments/any_model/speed.py
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any, Literal

import torch
from convert import elastic
from equivalence import tensors_of
from hand_images import Head, Residual, UNet, block
from judge import sentence
from torch import Tensor, nn

Make = Callable[[int], nn.Module]


def bert(half: int) -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 256 // half, "num_attention_heads": 8 // half, "intermediate_size": 1024 // half}
    return BertForSequenceClassification(BertConfig(vocab_size=1000, num_hidden_layers=4, **sizes))


def llama(half: int) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 256 // half, "num_attention_heads": 8 // half, "num_key_value_heads": 4 // half}
    more: dict[str, Any] = {"intermediate_size": 768 // half, "head_dim": 32, "use_cache": False}
    return LlamaForCausalLM(LlamaConfig(vocab_size=1000, num_hidden_layers=4, **sizes, **more))


def vit(half: int) -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 192 // half, "num_attention_heads": 6 // half, "intermediate_size": 768 // half}
    return ViTForImageClassification(ViTConfig(image_size=96, num_hidden_layers=4, num_labels=10, **sizes))


def resnet(half: int) -> nn.Module:
    a, b = 64 // half, 128 // half
    return nn.Sequential(block(3, a), Residual(a, a), Residual(a, b, 2), Residual(b, b), Head(b))


class Tagger(nn.Module):
    def __init__(self, half: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(1000, 128 // half)
        self.lstm = nn.LSTM(128 // half, 256 // half, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(512 // half, 10)

    def forward(self, text: Tensor) -> Tensor:
        return self.head(self.lstm(self.embedding(text))[0])


def literal(half: int) -> nn.Module:
    """Attention whose class has its sizes written into it, not in attributes; its archs are captured graphs."""
    heads, width = 8 // half, 256 // half

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(self.norm(x)).view(-1, 64, 3, heads, 32).permute(2, 0, 3, 1, 4)
            mixed = (q @ k.mT * 32**-0.5).softmax(-1) @ v
            x = x + self.out(mixed.transpose(1, 2).reshape(-1, 64, heads * 32))
            return x + self.mlp(x)

    return nn.Sequential(nn.Embedding(1000, width), *(Block() for _ in range(4)), nn.Linear(width, 10))


def text() -> Tensor:
    return torch.randint(3, 1000, (4, 64))


PAIRS: dict[str, tuple[Make, Callable[[], Any]]] = {
    "bert": (bert, lambda: {"input_ids": text()}),
    "llama": (llama, lambda: {"input_ids": text()}),
    "vit": (vit, lambda: {"pixel_values": torch.randn(4, 3, 96, 96)}),
    "resnet": (resnet, lambda: (torch.randn(4, 3, 32, 32),)),
    "unet": (lambda half: UNet(32 // half), lambda: (torch.randn(4, 3, 32, 32),)),
    "lstm": (Tagger, lambda: (text(),)),
    "literal": (literal, lambda: (text(),)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--only", choices=PAIRS, nargs="*", default=list(PAIRS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for name in arguments.only:
        make, example = PAIRS[name]
        found[name] = compared(make, example(), arguments.rounds, "free" if name == "literal" else "class")
        print(name, found[name], flush=True)
    print(json.dumps(found))


def compared(make: Make, inputs: Any, rounds: int, mode: Literal["class", "free"]) -> dict[str, Any]:
    """The resized network beside the class built at that size: the median of the ratios of neighbouring calls, in CPU time.

    `control` is the same ratio of a second network that is built at that size: what it is off by is noise.
    """
    built, control = make(2).eval(), make(2).eval()
    started = time.process_time()
    converted = elastic(make(1).eval(), inputs, mode)
    seconds = time.process_time() - started
    resized = converted.build(converted.at(0.5)).eval()
    shapes = [[tuple(each.shape) for each in module.parameters()] for module in (built, resized)]
    found: dict[str, Any] = {
        "execution": converted.notes["execution"],
        "convert_s": round(seconds, 2),
        "same_shapes": shapes[0] == shapes[1],
    }
    for what, work in (("forward", forward), ("training_step", training_step)):
        took: dict[int, list[float]] = {0: [], 1: [], 2: []}
        try:
            for turn in range(rounds + 3):
                for place in (0, 1, 2) if turn % 2 else (2, 1, 0):
                    begun = time.process_time()
                    work((resized, built, control)[place], inputs)
                    if turn >= 3:
                        took[place].append(time.process_time() - begun)
        except Exception as error:
            found[what] = sentence(error)
            continue
        for name, place in ((what, 0), (f"{what}_control", 2)):
            found[name] = round(statistics.median(a / b for a, b in zip(took[place], took[1], strict=True)), 3)
        found[f"{what}_ms"] = round(1000 * statistics.median(took[0]), 2)
    return found


def called(module: nn.Module, inputs: Any) -> list[Tensor]:
    return tensors_of(module(**inputs) if isinstance(inputs, dict) else module(*inputs))


def forward(module: nn.Module, inputs: Any) -> None:
    module.eval()
    with torch.no_grad():
        called(module, inputs)


def training_step(module: nn.Module, inputs: Any) -> None:
    module.train()
    module.zero_grad()
    called(module, inputs)[0].float().square().mean().backward()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.grad is not None:
                parameter.sub_(parameter.grad, alpha=1e-3)


if __name__ == "__main__":
    main()

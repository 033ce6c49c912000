"""A sentence encoder as a person writes it around a model of Hugging Face."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

SMALL = {
    "vocab_size": 128,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 32,
}
"""Of a model without weights, for `--smoke`."""


class Encoder(nn.Module):
    """Token numbers (n, length), 0 where there is none, to directions (n, dim): means over the tokens that are there.

    Args:
        folder: with the `config.json` of the model; None is a small one.
    """

    def __init__(self, folder: str | None = None) -> None:
        super().__init__()
        from transformers import AutoConfig, AutoModel, BertConfig

        config: Any = BertConfig(**SMALL) if folder is None else AutoConfig.from_pretrained(folder)
        self.model = AutoModel.from_config(config, add_pooling_layer=False)

    def forward(self, tokens: Tensor) -> Tensor:
        there = tokens != 0
        states = self.model(input_ids=tokens, attention_mask=there.long()).last_hidden_state
        weights = there[..., None].to(states.dtype)
        return functional.normalize((states * weights).sum(1) / weights.sum(1), dim=-1)


def pretrained(folder: str | None = None) -> Encoder:
    """The encoder with its weights, random ones (always the same) without a folder."""
    from transformers import AutoModel

    torch.manual_seed(0)
    found = Encoder(folder)
    if folder is not None:
        found.model = AutoModel.from_pretrained(folder, add_pooling_layer=False)
    return found.eval()


def numbered(texts: list[str], folder: str | None, length: int) -> Tensor:
    """(n, length) tokens of all texts, longer ones cut; without a folder words by number."""
    if folder is not None:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder)
        found: Tensor = tokenizer(
            texts, return_tensors="pt", padding="max_length", truncation=True, max_length=length
        ).input_ids
        return found
    rows = [[1 + sum(map(ord, word)) % 127 for word in text.split()][:length] for text in texts]
    return torch.tensor([row + [0] * (length - len(row)) for row in rows])

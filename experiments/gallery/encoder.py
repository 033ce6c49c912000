"""A sentence encoder from its weights, on names of functions and what they do: recall of the other half against parameters.

WEIGHTS=FOLDER nas train encoder.py   (with config.json, model.safetensors and tokenizer.json, as of all-MiniLM-L6-v2)
Without WEIGHTS the model is a small random one that reads bytes.
"""

import ast
import os
import sysconfig
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

import nas

WEIGHTS = os.environ.get("WEIGHTS")
names: dict[str, str] = {}  # first sentence of a docstring -> the function's name in words, of the standard library
for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("[a-t]*.py")):
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.FunctionDef) and len(said := (ast.get_docstring(node) or "").split(". ")[0]) > 30:
            names.setdefault(said, node.name.replace("_", " ").strip())


def tokens(texts: list[str]) -> dict[str, Tensor]:
    if not WEIGHTS:
        ids = torch.tensor([list(text.encode()[:24].ljust(24, b"\0")) for text in texts])
        return {"input_ids": ids, "attention_mask": (ids > 0).long()}
    found = AutoTokenizer.from_pretrained(WEIGHTS)(texts, padding="max_length", truncation=True, max_length=24)
    return {name: torch.tensor(found[name]) for name in ("input_ids", "attention_mask")}


class Sentence(nn.Module):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return (states * attention_mask[..., None]).sum(1) / attention_mask.sum(1, keepdim=True)


small = BertConfig(vocab_size=256, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
model = Sentence(AutoModel.from_pretrained(WEIGHTS) if WEIGHTS else BertModel(small))
pairs = list(names.items())
parts = pairs[::2], pairs[1::10][:120], pairs[3::10][:120]  # no pair is in two
task = nas.Embedding(*(tuple(tokens(list(side)) for side in zip(*part, strict=True)) for part in parts), batch=8)
supernet = nas.Supernet(nas.elastic(model, task.example, granule=32), example=task.example, weights=model)
training = nas.Training(supernet, task, path="runs/encoder", steps=40, lr=3e-5)
study = nas.Study(
    "encoder",
    space=supernet.space,
    objectives=["max recall_at_1", "min params"],
    evaluators=[nas.Accuracy(training, task), nas.Costs(training)],
    training=training,
    store="runs/gallery.db",
    trials=12,
)

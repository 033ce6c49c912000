"""A decoder on Python's own source text, character by character: perplexity against parameters."""

import sysconfig
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import nas


def tokens(*names: str) -> np.ndarray:
    """Characters of modules of the standard library as numbers; what is no ASCII is 127."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    text = b"".join((folder / f"{name}.py").read_bytes() for name in names)
    return np.minimum(np.frombuffer(text, np.uint8), 127).astype(np.int64)


train, valid, test = tokens("argparse", "typing", "inspect", "ast"), tokens("csv", "queue"), tokens("shelve", "sched")
task = nas.LanguageModel(train, valid, test, context=64, batch=16)

config = LlamaConfig(
    vocab_size=128,
    hidden_size=64,
    intermediate_size=192,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    bos_token_id=None,
    eos_token_id=None,
    use_cache=False,
)
torch.manual_seed(0)
model = LlamaForCausalLM(config)
supernet = nas.Supernet(nas.elastic(model, task.example), example=task.example, weights=model)
training = nas.Training(supernet, task, path="runs/decoder", steps=300, lr=3e-3, loss=nas.InPlace(labels=0.5))

study = nas.Study(
    "decoder",
    space=supernet.space,
    objectives=["min perplexity", "min params"],
    evaluators=[nas.Accuracy(training, task), nas.Costs(training)],
    algorithm=nas.NSGA2(population=16),
    training=training,
    store="runs/gallery.db",
    trials=30,
)

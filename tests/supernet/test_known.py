"""Layouts that are known of well-known layers, on the classes of transformers as they are."""

from __future__ import annotations

from typing import Any

import pyglove as pg
import pytest
import torch
import transformers

import nas
from nas.errors import LayoutError
from nas.supernet import Layout
from tests.supernet.zeroing import zeroed_apart

TOKENS = {"input_ids": torch.arange(12).reshape(2, 6) % 32}


def space(name: str, **arguments: Any) -> nas.Space:
    config = nas.model(getattr(transformers, f"{name}Config"))(vocab_size=32, **arguments)
    return nas.Space(nas.model(getattr(transformers, f"{name}ForCausalLM"))(config=config), name=name)


def rows(net: nas.Supernet, name: str, arch: nas.Arch) -> list[int]:
    """Which rows of the whole the arch has."""
    parameter = net.get_parameter(name)
    with torch.no_grad():
        parameter.copy_(
            torch.arange(len(parameter))[(slice(None), *[None] * (parameter.dim() - 1))].expand_as(parameter)
        )
        part = net.cut(arch)[name]
    return [int(value) for value in part.flatten(1)[:, 0]] if part.dim() > 1 else part.int().tolist()


def test_queries_keys_and_values_of_phi():
    name = "model.layers.0.self_attn.qkv_proj.weight"
    options = {"hidden_size": 16, "intermediate_size": pg.oneof([4, 8]), "num_hidden_layers": 1, "pad_token_id": 0}
    net = nas.Supernet(
        space("Phi3", num_attention_heads=4, num_key_value_heads=pg.oneof([2, 4]), **options), example=TOKENS
    )
    assert rows(net, name, net.space.smallest) == [*range(24), *range(32, 40)]
    narrow = net.space.arch({"config.num_key_value_heads": 4, "config.intermediate_size": 4})
    assert zeroed_apart(net, narrow, TOKENS) < 1e-5  # its code computes positions and norms in float32


@pytest.mark.parametrize("shared", [True, False])
def test_heads_of_gpt_bigcode(shared):
    options = {"n_positions": 16, "n_layer": 1, "n_head": 2, "bos_token_id": 1, "eos_token_id": 1, "n_inner": 8}
    net = nas.Supernet(space("GPTBigCode", n_embd=pg.oneof([8, 16]), multi_query=shared, **options), example=TOKENS)
    name = "transformer.h.0.attn.c_attn.weight"
    first = [*range(4), *range(8, 12), *range(16, 20), *range(24, 28)]
    assert rows(net, name, net.space.smallest) == (first if shared else [*first, *range(32, 36), *range(40, 44)])
    assert net.proof is not None
    assert all(verdict.state != "mixed" for verdict in net.proof.verdicts)


def test_fewer_query_heads_of_llama_are_refused_until_they_are_declared():
    options = {"hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 1, "head_dim": 4}
    llama = space("Llama", num_attention_heads=pg.oneof([4, 8]), num_key_value_heads=4, **options)
    with pytest.raises(
        LayoutError, match=r"num_attention_heads=4 mix units.*self_attn.q_proj.weight.*self_attn.o_proj.weight"
    ):
        nas.Supernet(llama, example=TOKENS)
    layouts = {
        "*q_proj.weight": Layout("(kv group dim) i", kv=4, dim=4),
        "*o_proj.weight": Layout("o (kv group dim)", kv=4, dim=4),
    }
    net = nas.Supernet(llama, example=TOKENS, layouts=layouts)
    assert zeroed_apart(net, net.space.smallest, TOKENS) < 1e-5


def test_gated_perceptrons_of_separate_layers_need_nothing():
    options = {"hidden_size": 16, "intermediate_size": pg.oneof([4, 8]), "num_hidden_layers": 1, "head_dim": 4}
    llama = space("Llama", num_attention_heads=8, num_key_value_heads=4, **options)
    net = nas.Supernet(llama, example=TOKENS)
    assert net.proof is not None
    assert net.proof.proven
    assert zeroed_apart(net, net.space.smallest, TOKENS) < 1e-5

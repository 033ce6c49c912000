"""Configurations that say what a narrower module is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

import nas
from nas.deploy import export
from nas.errors import DeployError
from nas.supernet.configuring import fitting

TOKENS = {"input_ids": torch.arange(10).reshape(2, 5)}


def llama() -> Any:
    config = transformers.LlamaConfig(
        vocab_size=16, hidden_size=16, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=32, head_dim=4, pad_token_id=0,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def space() -> nas.ElasticSpace:
    return nas.elastic(llama(), TOKENS, share="block", check=False)


def subnet(space: nas.ElasticSpace, **kinds: Any) -> Any:
    """An extracted arch; of each kind of decision what is given, the rest at its largest."""
    largest = space.largest.choices
    choices = {name: kinds.get(name.rpartition(".")[2], value) for name, value in largest.items()}
    return nas.Supernet(space, example=TOKENS).extract(space.arch(choices))


def test_narrower_blocks_are_told_by_fields(space):
    assert {name.rpartition(".")[2] for name in space.names} >= {"heads", "hidden", "width"}
    module = subnet(space, heads=1, hidden=16, width=8)
    config = fitting(module)
    assert (config.num_key_value_heads, config.num_attention_heads) == (1, 2)
    assert (config.intermediate_size, config.hidden_size, config.head_dim) == (16, 8, 4)
    assert module.config.hidden_size == 16


def test_a_narrower_network_is_saved_and_read_by_its_class(space, tmp_path: Path):
    module = subnet(space, heads=1, width=8)
    done = export(module, tmp_path / "net", "pretrained", TOKENS)
    assert done.difference == 0
    assert transformers.LlamaForCausalLM.from_pretrained(tmp_path / "net").config.hidden_size == 8
    assert module.config.hidden_size == 16


def test_last_blocks_that_are_left_out_are_a_smaller_depth(space, tmp_path: Path):
    last = [name for name in space.names if name.endswith("[2].keep")]
    assert last
    arch = space.arch(
        {name: value for name, value in space.largest.choices.items() if name not in last} | {last[0]: False}
    )
    module = nas.Supernet(space, example=TOKENS).extract(arch)
    assert fitting(module).num_hidden_layers == 2
    assert export(module, tmp_path / "net", "pretrained", TOKENS).difference == 0


def test_blocks_of_other_sizes_have_no_configuration(tmp_path: Path):
    space = nas.elastic(llama(), TOKENS, depth=False, check=False)
    name = next(name for name in space.names if "[1]" in name and name.endswith(".hidden"))
    module = nas.Supernet(space, example=TOKENS).extract(space.arch(space.largest.choices | {name: 16}))
    assert fitting(module) is None
    with pytest.raises(
        DeployError, match="its configuration does not say what each block has; export it as safetensors"
    ):
        export(module, tmp_path / "net", "pretrained", TOKENS)
    assert not (tmp_path / "net").exists()


def test_a_model_without_a_configuration_has_none_and_one_that_fits_stays():
    assert fitting(nn.Linear(2, 2)) is None
    model = llama()
    assert fitting(model) is model.config

"""Similarity of blocks and branches, and leaving out the most similar."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from nas.errors import TrainError
from nas.train.dropping import Dropped, drop, importance, similarities
from searchspaces import vit


def transformer(depth: int = 4) -> nn.Module:
    torch.manual_seed(0)
    space = vit.space(widths=(16,), depths=(depth,), heads=(2,), ratios=(2,), head=8)
    return space.build(space.largest)


def batches() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(n, 1, 8, 8, generator=generator) for n in (5, 2)]


def quieten(block: nn.Module, factor: float) -> None:
    """Make what a block adds small."""
    with torch.no_grad():
        for layer in (block.attention.out, block.mlp[2]):
            layer.weight.mul_(factor)
            layer.bias.mul_(factor)


def test_similarities_are_those_computed_by_hand() -> None:
    model = transformer(2)
    found = similarities(
        model,
        batches(),
        blocks="blocks.*",
        branches=[("blocks.*.norm1", "blocks.*.attention"), ("blocks.*.norm2", "blocks.*.mlp")],
    )
    names = ["blocks.0", "blocks.1", "blocks.0.attention", "blocks.1.attention", "blocks.0.mlp", "blocks.1.mlp"]
    assert [each.name for each in found] == names
    by_hand: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    with torch.no_grad():
        for images in batches():
            h = model.patches(images).flatten(2).transpose(1, 2) + model.positions
            for index, block in enumerate(model.blocks):
                middle = h + block.attention(block.norm1(h))
                after = middle + block.mlp(block.norm2(middle))
                for name, (a, b) in {"": (h, after), ".attention": (h, middle), ".mlp": (middle, after)}.items():
                    by_hand[f"blocks.{index}{name}"].append(functional.cosine_similarity(a, b, dim=-1).flatten())
                h = after
    for each in found:
        assert each.cosine == pytest.approx(float(torch.cat(by_hand[each.name]).mean()), abs=1e-6)
        assert each.kind == ("block" if each.name.count(".") == 1 else "branch")


def test_blocks_that_do_nothing_are_dropped_first_and_nothing_changes() -> None:
    model = transformer()
    quieten(model.blocks[1], 0.0)
    quieten(model.blocks[3], 0.01)
    found = similarities(model, batches(), blocks="blocks.*")
    assert importance(found)[-2:] == [3, 1]
    assert found[1].cosine == pytest.approx(1.0)
    inputs = batches()[0]
    smaller = drop(model, found, 1)
    assert isinstance(smaller.blocks[1], Dropped)
    torch.testing.assert_close(smaller(inputs), model(inputs))
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in model.parameters())
    assert not torch.equal(drop(model, found, 2)(inputs), model(inputs))
    torch.testing.assert_close(drop(model, found, 0)(inputs), model(inputs))
    assert not any(isinstance(each, Dropped) for each in model.modules()), "the original is left alone"


def test_attention_and_perceptrons_are_ranked_together() -> None:
    model = transformer(3)
    with torch.no_grad():
        for layer in (model.blocks[2].attention.out, model.blocks[0].mlp[2]):
            layer.weight.zero_()
            layer.bias.zero_()
    branches = [("blocks.*.norm1", "blocks.*.attention"), ("blocks.*.norm2", "blocks.*.mlp")]
    smaller = drop(model, similarities(model, batches(), branches=branches), 2)
    assert isinstance(smaller.blocks[2].attention, Dropped)
    assert isinstance(smaller.blocks[0].mlp, Dropped)
    inputs = batches()[0]
    torch.testing.assert_close(smaller(inputs), model(inputs))


def test_decoder_of_hugging_face_whose_attention_gives_a_tuple() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=30, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2, use_cache=False
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.model.layers[1].self_attn.o_proj.weight.zero_()
    inputs = {"input_ids": torch.arange(12).reshape(2, 6)}
    found = similarities(model, [inputs], branches=[("model.layers.*.input_layernorm", "model.layers.*.self_attn")])
    assert [each.extras for each in found] == [1, 1, 1]
    smaller = drop(model, found, 1)
    assert isinstance(smaller.model.layers[1].self_attn, Dropped)
    with torch.no_grad():
        torch.testing.assert_close(smaller(**inputs).logits, model(**inputs).logits)
        found = similarities(model, [inputs], blocks="model.layers.*")
        assert drop(model, found, 2)(**inputs).logits.shape == (2, 6, 30)


def test_the_module_is_left_as_it_is() -> None:
    model = transformer(2).train()
    model.blocks[0].eval()
    similarities(model, batches(), blocks="blocks.*")
    assert model.training
    assert not model.blocks[0].training
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in model.modules())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"blocks": "block.*"}, "no module is called 'block.*'; did you mean 'blocks."),
        ({"branches": [("blocks.*.norm1", "norm")]}, "matches 2 modules and 'norm' 1; each branch needs its norm"),
        ({}, "nothing to compare: give blocks= or branches="),
        (
            {"blocks": "patches"},
            r"'patches' gives \(5, 16, 4, 4\) for \(5, 1, 8, 8\), so leaving it out is not possible",
        ),
    ],
)
def test_refusals(options, text) -> None:
    model = transformer(2)
    with pytest.raises(TrainError, match=text):
        similarities(model, batches(), **options)
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in model.modules())


def test_more_refusals() -> None:
    model = transformer(2)
    found = similarities(model, batches(), blocks="blocks.*")
    with pytest.raises(TrainError, match="3 modules cannot be dropped of the 2"):
        drop(model, found, 3)
    with pytest.raises(TrainError, match="'blocks.0' was not called"):
        similarities(model, [], blocks="blocks.*")
    with pytest.raises(TrainError, match="the module has no 'blocks.[01]'"):
        drop(nn.Linear(2, 2), found, 1)

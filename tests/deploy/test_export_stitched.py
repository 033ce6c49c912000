"""Exports of stitched paths, which take whatever their anchors take."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from nas.deploy import export
from nas.errors import DeployError
from searchspaces import stitch, vit
from tests.conformance.supernet import fill_distinct


def bert(width: int) -> BertForSequenceClassification:
    sizes = {"hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": width}
    return BertForSequenceClassification(BertConfig(vocab_size=20, max_position_embeddings=8, **sizes)).eval()


@pytest.mark.parametrize("route", ["1", "0:0>1:1"])
def test_a_recorded_path_of_any_batch(route, tmp_path) -> None:
    anchors = [vit.vit(width=width, depth=2, heads=[1] * 2, ratios=[1] * 2, head=8) for width in (8, 12)]
    net = stitch.supernet(stitch.space(anchors, example=torch.zeros(1, 1, 8, 8)))
    fill_distinct(net)
    module = net.extract(net.space.arch({"route": route}))
    export(module, tmp_path / "m.pt2", example=torch.zeros(1, 1, 8, 8))
    again = torch.export.load(tmp_path / "m.pt2").module()
    images = torch.randn(5, 1, 8, 8)
    torch.testing.assert_close(again(images), module(images), rtol=1e-4, atol=1e-4)


def test_an_anchor_taken_out_and_a_path_whose_forward_cannot_be_traced(tmp_path) -> None:
    example = {"input_ids": torch.arange(4).unsqueeze(0)}
    net = stitch.supernet(stitch.space([bert(8), bert(12)], blocks="bert.encoder.layer", example=example))
    whole, path = (net.extract(net.space.arch({"route": route})) for route in ("1", "0:0>1:1"))
    export(whole.anchors["1"], tmp_path / "m.pt2", example=example)  # the anchor itself
    again = torch.export.load(tmp_path / "m.pt2").module()
    tokens = {"input_ids": torch.arange(12).view(3, 4)}
    torch.testing.assert_close(again(**tokens)["logits"], whole(**tokens).logits, rtol=1e-4, atol=1e-4)
    with pytest.raises(DeployError, match="Guided cannot be exported as pt2"):
        export(path, tmp_path / "p.pt2", example=example)
    export(path, tmp_path / "p.safetensors", example=example)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["m.pt2", "p.safetensors"]

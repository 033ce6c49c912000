"""Supernets from pretrained models, theirs and ours."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

import nas
from nas.deploy import export
from nas.errors import DeployError, SpaceError
from nas.study.take_home import Winner
from nas.train.dropping import importance, similarities
from searchspaces import pretrained, vit
from searchspaces.pretrained import Units, bert_units, llama_units, timm_units
from tests.conformance.supernet import SupernetConformance, corner, fill_distinct


def bert(layers: int = 3) -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=24,
        max_position_embeddings=16,
        num_labels=3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = BertForSequenceClassification(config).eval()
    fill_distinct(model, dict(model.named_parameters()))
    return model


def tokens(samples: int = 3) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.arange(samples * 7).reshape(samples, 7) % 40}


def bert_supernet(**options):
    model = bert()
    given = {"choices": {"heads": (1, 2, 4), "neurons": (10, 24)}, "depths": (2, 3), "order": [0, 2, 1]} | options
    net = pretrained.supernet(
        model, example=tokens(1), blocks="bert.encoder.layer.*", units=bert_units(model.config), **given
    )
    return model, net


class TestBert(SupernetConformance):
    """Heads, neurons and blocks of a Hugging Face BERT."""

    def make(self):
        return bert_supernet()[1]

    def inputs(self, samples):
        return tokens(samples)

    def output(self, output):
        return output.logits


class TestLlama(SupernetConformance):
    """Grouped heads, gated perceptron, no biases; embeddings tied or not as the config says."""

    def make(self):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=40,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=24,
            max_position_embeddings=16,
            use_cache=False,
        )
        return pretrained.supernet(
            LlamaForCausalLM(config),
            example=tokens(1),
            blocks="model.layers.*",
            units=llama_units(config),
            choices={"heads": (1, 2), "neurons": (8, 24)},
            depths=(1, 2),
        )

    def inputs(self, samples):
        return tokens(samples)

    def output(self, output):
        return output.logits


def own() -> tuple[nn.Module, dict[str, object]]:
    """A class of one's own, with a fused `qkv`, as timm's models have it."""
    space = vit.space(widths=(16,), depths=(3,), heads=(4,), ratios=(2,), head=8)
    with torch.random.fork_rng():
        model = space.build(space.largest)
    fill_distinct(model)
    units = {
        "heads": Units(
            count=4,
            outputs={"attention.qkv": 8},
            inputs={"attention.out": 8},
            fused={"attention.qkv": 3},
            attributes={"attention.heads": 1},
        ),
        "neurons": Units(count=32, outputs={"mlp.0": 1}, inputs={"mlp.2": 1}),
    }
    build = nas.model(vit.ViT)(
        width=16, heads=[4] * 3, hidden=[32] * 3, head=8, side=8, patch=2, channels=1, classes=10
    )
    return model, {"units": units, "build": build, "example": torch.zeros(1, 1, 8, 8), "blocks": "blocks.*"}


class TestFusedHeads(SupernetConformance):
    """Heads inside a `qkv`."""

    def make(self):
        model, options = own()
        return pretrained.supernet(model, choices={"heads": (1, 2, 4), "neurons": (8, 32)}, depths=(2, 3), **options)

    def inputs(self, samples):
        return torch.randn(samples, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def expected(self, name, state, shape):
        if ".qkv." not in name:
            return corner(state[name], shape)
        return torch.cat([corner(each, (shape[0] // 3, *shape[1:])) for each in state[name].chunk(3)])


def vision_transformer() -> tuple[nn.Module, Any]:
    """timm's own class and the call that builds it; timm needs torchvision, which is no dependency of ours."""
    timm = pytest.importorskip("timm.models.vision_transformer", exc_type=ImportError)
    sizes = {
        "img_size": 8,
        "patch_size": 4,
        "in_chans": 1,
        "embed_dim": 16,
        "depth": 3,
        "num_heads": 4,
        "num_classes": 3,
    }
    torch.manual_seed(0)
    return timm.VisionTransformer(**sizes).eval(), nas.model(timm.VisionTransformer)(**sizes)


class TestTimm(SupernetConformance):
    """A class of timm, where it is installed."""

    def make(self):
        model, build = vision_transformer()
        return pretrained.supernet(
            model,
            build=build,
            example=torch.zeros(1, 1, 8, 8),
            blocks="blocks.*",
            units=timm_units(model),
            choices={"heads": (1, 2, 4), "neurons": (16, 64)},
            depths=(2, 3),
        )

    inputs = TestFusedHeads.inputs
    expected = TestFusedHeads.expected


def test_units_of_timm_are_read_from_modules_of_its_shape() -> None:
    """timm's names and fields, in a block of ours: what can be tested without timm."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.num_heads, self.head_dim, self.attn_dim = 4, 8, 32
            self.qkv, self.proj = nn.Linear(16, 96), nn.Linear(32, 16)

        def forward(self, x):
            qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
            y = nn.functional.scaled_dot_product_attention(*qkv)
            return self.proj(y.transpose(1, 2).reshape(*x.shape[:2], self.attn_dim))

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = Attention()
            self.mlp = nn.Sequential(OrderedDict(fc1=nn.Linear(16, 24), act=nn.GELU(), fc2=nn.Linear(24, 16)))

        def forward(self, x):
            x = x + self.attn(x)
            return x + self.mlp(x)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Sequential(Block(), Block())

        def forward(self, x):
            return self.blocks(x)

    model, x = Model().eval(), torch.randn(2, 5, 16)
    net = pretrained.supernet(
        model,
        build=nas.model(Model)(),
        example=x,
        blocks="blocks.*",
        units=timm_units(model),
        choices={"heads": (1, 4), "neurons": (8, 24)},
    )
    small = net.extract(net.space.smallest)
    assert (small.blocks[1].attn.num_heads, small.blocks[1].attn.attn_dim) == (1, 8)
    assert small.blocks[0].mlp.fc1.out_features == 8
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(x, net.space.largest), model(x))
        torch.testing.assert_close(small(x), net(x, net.space.smallest))
    del model.blocks[0].attn.attn_dim  # older versions have none
    assert set(timm_units(model)["heads"].attributes) == {"attn.num_heads"}


@torch.no_grad()
def test_the_largest_arch_computes_what_the_original_does() -> None:
    model, net = bert_supernet(ordered=False)
    largest = net.eval()(tokens(), net.space.largest).logits
    torch.testing.assert_close(largest, model(**tokens()).logits)
    assert type(net.extract(net.space.largest)) is BertForSequenceClassification
    model, net = bert_supernet()
    torch.testing.assert_close(net.eval()(tokens(), net.space.largest).logits, model(**tokens()).logits)
    assert net.space.size == 6**3 + 6**2


@torch.no_grad()
def test_units_stand_in_order_of_importance_and_change_no_output() -> None:
    for model, blocks, units, inputs in (
        (bert(), "bert.encoder.layer.*", bert_units(bert().config), tokens()),
        (own()[0], "blocks.*", own()[1]["units"], torch.randn(2, 1, 8, 8)),
    ):
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        model.eval()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        ordered = pretrained.in_order(model, blocks, units)
        ours, theirs = (
            each(**inputs).logits if isinstance(inputs, dict) else each(inputs) for each in (ordered, model)
        )
        torch.testing.assert_close(ours, theirs)
        block = ordered.get_submodule(blocks.replace("*", "1"))
        for unit in units.values():
            (path,) = unit.inputs
            scores = block.get_submodule(path).weight.abs().unflatten(1, (unit.count, -1)).sum((0, 2))
            assert torch.equal(scores, scores.sort(descending=True).values)
        moved = [name for name, tensor in ordered.state_dict().items() if not torch.equal(tensor, before[name])]
        assert moved
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@torch.no_grad()
def test_blocks_are_left_out_in_the_order_given() -> None:
    model = bert()
    for name, parameter in model.bert.encoder.layer[0].named_parameters():
        if "dense.weight" in name or name.endswith("dense.bias"):
            parameter.mul_(1e-3)
    found = similarities(model, [tokens()], blocks="bert.encoder.layer.*")
    order = importance(found)
    net = pretrained.supernet(model, example=tokens(1), blocks="bert.encoder.layer.*", depths=(1, 2, 3), order=order)
    small = net.extract(net.space.arch({"depth": 2}))
    kept = {int(name.split(".")[3]) for name, _ in small.named_parameters() if "encoder.layer" in name}
    assert kept == set(order[:2])
    model.bert.encoder.layer = nn.ModuleList(model.bert.encoder.layer[index] for index in sorted(kept))
    torch.testing.assert_close(small(**tokens()).logits, model(**tokens()).logits)


def test_fields_of_the_config_and_its_own_files(tmp_path) -> None:
    model = bert()
    net = pretrained.supernet(
        model, example=tokens(1), fields={"num_hidden_layers": (2, 3), "intermediate_size": (8, 24)}
    )
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(tokens(), net.space.largest).logits, model(**tokens()).logits)
    assert net.space.size == 4
    export(net.extract(net.space.smallest), tmp_path / "small", "pretrained", tokens(1))
    again = BertForSequenceClassification.from_pretrained(tmp_path / "small")
    assert (again.config.num_hidden_layers, again.config.intermediate_size, again.config.num_labels) == (2, 8, 3)


def test_blocks_of_their_own_sizes_are_no_configuration(tmp_path, capfd) -> None:
    _, net = bert_supernet()
    small = net.extract(net.space.smallest)
    capfd.readouterr()
    with pytest.raises(DeployError, match="BertForSequenceClassification saves this subnet and cannot read it back"):
        export(small, tmp_path / "small", "pretrained", tokens(1))
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", ""), "the sentence is all"
    export(small, tmp_path / "small.safetensors", example=tokens(1))


def test_a_winner_is_written_as_source_with_files_of_its_class_where_they_read_back(tmp_path) -> None:
    _, net = bert_supernet()
    for arch, readable in ((net.space.largest, True), (net.space.smallest, False)):
        winner = Winner("bert", 1, arch, net.extract(arch), {"accuracy": 0.5}, {}, tokens(1), None)
        folder = tmp_path / str(readable)
        winner.write(folder)  # which runs load.py and compares outputs
        assert (folder / "pretrained").exists() is readable
        assert "transformers.models.bert" in (folder / "network.json").read_text()
        sources = {file.name for file in folder.glob("source/*.py")}
        assert ("nas_train_dropping.py" in sources) is not readable, "what stands for a block that is left out"


class Sequences(nas.Classification):
    """Batches of token ids, given by keyword."""

    @property
    def example(self):
        return {"input_ids": super().example}

    def train_batches(self, epoch):
        for batch in super().train_batches(epoch):
            yield nas.train.Batch({"input_ids": batch.inputs}, batch.targets)

    def valid_batches(self):
        for batch in super().valid_batches():
            yield nas.train.Batch({"input_ids": batch.inputs}, batch.targets)


def test_it_is_fine_tuned_like_any_supernet() -> None:
    model, net = bert_supernet()
    ids = torch.randint(0, 40, (64, 7), generator=torch.Generator().manual_seed(0))
    task = Sequences((ids, ids[:, 0] % 3), (ids[:16], ids[:16, 0] % 3), batch=16)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    nas.Training(net, task, steps=3).run(progress=False)
    moved = [name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])]
    assert any("query" in name for name in moved)
    assert torch.equal(before["classifier.weight"], model.classifier.weight), "the original is left alone"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"choices": {"heads": (1, 8)}}, r"heads has choices \[1, 8\], and the original has 4"),
        (
            {"choices": {"heads": (1, 2)}},
            r"heads has choices \[1, 2\], and the original has 4; give numbers from 1 to 4",
        ),
        ({"choices": {"head": (1, 4)}}, "choices are given for 'head', and the units are heads, neurons; did you mean"),
        ({"depths": (1, 4)}, r"depths has choices \[1, 4\], and the original has 3"),
        ({"order": [0, 0, 1]}, r"order \[0, 0, 1\] does not name each of the 3 blocks once"),
        ({"fields": {"intermediate_size": (8, 24)}}, "two ways to say the same"),
    ],
)
def test_refusals(options, text) -> None:
    with pytest.raises(SpaceError, match=text):
        bert_supernet(**options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"blocks": "bert.encoder.layers.*", "depths": (1, 3)},
            r"has no blocks 'bert.encoder.layers.\*'; did you mean",
        ),
        ({"depths": (1, 3)}, "depths say nothing without blocks="),
        ({"fields": {"intermediat_size": (8, 24)}}, "BertConfig has no field 'intermediat_size'; did you mean 'interm"),
        (
            {"blocks": "bert.encoder.layer.*", "units": {"n": Units(count=24, outputs={"mlp": 1}, inputs={})}},
            "layer 'mlp' of block 'bert.encoder.layer.0' is not there; its linear layers are attention.self.query",
        ),
        (
            {
                "blocks": "bert.encoder.layer.*",
                "units": {"n": Units(count=9, outputs={"intermediate.dense": 1}, inputs={})},
            },
            "has out_features 24, and 9 units of 1 features make 9",
        ),
    ],
)
def test_more_refusals(options, text) -> None:
    with pytest.raises(SpaceError, match=text):
        pretrained.supernet(bert(), example=tokens(1), **options)
    with pytest.raises(SpaceError, match="has no Hugging Face config; give build="):
        pretrained.supernet(nn.Linear(2, 2), example=torch.zeros(1, 2))

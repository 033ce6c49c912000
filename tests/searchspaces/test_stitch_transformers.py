"""Stitching Hugging Face models, whose forwards cannot be recorded: they run as they are, entered and left at blocks."""

from __future__ import annotations

import functools
from typing import Any

import pyglove as pg
import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)

import nas
from nas.errors import SpaceError, SupernetError
from searchspaces import stitch
from searchspaces.stitching_guide import Guided
from searchspaces.stitching_plan import SNNetV2
from tests.conformance.supernet import SupernetConformance, fill_distinct


def bert(width: int, depth: int = 3) -> nn.Module:
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=40,
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=2,
            intermediate_size=2 * width,
            max_position_embeddings=16,
            num_labels=3,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    ).eval()


def gpt2(width: int, depth: int = 3) -> nn.Module:
    sizes = {"n_embd": width, "n_layer": depth, "n_head": 2, "n_positions": 16, "vocab_size": 40}
    still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(**sizes, **still)).eval()


def llama(width: int, depth: int = 3) -> nn.Module:
    sizes = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": 2, "num_key_value_heads": 1}
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=40, intermediate_size=2 * width, max_position_embeddings=16, **sizes)
    ).eval()


def vit(width: int, depth: int = 3) -> nn.Module:
    sizes = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": 2, "intermediate_size": 2 * width}
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return ViTForImageClassification(
        ViTConfig(image_size=8, patch_size=4, num_channels=1, num_labels=3, **sizes, **still)
    ).eval()


def tokens(samples: int = 2, length: int = 7) -> dict[str, torch.Tensor]:
    ids = torch.arange(samples * length).reshape(samples, length) * 7 % 40
    mask = torch.ones_like(ids)
    mask[-1, -2:] = 0  # the last text is padded
    return {"input_ids": ids, "attention_mask": mask}


def pixels(samples: int = 2) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.randn(samples, 1, 8, 8, generator=torch.Generator().manual_seed(0))}


KINDS = {
    "bert": (bert, "bert.encoder.layer", tokens),
    "gpt2": (gpt2, "transformer.h", tokens),
    "llama": (llama, "model.layers", tokens),
    "vit": (vit, "vit.layers", pixels),
}


@functools.cache
def trained(kind: str, width: int, depth: int = 3) -> nn.Module:
    """Stands for a pretrained model: its weights are its own."""
    module = KINDS[kind][0](width, depth)
    fill_distinct(module, dict(module.named_parameters()))
    return module


def stitched(kind: str, widths: tuple[int, ...] = (8, 12), **options: Any) -> nas.Supernet:
    _, blocks, inputs = KINDS[kind]
    anchors = [trained(kind, width) for width in widths]
    return stitch.supernet(stitch.space(anchors, blocks=blocks, example=inputs(1), **options)).eval()


class Transformers(SupernetConformance):
    kind: str

    def make(self):
        return stitched(self.kind)

    def inputs(self, samples):
        return KINDS[self.kind][2](samples)

    def output(self, output):
        return output.logits

    @pytest.fixture(scope="class")
    @classmethod
    def archs(cls, net):
        return [net.space.arch({"route": route}) for route in ("1", "0", "0:0>1:1", "0:1>1:2", "0:2>1:2")]

    @pytest.fixture
    def random_archs(self, net):
        return [net.space.arch({"route": route}) for route in ("0", "0:1>1:1")]


class TestBert(Transformers):
    kind = "bert"


class TestGPT2(Transformers):
    kind = "gpt2"


class TestViT(Transformers):
    kind = "vit"


@pytest.mark.slow
class TestElasticAnchors(Transformers):
    """Configurations with open arguments: heads' width and neurons elastic inside each anchor."""

    def make(self):
        anchors = [nas.model(bert_of)(width=width, neurons=pg.oneof([8, 12]), depth=3) for width in (8, 12)]
        return stitch.supernet(stitch.space(anchors, blocks="bert.encoder.layer", example=tokens(1)))

    def inputs(self, samples):
        return tokens(samples)

    @pytest.fixture(scope="class")
    @classmethod
    def archs(cls, net):
        genes = {"anchors[0].neurons": 8, "anchors[1].neurons": 12}
        return [net.space.largest, net.space.smallest, net.space.arch({"route": "0:1>1:2", **genes})]

    @pytest.fixture
    def random_archs(self, net, archs):
        return archs[1:]


def bert_of(*, width: int, neurons: int, depth: int) -> nn.Module:
    module = bert(width, depth)
    module.config.intermediate_size = neurons
    return BertForSequenceClassification(module.config)


@pytest.mark.parametrize("kind", KINDS)
def test_a_path_through_one_anchor_is_that_anchor_with_its_pretrained_weights(kind):
    net, inputs = stitched(kind), KINDS[kind][2](3)
    with torch.no_grad():
        for number, width in enumerate((8, 12)):
            anchor, arch = trained(kind, width), net.space.arch({"route": str(number)})
            expected = anchor(**inputs).logits
            torch.testing.assert_close(net(inputs, arch).logits, expected)
            torch.testing.assert_close(net.extract(arch)(**inputs).logits, expected)
            assert net.params(arch) == sum(parameter.numel() for parameter in anchor.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_stitched_path_is_the_end_fed_with_what_the_front_gives(kind):
    """Written without the code under test: hidden states of the front, the stitch, and the end with its inputs replaced."""
    _, blocks, make = KINDS[kind]
    net, inputs = stitched(kind), make(3)
    front, end = trained(kind, 8), trained(kind, 12)
    weight, bias = (net.get_parameter(f"stitches.0to1_1.{name}") for name in ("weight", "bias"))
    seen: list[torch.Tensor] = []
    hook = front.get_submodule(blocks)[1].register_forward_hook(lambda _, __, output: seen.append(output))
    with torch.no_grad():
        front(**inputs)
        hook.remove()
        value = seen[0] @ weight.T + bias
        hook = end.get_submodule(blocks)[2].register_forward_pre_hook(lambda _, given: (value, *given[1:]))
        expected = end(**inputs).logits
        hook.remove()
        module = net.extract(net.space.arch({"route": "0:1>1:2"}))
        assert isinstance(module, Guided)
        torch.testing.assert_close(module(**inputs).logits, expected)
        assert not torch.allclose(expected, end(**inputs).logits)
        shorter = {name: value[:1, :5] for name, value in inputs.items()} if kind != "vit" else make(1)
        assert module(**shorter).logits.shape[0] == 1  # nothing of the example's sizes is fixed


@pytest.mark.parametrize("kind", KINDS)
def test_what_no_leg_calls_is_not_in_the_path(kind):
    _, blocks, _ = KINDS[kind]
    net = stitched(kind)
    module = net.extract(net.space.arch({"route": "0:0>1:1"}))
    names = {name for name, _ in module.named_parameters()}
    heads = {"bert": ["classifier"], "gpt2": ["transformer.ln_f"], "llama": ["lm_head"], "vit": ["classifier"]}[kind]
    embeddings = {
        "bert": ["bert.embeddings"],
        "gpt2": ["transformer.wte", "transformer.wpe"],
        "llama": ["model.embed_tokens"],
        "vit": ["vit.embeddings"],
    }[kind]
    gone = [f"anchors.0.{head}." for head in heads] + [f"anchors.1.{path}." for path in embeddings]
    gone += [f"anchors.0.{blocks}.{block}." for block in (1, 2)] + [f"anchors.1.{blocks}.0."]
    assert not [name for name in names if name.startswith(tuple(gone))]
    assert not [name for name in module.state_dict() if name.startswith(tuple(gone))]
    assert any(name.startswith(f"anchors.1.{blocks}.2.") for name in names)
    macs = [net.macs(net.space.arch({"route": route})) for route in ("0", "0:0>1:1", "1")]
    assert macs == sorted(macs)
    assert len(set(macs)) == 3


def test_there_and_back_again_runs_both_anchors_once():
    """Legs of one anchor with a leg of the other between them, and the first one's embeddings are read once."""
    net = stitched("bert", plan=SNNetV2())
    arch = net.space.arch({"route": "0:0>1:1:1>0:2"})
    module, inputs = net.extract(arch), tokens(2)
    runs: list[str] = []
    for number in (0, 1):
        for place, block in enumerate(module.get_submodule(f"anchors.{number}.bert.encoder.layer")):
            block.register_forward_hook(lambda *_, at=f"{number}:{place}": runs.append(at))
    module.get_submodule("anchors.0.bert.embeddings").register_forward_hook(lambda *_: runs.append("embeddings"))
    with torch.no_grad():
        torch.testing.assert_close(module(**inputs).logits, net(inputs, arch).logits)
    assert [run for run in runs if run in ("embeddings", "0:0", "1:1", "0:2")] == ["embeddings", "0:0", "1:1", "0:2"]
    assert (
        sum(parameter.numel() for parameter in module.get_submodule("anchors.0.bert.encoder.layer.1").parameters()) == 0
    )


def test_least_squares_makes_a_stitch_into_itself_exact():
    net = stitched("gpt2", (8, 8), plan=SNNetV2())
    inputs = {"input_ids": torch.randint(40, (40, 12), generator=torch.Generator().manual_seed(0))}
    stitch.least_squares(net, inputs)
    with torch.no_grad():
        whole = net(tokens(), net.space.arch({"route": "0"})).logits
        there = net(tokens(), net.space.arch({"route": "0:1>1:2"})).logits
    torch.testing.assert_close(there, whole, rtol=1e-3, atol=1e-3)


class Deciding(nn.Module):
    """Looks at values in its forward, and may add an early block's output again behind the others."""

    def __init__(self, skip: bool = False, width: int = 4) -> None:
        super().__init__()
        self.skip = skip
        self.embed = nn.Linear(4, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        if x.abs().max() > 100:
            return x
        x = first = self.embed(x)
        for place, block in enumerate(self.blocks):
            x = block(x)
            first = x if place == 0 else first
        return self.head(x + first if self.skip else x)


class Tupled(Deciding):
    def __init__(self, block: Any):
        super().__init__()
        self.blocks = nn.ModuleList(block() for _ in range(3))

    def forward(self, x):
        if x.abs().max() > 100:
            return x
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)[0]
        return self.head(x)


class Two(nn.Linear):
    """Its output, and something else."""

    def __init__(self):
        super().__init__(4, 4)

    def forward(self, x):
        return super().forward(x), x.mean()


class Listed(nn.Linear):
    def __init__(self):
        super().__init__(4, 4)

    def forward(self, x):
        return [super().forward(x)]


class Biased(Tupled):
    """What its first block gives besides is used by the others, as T5's blocks use a bias of positions."""

    def forward(self, x):
        if x.abs().max() > 100:
            return x
        x, bias = self.blocks[0](self.embed(x))
        for block in self.blocks[1:]:
            x = block(x)[0] + bias
        return self.head(x)


def test_blocks_that_give_a_tuple():
    net = stitch.supernet(stitch.space([Tupled(Two), Tupled(Two)], example=torch.ones(1, 4), plan=SNNetV2())).eval()
    fill_distinct(net)
    stitch.least_squares(net, torch.randn(40, 4))
    module = net.extract(net.space.arch({"route": "1:0>0:1:1>1:2"}))
    one, two = (net.extract(net.space.arch({"route": str(n)})).anchors[str(n)] for n in (0, 1))
    up, down = (module.get_submodule(f"stitches.{name}") for name in ("0to1_1", "1to0_0"))
    x = torch.randn(5, 4)
    with torch.no_grad():
        value = one.blocks[1](down(two.blocks[0](two.embed(x))[0]))[0]
        torch.testing.assert_close(module(x), two.head(two.blocks[2](up(value))[0]))


class Backwards(Deciding):
    def forward(self, x):
        x = self.embed(x) if x.abs().max() < 100 else x
        for block in reversed(self.blocks):
            x = block(x)
        return self.head(x)


def test_forwards_that_look_at_values_are_stitched_with_recorded_ones():
    plain = nn.Sequential(nn.Linear(4, 6), nn.Sequential(*(nn.Linear(6, 6) for _ in range(3))), nn.Linear(6, 2))
    net = stitch.supernet(stitch.space([Deciding(), plain], blocks=["blocks", "1"], example=torch.ones(1, 4))).eval()
    fill_distinct(net)
    module = net.extract(net.space.arch({"route": "0:0>1:1"}))
    front, end = (net.extract(net.space.arch({"route": str(n)})).anchors[str(n)] for n in (0, 1))
    x = torch.randn(5, 4)
    with torch.no_grad():
        value = module.get_submodule("stitches.0to1_0")(front.blocks[0](front.embed(x)))
        expected = end[2](end[1][2](end[1][1](value)))
        torch.testing.assert_close(module(x), expected)


class Tied(Deciding):
    """Reads the weight of its embedding again, without calling it."""

    def forward(self, x):
        if x.abs().max() > 100:
            return x
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return x @ self.embed.weight


def test_an_embedding_whose_weight_is_read_again_stays_in_the_path():
    net = stitch.supernet(stitch.space([Deciding(width=6), Tied()], example=torch.ones(1, 4))).eval()
    fill_distinct(net)
    module = net.extract(net.space.arch({"route": "0:0>1:1"}))
    front, end = module.anchors["0"], net.extract(net.space.arch({"route": "1"})).anchors["1"]
    x = torch.randn(5, 4)
    with torch.no_grad():
        value = module.get_submodule("stitches.0to1_0")(front.blocks[0](front.embed(x)))
        torch.testing.assert_close(module(x), end.blocks[2](end.blocks[1](value)) @ end.embed.weight)


@pytest.mark.parametrize(
    ("anchors", "sentence"),
    [
        ([Deciding(), Deciding(skip=True)], r"anchor 1 uses what its block 'blocks.0' gives behind the stitch as well"),
        ([Tupled(Listed), Deciding()], r"block 'blocks.0' of anchor 0 gives a list"),
        ([Deciding(), Biased(Two)], r"anchor 1 uses what its block 'blocks.0' gives behind the stitch as well"),
        ([Deciding(), Backwards()], r"anchor 1 runs its blocks \['blocks.2', 'blocks.1', 'blocks.0'\]"),
    ],
)
def test_what_cannot_be_stitched_is_one_sentence(anchors, sentence):
    with pytest.raises(SpaceError, match=sentence):
        stitch.space(anchors, example=torch.ones(1, 4))


def test_a_path_of_a_transformer_that_is_not_there_names_those_that_are():
    with pytest.raises(
        SpaceError, match=r"no blocks at 'encoder.layer'; containers there: .*'bert.encoder.layer' \(3\)"
    ):
        stitch.space([trained("bert", 8), trained("bert", 12)], blocks="encoder.layer", example=tokens(1))
    with pytest.raises(SpaceError, match=r"may differ in their channels alone"):
        stitch.space(
            [trained("vit", 8), patched()], blocks="vit.layers", example=pixels(1)
        )  # other patches: another number of tokens
    with pytest.raises(SpaceError, match=r"anchor 0, a BertForSequenceClassification, does not run on the example"):
        stitch.space([trained("bert", 8), trained("bert", 12)], blocks="bert.encoder.layer", example=pixels(1))


def patched() -> nn.Module:
    sizes = {"hidden_size": 12, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
    return ViTForImageClassification(ViTConfig(image_size=8, patch_size=2, num_channels=1, num_labels=3, **sizes))


def test_keys_and_values_of_an_earlier_call_are_refused():
    net = stitched("gpt2")
    module = net.extract(net.space.arch({"route": "0:0>1:1"}))
    with torch.no_grad():
        first = module(**tokens(1), use_cache=True)
        with pytest.raises(SupernetError, match="keeps no keys and values between calls"):
            module(**tokens(1), past_key_values=first.past_key_values)

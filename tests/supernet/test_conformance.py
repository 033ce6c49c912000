"""Families that `nas` knows nothing about."""

from __future__ import annotations

import pyglove as pg
import torch
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

import nas
from nas.supernet import KernelTransform, Supernet
from tests.conformance.supernet import SupernetConformance, corner
from tests.supernet import families, tangle


def thirds(whole, shape, axis, parts=3):
    """The leading corner of each of the projections that are fused along `axis`."""
    inner = list(shape)
    inner[axis] //= parts
    return torch.cat([corner(each, tuple(inner)) for each in whole.chunk(parts, axis)], axis)


def random_tensor(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


class TestAttentionMLP(SupernetConformance):
    """Positional and keyword inputs, `in_proj_weight`, constants that depend on the arch."""

    exact = False  # attention has a fused fast path whose order of summation depends on strides

    def make(self):
        return Supernet(families.attention_mlp_space())

    def inputs(self, samples):
        return (random_tensor(samples, 5, 6), 0.5)

    def expected(self, name, state, shape):
        if "in_proj" in name:
            return thirds(state[name], shape, 0)
        return corner(state[name], shape)


class TestMixed(SupernetConformance):
    """Operations chosen whole, with choices of their own; gated, recurrent and tied layers; BatchNorm."""

    def make(self):
        return Supernet(families.mixed_space())

    def inputs(self, samples):
        return random_tensor(samples, 5)

    def expected(self, name, state, shape):
        if "gate_up_proj" in name:
            return thirds(state[name], shape, 0, parts=2)
        if ".cell." in name:  # the gates of a GRU
            return thirds(state[name], shape, 0)
        return corner(state[name], shape)


class TestSummed(SupernetConformance):
    """Parts one after the other in both dimensions, whose lengths other parameters have; gates and directions."""

    def make(self):
        return Supernet(families.summed_space(), layouts=self.layouts(None))

    def layouts(self, net):
        return families.summed_layouts()

    def inputs(self, samples):
        return random_tensor(samples, 5)

    def expected(self, name, state, shape):
        whole = state[name]
        if name.startswith("norm") and shape:
            left, right = self.halves(shape[0])
            return torch.cat([whole[:left], whole[6 : 6 + right]])
        if name.startswith("qkv"):
            keys = (shape[0] - 4) // 2
            whole = torch.cat([whole[:4], whole[4 : 4 + keys], whole[7 : 7 + keys]])
            if name == "qkv.bias":
                return whole
            left, right = self.halves(shape[1])
            return torch.cat([whole[:, :left], whole[:, 6 : 6 + right]], 1)
        if name == "last.weight":
            return thirds(whole, shape, 1, parts=2)
        return thirds(whole, shape, 0) if name.startswith("recurrent") else corner(whole, shape)

    def halves(self, length):
        """Widths of both sides: no two archs have the same sum."""
        return {11: (6, 5), 9: (6, 3), 7: (2, 5), 5: (2, 3)}[length]


class TestTangle(SupernetConformance):
    """An elastic model: sums, products and gates of atoms, statistics of joined branches, a table, a tied pair."""

    def make(self):
        return Supernet(tangle.tangle_space())

    def inputs(self, samples):
        return random_tensor(samples, 3, 5)

    def expected(self, name, state, shape):
        axes = tangle.AXES.get({"tied.weight": "head.weight"}.get(name, name), ())
        return tangle.cut(state[name], axes, {**tangle.WHOLE, **self.arch.choices})


class TestKernelTransform(SupernetConformance):
    """Learned matrices between kernel sizes."""

    def make(self):
        return Supernet(families.kernels_space(), layouts=self.layouts(None))

    def layouts(self, net):
        return {"*.weight": KernelTransform((7, 5, 3))}

    def inputs(self, samples):
        return random_tensor(samples, 2, 9, 9)

    def expected(self, name, state, shape):
        if name.endswith("bias"):
            return corner(state[name], shape)
        kernel = state[name][: shape[0], : shape[1]]
        for size, suffix in ((5, "7to5"), (3, "5to3")):
            if shape[2] <= size:
                flat = kernel[:, :, 1:-1, 1:-1].reshape(*shape[:2], size * size)
                kernel = torch.nn.functional.linear(flat, state[f"{name}_{suffix}"]).reshape(*shape[:2], size, size)
        return kernel


class TestBert(SupernetConformance):
    """Hugging Face BERT, from its config and its class as they are."""

    def make(self):
        config = nas.model(BertConfig)(
            vocab_size=50,
            hidden_size=pg.oneof([16, 24]),
            num_hidden_layers=pg.oneof([1, 2]),
            num_attention_heads=pg.oneof([2, 4]),
            intermediate_size=pg.oneof([20, 32]),
            max_position_embeddings=16,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        return Supernet(nas.Space(nas.model(BertForSequenceClassification)(config=config), name="bert"))

    def inputs(self, samples):
        return {"input_ids": torch.arange(samples * 7).reshape(samples, 7) % 50}

    def output(self, output):
        return output.logits


class TestGPT2(SupernetConformance):
    """Hugging Face GPT-2: tied embeddings, fused and transposed `c_attn`."""

    def make(self):
        config = nas.model(GPT2Config)(
            vocab_size=40,
            n_positions=16,
            n_embd=pg.oneof([16, 24]),
            n_layer=pg.oneof([1, 2]),
            n_head=pg.oneof([2, 4]),
            n_inner=pg.oneof([20, 48]),
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
        return Supernet(nas.Space(nas.model(GPT2LMHeadModel)(config=config), name="gpt2"))

    def inputs(self, samples):
        return {"input_ids": torch.arange(samples * 7).reshape(samples, 7) % 40, "use_cache": False}

    def output(self, output):
        return output.logits

    def expected(self, name, state, shape):
        if ".c_attn." in name:
            return thirds(state[name], shape, len(shape) - 1)
        return corner(state[name], shape)

    def test_embeddings_are_tied_and_counted_once(self, net):
        assert net.get_parameter("lm_head.weight") is net.get_parameter("transformer.wte.weight")
        module = net.extract(net.space.smallest)
        assert module.lm_head.weight is module.transformer.wte.weight

    def test_extracted_model_saves_and_loads_as_its_class_does(self, net, tmp_path):
        module = net.extract(net.space.smallest)
        module.save_pretrained(tmp_path)
        again = GPT2LMHeadModel.from_pretrained(tmp_path).eval()
        with torch.no_grad():
            torch.testing.assert_close(again(**self.inputs(2)).logits, module(**self.inputs(2)).logits)

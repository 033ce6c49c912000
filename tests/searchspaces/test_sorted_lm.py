"""The sorted language model family."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from nas.errors import SpaceError
from nas.train.trunk import Nested, outputs
from searchspaces import sorted_lm
from tests.conformance.supernet import SupernetConformance, fill_distinct


def small(**changes):
    open_ = {"widths": (16, 24), "depths": (1, 2, 3), "kvs": (1, 2), "ratios": (1, 2.5)}
    return sorted_lm.space(**{**open_, **changes}, group=2, head=4, vocabulary=31, context=12)


class TestSortedLM(SupernetConformance):
    def make(self):
        return sorted_lm.supernet(small())

    def inputs(self, samples):
        return torch.arange(samples * 9).reshape(samples, 9) * 7 % 31

    def expected_macs(self, arch):
        choices = arch.choices
        tokens, width, inner = 9, choices["width"], choices["kv"] * 2 * 4
        hidden = int(choices["ratio"] * width)
        each = tokens * width * (2 * inner + inner) + 2 * tokens * tokens * inner + 3 * tokens * width * hidden
        return choices["depth"] * each + tokens * width * 31

    def test_an_exit_of_the_trunk_is_the_shallower_model(self, net):
        archs = [net.space.arch({**net.space.largest.choices, "depth": depth}) for depth in (3, 2, 1)]
        assert isinstance(net.bind(archs[0]).module, Nested)
        net.eval()
        with torch.no_grad():
            for arch, output in outputs(net, archs, self.inputs(2)):
                torch.testing.assert_close(output, net.extract(arch)(self.inputs(2)))

    def test_grouped_queries_are_those_of_repeated_keys(self):
        torch.manual_seed(0)
        attention = sorted_lm.Attention(16, kv=2, group=2, head=4)
        x = torch.randn(1, 5, 16)
        still = torch.stack([torch.ones(5, 2), torch.zeros(5, 2)])  # no rotation
        out = attention(x, still, 0, None)
        queries = attention.q(x).view(1, 5, 4, 4)
        heads = []
        for query in range(4):  # query heads 0 and 1 read head 0, 2 and 3 read head 1
            keys, values = (part(x).view(1, 5, 2, 4)[:, :, query // 2] for part in (attention.k, attention.v))
            scores = queries[:, :, query] @ keys.transpose(1, 2) / 2
            seen = scores.masked_fill(~torch.ones(5, 5, dtype=torch.bool).tril(), -torch.inf).softmax(-1)
            heads.append(seen @ values)
        torch.testing.assert_close(out, functional.linear(torch.cat(heads, -1), attention.out.weight))

    def test_no_position_sees_what_comes_after_it(self, net):
        module = net.extract(net.space.largest)
        tokens = self.inputs(1)
        changed = tokens.clone()
        changed[0, 6] = (changed[0, 6] + 1) % 31
        with torch.no_grad():
            before, after = module(tokens), module(changed)
        torch.testing.assert_close(before[:, :6], after[:, :6])
        assert not torch.allclose(before[:, 6:], after[:, 6:])

    def test_rotation_depends_on_the_distance_alone(self):
        model = sorted_lm.sorted_lm(width=8, depth=1, kv=1, ratio=1, group=1, head=8, vocabulary=5, context=20)()
        torch.manual_seed(0)
        q, k = torch.randn(2, 1, 1, 1, 8)
        products = [
            (
                sorted_lm.rotate(q, model.rotary[:, p : p + 1]) * sorted_lm.rotate(k, model.rotary[:, p + 3 : p + 4])
            ).sum()
            for p in (0, 5, 16)
        ]
        torch.testing.assert_close(products[0], products[1])
        torch.testing.assert_close(products[0], products[2])

    def test_a_setting_with_one_choice_is_fixed(self):
        space = small(widths=(16,), kvs=(1,), ratios=(2,))
        assert tuple(space.names) == ("depth",)
        fill_distinct(sorted_lm.supernet(space))


def llama(**changes):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 40, "num_attention_heads": 4, "num_key_value_heads": 2}
    more = {"num_hidden_layers": 3, "vocab_size": 31, "max_position_embeddings": 12, "tie_word_embeddings": True}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**sizes, **more, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms too
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


class TestPretrained:
    def test_its_largest_arch_is_the_model(self):
        model = llama()
        net, tokens = sorted_lm.pretrained(model), torch.arange(24).reshape(2, 12) * 7 % 31
        assert net.trained
        with torch.no_grad():
            torch.testing.assert_close(net.extract(net.space.largest)(tokens), model(tokens).logits)

    def test_an_exit_is_the_model_without_its_last_layers(self):
        model = llama()
        net, tokens = sorted_lm.pretrained(model, depths=(1, 3)), torch.arange(12)[None]
        model.model.layers = model.model.layers[:1]
        with torch.no_grad():
            torch.testing.assert_close(net.extract(net.space.smallest)(tokens), model(tokens).logits)

    @pytest.mark.parametrize("change", [{"tie_word_embeddings": False}, {"hidden_act": "gelu"}])
    def test_a_model_that_computes_something_else_is_refused(self, change):
        with pytest.raises(SpaceError, match="logits differ by .* tied to the embedding"):
            sorted_lm.pretrained(llama(**change))

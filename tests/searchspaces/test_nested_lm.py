"""A sorted language model with Matryoshka embeddings: two families in one space."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

import nas
from nas.decode import greedy, speculative
from nas.errors import SpaceError, TrainError
from nas.retrieval import Index
from nas.train import (
    AllGranularities,
    Bucketed,
    ExitMean,
    FixedList,
    Granular,
    InPlace,
    Labels,
    LanguageModelling,
    Sandwich,
    SortedExits,
    Training,
    TwoDimensional,
    Uniform,
)
from nas.train.text import BytePairs
from nas.train.trunk import Nested, groups, outputs
from searchspaces import nested_lm
from tests.conformance.supernet import SupernetConformance, fill_distinct


def small(**changes):
    open_ = {"widths": (16, 24), "depths": (1, 2, 3), "parts": (0.25, 0.5, 1.0), "kvs": (1, 2), "ratios": (1, 2.5)}
    return nested_lm.space(**{**open_, **changes}, group=2, head=4, vocabulary=31, context=12)


def tokens(samples, length=9):
    return torch.arange(samples * length).reshape(samples, length) * 7 % 31


def task():
    text = torch.tensor(list(b"the quick brown fox jumps over the lazy dog. " * 12)) % 29
    return LanguageModelling(text, text, None, BytePairs(()), context=12, batch=4)


class TestNestedLM(SupernetConformance):
    def make(self):
        return nested_lm.supernet(small())

    def inputs(self, samples):
        return tokens(samples)

    def expected_macs(self, arch):
        choices = arch.choices
        length, width, inner = 9, choices["width"], choices["kv"] * 2 * 4
        hidden = int(choices["ratio"] * width)
        each = length * width * (2 * inner + inner) + 2 * length * length * inner + 3 * length * width * hidden
        return choices["depth"] * each + length * int(choices["part"] * width) * 31

    def test_exits_and_prefixes_of_one_trunk_are_the_extracted_models(self, net):
        largest = net.space.largest.choices
        archs = [
            net.space.arch({**largest, "depth": depth, "part": part})
            for depth in (3, 1, 2)
            for part in (1.0, 0.25, 0.5)
        ]
        module = net.bind(archs[0]).module
        assert isinstance(module, Nested)
        assert groups(net, archs) == [archs]
        net.eval()
        with torch.no_grad():
            for arch, output in outputs(net, archs, tokens(2)):
                torch.testing.assert_close(output, net.extract(arch)(tokens(2)))

    def test_widths_have_trunks_of_their_own(self, net):
        largest = net.space.largest.choices
        archs = [net.space.arch({**largest, "width": width, "part": part}) for width in (24, 16) for part in (1.0, 0.5)]
        assert [len(group) for group in groups(net, archs)] == [2, 2]

    def test_a_prefix_reads_the_first_columns_of_the_embedding(self, net):
        arch = net.space.arch({**net.space.largest.choices, "part": 0.25})
        module = net.extract(arch)
        with torch.no_grad():
            features = module.norm(module.trunk(tokens(2))[-1])[..., :6]
            torch.testing.assert_close(module(tokens(2)), functional.linear(features, module.embedding.weight[:, :6]))


def test_representations_of_prefixes_are_prefixes_and_find_texts_again():
    net = nested_lm.supernet(small())
    fill_distinct(net)
    largest = net.space.largest.choices
    texts = torch.randint(31, (30, 10), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole, quarter = (
            net.extract(net.space.arch({**largest, "part": part})).represent(texts).numpy() for part in (1.0, 0.25)
        )
    assert quarter.shape == (30, 6)
    np.testing.assert_array_equal(whole[:, :6], quarter)
    found = Index(whole).search(whole, dim=24, shortlists=[(6, 5)])
    assert (found.items[:, 0] == np.arange(30)).all()


def test_an_exit_drafts_for_the_full_depth_with_any_prefix():
    net = nested_lm.supernet(small())
    fill_distinct(net)
    for part in (1.0, 0.5):
        model = net.extract(net.space.arch({**net.space.largest.choices, "part": part}))
        plain, fast = greedy(model, tokens(1, 4), 8), speculative(model, tokens(1, 4), 8, exit_=1, draft=3)
        assert torch.equal(plain.tokens, fast.tokens)


@pytest.mark.parametrize(
    ("sampler", "loss"),
    [
        (Sandwich(2), InPlace(labels=0.5)),
        (Uniform(2), Labels()),
        (SortedExits(elastic=True), ExitMean(distill=0.5)),
        (
            AllGranularities(("depth", "part"), elastic=True),
            Granular(axis="part", weights={0.25: 0.5, 0.5: 1.0, 1.0: 1.0}),
        ),
        (TwoDimensional(dim="part"), Granular(kl=1.0)),
        (
            FixedList([{"depth": 1, "part": 0.25}, {"depth": 2, "part": 0.5}, {"depth": 3}]),
            Granular(axis="part", weights={0.25: 0.5, 0.5: 1.0, 1.0: 1.0}),
        ),
        (lambda net: Bucketed(net.macs, 1000.0), Labels()),
    ],
    ids=["sandwich", "uniform", "exits", "granularities", "2d", "starbucks", "buckets"],
)
def test_any_sampler_that_there_is_trains_it(sampler, loss):
    net = nested_lm.supernet(small(kvs=(2,), ratios=(2,)), seed=1)
    chosen = sampler(net) if callable(sampler) else sampler
    before = task().evaluate(lambda x: net(x, net.space.largest))["loss"]
    Training(net, task(), sampler=chosen, loss=loss, steps=60, lr=1e-2, validate_every=60).run(progress=False)
    after = task().evaluate(lambda x: net(x, net.space.largest))["loss"]
    assert after < before - 0.3


def test_one_search_finds_exits_widths_and_prefixes():
    net = nested_lm.supernet(small())
    algorithm = nas.NSGA2(population=8, seed=0)
    algorithm.bind(net.space, [nas.Metric("params", "min"), nas.Metric("macs", "max")])
    seen = []
    for _ in range(3):
        archs = algorithm.ask(8)
        values = [(float(net.params(arch)), -float(net.macs(arch))) for arch in archs]
        pairs = enumerate(zip(archs, values, strict=True), len(seen))
        algorithm.tell([nas.search.Finished(number, *pair) for number, pair in pairs])
        seen += archs
    for name in ("width", "depth", "part"):
        assert len({arch.choices[name] for arch in seen}) > 1


def test_size_counts_every_combination():
    assert small().size == 2 * 3 * 3 * 2 * 2
    assert tuple(small(widths=(16,), kvs=(2,), ratios=(2,)).names) == ("depth", "part")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"parts": (0.5, 1.5)}, r"part=1.5 does not fit an embedding of 16 features"),
        ({"parts": (0.3,)}, r"part=0.3 of an embedding of 16 is 4.8 features"),
        ({"parts": ()}, r"parts=\[\] leaves nothing to choose"),
        ({"depths": (0, 2)}, r"depths=\[0, 2\] leaves nothing to choose, or a choice below 1"),
    ],
)
def test_granularities_that_the_model_does_not_have_are_refused(changes, sentence):
    with pytest.raises(SpaceError, match=sentence):
        small(**changes)
    with pytest.raises(TrainError, match=r"exit 9 is deeper than the model"):
        SortedExits(exits=(9,)).archs(small(), 0, None)

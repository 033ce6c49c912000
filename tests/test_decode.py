"""Generation: caches, exits and drafts change the cost of a text, never the text."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import nas.decode
from nas.decode import Cache, early_exit, greedy, speculative
from nas.errors import DecodeError
from searchspaces.sorted_lm import SortedLM

torch.set_num_threads(1)


def model(seed=0, depth=4, spread=0.3, twins=False, dtype=torch.float32, context=64, kind=SortedLM):
    """A random model whose exits disagree; with `twins` the tokens come in pairs of equal logits."""
    torch.manual_seed(seed)
    made = kind(width=16, depth=depth, kv=2, group=2, head=4, hidden=24, vocabulary=20, context=context)
    with torch.no_grad():
        made.embedding.weight.normal_(std=spread)
        if twins:
            made.embedding.weight[10:] = made.embedding.weight[:10]
    return made.to(dtype).eval()


def plain(net, prompt, new):
    """Greedy choices without a cache: the whole text goes through the model for each token."""
    tokens = prompt
    with torch.no_grad():
        for _ in range(new):
            tokens = torch.cat([tokens, net(tokens)[:, -1:].argmax(-1)], 1)
    return tokens[:, prompt.shape[1] :]


def prompt(seed=0, length=5, n=1):
    return torch.randint(20, (n, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(4))
def test_greedy_with_a_cache_is_greedy_without(seed):
    net = model(seed, dtype=torch.float64)
    start = prompt(seed, n=3)
    assert torch.equal(greedy(net, start, 20).tokens, plain(net, start, 20))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    depth=st.integers(2, 5),
    data=st.data(),
    draft=st.integers(1, 6),
    new=st.integers(1, 30),
    length=st.integers(1, 8),
    twins=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    spread=st.sampled_from([0.01, 0.3, 2.0]),
)
def test_speculative_tokens_are_those_of_the_full_model(seed, depth, data, draft, new, length, twins, dtype, spread):
    net = model(seed, depth, spread, twins, dtype)
    exit_ = data.draw(st.integers(1, depth - 1))
    start = prompt(seed, length)
    expected = greedy(net, start, new)
    found = speculative(net, start, new, exit_=exit_, draft=draft)
    assert torch.equal(found.tokens, expected.tokens)
    assert 0 <= found.accepted <= found.drafted
    assert new == 1 + found.passes + found.accepted


def test_a_good_draft_saves_passes_and_a_near_tie_asks_the_reference():
    net = model(1, depth=3)
    with torch.no_grad():
        for block in net.blocks[1:]:  # the layers after the first change nothing, so its exit is always right
            block.attention.out.weight.zero_()
            block.down.weight.zero_()
    found = speculative(net, prompt(), 26, exit_=1, draft=4)
    assert found.accepted == found.drafted == 20
    assert found.passes == 5
    assert found.replayed == 0
    tied = speculative(model(1, depth=3, twins=True), prompt(), 26, exit_=1, draft=4)
    assert tied.replayed > 0


class Rough(SortedLM):
    """Several positions at once are summed in another order than one: here the difference is plain to see."""

    def head(self, x):
        scores = super().head(x)
        return scores if x.shape[1] == 1 else scores + torch.linspace(0, 1e-4, scores.shape[-1])


def test_rounding_does_not_change_the_tokens(monkeypatch):
    nets = [model(seed, depth=3, twins=True, kind=Rough) for seed in range(10)]
    expected = [greedy(net, prompt(), 20).tokens for net in nets]
    found = [speculative(net, prompt(), 20, exit_=1).tokens for net in nets]
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    monkeypatch.setattr(nas.decode, "TOLERANCE", {torch.float32: 0.0})  # without the reference they would
    found = [speculative(net, prompt(), 20, exit_=1).tokens for net in nets]
    assert not any(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.parametrize("confidence", [0.3, 0.5])
def test_early_exit_is_what_the_exits_say_of_the_text(confidence):
    """Each token again, from the plain models of each depth on the whole text so far: no cache, nothing deferred."""
    net = model(3, depth=4, dtype=torch.float64)
    start = prompt(3)
    result = early_exit(net, start, 25, exits=(1, 2), confidence=confidence)
    text, exits = start, []
    with torch.no_grad():
        for _ in range(25):
            features = net.trunk(text)
            for depth in (1, 2, 4):
                scores = net.head(features[depth - 1])[:, -1:]
                if depth == 4 or scores.softmax(-1).max() >= confidence:
                    break
            exits.append(depth)
            text = torch.cat([text, scores.argmax(-1)], 1)
    assert len(set(exits)) > 1
    assert result.exits == exits
    assert torch.equal(result.tokens, text[:, 5:])


def test_early_exit_that_is_never_sure_is_greedy():
    net = model(dtype=torch.float64)
    result = early_exit(net, prompt(), 15, exits=(1, 3), confidence=1.0)
    assert torch.equal(result.tokens, greedy(net, prompt(), 15).tokens)
    assert set(result.exits) == {4}


def test_no_layer_sees_a_token_twice(monkeypatch):
    net = model(depth=4)
    seen = [0] * 4
    run = net.run

    def counted(x, start, stop, cache=None):
        for layer in range(start, stop):
            seen[layer] += x.shape[1]
        return run(x, start, stop, cache)

    monkeypatch.setattr(net, "run", counted)
    result = speculative(net, prompt(), 20, exit_=2, draft=3)
    assert result.replayed == 0
    pushed = 5 + result.passes + result.drafted
    assert seen == [pushed] * 4


def test_the_cache_forgets():
    cache = Cache(2, 8)
    one = torch.arange(6.0).reshape(1, 1, 3, 2)
    cache.extend(0, one, one)
    cache.truncate(1)
    keys, _ = cache.extend(0, one[:, :, :1] + 50, one[:, :, :1])
    assert keys[0, 0].tolist() == [[0, 1], [50, 51]]
    assert cache.lengths == [2, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net: speculative(net, prompt(), 5, exit_=9), "exit 9 is no depth of a model of 4 layers"),
        (lambda net: speculative(net, prompt(), 5, exit_=4), "cannot draft for itself"),
        (lambda net: speculative(net, prompt(), 5, exit_=1, draft=0), "draft=0"),
        (lambda net: speculative(net, prompt(n=2), 5, exit_=1), "one at a time"),
        (lambda net: early_exit(net, prompt(), 5, exits=(0,), confidence=0.5), "exit 0 is no depth"),
        (lambda net: early_exit(net, prompt(), 5, exits=(1,), confidence=1.5), "confidence=1.5"),
        (lambda net: greedy(net, prompt(), 60), "context of 64"),
        (lambda net: greedy(net, prompt(length=0), 6), "a token or more"),
        (lambda net: greedy(net, prompt(), 0), "new=0"),
    ],
)
def test_bad_input_gets_one_sentence(call, message):
    with pytest.raises(DecodeError, match=message):
        call(model())

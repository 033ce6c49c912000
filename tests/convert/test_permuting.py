"""Renumbering proves a right plan, refuses wrong ones, and says what it does not show."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas.convert.permuting import guilty, permute
from nas.convert.plan import AtomPlan, Plan
from nas.errors import SupernetError
from tests.convert.nets import NETS, attention, conv, plan_of


@pytest.mark.parametrize("name", NETS)
def test_a_right_plan_is_proved(name: str) -> None:
    module, plan, example = NETS[name]()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    found = permute(module, plan, example)
    assert found.frozen == {}
    assert found.worst < 1e-12
    assert found.dtype == torch.float64
    assert set(found.unshown) == {"nothing"} & set(plan.atoms)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert module.training


def test_what_no_output_depends_on_is_not_claimed() -> None:
    module, plan, example = attention()
    found = permute(module, plan, example)
    assert "no output depends" in found.unshown["nothing"]
    assert not found.proven
    assert found.silent == ()  # the bias of keys is in one tensor with that of values, which shows


class Keys(nn.Module):
    """Attention with a projection of its own for keys, whose bias softmax cancels."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(4, 6) for _ in range(3))
        self.out = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out((self.q(x) @ self.k(x).mT).softmax(-1) @ self.v(x))


def test_places_that_show_nothing_are_named_where_others_show_the_atom() -> None:
    tensors = {
        f"{name}.{leaf}": (("qk",), (4,))[: 2 if leaf == "weight" else 1]
        for name in "qk"
        for leaf in ("weight", "bias")
    }
    tensors |= {"v.weight": (("v",), (4,)), "v.bias": (("v",),), "out.weight": ((2,), ("v",))}
    found = permute(Keys(), plan_of({"qk": 6, "v": 6}, tensors), torch.randn(1, 5, 4))
    assert found.proven
    assert found.silent == (("k.bias", 0, "qk"),)


def test_atoms_that_are_wrong_are_found_and_only_they() -> None:
    module, plan, example = conv()
    wrong = {**plan.tensors, "back.weight": (("c",), ("h2",), (3,), (3,))}
    found = permute(module, replace(plan, tensors=wrong, atoms={**plan.atoms, "h2": AtomPlan(6)}), example)
    assert set(found.frozen) == {"h", "h2"}
    assert "axis 0 of 'inner.weight'" in found.frozen["h"]
    assert "changes the output" in found.frozen["h"]
    assert found.worst < 1e-12


def test_heads_as_plain_channels_are_refused() -> None:
    module, plan, example = attention()
    tensors = dict(plan.tensors)
    tensors |= {
        "qkv.weight": ((3, "flat"), ("width",)),
        "qkv.bias": ((3, "flat"),),
        "out.weight": (("width",), ("flat",)),
    }
    found = permute(module, plan_of({"width": 12, "flat": 12, "nothing": 7}, tensors), example)
    assert set(found.frozen) == {"flat"}


class Single(nn.Module):
    """Computes a norm in single precision whatever it is given, as transformers' do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 300), nn.Linear(300, 2)

    def forward(self, x: Tensor) -> Tensor:
        found = self.first(x)
        norm = (found.float() / found.float().pow(2).mean(-1, keepdim=True).sqrt()).to(found.dtype)
        return self.second(norm)


def test_single_precision_inside_is_allowed_for() -> None:
    plan = plan_of(
        {"w": 300}, {"first.weight": (("w",), (4,)), "first.bias": (("w",),), "second.weight": ((2,), ("w",))}
    )
    found = permute(Single(), plan, torch.randn(3, 4))
    assert found.proven
    assert found.dtype == torch.float32
    assert found.worst < 1e-5


class Drawing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls = nn.Linear(3, 3), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.layer(x) + self.calls


def test_a_model_that_remembers_is_refused() -> None:
    with pytest.raises(SupernetError, match="gives other outputs when it is called again"):
        permute(Drawing(), Plan(), torch.randn(2, 3))


class Counting(nn.Module):
    """Draws in forward, and changes a buffer of its own."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out = nn.Linear(3, 5), nn.Linear(5, 3)
        self.register_buffer("seen", torch.zeros(5))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        return self.out(self.layer(x + torch.rand_like(x)) + self.seen)


def test_random_numbers_and_buffers_are_the_same_each_time() -> None:
    tensors = {"layer.weight": (("w",), (3,)), "layer.bias": (("w",),), "out.weight": ((3,), ("w",)), "seen": (("w",),)}
    module = Counting()
    assert permute(module, plan_of({"w": 5}, tensors), torch.randn(2, 3)).proven
    assert not module.seen.any()


class Cached(nn.Module):
    """Keeps a table that it computed from its weights, until the mode changes."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Linear(3, 4), nn.Linear(4, 2)
        self.cache: dict[str, Any] = {}

    def train(self, mode: bool = True) -> Cached:
        super().train(mode)
        self.cache = {} if mode else self.cache
        return self

    def forward(self, x: Tensor) -> Tensor:
        if "weight" not in self.cache:
            self.cache["weight"] = self.table.weight * 2
        return self.out(x @ self.cache["weight"].T)


def test_tables_computed_from_weights_are_forgotten() -> None:
    module = Cached().eval()
    module(torch.randn(1, 3))
    plan = plan_of({"w": 4}, {"table.weight": (("w",), (3,)), "out.weight": ((2,), ("w",))})
    assert permute(module, plan, torch.randn(2, 3)).proven
    assert permute(
        module, replace(plan, tensors={"table.weight": plan.tensors["table.weight"]}), torch.randn(2, 3)
    ).frozen


def test_a_module_without_values_gets_some() -> None:
    module, plan, example = conv()
    assert permute(module.to("meta"), plan, example).proven


def test_a_plan_of_another_module_is_refused() -> None:
    _, plan, _example = attention()
    with pytest.raises(SupernetError, match="the plan has a tensor 'embed.weight'"):
        permute(conv()[0], plan, torch.zeros(1, 3, 6, 6))


@pytest.mark.parametrize("bad", [set(), {"c"}, {"a", "h"}, {"a", "b", "g"}, set("abcdefgh")])
def test_halving_finds_what_breaks(bad: set[str]) -> None:
    assert set(guilty("abcdefgh", lambda some: float(bool(bad & set(some))))) == bad


def test_halving_leaves_a_set_that_works_where_two_break_together_only() -> None:
    assert set(guilty("abcd", lambda some: float({"a", "d"} <= set(some)))) == {"d"}


def test_two_atoms_of_two_units_are_told_apart() -> None:
    """Two units can only be swapped: renumbered in one draw alone, a wrong coupling of them would never show."""
    module = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 3))
    tensors = {"0.weight": (("a",), (3,)), "0.bias": (("a",),), "2.weight": ((3,), ("a",))}
    assert permute(module, plan_of({"a": 2}, tensors), torch.randn(4, 3)).proven
    tensors["2.weight"] = ((3,), ("b",))
    assert set(permute(module, plan_of({"a": 2, "b": 2}, tensors), torch.randn(4, 3)).frozen) == {"a", "b"}

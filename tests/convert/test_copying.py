"""Copies of modules, faster than `copy.deepcopy` makes them and the same."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from nas.convert.copying import deep_copied
from nas.supernet import attributes
from tests.convert import planned


class Odd(nn.Module):
    """Attributes of every kind, some of them one object."""

    def __init__(self) -> None:
        super().__init__()
        self.table: dict[str, Any] = {"a": [1, {"b": 2}], "layer": None}
        self.same_table, self.empty = self.table, {}
        self.same_empty = self.empty
        self.layer = nn.Linear(2, 2)
        self.table["layer"] = self.layer
        self.in_a_list = [self.layer, self.layer.weight]
        self.bound = self.layer.forward
        self.numbers = (1, (2, torch.arange(3)))
        self.register_buffer("shift", torch.ones(2), persistent=False)
        self.layer.register_forward_hook(self._shift)

    def _shift(self, _module: nn.Module, _args: Any, given: torch.Tensor) -> torch.Tensor:
        return given + self.shift

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)  # type: ignore[no-any-return]


class Own(nn.Linear):
    """Copies itself."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Own:
        made = Own(self.in_features, self.out_features)
        made.load_state_dict(self.state_dict())
        made.copied = True
        return made


MODULES: dict[str, Any] = {
    "odd": (Odd, torch.randn(1, 2)),
    "own": (lambda: nn.Sequential(Own(2, 2), nn.Linear(2, 2)), torch.randn(1, 2)),
    "recurrent": (lambda: nn.Sequential(nn.LSTM(2, 3)), torch.randn(1, 1, 2)),
    "parametrized": (lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(2, 2))), torch.randn(1, 2)),
    "encoder": (lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 4), 2), torch.randn(3, 1, 4)),
    "cnn": (planned.Cnn, torch.randn(1, 1, 5, 5)),
}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
def test_a_copy_is_what_deepcopy_gives(name):
    make, inputs = MODULES[name]
    module = make().eval()
    ours, theirs = deep_copied(module, {}), copy.deepcopy(module)
    assert list(vars(ours)) == list(vars(theirs))
    assert [type(each) for each in ours.modules()] == [type(each) for each in theirs.modules()]
    left, right = attributes.leaves(ours), attributes.leaves(theirs)
    assert left.keys() == right.keys()
    assert all(attributes.same(value, right[path]) for path, value in left.items())
    first, second = (each(inputs) for each in (ours, theirs))
    assert torch.equal(*(each[0] if isinstance(each, tuple) else each for each in (first, second)))
    own = {id(tensor) for tensor in (*module.parameters(), *module.buffers())}
    assert not own & {id(tensor) for tensor in (*ours.parameters(), *ours.buffers())}


def test_what_was_one_object_stays_one_and_is_another_than_the_originals():
    module = Odd()
    made: Any = deep_copied(module, {})
    assert made.table is made.same_table is not module.table
    assert made.empty is made.same_empty is not module.empty
    assert made.table["layer"] is made.in_a_list[0] is made.bound.__self__ is made.layer
    assert made.in_a_list[1] is made.layer.weight
    made.layer.register_forward_pre_hook(lambda *_: None)
    assert not module.layer._forward_pre_hooks


def test_what_the_memo_names_is_not_copied():
    module = planned.Cnn()
    memo: dict[int, Any] = {id(module.blocks[0]): nn.Identity(), id(module.stem.weight): module.stem.weight}
    made: Any = deep_copied(module, memo)
    assert isinstance(made.blocks[0], nn.Identity)
    assert made.stem.weight is module.stem.weight

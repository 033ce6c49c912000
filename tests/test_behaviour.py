from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nas
from nas.identity import behaviour, changes, code_changes, identity, same
from nas.train.losses import digest


class Scaled(nn.Module):
    def __init__(self, scale: Any = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Around(nn.Module):
    """Holds what it computes with where no `state_dict` sees it."""

    def __init__(
        self, fixed: float = 1.0, plain: float = 1.0, act: Any = torch.relu, inner: nn.Module | None = None
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3, 3)
        self.register_buffer("fixed", torch.full((2,), fixed), persistent=False)
        self.plain, self.act = torch.full((2,), plain), act
        self.inner = inner or nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.act(self.linear(x)) * self.fixed.sum() + self._more())

    def _more(self) -> Tensor:
        return self.plain.sum()


class Keeping(nn.Module):
    """Keeps what it has seen, in every way."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale, self.calls, self.last = scale, 0, None
        self.seen: list[Any] = []
        self.by_size: dict[int, Any] = {}
        self.own: list[Any] = [self]
        self.memory = torch.zeros(4)
        self.register_buffer("table", torch.zeros(4), persistent=False)
        self.linear = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen.append(x)
        self.memory[:2] = x.sum()
        found: Tensor = self.linear(x) * self.scale
        return self._noted(found)

    def _noted(self, found: Tensor) -> Tensor:
        self.last = found
        known = self.by_size
        known[len(found)] = found
        self.table.copy_(found.detach().mean(0))
        return found


def class_of(source: str) -> type[nn.Module]:
    scope: dict[str, Any] = {"nn": nn, "torch": torch, "__name__": "job"}
    exec(f"class Net(nn.Module):\n    def forward(self, x):\n        {source}", scope)
    found: type[nn.Module] = scope["Net"]
    return found


OTHERS: dict[str, Callable[[], nn.Module]] = {
    "buffer that no checkpoint has": lambda: Around(fixed=2.0),
    "plain tensor": lambda: Around(plain=2.0),
    "function": lambda: Around(act=torch.tanh),
    "layer": lambda: Around(inner=nn.Tanh()),
    "option of a layer of torch's": lambda: Around(inner=nn.LeakyReLU(0.5)),
    "attribute of a layer": lambda: Around(inner=Scaled(2.0)),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_modules_of_equal_weights_that_compute_something_else_are_others(other: Callable[[], nn.Module]) -> None:
    inner = {"attribute of a layer": Scaled(1.0), "option of a layer of torch's": nn.LeakyReLU(0.1)}
    one, two = Around(inner=inner.get(next(name for name, make in OTHERS.items() if make is other))), other()
    assert digest(one)["weights"] == digest(two)["weights"]
    assert not same(digest(one), digest(two))
    for held in (lambda module: {"m": module}, lambda module: [module], lambda module: lambda x: module(x)):
        assert changes(identity(held(one)), identity(held(two)))


def test_the_attribute_is_named() -> None:
    assert changes(identity({"m": Scaled(1.0)}), identity({"m": Scaled(9.0)})) == ["['m'].scale 1.0 → 9.0"]


def test_other_code_of_forward_is_another_model_and_comments_are_not() -> None:
    one, two = class_of("return torch.relu(x)")(), class_of("return torch.tanh(x)")()
    assert not same(digest(one), digest(two))
    assert same(digest(one), digest(class_of("# a comment\n\n        return torch.relu( x )")()))
    assert code_changes(identity({"m": one}), identity({"m": two})) == ["Net.forward"]


def test_code_of_another_version_of_python_is_not_compared() -> None:
    now = digest(Scaled())
    code = {"kind": "code", "digest": "0" * 16, "python": "3.99"}
    assert same({**now, "identity": {**now["identity"], "code": code}}, now)


def test_what_earlier_versions_recorded_is_compared_by_weights() -> None:
    old = {name: value for name, value in digest(Scaled(1.0)).items() if name != "identity"}
    assert same(old, digest(Scaled(2.0)))
    held = identity({"m": Scaled(1.0)})
    held["of"]["['m']"]["of"] = {}
    assert changes(held, identity({"m": Scaled(2.0)})) == []


@pytest.mark.parametrize("make", [Keeping, Around, lambda: nn.LSTM(4, 4), lambda: nn.TransformerEncoderLayer(4, 2, 8)])
def test_a_forward_pass_a_copy_and_a_pickle_change_nothing(make: Callable[[], nn.Module]) -> None:
    module = make().eval()
    before = behaviour(module)
    assert behaviour(copy.deepcopy(module)) == before
    module(torch.ones(2, 3 if isinstance(module, Around) else 4))
    assert behaviour(module) == before
    if not isinstance(module, Keeping):  # torch pickles no parametrization
        assert behaviour(pickle.loads(pickle.dumps(module))) == before
    assert behaviour(module.train()) == before


def test_what_a_module_is_given_is_no_state_though_it_keeps_some() -> None:
    assert behaviour(Keeping(1.0)) != behaviour(Keeping(2.0))


def test_other_processes_say_the_same(tmp_path: Path) -> None:
    program = tmp_path / "say.py"
    program.write_text(
        "import json, sys, torch\nfrom torch import nn\nfrom nas.identity import behaviour, identity\n"
        "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.names, self.act = {'a', 'b', 'c'}, torch.relu\n        self.layer = nn.MultiheadAttention(4, 2)\n"
        "    def forward(self, x):\n        return self.act(x) if 'a' in self.names else x in {'p', 'q'}\n"
        "torch.manual_seed(0)\nprint(json.dumps([behaviour(Net()), identity([Net()])]))\n"
    )
    said = {
        subprocess.run(
            [sys.executable, str(program)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1


def test_a_module_of_many_layers_is_told_by_a_digest() -> None:
    def many(slope: float) -> nn.Module:
        return nn.Sequential(*(nn.LeakyReLU(0.1) for _ in range(2_000)), nn.LeakyReLU(slope))

    assert len(str(identity([many(0.1)]))) < 1_000
    assert behaviour(many(0.1)) != behaviour(many(0.2))
    assert changes(identity([many(0.1)]), identity([many(0.2)]))
    assert changes(identity([many(0.1)]), identity([many(0.1)])) == []


def test_networks_that_are_extracted_are_told_apart_by_what_they_are() -> None:
    task = nas.Task.of(
        (torch.randn(20, 3), torch.zeros(20, dtype=torch.long)),
        (torch.randn(20, 3), torch.zeros(20, dtype=torch.long)),
        loss="cross_entropy",
        batch=10,
    )
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    net = nas.Supernet(nas.elastic(model, task.example), example=task.example, weights=model)
    assert behaviour(net.extract(net.space.largest)) == behaviour(net.extract(net.space.largest)) == behaviour(model)
    assert behaviour(net.extract(net.space.smallest)) != behaviour(model)
    before = behaviour(net)
    net(task.example, net.space.smallest)
    net.trained = True
    assert behaviour(net) == before

"""From a model to its space, in one call."""

from __future__ import annotations

import copy
import json
import pickle
import random
from typing import Any

import pytest
import torch
from torch import nn

import nas
from nas import elastic
from nas.convert.converting import Conversion
from nas.convert.elastic import cost
from nas.convert.proofs import CLASSES, RENUMBERED, ZEROS
from nas.errors import SpaceError
from tests.convert import planned


class Net(nn.Module):
    """Two layers beside each other that are added."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(4, 32), nn.Linear(4, 32), nn.Linear(32, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head((self.left(x) + self.right(x)).relu())  # type: ignore[no-any-return]


X = torch.randn(2, 4)


def test_a_model_becomes_a_space_of_its_own_parts():
    model = planned.filled(Net())
    space = elastic(model, X)
    assert (space.name, len(space.decisions)) == ("Net", 1)
    assert space.report.params == sum(parameter.numel() for parameter in model.parameters())
    assert space.report.rows[0].choices == space.plan.decisions[0].choices == (8, 12, 16, 20, 24, 28, 32)
    assert set(space.report.seconds) >= {"template", "capture", "axes"}
    net = nas.Supernet(space, example=X, weights=model).eval()
    assert torch.equal(net(X, space.largest), model(X))
    arch = space.sample(random.Random(0))
    assert torch.equal(net.extract(arch)(X), net(X, arch))
    assert cost(space, arch, X) == (net.params(arch), net.macs(arch))


def test_patterns_say_what_may_be_elastic():
    for options in ({"exclude": ["left"]}, {"include": ["head"], "exclude": ["head"]}):
        with pytest.raises(SpaceError, match="nothing of Net is elastic; most of it stays whole because of 'excluded'"):
            elastic(Net(), X, **options)
    kept = elastic(nn.Sequential(nn.Linear(4, 32), nn.Linear(32, 32), nn.Linear(32, 3)), X, exclude=("0",)).report.kept
    assert "excluded" in {each.reason for each in kept}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"width": (0.5,)}, r"width=\(0.5,\) is the least and the largest share"),
        ({"width": (0.5, 0.2)}, r"width=\(0.5, 0.2\)"),
        ({"width": (0.5, 2.0)}, r"width=\(0.5, 2.0\)"),
        ({"exclude": ("rigth",)}, "'rigth' matches no module and no parameter of Net; did you mean 'right'"),
        ({"granule": 0}, "granule"),
        ({"share": "blocks"}, "share"),
        ({"mode": "graph"}, "mode"),
        ({"depth": "yes"}, "depth"),
        ({"width": 0.5}, "width"),
        ({"exclude": "left"}, "exclude"),
        ({"include": [3]}, "include"),
        ({"build": 3}, "build= is a int"),
        ({"check": None}, "check"),
        ({"name": 3}, "name"),
    ],
)
def test_wrong_options_are_a_sentence(options, said):
    with pytest.raises(SpaceError, match=said):
        elastic(Net(), X, **options)


def test_where_nothing_is_elastic_the_cause_is_named():
    with pytest.raises(
        SpaceError, match="nothing of Linear is elastic; most of it stays whole because of 'model output'"
    ):
        elastic(nn.Linear(4, 3), X)
    with pytest.raises(SpaceError, match="nothing of ReLU is elastic"):
        elastic(nn.ReLU(), X)


def test_a_supernet_looks_at_few_archs_whatever_the_number_of_choices():
    space = elastic(Net(), X)
    assert [[*arch.choices.values()] for arch in space.representatives()] == [[32], [8]]
    restricted = space.restricted(_wide)
    assert isinstance(restricted, type(space))
    assert [[*arch.choices.values()] for arch in restricted.representatives()] == [[32]]
    assert restricted.report is space.report


def _wide(arch: nas.Arch) -> bool:
    return all(width > 16 for width in arch.choices.values())


class Odd(nn.Module):
    """Computes something else where its first layer is narrower."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 32), nn.Linear(32, 40), nn.Linear(40, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.second(self.first(x).relu()).relu()
        return self.head(found if self.second.weight.stride(0) == 32 else found.tanh())  # type: ignore[no-any-return]


def test_a_conversion_is_proved_and_says_so():
    space = elastic(nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 3)), X)
    assert [proof.what.split()[0] for proof in space.report.proofs] == ["units", "narrower", "the"]
    assert max(proof.error for proof in space.report.proofs) < 1e-6
    assert space.is_checked
    assert "proofs" in space.report.seconds


def test_a_class_that_takes_no_other_size_is_replaced_by_its_graph():
    space = elastic(Odd(), X)
    assert space.report.execution == "graph"
    assert "cut, the output is off by" in space.report.because
    assert [decision.size for decision in space.plan.decisions] == [32, 40]


def test_what_a_proof_refuses_stays_whole_with_the_reason(monkeypatch):
    def refuse(_self):
        raise SpaceError("no graph")

    monkeypatch.setattr(Conversion, "check_graph", refuse)
    space = elastic(Odd(), X)
    assert [decision.size for decision in space.plan.decisions] == [40]
    failed = [kept for kept in space.report.kept if kept.reason == "proof failed"]
    assert [(kept.tensor, kept.size) for kept in failed] == [("first.weight", 32)]
    assert "stays whole: cut, the output is off by" in str(space.report)


def test_without_a_check_the_report_and_the_checkpoint_say_so(tmp_path):
    space = elastic(Net(), X, check=False)
    assert "not proved (check=False)" in str(space.report)
    net = nas.Supernet(space, example=X)
    net.save(tmp_path / "net")
    assert json.loads((tmp_path / "net" / "supernet.json").read_text())["checked"] is False
    assert not nas.Supernet.load(tmp_path / "net", space).is_checked


class Averaged(nn.Module):
    """A mean over channels, that of an elastic width."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 32), nn.Linear(32, 24), nn.Linear(24, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.second(self.first(x).relu())
        return self.head(found * found.sigmoid().mean(-1, keepdim=True))  # type: ignore[no-any-return]


def test_a_proof_that_soft_leaves_out_is_named_in_the_report_and_the_checkpoint(tmp_path):
    space = elastic(Averaged(), X, soft=True)
    assert [decision.size for decision in space.plan.decisions] == [32, 24]
    assert "not proved: narrower graphs, beside the whole one with zeros, since soft=True" in str(space.report)
    restricted = space.restricted(lambda arch: True)
    for name, one in {"own": space, "restricted": restricted}.items():
        nas.Supernet(one, example=X).save(tmp_path / name)
        recorded = json.loads((tmp_path / name / "supernet.json").read_text())
        assert [each.partition(", since soft=True")[0] for each in recorded["unproved"]] == [ZEROS]
        assert recorded["checked"] is True
    hard = elastic(Averaged(), X)
    assert [decision.size for decision in hard.plan.decisions] == [32]
    nas.Supernet(hard, example=X).save(tmp_path / "hard")
    assert "unproved" not in json.loads((tmp_path / "hard" / "supernet.json").read_text())


class Guarded(nn.Module):
    """A residual unit that something outside needs to have run."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Linear(4, 16), Adding(), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.block.has_run = False
        found = self.block(self.stem(x))
        if not self.block.has_run:
            raise RuntimeError("the block did not run")
        return self.head(found)  # type: ignore[no-any-return]


class Adding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.has_run = nn.Linear(16, 16), False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.has_run = True
        return x + self.inner(x).relu()


def test_a_unit_that_cannot_be_left_out_is_told_with_the_reason(monkeypatch):
    def refuse(_self):
        raise SpaceError("no graph")

    monkeypatch.setattr(Conversion, "check_graph", refuse)
    space = elastic(Guarded(), X)
    assert not space.plan.units
    ((name, why),) = [(each.name, each.why) for each in space.report.fixed]
    assert name == "block"
    assert "the block did not run" in why
    assert "not to be left out" in str(space.report)


def test_a_model_without_values_that_is_too_large_is_not_given_any_and_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("nas.convert.healthy.MOST", 100)
    with torch.device("meta"):
        model = Net()
    space = elastic(model, X, build=nas.model(Net)())
    assert space.plan.decisions
    assert not space.is_checked
    nas.Supernet(space, example=X).save(tmp_path / "net")
    recorded = json.loads((tmp_path / "net" / "supernet.json").read_text())
    count = sum(one.numel() for one in model.parameters())
    why = f"{count} parameters of Net have no values (meta device), and proofs make up at most 100"
    for what, told in zip((RENUMBERED, ZEROS, CLASSES), recorded["unproved"], strict=True):
        assert f"not proved: {what}, since {why}" in str(space.report)
        assert told.startswith(f"{what}, since {why}")
    assert not nas.Supernet.load(tmp_path / "net", space).is_checked
    with pytest.raises(SpaceError, match="the graph of Net cannot be looked at.*no values"):
        elastic(model, X, mode="free")
    monkeypatch.undo()
    assert elastic(model, X).is_checked


def test_what_is_no_model_and_what_it_does_not_take_are_a_sentence():
    with pytest.raises(SpaceError, match="model=the class Net"):
        elastic(Net, X)  # type: ignore[arg-type]
    with pytest.raises(SpaceError, match="cannot be called with the example"):
        elastic(Net(), torch.randn(2, 5))
    with pytest.raises(nas.NasError, match="example"):
        elastic(Net(), "x")  # type: ignore[arg-type]


class Remembering(nn.Module):
    """Keeps what it computes from its weights, whatever they are later."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(4, 32), nn.Linear(32, 3)
        self.kept: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kept is None:
            self.kept = self.first.weight.detach() * 2
        return self.head((x @ self.kept.T).relu())  # type: ignore[no-any-return]


@pytest.mark.parametrize("called", [True, False])
def test_a_model_that_remembers_weights_is_refused_with_the_reason(called):
    model = Remembering().eval()
    if called:
        model(X)
    with pytest.raises(SpaceError, match="what it computes from parameters|what follows from its parameters"):
        elastic(model, X)


class Folding(nn.Module):
    """Takes heads apart, as layers of einops do: a copy is made from what it was given, not from what it computed of that."""

    def __init__(self, **lengths: int) -> None:
        super().__init__()
        self.lengths = lengths
        self.computed = tuple(lengths.items())

    def __getstate__(self) -> dict[str, Any]:
        return {"lengths": self.lengths}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state["lengths"])  # type: ignore[misc]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(x.shape[0], x.shape[1], self.computed[0][1], -1).transpose(1, 2)


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.queries, self.keys, self.values = (nn.Linear(8, 32) for _ in range(3))
        self.fold = Folding(heads=4)
        self.out = nn.Linear(32, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (self.fold(layer(x)) for layer in (self.queries, self.keys, self.values))
        found = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(found.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def test_a_copy_of_a_layer_that_restores_itself_is_the_same_network():
    model, x = Heads().eval(), torch.randn(2, 5, 8)
    space = elastic(model, x)
    small = space.build(space.smallest)
    assert [decision.kind for decision in space.plan.decisions] == ["heads"]
    assert small.fold.computed == (("heads", 1),)
    for copied in (copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
        assert torch.equal(copied(x), small(x))
    assert model.fold.lengths == {"heads": 4}


class Registers(nn.Module):
    """As many tokens of its own before those of the input as it is told to have."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(1, tokens, 32))
        self.embed, self.mix, self.head = nn.Linear(4, 32), nn.Linear(32, 32), nn.Linear(32, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([self.tokens.expand(len(x), -1, -1), self.embed(x)], 1)
        return self.head((x + self.mix(x).relu())[:, -1])  # type: ignore[no-any-return]


@pytest.mark.parametrize("tokens", [0, 2])
def test_tensors_without_elements_are_cut_along_their_other_axes(tokens):
    model, x = Registers(tokens).eval(), torch.randn(2, 5, 4)
    space = elastic(model, x)
    net = nas.Supernet(space, example=x, weights=model).eval()
    arch = space.smallest
    assert net.extract(arch).tokens.shape == (1, tokens, 8)
    assert torch.equal(net.extract(arch)(x), net(x, arch))
    assert type(space.plan).from_json(json.loads(json.dumps(space.plan.to_json()))) == space.plan


class _Mapped(nn.Module):
    """A mask by `torch.vmap`, or all of the network under it."""

    def __init__(self, *, inside: bool) -> None:
        super().__init__()
        self.first, self.second, self.inside = nn.Linear(6, 16), nn.Linear(16, 3), inside

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.inside:
            return torch.vmap(lambda one: self.second(self.first(one).relu()))(x)  # type: ignore[no-any-return]
        even = torch.vmap(lambda place: place % 2 == place.new_ones(()))(torch.arange(x.shape[-1]))
        return self.second(self.first(x * even).relu())  # type: ignore[no-any-return]


@pytest.mark.parametrize("inside", [False, True])
def test_what_a_model_computes_under_vmap_is_proved_too(inside):
    model, x = planned.filled(_Mapped(inside=inside)), torch.randn(2, 6)
    space = elastic(model, x)
    assert [(one.name, one.size) for one in space.plan.decisions] == [("hidden", 16)]
    net = nas.Supernet(space, weights=model)
    torch.testing.assert_close(net(x, space.largest), model(x))
    small = net.extract(space.smallest)
    torch.testing.assert_close(small(x), net(x, space.smallest))


class _Router(nn.Module):
    """Brings a layer to the type that it has."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.first = self.first.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
        return self.second(self.first(x).relu())  # type: ignore[no-any-return]


def test_a_layer_that_is_brought_to_the_type_that_it_has_is_captured():
    space = elastic(planned.filled(_Router()), torch.randn(2, 6))
    assert [(one.name, one.size) for one in space.plan.decisions] == [("hidden", 16)]

"""Depth by order of importance: one decision for a run of equal units, the least important of which go first."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nas
from nas.convert.elastic import ElasticSpace, elastic
from nas.convert.ordering import equal_units
from nas.convert.plan import Plan, Unit
from nas.errors import SpaceError, SupernetError
from nas.train.dropping import Dropped, importance, replace, similarities

SCALES = (0.3, 1.0, 0.01, 0.6, 0.1)


class Block(nn.Module):
    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 24), nn.Linear(24, width)
        nn.init.normal_(self.down.weight, std=scale)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(self.norm(x)).relu())


class Chain(nn.Module):
    """Five equal blocks that do more or less, and one of another width."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 16)
        self.blocks = nn.ModuleList([Block(16, scale) for scale in SCALES])
        self.turn, self.last, self.head = nn.Linear(16, 8), Block(8, 1.0), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.last(self.turn(x)))  # type: ignore[no-any-return]


X = torch.randn(64, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def made() -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = Chain().eval()
    space = elastic(model, X[:2])
    return model, nas.Supernet(space, example=X[:2], weights=model)


def loss_against(model: nn.Module) -> Any:
    with torch.no_grad():
        target = model(X)
    return lambda network: (network(X) - target).square().mean()


def ordered(made: tuple[nn.Module, Any], **options: Any) -> ElasticSpace:
    return nas.order_depth(made[1], loss=loss_against(made[0]), **options)


def test_the_order_is_that_of_the_loss_with_each_unit_alone_left_out(made):
    model, _ = made
    loss, losses = loss_against(model), []
    for place in range(len(SCALES)):
        without = copy.deepcopy(model)
        replace(without, f"blocks.{place}", Dropped())
        losses.append(float(loss(without).detach()))
    (depth,) = ordered(made).plan.depths
    expected = sorted(range(len(SCALES)), key=lambda place: -losses[place])
    assert [int(unit.rpartition(".")[2]) for unit in depth.order] == expected != sorted(expected)
    assert depth.name == "blocks.depth"
    assert depth.choices == (3, 4, 5)


def test_every_depth_is_the_model_without_the_least_important(made):
    model, _ = made
    space = ordered(made, least=0.2)
    net = nas.Supernet(space, example=X[:2], weights=model).eval()
    order = space.plan.depths[0].order
    for depth in (5, 3, 1):
        chosen = {name: value for name, value in space.largest.choices.items() if not name.startswith("blocks[")}
        inside = {
            name: value
            for name, value in space.largest.choices.items()
            if name.startswith("blocks[") and f"blocks.{name[7]}" in order[:depth]
        }
        arch = space.arch({**chosen, **inside, "blocks.depth": depth})
        expected = copy.deepcopy(model)
        for unit in order[depth:]:
            replace(expected, unit, Dropped())
        assert torch.equal(net(X, arch), expected(X))
        assert torch.equal(net.extract(arch).eval()(X), expected(X))


def test_what_is_inside_a_unit_is_asked_from_the_depth_on_that_has_it(made):
    space = ordered(made)
    order = space.plan.depths[0].order
    smallest = space.smallest.choices
    asked = {name for name in smallest if name.startswith("blocks[")}
    assert asked == {f"blocks[{unit[7]}].hidden" for unit in order[:3]}
    assert space.size == _count(space)


def _count(space: ElasticSpace) -> int:
    widths = {decision.name: len(decision.choices) for decision in space.plan.decisions}
    inside = [widths[f"{unit}.hidden"] for unit in space.plan.depths[0].order]
    found, product = 0, 1
    for place, width in enumerate(inside, 1):
        product *= width
        found += product * (place >= 3)
    rest = 1 + widths["last.hidden"]  # left out, or there
    for name, width in widths.items():
        rest *= width if not name.endswith("hidden") else 1
    return found * rest


def test_the_order_travels_with_the_plan_and_is_part_of_what_archs_are(made):
    _, net = made
    space = ordered(made)
    again = Plan.from_json(json.loads(json.dumps(space.plan.to_json())))
    assert again == space.plan
    assert again.effect == space.plan.effect != net.space.plan.effect
    other = pickle.loads(pickle.dumps(space))
    assert other.fingerprint == space.fingerprint != net.space.fingerprint
    assert other.largest.key == space.largest.key
    assert "depths" not in net.space.plan.to_json()


def test_the_report_says_the_order_and_what_it_was_measured_by(made):
    space = ordered(made)
    text, first = str(space.report), space.plan.depths[0].order[0]
    assert f"blocks.depth keeps the first of (loss with it alone left out): blocks[{first[7]}] " in text
    assert "blocks[0].keep" not in text
    assert "last.keep" in text
    row = space.report.table.set_index("name").loc["blocks.depth"]
    assert row["kind"] == "depth"
    assert row["choices"] == (3, 4, 5)
    assert row["params"] == sum(p.numel() for p in made[0].blocks.parameters())
    assert space.report.proofs
    assert space.is_checked


def test_without_a_loss_units_count_that_turn_what_goes_through_them(made):
    space = nas.order_depth(made[1], batches=[X])
    expected = importance(similarities(made[0], [X], blocks="blocks.*"))
    assert [int(unit[7]) for unit in space.plan.depths[0].order] == expected != sorted(expected)


def off_target(network: Any, batch: Tensor) -> Tensor:
    return (network(batch) - 1).square().mean()  # type: ignore[no-any-return]


@pytest.mark.parametrize("by", ["taylor", "magnitude", nas.Fisher()])
def test_a_score_of_all_weights_of_a_unit_orders_the_depth(made, by):
    model, net = made
    given = {} if by == "magnitude" else {"batches": [X], "loss": off_target}
    space = nas.order_depth(net, by=by, **given)
    again, name = copy.deepcopy(model), by if isinstance(by, str) else by.name
    off_target(again, X).backward()
    each = {
        "magnitude": lambda block: sum(p.abs().sum() for p in block.parameters()),
        "taylor": lambda block: sum((p * p.grad).sum() for p in block.parameters()) ** 2,
        "fisher": lambda block: sum((p * p.grad).square().sum() for p in block.parameters()),
    }
    with torch.no_grad():
        scores = [float(each[name](block)) for block in again.blocks]
    expected = sorted(range(len(SCALES)), key=lambda place: -scores[place])
    assert [int(unit[7]) for unit in space.plan.depths[0].order] == expected
    assert f"keeps the first of (importance by {name!r}): blocks[{expected[0]}]" in str(space.report)
    assert not any(each.grad is not None for each in net.parameters())


def test_a_task_gives_the_loss_with_each_unit_alone_left_out(made):
    targets = torch.ones(64, 2)
    task = nas.Task.of((X, targets), (X + 1, targets), loss="mse", batch=16)
    batches = list(task.train_batches(0))
    space = nas.order_depth(made[1], task=task)

    def loss(network: Any) -> Tensor:
        losses = [(network(batch.inputs) - batch.targets).square().mean() for batch in batches]
        return torch.stack(losses).mean()

    assert len(batches) == 4
    assert space.plan.depths == nas.order_depth(made[1], loss=loss).plan.depths
    assert nas.order_depth(made[1], task=task, by="taylor").plan.depths


def test_trained_weights_order_the_depth_and_the_mode_is_kept(made):
    model, _ = made
    net = nas.Supernet(made[1].space, example=X[:2], weights=model).train()
    loss = loss_against(model)
    with torch.no_grad():
        net._shared.tensor("blocks.1.down.weight").zero_()
        net._shared.tensor("blocks.1.down.bias").zero_()
    losses = []
    space = nas.order_depth(net, loss=lambda network: losses.append(float(loss(network))) or losses[-1])
    assert net.training
    with torch.no_grad():
        assert losses[1] == float(loss(net.eval().extract(net.space.largest).eval()))
    assert space.plan.depths[0].order == tuple(
        f"blocks.{place}" for place in sorted(range(5), key=lambda at: -losses[at])
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "give either loss="),
        ({"loss": float, "batches": [X]}, "give either loss="),
        ({"batches": X}, "batches=a Tensor is no collection of batches"),
        ({"by": "activations", "batches": [X]}, "'activations' is of channels; for units of depth give another"),
        ({"by": "group_fisher", "loss": float}, "'group_fisher' is of channels"),
        ({"by": "taylor", "batches": [X]}, "'taylor' takes task=, or loss="),
        ({"by": "size"}, "by='size' is no importance score"),
        ({"task": 3}, "task=3; it is a nas.Task"),
        ({"loss": lambda network: float("nan")}, "is nan; let loss= give a finite number"),
        ({"loss": lambda network: 0.0, "least": 2.0}, "least"),
    ],
)
def test_wrong_arguments_are_a_sentence(made, options, said):
    with pytest.raises((SpaceError, SupernetError), match=said):
        nas.order_depth(made[1], **options)


def test_spaces_without_equal_units_are_a_sentence(made):
    again = nas.Supernet(ordered(made), example=X[:2], weights=made[0])
    with pytest.raises(SpaceError, match="already ordered"):
        nas.order_depth(again, batches=[X])
    flat = elastic(Block(16, 1.0).eval(), torch.zeros(2, 16), check=False)
    with pytest.raises(SpaceError, match="no two equal units"):
        nas.order_depth(nas.Supernet(flat), batches=[X])


def test_runs_are_of_one_form_one_number_and_one_place():
    def blocks(*widths: int) -> nn.ModuleList:
        return nn.ModuleList([Block(width, 1.0) for width in widths])

    model = nn.Module()
    model.stages = nn.ModuleList([blocks(8, 8), blocks(16, 16, 16)])
    model.mixed = blocks(8, 8, 16, 16, 4)
    names = [name for name, module in model.named_modules() if isinstance(module, Block)]
    inner = ["stages.0.0.up", "stages.0.1.up"]  # inside of different units
    found = equal_units(model, Plan(units=tuple(map(Unit, [*names, *inner]))))
    assert found == {
        "stages.0.depth": ("stages.0.0", "stages.0.1"),
        "stages.1.depth": ("stages.1.0", "stages.1.1", "stages.1.2"),
        "mixed.0.depth": ("mixed.0", "mixed.1"),
        "mixed.2.depth": ("mixed.2", "mixed.3"),
    }

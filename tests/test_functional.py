"""Archs that compute the same have one name and share one evaluation."""

from __future__ import annotations

import dataclasses
import functools
import json
import pickle
import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyglove as pg
import pytest
import torch
from torch import nn

import nas
from nas.errors import EvaluationError, Infeasible
from nas.evaluate import Evaluation, Function, Once
from nas.evaluate.base import Adapted
from nas.evaluate.functional import name_of
from searchspaces import nasbench201
from searchspaces.nasbench201 import EDGES, function
from tests.conformance.evaluator import EvaluatorConformance
from tests.conformance.machines import MACHINES
from tests.conformance.patience import PATIENCE_S


@pytest.fixture(scope="module")
def cells():
    torch.set_num_threads(1)
    return nasbench201.space(width=4, cells=1, stages=1, channels=1)


@pytest.fixture(scope="module")
def named():
    return Function(nas.digits(), samples=2)


def normal(arch):
    """What a cell computes, by algebra: sums are opened, average pooling is linear, what comes of nothing is nothing."""
    nodes = [Counter("x")]
    for into in (1, 2, 3):
        total = Counter()
        for source in range(into):
            op, node = arch.choices[f"e{into}{source}"], nodes[source]
            if op == "skip_connect":
                total += node
            elif op == "avg_pool_3x3":
                total += Counter({f"P({term})": times for term, times in node.items()})
            elif op != "none" and node:
                total[f"{op}({'+'.join(sorted(node.elements()))})"] += 1
        nodes.append(total)
    return "+".join(sorted(nodes[-1].elements()))


# -- names


def test_names_are_equal_exactly_where_algebra_says_so(cells, named):
    rng = random.Random(1)
    archs = [cells.sample(rng) for _ in range(40)]
    archs += [near for arch in archs[:6] for near in cells.neighbours(arch)]  # most differ in one operation
    names, forms = [named(arch) for arch in archs], [normal(arch) for arch in archs]
    assert len(set(names)) == len(set(forms)) == len(set(zip(names, forms, strict=True)))
    assert len(set(forms)) < len(set(archs))  # there were equal ones among them


def test_cells_of_one_published_function_have_one_name(cells, named):
    classes = {}
    for arch in cells.enumerate():
        classes.setdefault(function(arch), []).append(arch)
    rng = random.Random(0)
    several = rng.sample([archs for archs in classes.values() if len(archs) > 1], 25)
    assert all(len({named(arch) for arch in rng.sample(archs, 2)}) == 1 for archs in several)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"e30": "nor_conv_3x3"}, {"e30": "nor_conv_1x1"}),
        ({"e10": "nor_conv_3x3", "e31": "nor_conv_3x3"}, {"e30": "nor_conv_3x3"}),
        # Twice the same branch, normalised afterwards: weights that are tied by name would call these equal.
        (
            {"e10": "nor_conv_3x3", "e20": "nor_conv_3x3", "e21": "skip_connect", "e32": "nor_conv_3x3"},
            {"e10": "nor_conv_3x3", "e31": "nor_conv_3x3"},
        ),
        ({"e30": "skip_connect", "e10": "skip_connect", "e31": "skip_connect"}, {"e30": "skip_connect"}),
    ],
)
def test_different_cells_have_different_names(cells, named, first, second):
    one, other = (cells.arch({**dict.fromkeys(EDGES, "none"), **ops}) for ops in (first, second))
    assert normal(one) != normal(other)
    assert named(one) != named(other)


class Branches(nn.Module):
    """Two layers on one input beside each other, or one of them twice; a third that nothing depends on."""

    def __init__(self, own: bool, idle: bool = False):
        super().__init__()
        self.first = nn.Linear(64, 8)
        self.second = nn.Linear(64, 8) if own else self.first
        self.idle = nn.Linear(64, 16) if idle else None

    def forward(self, x):
        x = x.flatten(1)
        y = torch.cat([self.first(x), self.second(x)], 1)
        return y if self.idle is None else y + 0.0 * self.idle(x)


def test_two_layers_alike_are_one_that_is_used_twice_unless_weights_count():
    inputs = next(iter(nas.digits().calibration_inputs()))[:2]

    def name(own, idle=False, **options):
        return name_of(Branches(own, idle), inputs, **options)

    assert name(True) != name(True, weights=True)
    assert name(True, weights=True) != name(False, weights=True)
    assert name(True, weights=True) == name(True, idle=True, weights=True), "what reaches no output does not count"
    assert name(False, weights=True) == name(False, idle=True, weights=True)


def test_cells_of_equal_weights_that_count_have_equal_names(cells):
    counting = Function(nas.digits(), samples=2, weights=True)
    none = dict.fromkeys(EDGES, "none")
    dead = {**none, "e30": "nor_conv_3x3", "e10": "nor_conv_1x1"}  # e10 leads nowhere
    assert counting(cells.arch(dead)) == counting(cells.arch({**none, "e30": "nor_conv_3x3"}))
    twins = {**none, "e10": "nor_conv_3x3", "e20": "nor_conv_3x3", "e31": "skip_connect", "e32": "skip_connect"}
    single = {**twins, "e20": "none", "e21": "skip_connect"}
    assert Function(nas.digits(), samples=2)(cells.arch(twins)) == Function(nas.digits(), samples=2)(cells.arch(single))
    assert counting(cells.arch(twins)) != counting(cells.arch(single))
    assert "weights" not in Function(nas.digits()).describe()


def test_names_depend_on_seed_and_probes_only(cells, named):
    arch = cells.largest
    torch.manual_seed(9)
    state = torch.get_rng_state()
    assert named(arch) == Function(nas.digits(), samples=2)(arch) == pickle.loads(pickle.dumps(named))(arch)
    assert torch.equal(torch.get_rng_state(), state)
    assert named(arch) != Function(nas.digits(), samples=2, seed=1)(arch)
    assert named(arch) != Function(nas.digits(), samples=3)(arch)


def test_layers_are_told_apart_by_bias_kind_order_and_sharing():
    torch.manual_seed(0)
    shared = nn.Linear(4, 4)
    nets = [
        nn.Sequential(nn.Linear(4, 4), nn.ReLU()),
        nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU()),
        nn.Sequential(nn.Linear(4, 4), nn.GELU()),
        nn.Sequential(nn.ReLU(), nn.Linear(4, 4)),
        nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)),
        nn.Sequential(shared, shared),
        nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)),
        nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
    ]
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    assert len({name_of(net, x) for net in nets}) == len(nets)
    assert name_of(nn.Sequential(nn.Identity(), nn.Linear(4, 4), nn.ReLU(), nn.Dropout(0.0)), x) == name_of(nets[0], x)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: nn.Sequential(nn.Linear(4, 4), nn.Dropout(p)),
        lambda p: nn.TransformerEncoderLayer(4, 2, 8, dropout=p, batch_first=True),
        lambda p: nn.LSTM(4, 4, 2, dropout=p, batch_first=True),
    ],
)
def test_layers_are_told_apart_by_what_they_drop_in_training(make):
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    assert len({name_of(make(p), x) for p in (0.0, 0.1, 0.5)}) == 3
    assert name_of(make(0.5), x) == name_of(make(0.5), x)


@pytest.mark.parametrize("machine", MACHINES)
def test_names_are_those_of_another_machine(cells, named, machine):
    rng = random.Random(2)
    archs = [cells.sample(rng) for _ in range(20)]
    with MACHINES[machine]():
        there = [named(arch) for arch in archs]
    assert there == [named(arch) for arch in archs]


@pytest.mark.parametrize(("factor", "same"), [(1 + 1e-13, True), (1 + 1e-8, False)])
def test_rounding_is_no_difference_and_anything_more_is(factor, same):
    class Scaled(nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.layer, self.factor = nn.Linear(4, 4), factor

        def forward(self, x):
            return self.layer(x) * self.factor

    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    assert (name_of(Scaled(1.0), x) == name_of(Scaled(factor), x)) is same


class Returns(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.layer, self.change = nn.Linear(4, 4), change

    def forward(self, x):
        return self.change(self.layer(x))


@dataclasses.dataclass
class Output:
    logits: torch.Tensor


def test_an_output_that_says_nothing_is_no_name():
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    for change in (lambda y: y * torch.nan, lambda y: None, lambda y: object()):
        with pytest.raises(EvaluationError, match="Returns cannot be told from others .* has no finite number"):
            name_of(Returns(change), x)
    masked = [lambda y: y.clone().fill_diagonal_(-torch.inf), lambda y: (2 * y).fill_diagonal_(-torch.inf)]
    masked += [lambda y: y.clone().fill_diagonal_(torch.inf), lambda y: y]
    assert len({name_of(Returns(change), x) for change in masked}) == 4
    structured = [lambda y: Output(y), lambda y: {"logits": y}, lambda y: [(y,)]]
    assert len({name_of(Returns(change), x) for change in structured}) == 1
    assert name_of(Returns(lambda y: Output(2 * y)), x) != name_of(Returns(lambda y: Output(y)), x)


def test_what_sums_leave_of_zero_is_zero():
    class Difference(nn.Module):
        def __init__(self, noise):
            super().__init__()
            self.layer, self.noise = nn.Linear(4, 4), noise

        def forward(self, x):
            return x + self.layer((x - x) + self.noise)

    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    assert name_of(Difference(0.0), x) == name_of(Difference(1e-17), x) != name_of(Difference(1e-3), x)


def test_two_dead_layers_are_one():
    class Dead(nn.Module):
        def __init__(self, layers):
            super().__init__()
            self.layers = nn.Sequential(*(nn.Linear(4, 4) for _ in range(layers)))
            self.last = nn.Linear(4, 2)

        def forward(self, x):
            return self.last(x + self.layers(torch.zeros_like(x)))

    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    assert name_of(Dead(1), x) == name_of(Dead(3), x)


def test_a_model_that_needs_float32_says_so():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(x.float())

    with pytest.raises(EvaluationError, match="Fixed cannot be told from others .* does not run in float64"):
        name_of(Fixed(), torch.zeros(2, 4))


def test_probes_are_checked():
    with pytest.raises(EvaluationError, match="task='digits'; it is a nas.Task"):
        Function("digits")
    with pytest.raises(EvaluationError, match="samples=0; it is a whole number, 1 or more"):
        Function(nas.digits(), samples=0)


# -- one evaluation


class Count:
    """Notes what it evaluated."""

    metrics = ("quality",)
    cost = "dear"

    def __init__(self):
        self.seen = []

    def __call__(self, arch):
        self.seen.append(arch)
        if arch.choices["a"] == 9:
            raise Infeasible("nine is too many", {"quality": 9.0})
        return {"quality": float(arch.choices["a"] + arch.choices["b"])}

    def __getstate__(self):
        return {"seen": []}

    def describe(self):
        return {"name": "Count"}


def parity(arch):
    """Archs with the same sum compute the same."""
    return str(arch.choices["a"] + arch.choices["b"])


def pairs():
    return nas.Space(pg.Dict(a=pg.oneof([1, 2, 3, 9]), b=pg.oneof([1, 2, 3, 9])), name="pairs")


class TestOnce(EvaluatorConformance):
    @pytest.fixture
    def space(self):
        return pairs()

    @pytest.fixture
    def evaluator(self, tmp_path):
        space, once = pairs(), Once(Plain(), parity, tmp_path / "cache")
        for arch in space.enumerate():
            once(arch)  # `reused` is 0 only once
        return once


class Plain(Count):
    def __call__(self, arch):
        return {"quality": float(arch.choices["a"] + arch.choices["b"])}


def test_equal_archs_are_evaluated_once(tmp_path):
    count, space = Count(), pairs()
    once = Once(count, parity, tmp_path)
    found = [once(space.arch({"a": a, "b": b})) for a, b in [(1, 3), (3, 1), (2, 2), (1, 1), (1, 3)]]
    assert found == [{"quality": q, "reused": r} for q, r in [(4, 0), (4, 1), (4, 1), (2, 0), (4, 1)]]
    assert len(count.seen) == 2
    later = Once(Count(), parity, tmp_path)
    assert later(space.arch({"a": 2, "b": 2})) == {"quality": 4.0, "reused": 1}
    assert isinstance(later.evaluator, Adapted)
    assert not later.evaluator.function.seen


def test_what_is_known_is_said_without_evaluating(tmp_path):
    space, count = pairs(), Count()
    once = Once(count, parity, tmp_path)
    assert once.known(space.smallest) == {}
    measured = once(space.smallest)
    assert once.known(space.smallest) == {name: value for name, value in measured.items() if name != "reused"}
    assert Once(Count(), parity, tmp_path).known(space.smallest) == once.known(space.smallest)


def test_infeasible_is_shared_and_failures_are_not(tmp_path):
    count, space = Count(), pairs()
    once = Once(count, parity, tmp_path)
    for reused, (a, b) in enumerate([(9, 1), (9, 1)]):
        with pytest.raises(Infeasible, match="nine is too many") as caught:
            once(space.arch({"a": a, "b": b}))
        assert caught.value.measurements == {"quality": 9.0, "reused": reused}
    assert len(count.seen) == 1

    def broken(arch):
        count.seen.append(arch)
        raise ValueError("no luck")

    for _ in range(2):
        with pytest.raises(ValueError, match="no luck"):
            Once(broken, parity, tmp_path)(space.smallest)
    assert len(count.seen) == 3


@pytest.mark.parametrize(
    "text",
    [
        '{"infeasible": null, "measurements": {"quality": Infinity}}',
        '{"infeasible": null, "measurements": {"quality": NaN}}',
        '{"infeasible": null, "measurements": {"quality": "4"}}',
        '{"infeasible": null, "measurements": {"quality": true}}',
        '{"infeasible": null, "measurements": {"reason": 4}}',
        '{"infeasible": null, "measurements": [4]}',
        '{"infeasible": 3, "measurements": {}}',
        '{"measurements": {"quality": 4}}',
        "[" * 100_000,
        "4",
    ],
    ids=lambda text: text[:70],
)
def test_a_cache_that_holds_no_measurements_is_refused(tmp_path, text):
    space = pairs()
    once = Once(Count(), parity, tmp_path)
    once(space.smallest)
    (kept,) = tmp_path.rglob("*.json")
    kept.write_text(text)
    for ask in (once, once.known):
        with pytest.raises(EvaluationError, match="does not hold the measurements of an arch; delete it"):
            ask(space.smallest)


def test_measurements_of_any_number_are_cached_as_plain_ones(tmp_path):
    def measure(arch):
        if arch.choices["a"] == 9:
            raise Infeasible(MemoryError("nine"), {"quality": torch.tensor(9.0), "load": float("nan")})
        return {"quality": torch.tensor([0.5]), "size": np.int64(3)}

    space, once = pairs(), Once(measure, parity, tmp_path)
    assert once(space.smallest) == {"quality": 0.5, "size": 3, "reused": 0}
    with pytest.raises(Infeasible, match="MemoryError: nine") as caught:
        once(space.arch({"a": 9, "b": 9}))
    assert caught.value.measurements == {"quality": 9.0, "reused": 0}


def test_another_evaluator_or_space_shares_nothing(tmp_path):
    arch = pairs().smallest
    Once(Count(), parity, tmp_path)(arch)
    assert Once(lambda arch: {"quality": 7.0}, parity, tmp_path)(arch) == {"quality": 7.0, "reused": 0}
    other = nas.Space(pairs().value, name="pairs", version=2)
    assert Once(Count(), parity, tmp_path)(other.smallest)["reused"] == 0


def scaled(arch, k=1):
    return {"quality": k}


class Scaled:
    def __init__(self, k):
        self.k, self.calls = k, 0

    def __call__(self, arch):
        self.calls += 1
        return scaled(arch, self.k)


def parity_of(arch, name="a"):
    return name + parity(arch)


@pytest.mark.parametrize(
    "way", [lambda k: functools.partial(scaled, k=k), Scaled, lambda k: lambda arch: scaled(arch, k)]
)
def test_an_evaluator_with_other_parameters_shares_nothing(tmp_path, way):
    arch = pairs().smallest
    assert Once(way(1), parity, tmp_path)(arch) == {"quality": 1, "reused": 0}
    assert Once(way(2), parity, tmp_path)(arch) == {"quality": 2, "reused": 0}
    once = Once(way(1), parity, tmp_path)
    assert once(arch) == {"quality": 1, "reused": 1}
    assert Once(way(1), functools.partial(parity_of, name="b"), tmp_path)(arch)["reused"] == 0


def test_two_at_once_evaluate_one(tmp_path):
    begun, go = threading.Event(), threading.Event()
    calls = []

    def slow(arch):
        calls.append(arch)
        begun.set()
        assert go.wait(PATIENCE_S)
        return {"quality": 1.0}

    once = Once(slow, parity, tmp_path)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(once, pairs().arch({"a": 1, "b": 3}))
        assert begun.wait(PATIENCE_S)
        second = pool.submit(once, pairs().arch({"a": 3, "b": 1}))
        go.set()
        assert [first.result(PATIENCE_S)["reused"], second.result(PATIENCE_S)["reused"]] == [0, 1]
    assert len(calls) == 1


def test_a_broken_file_is_named(tmp_path):
    once = Once(Count(), parity, tmp_path)
    once(pairs().smallest)
    (path,) = tmp_path.rglob("*.json")
    for text in ("{", "[]", '{"quality": 3}'):
        path.write_text(text)
        with pytest.raises(EvaluationError, match="does not hold the measurements of an arch; delete it, and it is"):
            once(pairs().smallest)


def test_what_cannot_be_shared_is_refused(tmp_path):
    timed = type("Timed", (Count,), {"exclusive": True})()
    with pytest.raises(EvaluationError, match="Timed measures time, which archs that compute the same do not share"):
        Once(timed, parity, tmp_path)
    with pytest.raises(EvaluationError, match="shared already; wrap it once"):
        Once(Once(Count(), parity, tmp_path), parity, tmp_path)
    with pytest.raises(EvaluationError, match="function=3; it is a function"):
        Once(Count(), 3, tmp_path)


def test_several_evaluators_are_shared_as_one(tmp_path):
    both = Once(Evaluation([Count(), lambda arch: {"b": arch.choices["b"]}]), parity, tmp_path)
    assert both(pairs().arch({"a": 1, "b": 3})) == {"quality": 4.0, "b": 3, "reused": 0}
    assert both(pairs().arch({"a": 3, "b": 1})) == {"quality": 4.0, "b": 3, "reused": 1}


def test_a_study_counts_what_was_reused(tmp_path, capsys):
    space = pairs()
    study = nas.Study(
        "shared",
        space=space,
        objectives=["max quality"],
        evaluators=[Once(Plain(), parity, tmp_path / "cache")],
        algorithm=nas.Exhaustive(),
        store=tmp_path / "nas.db",
        trials=16,
    )
    study.run(workers=0, progress=False)
    from nas.cli.app import run

    capsys.readouterr()
    assert run(["show", "shared", "--store", str(tmp_path / "nas.db"), "--format", "json"]) == 0
    sums = Counter(parity(arch) for arch in space.enumerate())
    assert json.loads(capsys.readouterr().out)["reused"] == 16 - len(sums)

"""Progressive shrinking: what each phase allows, when it sorts, and that a kill changes nothing."""

from __future__ import annotations

import random
from pathlib import Path

import pyglove as pg
import pytest
import torch

import nas
from nas.errors import TrainError
from nas.supernet import order
from nas.train import Labels, Training, state
from nas.train.shrinking import Phase, Progressive
from searchspaces import ofa
from tests.train.family import blobs

torch.set_num_threads(1)


def space() -> nas.Space:
    return ofa.space(depths=(1, 2), ratios=(1.5, 2, 3), resolutions=None, widths=[4, 8], stem=4, divisor=2)


def phases() -> Progressive:
    return Progressive(
        [
            Phase(3),
            Phase(4, {"kernels": None}),
            Phase(2, {"depths": [1]}, n=2),
            Phase(3, {"ratios": [2]}, n=4, sort=True),
            Phase(2, {"ratios": None}, n=4, sort=True),
        ],
        readers=ofa.READERS,
    )


def values(archs: list[nas.Arch], knob: str) -> set[float]:
    return {value for arch in archs for name, value in arch.choices.items() if name.startswith(knob)}


def test_phases_follow_each_other_and_the_last_goes_on():
    sampler = phases()
    assert [sampler.phase(step) for step in range(16)] == [0] * 3 + [1] * 4 + [2] * 2 + [3] * 3 + [4] * 4


def test_each_phase_has_a_rise_and_a_cosine_of_its_own() -> None:
    sampler = Progressive([Phase(40), Phase(20, lr=0.5), Phase(5, lr=0.25)])
    net = ofa.supernet(space())
    training = Training(net, blobs(), sampler=sampler, steps=100, lr=0.1, schedule=sampler.schedule(100))
    rates = [training.schedule(step) for step in range(100)]
    assert rates[:3] == pytest.approx([0.05, 0.1, 0.1])  # 2 steps of 40 are the rise
    assert rates[39] == pytest.approx(0.0)
    assert rates[40] == pytest.approx(0.05)
    assert rates[59] == pytest.approx(0.0)
    assert max(rates[60:]) == rates[61] == pytest.approx(0.025)  # the last has all that is left
    assert rates[99] == pytest.approx(0.0)
    assert rates[80] > 0.01
    with pytest.raises(TrainError, match="a training of 60 steps is over before the last of 3 phases"):
        sampler.schedule(60)


def test_an_earlier_training_is_known_again() -> None:
    kept = [
        {"steps": 3, "candidates": {}, "n": 1, "sort": False},
        {"steps": 2, "candidates": {"a": None}, "n": 2, "sort": True},
    ]
    sampler = Progressive([Phase(3), Phase(2, {"a": None}, n=2, sort=True)])
    assert sampler.describe() == {"class": "Progressive", "phases": kept, "readers": ()}
    assert Progressive([Phase(3, lr=0.5)]).describe()["phases"][0]["lr"] == 0.5


def test_what_is_allowed_grows_from_phase_to_phase():
    sampler, net_space = phases(), space()
    seen = []
    for step in (0, 3, 7, 9, 12):
        drawn = [arch for seed in range(40) for arch in sampler.archs(net_space, step, random.Random(seed))]
        seen.append([values(drawn, knob) for knob in ("kernels", "depths", "ratios")])
    assert seen == [
        [{7}, {2}, {3}],
        [{3, 5, 7}, {2}, {3}],
        [{3, 5, 7}, {1, 2}, {3}],
        [{3, 5, 7}, {1, 2}, {2, 3}],
        [{3, 5, 7}, {1, 2}, {1.5, 2, 3}],
    ]
    assert sampler.archs(net_space, 0, random.Random(0)) == [net_space.largest]


def test_archs_are_a_function_of_the_step_and_the_random_numbers():
    sampler, net_space = phases(), space()
    first = sampler.archs(net_space, 9, random.Random(3))
    assert first == sampler.archs(net_space, 9, random.Random(3))
    assert 1 < len(first) <= 4
    assert len(set(first)) == len(first)
    assert first != sampler.archs(net_space, 9, random.Random(4))


def test_each_candidate_is_drawn_as_often():
    sampler = Progressive([Phase(1, {"ratios": None})])
    draw, net_space = random.Random(0), space()
    counts = {1.5: 0, 2: 0, 3: 0}
    for _ in range(900):
        counts[sampler.archs(net_space, 0, draw)[0].choices["ratios[1][0]"]] += 1
    assert all(240 < count < 360 for count in counts.values())


def test_one_decision_may_be_opened_alone():
    sampler, net_space = Progressive([Phase(1, {"ratios[1]": [2]})]), space()
    drawn = [sampler.archs(net_space, 0, random.Random(seed))[0] for seed in range(30)]
    assert values(drawn, "ratios[1]") == {2, 3}
    assert values(drawn, "ratios[0]") == {3}


@nas.model
def scaled(rate, kind):
    return torch.nn.Linear(2, 2) if kind["type"] == "a" else torch.nn.Linear(3, 3)


def test_floats_and_what_the_largest_arch_lacks():
    value = scaled(rate=pg.floatv(0.1, 0.9), kind=pg.oneof([{"type": "a", "size": pg.oneof([1, 2, 3])}, {"type": "b"}]))
    floats = nas.Space(value, name="floats", largest={"kind": {"type": "b"}})
    size = next(name for name in floats.names if name.endswith("size"))
    closed, opened = Progressive([Phase(1, {"kind": None})]), Progressive([Phase(1, {"rate": None, "kind": None})])
    drawn = [closed.archs(floats, 0, random.Random(seed))[0].choices for seed in range(60)]
    assert {choices["rate"] for choices in drawn} == {0.9}
    assert {choices.get(size) for choices in drawn} == {None, 1, 2, 3}
    rates = [opened.archs(floats, 0, random.Random(seed))[0].choices["rate"] for seed in range(60)]
    assert 0.1 <= min(rates) < 0.2
    assert 0.8 < max(rates) <= 0.9


@pytest.mark.parametrize(
    ("candidates", "message"),
    [
        ({"kernel": None}, "names 'kernel', which is no decision of space 'ofa-mobilenet'"),
        ({"ratios": [2, 6]}, r"allows 6 for 'ratios\[0\]\[0\]' of space 'ofa-mobilenet', which is one of 1.5, 2, 3"),
    ],
)
def test_names_that_are_not_there_are_refused(candidates, message):
    with pytest.raises(TrainError, match=message):
        Progressive([Phase(1, candidates)]).archs(space(), 0, random.Random(0))


def test_phases_that_are_none_are_refused():
    with pytest.raises(TrainError, match="has no phase"):
        Progressive([])
    with pytest.raises(TrainError, match=r"Phase\(steps=0\)"):
        Phase(0)
    with pytest.raises(TrainError, match=r"Phase was given n=1.5"):
        Phase(3, n=1.5)


def test_sorting_keeps_the_brackets_that_were_trained(monkeypatch):
    found = []

    def spy(supernet, **options):
        found.append((options["trained"], order.reorder(supernet, **options)))

    monkeypatch.setattr("nas.train.shrinking.reorder", spy)
    Training(ofa.supernet(space()), blobs(), sampler=phases(), loss=Labels(), steps=15, lr=1e-2).run(progress=False)
    assert len(found) == 2
    (first, free), (second, bound) = found
    # Inputs 4, 4, 4, 8 times 3, 2, 1.5: only the largest width was trained at first, then two thirds of it too.
    assert values(first, "ratios") == {3}
    assert values(second, "ratios") == {2, 3}
    hidden = [axis for axis in free if any(name.endswith("widen.conv.weight") for name, _ in axis.places)]
    assert sorted(axis.length for axis in hidden) == [12, 12, 12, 24]
    assert any(set(free[axis][: axis.length * 2 // 3].tolist()) != set(range(axis.length * 2 // 3)) for axis in hidden)
    for axis in hidden:
        kept = axis.length * 2 // 3
        assert set(bound[axis][:kept].tolist()) == set(range(kept))


class Killed(BaseException):
    """Nobody handles it, as nobody handles a kill."""


@pytest.mark.parametrize("fatal", [4, 12])
def test_killed_and_resumed_equals_uninterrupted_to_the_bit(tmp_path: Path, monkeypatch, fatal: int):
    """After 4 steps some weights were never touched; after 12 a sorting comes next."""

    def training(name: str) -> Training:
        options = {"sampler": phases(), "schedule": phases().schedule(15), "checkpoint_every": 1}
        return Training(
            ofa.supernet(space()), blobs(), path=tmp_path / name, loss=Labels(), steps=15, lr=1e-2, **options
        )

    whole = training("whole").run(progress=False).supernet.state_dict()
    real = state.write

    def dying(path, at, *rest):
        real(path, at, *rest)
        if at.step == fatal:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(state, "write", dying)
        with pytest.raises(Killed):
            training("killed").run(progress=False)
    resumed = training("killed").run(progress=False).supernet.state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_another_shrinking_is_another_training(tmp_path):
    def training(sampler):
        return Training(ofa.supernet(space()), blobs(), path=tmp_path, sampler=sampler, loss=Labels(), steps=2)

    training(phases()).run(progress=False)
    assert training(phases()).trained
    with pytest.raises(TrainError, match="holds a training with sampler"):
        training(Progressive([Phase(3)])).run(progress=False)

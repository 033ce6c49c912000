from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyglove as pg
import pytest
import torch
from torch import Tensor, nn

import nas
from nas.errors import TrainError
from nas.supernet import Supernet
from nas.train import (
    Hybrid,
    Labels,
    Sandwich,
    Step,
    Teacher,
    Training,
    Uniform,
    as_supernet,
    distillation,
    train,
    train_modules,
)
from tests.train.family import blobs


def parts(width: int, depth: int = 1, seed: int = 0) -> list[nn.Module]:
    """Three modules: images -> width -> width -> ten classes."""
    torch.manual_seed(seed)

    def layers(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]

    middle = [layer for _ in range(depth) for layer in layers(width, width)]
    return [
        nn.Sequential(nn.Flatten(), *layers(64, width)),
        nn.Sequential(*middle),
        nn.Sequential(*layers(width, width), nn.Linear(width, 10)),
    ]


def same(ours: Sequence[nn.Module], theirs: Sequence[nn.Module]) -> bool:
    states = zip(nn.Sequential(*ours).state_dict().values(), nn.Sequential(*theirs).state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in states)


def images(n: int = 5) -> Tensor:
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_meta_models_own_module_gives_the_meta_model_back(place: int) -> None:
    meta = parts(12)
    whole = nn.Sequential(*meta).eval()
    torch.testing.assert_close(Hybrid(meta, place, meta[place]).eval()(images()), whole(images()))


@pytest.mark.parametrize("place", [0, 1, 2])
def test_only_the_part_learns_and_only_the_part_trains(place: int) -> None:
    meta, part = parts(12), parts(12, seed=1)[place]
    hybrid = Hybrid(meta, place, part).train()
    before = copy.deepcopy(meta)
    assert part.training
    hybrid(images()).sum().backward()
    for other, module in enumerate(meta):
        if other != place:
            assert not any(one.training for one in module.modules())
            assert all(one.grad is None for one in module.parameters())
            assert same([module], [before[other]])  # statistics too
    assert all(one.grad is not None for one in part.parameters())


def test_an_ordinary_module_becomes_a_supernet_of_one_arch() -> None:
    hybrid = Hybrid(parts(12), 1, parts(12, seed=1)[1])
    net = as_supernet(hybrid, example=images(1))
    assert net.space.size == 1
    hybrid.eval()
    torch.testing.assert_close(net.eval()(images(), net.space.largest), hybrid(images()))
    learns = {name for name, one in net.named_parameters() if one.requires_grad}
    assert learns == {f"part.{name}" for name, _ in hybrid.part.named_parameters()}
    frozen = {name: tensor.clone() for name, tensor in net.state_dict().items() if not name.startswith("part.")}
    train(net, blobs(), sampler=Uniform(1), loss=Labels(), steps=4, lr=1e-2, progress=False)
    after = net.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in frozen.items())
    assert not torch.equal(after["part.0.weight"], hybrid.part[0].weight)  # type: ignore[index]
    extracted = net.extract(net.space.largest)
    assert isinstance(extracted, Hybrid)
    net.eval()
    torch.testing.assert_close(extracted(images()), net(images(), net.space.largest))


def trained_meta(task: Any) -> list[nn.Module]:
    net = as_supernet(nn.Sequential(*parts(16)), example=task.example)
    train(net, task, sampler=Uniform(1), loss=Labels(), steps=60, lr=1e-2, progress=False)
    return list(net.extract(net.space.largest).children())


def test_incubated_modules_work_together_at_once() -> None:
    task = blobs(n=200)
    meta = trained_meta(task)
    targets = parts(16, depth=2, seed=5)
    before = copy.deepcopy((meta, targets))
    assembled = train_modules(targets, meta, task, steps=60, lr=1e-2)
    assert same(meta, before[0])
    assert same(targets, before[1])
    assert not assembled.training
    untrained = task.evaluate(nn.Sequential(*targets).eval(), "test")["accuracy"]
    accuracy = task.evaluate(assembled, "test")["accuracy"]
    assert untrained < 0.3
    assert accuracy > 0.5  # without fine-tuning: each was trained to fit in


@pytest.mark.parametrize("width", [16, 24])
def test_a_teachers_module_teaches_in_the_same_place(
    width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of the first step, by hand: (1 − α) labels + α T² KL, both hybrids on the first batch."""
    task, meta, targets, teachers = blobs(), parts(16), parts(8, seed=5), parts(width, seed=7)
    real, made = Training.run, {}

    def noted(self: Training, *args: Any) -> Any:
        assert self.path is not None
        net = copy.deepcopy(self.supernet)
        made[self.path.name] = (net.train()(batch.inputs, net.space.largest).detach(), self.loss, real(self, *args))
        return made[self.path.name][2]

    batch = next(task.train_batches(0))
    monkeypatch.setattr(Training, "run", noted)
    options: dict[str, Any] = {"steps": 2, "weight": 0.3, "temperature": 2.0, "path": tmp_path}
    before = torch.get_rng_state()
    train_modules(targets, meta, task, teachers=teachers, **options)
    assert torch.equal(before, torch.get_rng_state())
    # The linear layers around a teacher's module are trained first.
    assert set(made) == {f"{kind}{i}" for kind in ("module", *(["teacher"] if width != 16 else [])) for i in range(3)}
    for place in range(3):
        scores, loss, _ = made[f"module{place}"]
        assert isinstance(loss, Teacher)
        teacher = loss.module
        assert isinstance(teacher, Hybrid)
        assert same([teacher.part], [teachers[place]])
        if width == 16:
            torch.testing.assert_close(teacher(images()), Hybrid(meta, place, teachers[place]).eval()(images()))
        expected = 0.7 * task.loss(scores, batch) + 0.3 * distillation(scores, teacher(batch.inputs), 2.0)
        step = Step(0, task, as_supernet(teacher).space, [], None)  # type: ignore[arg-type]
        assert loss(scores, batch, step).item() == pytest.approx(expected.item(), rel=1e-5)
    seconds = {name: result.seconds for name, (_, _, result) in made.items()}
    train_modules(targets, meta, task, teachers=teachers, **options)
    assert seconds == {name: result.seconds for name, (_, _, result) in made.items()}  # loaded, not trained again


def test_modules_resume_where_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, meta, targets = blobs(), parts(16), parts(16, seed=5)
    whole = train_modules(targets, meta, task, path=tmp_path / "whole", steps=5, lr=1e-2)
    real, made = Training.run, []

    def dying(self: Training, *args: Any) -> Any:
        made.append(self.path)
        if len(made) == 2:
            raise KeyboardInterrupt
        return real(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "run", dying)
        with pytest.raises(KeyboardInterrupt):
            train_modules(targets, meta, task, path=tmp_path / "killed", steps=5, lr=1e-2)
    resumed = train_modules(targets, meta, task, path=tmp_path / "killed", steps=5, lr=1e-2)
    assert same(list(whole), list(resumed))


def test_channels_are_bridged_in_images_too() -> None:
    torch.manual_seed(0)

    def conv(width: int) -> list[nn.Module]:
        last = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))
        return [nn.Conv2d(1, width, 3, stride=2, padding=1), nn.Conv2d(width, width, 3, padding=1), last]

    assembled = train_modules(conv(6), conv(4), blobs(), teachers=conv(8), steps=2)
    assert assembled(images()).shape == (5, 10)
    assert [tuple(one.weight.shape[:2]) for one in list(assembled)[:2]] == [(6, 1), (6, 6)]  # type: ignore[index, union-attr]


def test_an_elastic_module_is_trained_in_a_frozen_meta_model() -> None:
    meta = parts(16)

    @nas.model
    def middle(width: int) -> nn.Module:
        part = nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 16))
        return Hybrid(copy.deepcopy(meta), 1, part)

    space = nas.Space(middle(width=pg.oneof([4, 8, 32])), name="middle")
    net = Supernet(space, example=images(1))
    net.load_state_dict(
        {f"before.{name}": one for name, one in nn.Sequential(meta[0]).state_dict().items()}, strict=False
    )
    frozen = {name: tensor.clone() for name, tensor in net.state_dict().items() if name.startswith("before.")}
    train(net, blobs(), sampler=Sandwich(1), steps=5, lr=1e-2, progress=False)
    assert all(torch.equal(tensor, net.state_dict()[name]) for name, tensor in frozen.items())
    assert net.extract(space.smallest).part[0].weight.shape == (4, 16)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: train_modules(parts(8)[:2], parts(8), blobs()), "2 targets, 3 meta; give as many"),
        (lambda: train_modules(parts(8)[:1], parts(8)[:1], blobs()), "two or more"),
        (lambda: train_modules(parts(8), parts(8), blobs(), weight=0.3), "no effect without teachers"),
        (lambda: train_modules(parts(8), parts(8), blobs(), loss=Labels()), "chooses its own loss"),
        (
            lambda: train_modules([*parts(8)[:2], parts(9)[2]], parts(8), blobs()),
            r"module 2 of the target does not take what",
        ),
        (lambda: train_modules([*parts(8)[:2], nn.LSTM(8, 10)], parts(8), blobs()), "gives a tuple"),
        (lambda: train_modules([nn.Identity(), *parts(8)[:2]], parts(8), blobs()), "differ in positions"),
    ],
)
def test_models_that_do_not_fit_are_refused(call: Any, sentence: str) -> None:
    with pytest.raises(TrainError, match=sentence):
        call()

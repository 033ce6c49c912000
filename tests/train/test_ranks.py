"""A training on several processes is the training of one process: the same weights up to the order in which floats are added."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyglove as pg
import pytest
import torch
from torch import Tensor, distributed, nn

from nas.convert.elastic import elastic
from nas.errors import TrainError
from nas.supernet import Supernet
from nas.train import (
    DIST,
    RKD,
    Attentive,
    Batch,
    BatchScore,
    Classification,
    Delayed,
    Features,
    Hint,
    InPlace,
    Interpolated,
    Labels,
    Phase,
    Progressive,
    Sampler,
    Sandwich,
    SimilarityPreserving,
    Snapshots,
    Training,
    Uniform,
    as_supernet,
)
from nas.train.data import Shift
from nas.train.ranks import Group, Ranks, Share, check_share
from nas.train.synced import synced, whole
from searchspaces import conv, vit
from tests.train import family
from tests.train.ranks import Found, in_ranks

STEPS = 6


def double(task: Classification) -> Classification:
    """In float64 only what is computed differently remains different."""
    parts = {name: (getattr(task, name)[0].double(), getattr(task, name)[1]) for name in ("train", "valid", "test")}
    return dataclasses.replace(task, **parts)


def blobs(**options: Any) -> Classification:
    return double(dataclasses.replace(family.blobs(n=64, batch=16), **options))


def mlp() -> Supernet:
    space = family.nas.Space(family.mlp(width=pg.oneof([8, 16, 32]), depth=pg.oneof([0, 1]), dropout=0.0), name="mlp")
    return Supernet(space, example=torch.zeros(1, 1, 8, 8).double()).double()


def small_conv() -> Supernet:
    return conv.supernet(
        conv.space(widths=((4, 6), (6, 8)), depths=(1, 2), kernels=(3,), ratios=(1, 2), stem=4)
    ).double()


def small_vit() -> Supernet:
    return vit.supernet(vit.space(widths=(16, 32), depths=(1, 2), heads=(1, 2), ratios=(1, 2), head=8)).double()


class Joined(nn.Module):
    """Branches of two widths with statistics of both."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(1, 6, 1)
        self.norm, self.head = nn.BatchNorm2d(14), nn.Linear(14, 10)

    def forward(self, images: Tensor) -> Tensor:
        joined = torch.cat([self.one(images), self.two(images)], 1)
        logits: Tensor = self.head(self.norm(joined).relu().mean((2, 3)))
        return logits


def joined() -> Supernet:
    torch.manual_seed(0)
    example = torch.zeros(2, 1, 8, 8).double()
    return Supernet(elastic(Joined().double(), example, granule=2, check=False), example=example)


def trainings() -> Mapping[str, Callable[[], Training]]:
    """Samplers and losses that look at a batch, at losses or at weights, on families with and without BatchNorm."""

    def made(build: Callable[[], Supernet], **options: Any) -> Training:
        task = options.pop("task", None) or blobs()
        return Training(
            build(),
            task,
            **{"steps": STEPS, "validate_every": STEPS, "lr": 0.05, "optimizer": "sgd", "clip": 0.5, **options},
        )

    def attentive() -> Training:
        net = mlp()
        sampler = Attentive(BatchScore(net, blobs()), net.params, 500.0, best=False, pool=20)
        return made(lambda: net, sampler=sampler)

    def paced() -> Training:
        teacher = mlp()
        return made(mlp, loss=Interpolated(teacher.extract(teacher.space.largest), 60, pace=0.5))

    progressive = Progressive([Phase(2, {}), Phase(2, {"width": None}, n=2, sort=True), Phase(2, {"depth": None}, n=2)])
    moved = blobs(augment=Shift(1), smoothing=0.1)
    return {
        "vit, sandwich, in place": lambda: made(small_vit),
        "conv, sandwich, in place": lambda: made(small_conv),
        "elastic, statistics of joined branches": lambda: made(joined),
        "conv, one path, labels, adamw": lambda: made(
            small_conv, sampler=Uniform(1), loss=Labels(), optimizer="adamw", lr=2e-3
        ),
        "augmented": lambda: made(mlp, task=moved),
        "worst of three": attentive,
        "progressive, channels sorted": lambda: made(mlp, sampler=progressive, loss=Labels()),
        "correlations over the batch": lambda: made(small_vit, loss=InPlace(divergence=DIST())),
        "relations of features": lambda: made(small_conv, loss=Features("stem", RKD(1.0, 2.0), InPlace())),
        "similarities of features": lambda: made(small_vit, loss=Features("norm", SimilarityPreserving(), weight=3.0)),
        "learned projections": lambda: made(small_conv, loss=Features("stem", Hint(), InPlace())),
        "earlier models": lambda: made(mlp, sampler=Delayed(Sandwich(1), 2), loss=Snapshots((2, 4))),
        "adaptive pace": paced,
    }


def finished(name: str, ranks: Ranks | None = None) -> Found:
    training = trainings()[name]()
    result = training.run(progress=False, ranks=ranks)
    losses = torch.tensor(result.history["loss"].tolist() if len(result.history) else [0.0], dtype=torch.float64)
    return {**{f"{name}/{key}": value for key, value in result.supernet.state_dict().items()}, f"{name}/loss": losses}


QUICK = (
    "vit, sandwich, in place",
    "conv, sandwich, in place",
    "elastic, statistics of joined branches",
    "worst of three",
    "correlations over the batch",
)
SLOW = tuple(name for name in trainings() if name not in QUICK)


def all_of(names: Sequence[str]) -> Found:
    found: Found = {}
    for name in names:
        found |= finished(name, Group())
    return found


@pytest.mark.parametrize(("size", "names"), [(2, QUICK), pytest.param(3, QUICK + SLOW, marks=pytest.mark.slow)])
def test_several_processes_give_what_one_gives(size: int, names: Sequence[str], tmp_path: Path) -> None:
    first, *others = in_ranks(size, functools.partial(all_of, names), tmp_path)
    for name in names:
        for key, expected in finished(name).items():
            # Losses are kept in float32, and so is what distillation compares.
            tolerance = 1e-6 if key.endswith("/loss") else 1e-7
            assert torch.allclose(first[key].double(), expected.double(), rtol=tolerance, atol=tolerance), key
            assert key.endswith("/loss") or all(torch.equal(first[key], other[key]) for other in others), key


def counted(net: Supernet, sampler: Sampler) -> list[int]:
    """Sizes of all sums over processes in a training."""
    sizes: list[int] = []
    original = distributed.all_reduce

    def count(tensor: Tensor, *given: Any, **options: Any) -> Any:
        sizes.append(tensor.numel())
        return original(tensor, *given, **options)

    distributed.all_reduce = count
    try:
        Training(net, blobs(), steps=STEPS, sampler=sampler).run(progress=False, ranks=Group())
    finally:
        distributed.all_reduce = original
    return sizes


class Torn(nn.Module):
    """Which of its layers is used is drawn when it is called, by each process for itself; the third one is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 10).double() for _ in range(3))

    def forward(self, images: Tensor) -> Tensor:
        place = (distributed.get_rank() + int(torch.randint(2, ()))) % 2 if self.training else 0
        logits: Tensor = self.layers[place](images.flatten(1))
        return logits


def dropping(path: Path | None = None) -> Training:
    return Training(family.supernet(), family.blobs(), path=path, steps=STEPS, lr=0.05, optimizer="sgd")


def drifted(by: float) -> bool:
    """Whether a process whose weights are changed is heard of; where it is not, all have the first one's."""
    training = Training(mlp(), blobs(), steps=STEPS)
    if distributed.get_rank() == 1:
        with torch.no_grad():
            next(training.supernet.parameters()).add_(by)
    try:
        found = training.run(progress=False, ranks=Group()).supernet.state_dict()
    except TrainError as error:
        return "drifted apart" in str(error)
    expected = Training(mlp(), blobs(), steps=STEPS).run(progress=False, ranks=Group()).supernet.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    return False


def interrupted(path: Path) -> int:
    """The step at which a process learns that the first one was asked to stop."""
    asked = iter([False, False, True])
    training = dropping(path)
    try:
        training.run(progress=False, ranks=Group(lambda: next(asked)))
    except KeyboardInterrupt:
        return json.loads((path / "state.json").read_text())["step"]
    return -1


def oddities(folder: Path) -> Found:
    net = small_vit()
    vit_sizes, norms = counted(net, Sandwich(2)), counted(mlp(), Uniform(1))
    whole = dropping().run(progress=False, ranks=Group()).supernet.state_dict()
    stopped = interrupted(folder / "stopped")
    resumed = dropping(folder / "stopped").run(progress=False, ranks=Group()).supernet.state_dict()
    torch.manual_seed(0)
    torn = as_supernet(Torn(), example=torch.zeros(1, 1, 8, 8).double())
    Training(torn, blobs(), steps=STEPS, loss=Labels(), sampler=Uniform(1)).run(progress=False, ranks=Group())
    return {
        "parameters": torch.tensor(sum(one.numel() for one in net.parameters())),
        "vit": torch.tensor(vit_sizes),
        "norms": torch.tensor(norms),
        "stopped": torch.tensor(stopped),
        "resumed": torch.tensor([torch.equal(whole[name], resumed[name]) for name in whole]),
        "drifted": torch.tensor([drifted(1e-9), drifted(0.1)]),
        **{f"torn {name}": value for name, value in torn.state_dict().items()},
    }


def test_parts_of_a_batch_are_all_of_it() -> None:
    samples = torch.arange(7)
    batch = Batch({"x": samples, "mask": torch.ones(3), "scale": 2.0}, (samples, [samples]))
    for size in range(1, 8):
        ranks = [Ranks() for _ in range(size)]
        for number, one in enumerate(ranks):
            one.rank, one.size = number, size
        shares = [one.share(len(batch)) for one in ranks]
        parts = [share.of(batch) for share in shares]
        assert torch.equal(torch.cat([part.inputs["x"] for part in parts]), samples)
        assert torch.equal(torch.cat([part.targets[1][0] for part in parts]), samples)
        assert all(len(part.inputs["mask"]) == 3 and part.inputs["scale"] == 2.0 for part in parts)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert sum(share.weight for share in shares) == pytest.approx(1.0)
    with pytest.raises(TrainError, match="8 workers cannot share a batch of 7 samples; give at most 7 workers"):
        check_share(7, 8)


def test_alone_nothing_is_gathered() -> None:
    features = torch.randn(4, 3)
    with synced(Ranks(), Share(0, 4, 4)):
        assert whole(features) is features


def test_processes_that_differ(tmp_path: Path) -> None:
    found, other = in_ranks(2, functools.partial(oddities, tmp_path), tmp_path)
    large = (found["vit"] >= found["parameters"]).sum()
    assert large == STEPS
    assert found["stopped"] == 3
    assert other["stopped"] >= 0
    assert found["resumed"].all()
    assert other["resumed"].all()
    assert found["drifted"].tolist() == other["drifted"].tolist() == [False, True]
    assert all(torch.equal(found[name], other[name]) for name in found if name != "stopped")

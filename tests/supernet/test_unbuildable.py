"""Models that refuse some archs with `Infeasible`: heads that do not divide the width."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyglove as pg
import pytest
import torch
from torch import Tensor, nn

import nas
from nas.errors import Infeasible, SpaceError
from nas.train import Sandwich, Uniform


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.stem = nn.Linear(8, width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.stem(x)
        out: Tensor = self.head(self.attention(hidden, hidden, hidden)[0].mean(1))
        return out


@nas.model
def net(width: int, heads: int) -> nn.Module:
    if width % heads:
        raise nas.Infeasible(f"{heads} heads do not divide {width}")
    return Attention(width, heads)


def task() -> nas.Classification:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 4, 8, generator=generator), torch.randint(3, (64,), generator=generator)
    return nas.Classification(train=(x, y), valid=(x[:32], y[:32]), batch=32)


def space(widths: list[int], heads: list[int]) -> nas.Space:
    return nas.Space(net(width=pg.oneof(widths), heads=pg.oneof(heads)))


SPACES = {
    "none of the archs that it is made from": ([16, 24], [2, 6, 8], (24, 8)),
    "the smallest width with the most heads": ([12, 24], [2, 3, 8], (24, 8)),
    "the largest": ([16, 24], [2, 16], (16, 16)),
}


@pytest.mark.parametrize(("widths", "heads", "largest"), SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("sampler", [Uniform(2), Sandwich(3)], ids=["uniform", "sandwich"])
def test_a_supernet_is_made_trained_saved_and_searched(
    widths: list[int], heads: list[int], largest: tuple[int, int], sampler: Any, tmp_path: Path
) -> None:
    given = space(widths, heads)
    made = nas.Supernet(given, example=task().example)
    choices = made.space.largest.choices
    assert (choices["width"], choices["heads"]) == largest
    training = nas.Training(made, task(), steps=12, sampler=sampler, path=tmp_path / "t")
    training.run(progress=False)
    study = nas.Study(
        "s",
        space=given,
        objectives=["max accuracy"],
        evaluators=[nas.Accuracy(training, task())],
        algorithm="exhaustive",
        store=tmp_path / "a.db",
    )
    study.run(workers=0, progress=False)
    feasible = sum(a % b == 0 for a in widths for b in heads)
    assert study.record.counts()["COMPLETED"] == feasible
    assert study.record.counts()["INFEASIBLE"] == given.size - feasible
    made.save(tmp_path / "n")
    loaded = nas.Supernet.load(tmp_path / "n", given)
    assert loaded.space.largest == made.space.largest
    x = task().example
    assert torch.equal(loaded.eval()(x, loaded.space.largest), made.eval()(x, made.space.largest))


def test_an_interrupted_training_draws_the_same_archs(tmp_path: Path) -> None:
    """Whether the first arch that cannot be built was drawn before the interruption or after it."""

    def trained(path: Path, *stops: int) -> dict[str, Tensor]:
        for stop in (*stops, None):
            made = nas.Supernet(space([16, 24], [2, 6, 8]), example=task().example)
            training = nas.Training(made, task(), steps=12, sampler=Uniform(1), path=path)
            training.run(progress=False, until=stop)
        return made.state_dict()

    whole, resumed = trained(tmp_path / "a"), trained(tmp_path / "b", 1, 2, 3, 7)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_what_nothing_can_be_built_of_is_refused() -> None:
    with pytest.raises(SpaceError, match="archs of space 'net' that were looked at is allowed"):
        nas.Supernet(space([16, 32], [3, 5]))


def test_an_arch_that_cannot_be_built_says_why() -> None:
    made = nas.Supernet(space([16, 24], [2, 6, 8]), example=task().example)
    with pytest.raises(Infeasible, match="6 heads do not divide 16"):
        made.extract(made.space.arch({"width": 16, "heads": 6}))

"""Layers that fade: the share follows the step, resumes to the bit, is evaluated as trained, and folds at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyglove as pg
import pytest
import torch
from torch import Tensor, nn

import nas
from nas.errors import TrainError
from nas.study.take_home import Winner
from nas.train import Delayed, Labels, Sandwich, Training, Uniform, train
from tests.train.family import blobs


class Tokens(nn.Module):
    """(n, 1, 8, 8) -> (n, 8, 8): rows are tokens."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1, 2)


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


@nas.model
def family(width: int, norm: str) -> nn.Module:
    made = {"plain": nn.LayerNorm(width), "faded": nas.Fade(nn.LayerNorm(width), nas.RepNorm(width))}[norm]
    slope = nn.ReLU() if norm == "plain" else nas.Fade(nn.ReLU(), nn.Identity())
    layers = [
        Tokens(),
        nn.Linear(8, width),
        nn.GELU(),
        made,
        nn.Linear(width, width),
        slope,
        nn.Linear(width, 10),
        Mean(),
    ]
    return nn.Sequential(*layers)


def supernet(norm: Any = "faded") -> nas.Supernet:
    space = nas.Space(family(width=pg.oneof([8, 16]), norm=norm), name="fading")
    return nas.Supernet(space, example=torch.zeros(1, 1, 8, 8), seed=0)


def faded_in_part(path: Path, steps: int, fading: nas.Fading) -> nas.Supernet:
    """A supernet whose training has stopped on its way."""
    training = Training(supernet(), blobs(), path=path, sampler=fading, loss=Labels(), steps=12)
    training.run(progress=False, until=steps)
    return training.supernet


def shares(net: nas.Supernet) -> list[float]:
    return [float(tensor) for name, tensor in net.state_dict().items() if name.endswith("faded_share")]


def test_the_share_follows_the_step(tmp_path: Path) -> None:
    fading = nas.Fading(Uniform(1), steps=4, start=2)
    assert [fading.share(step) for step in range(8)] == [0, 0, 0, 0.25, 0.5, 0.75, 1, 1]
    net = faded_in_part(tmp_path, 6, fading)
    assert shares(net) == [0.75, 0.75]
    assert {
        float(one.faded_share) for one in net.extract(net.space.largest).modules() if isinstance(one, nas.Fade)
    } == {0.75}


def test_the_sampler_s_own_beginning_is_kept() -> None:
    net = supernet()
    train(net, blobs(), sampler=nas.Fading(Delayed(Sandwich(1), 2), steps=2), steps=4, progress=False)
    assert shares(net) == [1.0, 1.0]


def test_a_resumed_training_ends_with_the_very_same_weights(tmp_path: Path) -> None:
    def make(path: Path) -> Training:
        sampler = nas.Fading(Sandwich(1), steps=8, start=2)
        return Training(supernet(), blobs(), path=path, steps=12, checkpoint_every=1, sampler=sampler)

    whole = make(tmp_path / "whole").run(progress=False)
    first = make(tmp_path / "parts")
    first.run(progress=False, until=5)
    assert shares(first.supernet) == [0.25, 0.25]
    second = make(tmp_path / "parts")
    resumed = second.run(progress=False)
    ours, theirs = whole.supernet.state_dict(), resumed.supernet.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert shares(second.supernet) == [1.0, 1.0]


def test_what_is_measured_on_the_way_is_what_is_trained() -> None:
    module = nas.Fade(nn.LayerNorm(4), nas.RepNorm(4)).eval()
    x = torch.randn(3, 5, 4)
    for share in (0.0, 0.3, 1.0):
        module.faded_share.fill_(share)
        expected = (1 - share) * module.first(x) + share * module.second(x)
        assert torch.allclose(module(x), expected)


def test_a_function_in_place_changes_no_more_than_its_own_input() -> None:
    class Rectified(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.relu_(x)

    fade, x = nas.Fade(Rectified(), nn.Identity()), torch.randn(3, 4)
    fade.faded_share.fill_(0.25)
    assert torch.allclose(fade(x), 0.75 * x.relu() + 0.25 * x)
    assert bool((x < 0).any())


def test_at_its_end_a_network_folds_and_before_it_does_not(tmp_path: Path) -> None:
    net = supernet()
    train(net, blobs(), sampler=nas.Fading(Sandwich(1), steps=6), steps=8, progress=False)
    module, x = net.extract(net.space.largest), torch.randn(4, 1, 8, 8)
    folded = nas.fold(module, x, required=["3", "5", "6"])
    assert folded.merged == {"3": ("4",), "5": ("4",), "6": ("4",)}
    assert torch.allclose(folded.module(x), module(x), atol=1e-5)
    assert not any("fade" in type(one).__name__.lower() for one in folded.module.modules())
    nas.export(module, tmp_path / "folded.pt2", example=x, fold=True)
    half = faded_in_part(tmp_path / "half", 4, nas.Fading(Sandwich(1), steps=6))
    module = half.extract(half.space.largest)
    assert nas.fold(module, x).merged == {}
    with pytest.raises(nas.NasError, match="^'3' cannot be folded: "):
        nas.fold(module, x, required=["3"])


def test_a_network_that_still_fades_is_written_without_this_library(tmp_path: Path) -> None:
    net = faded_in_part(tmp_path / "half", 4, nas.Fading(Sandwich(1), steps=6))
    module = net.extract(net.space.largest)
    Winner("fading", 0, net.space.largest, module, {}, {}, torch.randn(3, 1, 8, 8), None).write(tmp_path / "winner")
    assert (tmp_path / "winner" / "load.py").exists()


def test_the_norm_takes_any_number_of_axes() -> None:
    norm = nas.RepNorm(4).eval()
    x = torch.randn(2, 3, 5, 4)
    assert torch.allclose(norm(x)[:, 1, 2], norm(x[:, 1, 2]))


def test_the_norm_of_a_block_with_a_skip_folds() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.drop, self.up = nas.RepNorm(8), nn.Dropout(), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.up(self.drop(self.norm(x))).relu()

    model = nn.Sequential(Block(), Block()).eval()
    for x in (torch.randn(1, 4, 8), torch.randn(2, 3, 4, 8)):
        assert nas.fold(model, x).merged == {"0.norm": ("0.up",), "1.norm": ("1.up",)}


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: nas.Fading(Uniform(1), 0), "Fading was given steps=0"),
        (lambda: nas.Fading(Labels(), 3), "Fading was given sampler=a Labels"),  # type: ignore[arg-type]
        (
            lambda: nas.Fade(nn.ReLU(inplace=True), nn.Identity()),
            "changes its input in place, and both modules read it",
        ),
        (
            lambda: train(supernet("plain"), blobs(), sampler=nas.Fading(Uniform(1), 3), steps=4, progress=False),
            "Fading has nothing to fade: no arch of the space has a nas.Fade",
        ),
        (
            lambda: train(supernet(), blobs(), sampler=nas.Fading(Uniform(1), 20), steps=10, progress=False),
            r"Fading ends at step 21 of 10.*start \+ steps is at most 9",
        ),
        (
            lambda: train(supernet(), blobs(), sampler=nas.Fading(Uniform(1), 2, start=8), steps=10, progress=False),
            "Fading ends at step 11 of 10",
        ),
        (
            lambda: train(supernet(), blobs(), sampler=Delayed(nas.Fading(Uniform(1), 2), 5), steps=7, progress=False),
            "Fading ends at step 3 of 2",
        ),
    ],
)
def test_refusals(make: Any, sentence: str) -> None:
    with pytest.raises(TrainError, match=sentence):
        make()

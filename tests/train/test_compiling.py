"""Training through torch's compiler: the same weights as without, to rounding, and the same when killed."""

from __future__ import annotations

from pathlib import Path

import pyglove as pg
import pytest
import torch
from torch import nn

import nas
from nas.errors import TrainError
from nas.train import Training
from nas.train.ranks import Ranks
from tests.train.family import blobs
from tests.train.test_options import killed
from tests.train.test_resume import equal


@nas.model
def net(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, width), nn.BatchNorm1d(width), nn.Dropout(0.2), nn.ReLU(), nn.Linear(width, 10)
    )


def few() -> nas.Supernet:
    return nas.Supernet(nas.Space(net(width=pg.oneof([4, 8, 16]))), example=torch.zeros(1, 1, 8, 8), seed=0)


def training(path: Path | None = None, compile: bool | str = "aot_eager") -> Training:
    task = blobs(50, 16)  # an uneven last batch
    return Training(
        few(), task, path=path, steps=12, lr=1e-2, compile=compile, checkpoint_every=4, sampler=nas.Sandwich(1)
    )


def test_a_compiled_training_gives_the_weights_of_a_plain_one_to_rounding() -> None:
    compiled, plain = training().run(progress=False), training(compile=False).run(progress=False)
    frames = torch._dynamo.utils.counters["frames"]
    assert frames["ok"] >= 3  # archs
    for name, one in plain.supernet.state_dict().items():
        torch.testing.assert_close(compiled.supernet.state_dict()[name], one, rtol=1e-4, atol=1e-5)
    assert compiled.supernet.bind(few().space.largest).compiled is None


def test_a_killed_one_is_resumed_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = training().run(progress=False)
    again = killed(monkeypatch, lambda: training(tmp_path), 7)
    equal(whole, again)
    with pytest.raises(TrainError, match="compile"):
        training(tmp_path, compile=False).run(progress=False)


class Two(Ranks):
    """As one process that knows of another."""

    size = 2


def broken(*_: object) -> object:
    raise RuntimeError("no compiler is installed")


def test_what_is_not_compiled_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = nas.Supernet(nas.Space(net(width=pg.oneof(list(range(4, 200))))), example=torch.zeros(1, 1, 8, 8))
    with pytest.raises(TrainError, match="compiles each arch by itself, .* the space has 196"):
        Training(wide, blobs(), compile=True)
    with pytest.raises(TrainError, match="no backend of torch.compile; did you mean 'inductor'"):
        Training(few(), blobs(), compile="inducter")
    with pytest.raises(TrainError, match="trains in one process, not in 2"):
        training().run(progress=False, ranks=Two())
    monkeypatch.setattr(torch, "compile", lambda module, backend: real(module, backend=broken))
    with pytest.raises(TrainError, match=r"torch.compile cannot compile this model here \(.*no compiler is installed"):
        training().run(progress=False)


real = torch.compile

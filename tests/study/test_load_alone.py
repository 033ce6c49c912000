"""`load.py` where nothing of the search can be imported: families, a job's own classes, converted and stitched networks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyglove as pg
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import nas
from nas.errors import StudyError
from nas.study.slices import Slices
from nas.study.structure import Structure
from nas.study.take_home import Winner
from nas.supernet.inputs import call, tensors_in
from searchspaces import conv, matformer, nasbench201, nested_lm, ofa, sorted_lm, stitch, vit

CHILD = """
import sys

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("nas", "searchspaces", "pyglove", "tests"):
            raise ImportError(name)

sys.meta_path.insert(0, Nothing())
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from load import load
model = load()
assert not model.training
inputs = torch.load(sys.argv[2])
with torch.no_grad():
    output = model(**inputs) if isinstance(inputs, dict) else model(*inputs) if isinstance(inputs, tuple) else model(inputs)
torch.save([one for one in torch.utils._pytree.tree_leaves(output) if isinstance(one, torch.Tensor)], sys.argv[3])
"""


def winner(module: nn.Module, arch: nas.Arch, example: Any, job: str | None = None) -> Winner:
    return Winner("alone", 0, arch, module.eval(), {"accuracy": 0.5}, {}, example, job)


def alone(folder: Path, example: Any) -> list[Tensor]:
    """What the written network gives in a process without the search's libraries."""
    inputs, outputs = folder.parent / "inputs.pt", folder.parent / "outputs.pt"
    torch.save(example, inputs)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder), str(inputs), str(outputs)],
        capture_output=True, text=True, check=False, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: list[Tensor] = torch.load(outputs)
    return found


def expect_alone(net: nas.Supernet, arch: nas.Arch, folder: Path, job: str | None = None) -> None:
    module = net.extract(arch)
    assert net.example is not None
    winner(module, arch, net.example, job).write(folder / "winner")
    with torch.no_grad():
        expected = [one for one in tensors_in(call(module, net.example)) if one.is_floating_point()]
    found = [one for one in alone(folder / "winner", net.example) if one.is_floating_point()]
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def stitched() -> nas.Supernet:
    from tests.searchspaces.test_stitch import images, small_vit

    return stitch.supernet(stitch.space([small_vit(16), small_vit(24)], example=images(1)))


class Custom(nn.Module):
    """A user's class: a nested activation, a constant of the module, plain tensors, a tie, a recurrent layer, a weight norm."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, width), nn.Linear(width, 4, bias=False)
        self.second.weight = nn.Parameter(self.second.weight.detach())
        self.inner = nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 4))
        self.rates = torch.linspace(0, 1, 4)
        self.register_buffer("shift", torch.full((4,), 0.5), persistent=False)
        self.cell = nn.GRU(4, 4, batch_first=True)
        self.normed = weight_norm(nn.Linear(4, 4))
        self.scale, self.act = SCALE, nn.functional.gelu

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.act(self.first(x))) * self.rates + self.shift
        x = x + self.normed(self.inner(x)) * self.scale
        return self.cell(x[:, None])[0][:, 0]  # type: ignore[no-any-return]


SCALE = 0.5


def converted() -> nas.Supernet:
    example = torch.randn(2, 4)
    torch.manual_seed(0)
    model = Custom(16, 16).eval()
    return nas.Supernet(nas.elastic(model, example, granule=4), example=example, weights=model)


FAMILIES: dict[str, Callable[[], nas.Supernet]] = {
    "conv": conv.supernet,
    "nasbench201": lambda: nasbench201.supernet(nasbench201.space(width=4, cells=1)),
    "ofa": lambda: ofa.supernet(ofa.space()),
    "vit": vit.supernet,
    "matformer": matformer.supernet,
    "sorted_lm": sorted_lm.supernet,
    "nested_lm": nested_lm.supernet,
    "stitched": stitched,
    "converted": converted,
}


QUICK = ("conv", "converted")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FAMILIES]
)
def test_a_network_loads_and_computes_the_same_without_the_library(name: str, tmp_path: Path) -> None:
    net = FAMILIES[name]()
    job = None if name != "converted" else __file__
    expect_alone(net, net.space.smallest, tmp_path, job)


JOB = """
import math
import torch
import nas
from torch import nn
from helper import Twice as Doubled

open("executed", "a").close()  # a job does whatever it does when it is imported
RATE = math.tau / 4


def scaled(x):
    return RATE * x


class Base(nn.Module):
    def forward(self, x: "nas.Arch"):
        return scaled(self.body(x))


class Net(Base):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, width), Doubled(), nn.Linear(width, 2))


@nas.model
def net(width):
    return Net(width)
"""
HELPER = "from torch import nn\n\n\nclass Twice(nn.Module):\n    def forward(self, x):\n        return 2 * x\n"


def test_classes_of_a_job_go_along_and_the_job_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nas.runners.work import import_file

    (tmp_path / "job.py").write_text(JOB)
    (tmp_path / "helper.py").write_text(HELPER)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    job = import_file("nas_job_alone", str(tmp_path / "job.py"))
    (tmp_path / "executed").unlink()
    space = nas.Space(job.net(width=pg.oneof([2, 4])))
    net = nas.Supernet(space, example=torch.randn(3, 4))
    expect_alone(net, space.smallest, tmp_path, str(tmp_path / "job.py"))
    assert not (tmp_path / "executed").exists()
    written = (tmp_path / "winner" / "source" / "job.py").read_text()
    assert "RATE = math.tau / 4" in written
    assert "nas" not in written.replace("nas.Arch", "")
    assert (tmp_path / "winner" / "source" / "helper.py").exists()


class Hooked(nn.Linear):
    """What a process keeps to itself."""

    def __init__(self, kind: str) -> None:
        super().__init__(4, 2)
        if kind == "hook":
            self.register_forward_hook(lambda *_: None)
        elif kind == "lambda":
            self.act = lambda x: x
        elif kind == "file":
            self.log = open(__file__, encoding="utf-8")  # noqa: SIM115


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("hook", "model has hooks"),
        ("lambda", "model.act needs .*lambda.*, which no other process finds"),
        ("symbolic", "model.config is a value of the search"),
        ("file", "model.log is a TextIOWrapper"),
    ],
)
def test_what_cannot_be_written_is_refused_with_its_place(kind: str, says: str, tmp_path: Path) -> None:
    module = Hooked(kind)
    if kind == "symbolic":
        module.config = pg.Dict(width=3)  # type: ignore[assignment]
    arch = conv.space().smallest
    with pytest.raises(
        StudyError, match=f"cannot be written with a load.py: {says}.*'nas export STUDY 0 -o FILE' writes"
    ):
        winner(module, arch, torch.zeros(1, 4)).write(tmp_path / "winner")
    assert not list(tmp_path.iterdir())
    if kind == "file":
        module.log.close()


def test_two_folders_have_classes_of_their_own(tmp_path: Path) -> None:
    slices = Slices(None)
    net = conv.supernet()
    described = Structure(net.extract(net.space.smallest), slices).to_json()
    assert described["objects"][0]["class"] == ["searchspaces_conv", "ConvNet", True]
    assert set(slices.files()) == {"searchspaces_conv.py"}
    assert "nas" not in slices.files()["searchspaces_conv.py"]

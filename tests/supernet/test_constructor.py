"""What only the constructor's random state or the initial weights know: held, or refused by name."""

from __future__ import annotations

import random
import re

import numpy as np
import pyglove as pg
import pytest
import torch
from torch import nn

import nas
from nas import sealed
from nas.errors import CheckpointError, SupernetError
from nas.supernet.constructor import drawn
from nas.supernet.skeleton import build_skeleton
from tests.supernet import stateful
from tests.supernet.stateful import drawing_space, reading_space

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))


def scramble() -> None:
    """As if it were another process."""
    torch.seed()
    np.random.seed()
    random.seed()


def assert_same_everywhere(net: nas.Supernet, folder) -> None:
    """Pure call, bound, extracted, saved and read again, and loaded into a new module: one answer."""
    net.eval()
    net.save(folder)
    scramble()
    again = nas.Supernet.load(folder, net.space).eval()
    for arch in net.space.enumerate():
        with torch.no_grad():
            expected = net(X, arch)
            assert torch.equal(net.bind(arch)(X), expected)
            assert torch.equal(again(X, arch), expected)
            module = net.extract(arch)
            assert torch.equal(module(X), expected)
            scramble()
            fresh = net.space.build(arch)
            fresh.load_state_dict(module.state_dict())
            torch.testing.assert_close(fresh.eval()(X), expected)
        torch.testing.assert_close(net(X, arch), expected)  # with a graph


@pytest.mark.parametrize("case", stateful.HELD)
def test_a_drawn_buffer_is_held_saved_and_shared(case, tmp_path) -> None:
    net = nas.Supernet(drawing_space("held", case))
    assert "kept" in net.state_dict()
    assert_same_everywhere(net, tmp_path / "net")
    small, large = (dict(net.extract(arch).named_buffers())["kept"] for arch in (net.space.smallest, net.space.largest))
    assert torch.equal(small, large[tuple(slice(size) for size in small.shape)])


@pytest.mark.parametrize("case", stateful.INDICES)
def test_indices_are_drawn_for_each_arch_the_same_in_every_process(case, tmp_path) -> None:
    net = nas.Supernet(drawing_space("indices", case))
    assert "kept" not in net.state_dict()
    assert_same_everywhere(net, tmp_path / "net")
    for arch in net.space.enumerate():
        assert int(net.extract(arch).kept.max()) < arch.choices["width"]


@pytest.mark.parametrize("case", stateful.REFUSED)
def test_what_no_checkpoint_has_is_refused_by_name(case) -> None:
    name = {"layer in a list": "parts[0].weight", "hook": "first._forward_hooks[0]"}.get(case, "kept")
    with pytest.raises(SupernetError, match=rf"['\"]{re.escape(name)}.*(generator|compute it in forward)"):
        nas.Supernet(drawing_space("refused", case))


@pytest.mark.parametrize("case", stateful.NUMBERS)
def test_a_number_that_matters_is_refused(case) -> None:
    with pytest.raises(SupernetError, match=r"attribute ['\"]kept.*register_buffer"):
        nas.Supernet(drawing_space("numbers", case), example=X)
    net = nas.Supernet(drawing_space("numbers", case))
    for call in (lambda: net(X, net.space.smallest), lambda: net.bind(net.space.largest)(X)):
        with pytest.raises(SupernetError, match=r"attribute ['\"]kept.*register_buffer"):
            call()


@pytest.mark.parametrize("case", stateful.HARMLESS)
def test_what_makes_no_difference_is_left_alone(case, tmp_path) -> None:
    net = nas.Supernet(drawing_space("harmless", case), example=X)
    assert "kept" not in net.state_dict()
    assert_same_everywhere(net, tmp_path / "net")


@pytest.mark.parametrize("name", stateful.BY_NAME)
def test_a_constructor_may_read_its_weights(name, tmp_path) -> None:
    net = nas.Supernet(reading_space(name), example=X)
    assert_same_everywhere(net, tmp_path / "net")
    assert torch.isfinite(net(X, net.space.largest)).all()
    assert net.macs(net.space.largest) > net.macs(net.space.smallest) > 0


def test_a_parameter_made_of_another_is_tied_to_it() -> None:
    net = nas.Supernet(reading_space("Tied"))
    assert net.get_parameter("first.weight") is net.get_parameter("last.weight")
    module = net.extract(net.space.smallest)
    assert module.first.weight is module.last.weight
    assert net.params(net.space.smallest) == 4 * 4 + 4 * 3 + 3


def test_what_is_computed_from_the_weights_goes_with_them() -> None:
    """Whichever arch the initial weights come from."""
    for seed in (0, 1):
        net = nas.Supernet(drawing_space("held", "copy of the weights"), seed=seed)
        for arch in net.space.enumerate():
            module = net.extract(arch)
            assert torch.equal(module.kept, module.first.weight)


@pytest.mark.parametrize("case", ["normal", "from numpy", "from python", "mask"])
def test_the_seed_decides_what_is_drawn(case) -> None:
    first = nas.Supernet(drawing_space("held", case), seed=3).state_dict()
    scramble()
    second, third = (nas.Supernet(drawing_space("held", case), seed=seed).state_dict() for seed in (3, 4))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["kept"], third["kept"])


def test_initial_weights_from_numpy_are_a_function_of_the_seed() -> None:
    first = nas.Supernet(reading_space("numpy_start")).state_dict()
    scramble()
    assert torch.equal(first["0.weight"], nas.Supernet(reading_space("numpy_start")).state_dict()["0.weight"])


def test_random_states_are_left_alone() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    net = nas.Supernet(drawing_space("held", "from numpy"), example=X)
    net(X, net.space.smallest)
    net.extract(net.space.smallest)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (np.random.get_state()[1].tolist(), random.getstate())


def test_given_weights_bring_their_own_buffers() -> None:
    scramble()
    trained = stateful.Drawn(8, *stateful.HELD["normal"]).eval()
    net = nas.Supernet(drawing_space("held", "normal"), weights=trained).eval()
    torch.testing.assert_close(net(X, net.space.largest), trained(X))


@nas.model
def wired(width):
    torch_layers = [nn.Linear(4, width), nn.Tanh() if random.random() < 0.5 else nn.ReLU(), nn.Linear(width, 3)]
    return nn.Sequential(*torch_layers, *(nn.Identity() for _ in range(random.randrange(1000))))


@nas.model
def overlapping(width):
    net = nn.Sequential(nn.Linear(4, width, bias=False), nn.Linear(width, 4, bias=False))
    net[1].weight = nn.Parameter(net[0].weight.t())
    return net


@nas.model
def listed(width):
    net = nn.Sequential(nn.Linear(4, width))
    net.all_parameters = list(net.parameters())
    return net


@nas.model
def aliased(width):
    net = nn.Sequential(nn.Linear(4, width))
    net.register_buffer("start", net[0].weight.detach())
    return net


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (wired, "another network each time that it is built"),
        (overlapping, "parameters '0.weight' and '1.weight' .* share memory"),
        (listed, r"attribute 'all_parameters\[0\]' is computed from parameters"),
        (aliased, "buffer 'start' is computed from parameters"),
    ],
)
def test_networks_that_cannot_be_shared(function, says) -> None:
    with pytest.raises(SupernetError, match=says):
        nas.Supernet(nas.Space(function(pg.oneof([4, 8])), name="not shared"))


def test_two_builds_are_all_that_it_costs() -> None:
    space = drawing_space("harmless", "nothing", (4, 6, 8))
    built = []
    build, space.build = space.build, lambda arch: (built.append(arch), build(arch))[1]
    nas.Supernet(space)
    assert len(built) <= 2 * len(space.covering()) + 1  # skeletons, and the initial weights
    module = build_skeleton(space, space.largest)
    built.clear()
    assert not drawn(space, space.largest, module, lambda _: False).buffers
    assert len(built) == 1


SALT = 0
"""Another one in each process, as the salt of the hash of texts."""


class Hashed(nn.Module):
    def __init__(self, width, where):
        super().__init__()
        self.layer = nn.Linear(4, width)
        table = torch.randperm(width, generator=torch.Generator().manual_seed(SALT))
        if where == "buffer":
            self.register_buffer("table", table, persistent=False)
        elif where == "texts":
            self.table = [f"unit {number}" for number in table.tolist()]
        else:
            self.table = {"list": table.tolist(), "array": table.numpy(), "tensor": table}[where]

    def forward(self, x):
        return self.layer(x)


@nas.model
def hashed(width, where):
    return Hashed(width, where)


@pytest.mark.parametrize("where", ["buffer", "list", "array", "tensor", "texts"])
def test_a_table_that_depends_on_the_process_is_refused_where_the_checkpoint_is_read(
    where, tmp_path, monkeypatch
) -> None:
    space = nas.Space(hashed(pg.oneof([8, 16]), where), name="hashed")
    nas.Supernet(space).save(tmp_path)
    nas.Supernet.load(tmp_path, space)
    monkeypatch.setitem(globals(), "SALT", 1)
    elsewhere = nas.Space(hashed(pg.oneof([8, 16]), where), name="hashed")
    with pytest.raises(CheckpointError, match="gave another 'table': it depends on the process"):
        nas.Supernet.load(tmp_path, elsewhere)


@pytest.mark.parametrize(("group", "case", "kept"), [("held", "normal", False), ("harmless", "seeded", True)])
def test_checkpoints_of_earlier_versions_are_read_or_refused(group, case, kept, tmp_path) -> None:
    """They have no summary of constants, and no buffers that were drawn."""
    net = nas.Supernet(drawing_space(group, case))
    net.save(tmp_path)
    index, _ = sealed.unseal((tmp_path / "supernet.json").read_bytes())
    del index["constants"]
    index["buffers"].pop("kept", None)
    (tmp_path / "supernet.json").write_bytes(sealed.seal(index))
    if kept:
        again = nas.Supernet.load(tmp_path, net.space).eval()
        assert torch.equal(again(X, net.space.smallest), net.eval()(X, net.space.smallest))
    else:
        with pytest.raises(CheckpointError, match="earlier version, which did not keep buffer 'kept'"):
            nas.Supernet.load(tmp_path, net.space)

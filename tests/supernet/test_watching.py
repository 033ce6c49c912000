"""What calls change: learnt buffers are held, shared, saved and extracted; state that no checkpoint has is refused by name."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import nas
from nas.errors import SupernetError
from tests.supernet import stateful
from tests.supernet.stateful import Drawn, drawing_space
from tests.supernet.test_constructor import X, assert_same_everywhere, scramble


def batches(count: int = 12) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [5 * torch.randn(16, 4, generator=generator) + 3 for _ in range(count)]


def trained(net: nas.Supernet, archs) -> nas.Supernet:
    """Forward and backward of the archs in turn."""
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for inputs in batches():
        for arch in archs:
            net.bind(arch)(inputs).square().mean().backward()
        optimizer.step()
        net.zero_grad()
    return net.eval()


@pytest.mark.parametrize("case", stateful.LEARNT)
def test_what_training_changes_is_one_thing_everywhere(case, tmp_path) -> None:
    net = nas.Supernet(drawing_space("learnt", case))
    start = net.state_dict().keys()
    trained(net, list(net.space.enumerate()))
    assert case in ("BatchNorm", "spectral norm", "codebook") or net.state_dict().keys() > start
    assert_same_everywhere(net, tmp_path / "net")
    fresh = nas.Supernet(net.space).eval()
    fresh.load_state_dict(net.state_dict())
    twin = copy.deepcopy(net)
    for arch in net.space.enumerate():
        assert torch.equal(fresh(X, arch), net(X, arch))
        assert torch.equal(twin(X, arch), net(X, arch))


@pytest.mark.parametrize("case", stateful.LEARNT)
def test_the_largest_learns_what_the_module_alone_learns(case) -> None:
    """The supernet adds nothing and loses nothing: values are those of plain torch."""
    net = nas.Supernet(drawing_space("learnt", case)).train()
    alone = Drawn(8, *stateful.LEARNT[case])
    alone.load_state_dict({**alone.state_dict(), **net.extract(net.space.largest).state_dict()})
    alone.train()
    for pure, inputs in enumerate(batches()):
        ours = net(inputs, net.space.largest) if pure % 2 else net.bind(net.space.largest)(inputs)
        torch.testing.assert_close(ours, alone(inputs))
    extracted = net.extract(net.space.largest).state_dict()
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(extracted[name], value)
    torch.testing.assert_close(net.eval()(X, net.space.largest), alone.eval()(X))


def test_subnets_share_what_they_learn() -> None:
    """A corner each, as with weights."""
    net = nas.Supernet(drawing_space("learnt", "in place")).train()
    small, large = net.bind(net.space.smallest), net.bind(net.space.largest)
    large(batches()[0])
    before = net.state_dict()["mean"].clone()
    small(batches()[1])
    after = net.state_dict()["mean"]
    assert (after[:4] != before[:4]).all()
    assert torch.equal(after[4:], before[4:])
    assert torch.equal(small.module.mean, after[:4])
    assert torch.equal(large.module.mean, after)


@pytest.mark.parametrize("case", stateful.LEARNT)
def test_evaluation_changes_nothing(case) -> None:
    net = trained(nas.Supernet(drawing_space("learnt", case)), [drawing_space("learnt", case).largest])
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    first = net(X, net.space.smallest)
    for inputs in batches(4):
        for arch in net.space.enumerate():
            net(inputs, arch)
    assert torch.equal(first, net(X, net.space.smallest))
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("case", stateful.FORGOTTEN)
def test_state_that_no_checkpoint_has_is_refused_by_name(case) -> None:
    net = nas.Supernet(drawing_space("forgotten", case)).train()
    with pytest.raises(SupernetError, match=r"(attribute|buffer) 'kept.*is changed by forward.*register_buffer"):
        net.bind(net.space.largest)(X)
    net = nas.Supernet(drawing_space("forgotten", case)).train()
    with pytest.raises(SupernetError, match=r"(attribute|buffer) 'kept.*is changed by forward.*register_buffer"):
        net(X, net.space.smallest)


@pytest.mark.parametrize("case", stateful.PASSING)
def test_state_that_changes_nothing_is_left_alone(case, tmp_path) -> None:
    net = nas.Supernet(drawing_space("passing", case))
    trained(net, list(net.space.enumerate()))
    assert_same_everywhere(net, tmp_path / "net")


def test_what_changes_in_eval_mode_is_refused() -> None:
    stateful.CASES["learnt"]["always"] = (stateful.start(mean=0), stateful.always)
    try:
        net = nas.Supernet(drawing_space("learnt", "always")).eval()
        with pytest.raises(SupernetError, match="buffer 'mean' .* changed by forward in eval mode"), torch.no_grad():
            net(X, net.space.largest)
        net = nas.Supernet(drawing_space("learnt", "always")).train()
        net(X, net.space.largest)
        with pytest.raises(SupernetError, match="buffer 'mean' .* changed by forward in eval mode"), torch.no_grad():
            net.eval()(X, net.space.largest)
    finally:
        del stateful.CASES["learnt"]["always"]


def test_parameters_made_in_forward_are_refused() -> None:
    stateful.CASES["learnt"]["lazy"] = (lambda *_: None, stateful.made_in_forward)
    try:
        net = nas.Supernet(drawing_space("learnt", "lazy"))
        with pytest.raises(SupernetError, match="parameter 'late.weight' .* is made in forward"):
            net(X, net.space.largest)
    finally:
        del stateful.CASES["learnt"]["lazy"]


def test_graphs_survive_what_later_calls_assign() -> None:
    """Several subnets may be called before their backward."""

    def use(module, x):
        output = x * module.scale
        if module.training:
            module.scale = 0.9 * module.scale + 0.1 * x.detach().std(0)
        return output

    stateful.CASES["learnt"]["scaled"] = (stateful.start(scale=1), use)
    try:
        net = nas.Supernet(drawing_space("learnt", "scaled")).train()
        outputs = [net.bind(arch)(batches()[0]) for arch in [*net.space.enumerate()] * 2]
        sum(output.square().mean() for output in outputs).backward()
    finally:
        del stateful.CASES["learnt"]["scaled"]


def test_held_buffers_move_and_convert_with_the_supernet() -> None:
    net = trained(nas.Supernet(drawing_space("learnt", "in place")), [drawing_space("learnt", "in place").largest])
    expected = net(X, net.space.smallest)
    net.double()
    assert net.extract(net.space.smallest).mean.dtype == torch.float64
    torch.testing.assert_close(net(X.double(), net.space.smallest).float(), expected)
    assert isinstance(net.extract(net.space.smallest), nn.Module)
    scramble()

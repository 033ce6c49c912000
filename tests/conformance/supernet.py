"""What every family of models must do as a supernet; a test class inherits it and says how to make one.

Every tensor is filled with distinct numbers, norms and buffers too: defaults of ones and zeros hide a wrong cut.
"""

from __future__ import annotations

import copy
import math
import pickle
import random
from collections.abc import Iterable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas.space import Arch
from nas.supernet import Supernet, check
from searchspaces import conv

State = dict[str, Tensor]


@cache
def _proven() -> Supernet:
    return conv.supernet()


def convolutional() -> Supernet:
    """A fresh supernet of the default convolutional space, whose cuts are proven once: that takes more than a second."""
    return copy.deepcopy(_proven())


def fill_distinct(module: nn.Module, names: Iterable[str] | None = None) -> None:
    """Numbers that differ within each tensor and between tensors, near enough to usual ones that a deep model stays finite.

    `names` leaves out what is not among them: constants that a constructor computes.
    """
    chosen = None if names is None else set(names)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for index, (name, tensor) in enumerate(module.state_dict().items()):
            if not tensor.is_floating_point() or (chosen is not None and name not in chosen):
                continue
            count = tensor.numel()
            values = (torch.randperm(count, generator=generator) + (index % 97) / 100) / max(count, 1)  # in [0, 2)
            # Matrices around 0 with the usual spread; norms and variances around 1, so that they are not mistaken for ones.
            spread = 2 / math.sqrt(tensor[0].numel()) if tensor.dim() > 1 else 1.0
            offset = 0.5 if tensor.dim() > 1 or name.endswith("bias") else -0.5
            tensor.copy_((values - offset).mul(spread).reshape(tensor.shape))
        for name, tensor in module.state_dict().items():
            if name.endswith("running_var"):
                tensor.abs_()


def corner(whole: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The leading corner, one axis after the other."""
    for axis, length in enumerate(shape):
        whole = whole.narrow(axis, 0, length)
    return whole


class SupernetConformance:
    """Inherit, and define `make` and `inputs`; `expected` where the family has other cuts than the leading corner."""

    arch: Arch  # that `expected` is asked about; what a shape does not tell follows from it
    exact = True  # is the output of the extracted module equal but for the order of sums?

    def make(self) -> Supernet:
        raise NotImplementedError

    def inputs(self, samples: int) -> Any:
        raise NotImplementedError

    def output(self, output: Any) -> Tensor:
        """The tensor that is compared."""
        return output

    def expected(self, name: str, state: State, shape: tuple[int, ...]) -> Tensor:
        """What a subnet's tensor must be, written without the code under test."""
        return corner(state[name], shape)

    def expected_macs(self, arch: Arch) -> int | None:
        """Operations of one sample by a formula, where there is one."""
        return None

    # -- fixtures

    @pytest.fixture(scope="class")
    @classmethod
    def net(cls) -> Supernet:
        torch.set_num_threads(1)
        supernet = cls().make()
        fill_distinct(supernet)
        return supernet

    @pytest.fixture(scope="class")
    @classmethod
    def archs(cls, net: Supernet) -> list[Arch]:
        """Largest, smallest, each axis alone, random ones."""
        space, rng = net.space, random.Random(0)
        alone: dict[int, Arch] = {}
        for arch in space.neighbours(space.largest):
            pairs = enumerate(zip(arch.genome, space.largest.genome, strict=True))
            alone[next(index for index, (ours, theirs) in pairs if ours != theirs)] = arch
        return [space.largest, space.smallest, *alone.values(), *(space.sample(rng) for _ in range(4))]

    @pytest.fixture
    def random_archs(self, net: Supernet) -> list[Arch]:
        rng = random.Random(1)
        return [net.space.smallest, *(net.space.sample(rng) for _ in range(3))]

    def same(self, left: Tensor, right: Tensor) -> None:
        assert torch.isfinite(left).all()
        if self.exact:
            torch.testing.assert_close(left, right)  # weights are equal to the bit, sums may be taken in another order
        else:
            torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)

    # -- 1. what is extracted computes what the supernet does

    def test_extracted_subnet_equals_supernet(self, net, archs):
        inputs = self.inputs(3)
        net.eval()
        for arch in archs:
            module = net.extract(arch)
            with torch.no_grad():
                expected = self.output(net(inputs, arch))
                self.same(self.output(call(module, inputs)), expected)
                self.same(self.output(net.bind(arch)(inputs)), expected)
            torch.testing.assert_close(self.output(net(inputs, arch)), expected, rtol=1e-4, atol=1e-5)

    def test_archs_differ(self, net):
        inputs = self.inputs(3)
        net.eval()
        with torch.no_grad():
            largest, smallest = (self.output(net(inputs, arch)) for arch in (net.space.largest, net.space.smallest))
        assert largest.shape != smallest.shape or not torch.allclose(largest, smallest)

    @pytest.mark.slow
    def test_nothing_is_suspicious(self, net):
        """Not a note either: what is chosen matters, and every parameter is used."""
        assert str(check(net, example=self.inputs(2), seconds=120)) == "nothing found"

    def test_extracted_tensors_are_the_cuts_written_by_hand(self, net, archs):
        state = net.state_dict()
        for arch in archs:
            self.arch, module = arch, net.extract(arch)
            tensors = {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers())}
            cut = net.cut(arch)
            assert set(cut) == set(dict(module.named_parameters(remove_duplicate=False)))
            for name, tensor in tensors.items():
                if name not in state:  # a constant that the constructor computes
                    assert name not in cut
                    continue
                assert torch.equal(tensor, self.expected(name, state, tuple(tensor.shape))), name
                if name in cut:
                    assert torch.equal(cut[name], tensor), name

    def test_extracted_module_is_independent_and_ordinary(self, net):
        arch = net.space.largest
        module, original = net.extract(arch), net.space.build(arch)
        assert type(module) is type(original)
        assert not module.training
        assert ties(module) == ties(original)
        held = {tensor.untyped_storage().data_ptr() for tensor in net.state_dict().values() if tensor.numel()}
        tensors = list(module.state_dict().values())
        assert all(tensor.untyped_storage().data_ptr() not in held for tensor in tensors if tensor.numel())
        before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        with torch.no_grad():
            for tensor in tensors:
                tensor.zero_()
        assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
        module.load_state_dict(original.state_dict())

    # -- 2. a trained model as the largest arch

    def test_largest_arch_with_pretrained_weights_equals_the_original(self, net):
        original = net.space.build(net.space.largest)
        fill_distinct(original, net.state_dict())
        again = type(net)(net.space, layouts=self.layouts(net), weights=original)
        inputs = self.inputs(3)
        with torch.no_grad():
            expected = self.output(call(original.eval(), inputs))
            self.same(self.output(again.eval()(inputs, net.space.largest)), expected)

    def layouts(self, net: Supernet) -> Any:
        """The layouts that `make` declares."""
        return None

    # -- 3. gradients

    def test_gradients_are_those_of_the_extracted_module_and_zero_elsewhere(self, net, random_archs):
        inputs = self.inputs(3)
        net.eval()
        for arch in random_archs:
            self.arch, module = arch, net.extract(arch)
            objective(self.output(call(module, inputs))).backward()
            expected = self.pull_back(
                net, module, {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
            )
            touched = self.pull_back(net, module, {n: torch.ones_like(p) for n, p in module.named_parameters()})
            forward = self.gradients(net, lambda arch=arch: objective(self.output(net(inputs, arch))).backward())
            binding = net.bind(arch)
            bound = self.gradients(net, lambda b=binding: b.backward(objective(self.output(b(inputs)))))
            for name, gradient in expected.items():
                scale = max(1e-3, float(gradient.abs().max()))
                torch.testing.assert_close(forward[name], gradient, rtol=1e-3, atol=1e-4 * scale)
                torch.testing.assert_close(bound[name], gradient, rtol=1e-3, atol=1e-4 * scale)
                assert not forward[name][touched[name] == 0].any(), name
                assert not bound[name][touched[name] == 0].any(), name

    def gradients(self, net: Supernet, backward: Any) -> State:
        net.zero_grad(set_to_none=True)
        backward()
        return {
            name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
            for name, parameter in net.named_parameters()
        }

    def pull_back(self, net: Supernet, module: nn.Module, gradients: State) -> State:
        """Gradients of the supernet, from those of the extracted module, through `expected`."""
        state = {name: tensor.detach().clone().requires_grad_() for name, tensor in net.named_parameters()}
        aliases = {name: name for name in state}
        by_id = {id(parameter): name for name, parameter in net.named_parameters()}
        for name, parameter in net.named_parameters(remove_duplicate=False):
            aliases[name] = by_id[id(parameter)]
        total = torch.zeros(())
        for name, parameter in module.named_parameters():
            if name in gradients:
                whole = {alias: state[canonical] for alias, canonical in aliases.items()}
                total = total + (self.expected(name, whole, tuple(parameter.shape)) * gradients[name]).sum()
        found = torch.autograd.grad(total, list(state.values()), allow_unused=True)
        return {
            name: torch.zeros_like(tensor) if gradient is None else gradient
            for (name, tensor), gradient in zip(state.items(), found, strict=True)
        }

    def test_gradients_of_several_subnets_add_up(self, net, random_archs):
        inputs = self.inputs(3)
        net.eval()
        singly = [
            self.gradients(net, lambda arch=arch: objective(self.output(net.bind(arch)(inputs))).backward())
            for arch in random_archs
        ]
        losses = [objective(self.output(net.bind(arch)(inputs))) for arch in random_archs]
        together = self.gradients(net, lambda: sum(losses).backward())
        for name, gradient in together.items():
            torch.testing.assert_close(gradient, sum(each[name] for each in singly), rtol=1e-3, atol=1e-5)

    def test_bound_subnets_follow_optimizer_steps(self, random_archs):
        net = self.make().eval()
        fill_distinct(net)
        inputs = self.inputs(3)
        bindings = [net.bind(arch) for arch in random_archs]
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
        for binding in bindings:
            binding.backward(objective(self.output(binding(inputs))))
            optimizer.step()
            optimizer.zero_grad()  # sets to None: the next gradients must still arrive
        for arch, binding in zip(random_archs, bindings, strict=True):
            with torch.no_grad():
                self.same(self.output(binding(inputs)), self.output(call(net.extract(arch), inputs)))

    # -- costs, checkpoints, travel

    def test_params_are_those_of_the_extracted_module(self, net, archs):
        for arch in archs:
            assert net.params(arch) == sum(parameter.numel() for parameter in net.extract(arch).parameters())

    def test_macs_follow_the_formula(self, net, archs):
        for arch in archs:
            count = net.macs(arch, self.inputs(1))
            assert count > 0
            assert net.macs(arch, self.inputs(4)) == count
            assert self.expected_macs(arch) in (None, count)

    def test_checkpoint_round_trip(self, net, random_archs, tmp_path):
        inputs = self.inputs(2)
        digest = net.save(tmp_path / "net")
        again = Supernet.load(tmp_path / "net", net.space)
        assert again.source == (tmp_path / "net", digest)
        assert {name: (p.shape, p.dtype) for name, p in again.state_dict().items()} == {
            name: (p.shape, p.dtype) for name, p in net.state_dict().items()
        }
        assert ties(again) == ties(net)
        travelled = pickle.loads(pickle.dumps(net))
        for other in (again, travelled):
            other.eval()
            net.eval()
            for arch in random_archs:
                with torch.no_grad():
                    self.same(self.output(other(inputs, arch)), self.output(net(inputs, arch)))
                assert other.params(arch) == net.params(arch)

    def test_copy_is_independent(self, net):
        inputs, arch = self.inputs(2), net.space.smallest
        other = copy.deepcopy(net)
        assert ties(other) == ties(net)
        with torch.no_grad():
            before = self.output(net.eval()(inputs, arch))
            for parameter in other.parameters():
                parameter.zero_()
            self.same(self.output(net(inputs, arch)), before)

    def test_same_seed_same_weights_and_random_state_is_left_alone(self, net):
        state, python = torch.get_rng_state(), random.getstate()
        first, second = self.make(), self.make()
        first.bind(net.space.sample(random.Random(5)))
        first.extract(net.space.smallest)
        assert torch.equal(torch.get_rng_state(), state)
        assert random.getstate() == python
        for (name, left), right in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
            assert torch.equal(left, right), name
            assert torch.isfinite(left).all(), name

    def test_evaluation_under_inference_mode_leaves_training_possible(self, net):
        arch, inputs = net.space.sample(random.Random(99)), self.inputs(2)
        with torch.inference_mode():
            self.output(net.eval()(inputs, arch))
        binding = net.bind(arch)
        binding.backward(objective(self.output(binding(inputs))))
        net.zero_grad(set_to_none=True)


def call(module: nn.Module, inputs: Any) -> Any:
    if isinstance(inputs, Tensor):
        return module(inputs)
    return module(**inputs) if isinstance(inputs, dict) else module(*inputs)


def objective(output: Tensor) -> Tensor:
    """A loss with a different weight for each output."""
    weights = torch.linspace(0.5, 1.5, output.numel()).reshape(output.shape)
    return (output * weights).mean()


def ties(module: nn.Module) -> set[frozenset[str]]:
    """Groups of names that are one parameter."""
    groups: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return {frozenset(names) for names in groups.values() if len(names) > 1}

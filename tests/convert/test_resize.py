"""The user's own class, resized by a plan."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

import nas
from nas.convert.plan import AtomPlan, Decision, Number, Plan, Unit
from nas.convert.resize import resize, shared_with, solve
from nas.errors import Infeasible, SpaceError
from nas.supernet.parts import AXES, SIZES, length
from nas.train.dropping import Dropped
from tests.convert import planned

TOKENS = torch.arange(10).reshape(2, 5) % 7
CASES: dict[str, Any] = {
    "mlp": (planned.Mlp, planned.mlp_plan, torch.randn(4, 3)),
    "cnn": (planned.Cnn, planned.cnn_plan, torch.randn(2, 1, 5, 5)),
    "transformer": (planned.Transformer, planned.transformer_plan, TOKENS),
    "bert": (planned.bert, planned.bert_plan, TOKENS),
}


def output(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        given = model(inputs)
    return given if isinstance(given, Tensor) else given.logits


def smallest(plan: Plan) -> dict[str, int]:
    return dict(plan.sizes({decision.name: min(decision.choices) for decision in plan.decisions}))


def mixed(plan: Plan) -> dict[str, int]:
    """Every other decision at its smallest."""
    return dict(plan.sizes({decision.name: min(decision.choices) for decision in plan.decisions[::2]}))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("choose", [smallest, mixed])
def test_a_resized_module_computes_what_the_original_does_with_the_rest_at_zero(name, choose):
    make, plan, inputs = CASES[name][0], CASES[name][1](), CASES[name][2]
    model = planned.filled(make()).double()
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    sizes = choose(plan)
    resized = resize(model, plan, sizes, {unit.name for unit in plan.units}, meta=False)
    assert type(resized) is type(model)
    torch.testing.assert_close(output(resized, inputs), output(planned.zeroed(model, plan, sizes), inputs))


@pytest.mark.parametrize("name", CASES)
def test_everything_kept_is_the_original_to_the_bit_and_shares_nothing_with_it(name):
    make, plan, inputs = CASES[name][0], CASES[name][1](), CASES[name][2]
    model = planned.filled(make())
    before = output(model, inputs)
    resized = resize(model, plan, plan.whole, {unit.name for unit in plan.units}, meta=False)
    assert torch.equal(output(resized, inputs), before)
    with torch.no_grad():
        for tensor in (*resized.parameters(), *resized.buffers()):
            tensor.zero_()
    assert torch.equal(output(model, inputs), before)


@pytest.mark.parametrize("name", CASES)
def test_on_the_meta_device_shapes_are_those_of_the_cuts_and_buffers_have_values(name):
    make, plan = CASES[name][0], CASES[name][1]()
    model = planned.filled(make())
    sizes = smallest(plan)
    real = resize(model, plan, sizes, {unit.name for unit in plan.units}, meta=False)
    meta = resize(model, plan, sizes, {unit.name for unit in plan.units}, meta=True)
    assert all(parameter.is_meta for parameter in meta.parameters())
    assert {n: p.shape for n, p in meta.named_parameters()} == {n: p.shape for n, p in real.named_parameters()}
    assert all(torch.equal(one, dict(real.named_buffers())[n]) for n, one in meta.named_buffers())


@pytest.mark.parametrize("name", CASES)
def test_a_resized_module_tells_its_atoms_and_axes(name):
    make, plan = CASES[name][0], CASES[name][1]()
    sizes = mixed(plan)
    resized = resize(make(), plan, sizes, {unit.name for unit in plan.units}, meta=True)
    assert resized.__dict__[SIZES] == sizes
    shapes = {n: t.shape for n, t in (*resized.named_parameters(remove_duplicate=False), *resized.named_buffers())}
    for tensor, axes in resized.__dict__[AXES].items():
        assert tuple(shapes[tensor]) == tuple(length(axis, sizes) for axis in axes), tensor


def test_torch_layers_tell_the_sizes_that_they_have():
    plan = planned.cnn_plan()
    resized = resize(planned.Cnn(), plan, smallest(plan), {"blocks.0", "blocks.1"}, meta=True)
    block: Any = resized.get_submodule("blocks.0")
    assert (block.expand.in_channels, block.expand.out_channels, block.norm.num_features) == (2, 4, 4)
    assert (block.depthwise.in_channels, block.depthwise.out_channels, block.depthwise.groups) == (4, 4, 4)
    assert resized.head.in_features == 2


def test_gates_of_a_recurrent_layer_are_cut_and_it_runs():
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.LSTM(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x)[0])

    plan = Plan(
        (Decision("rnn.width", "width", 4, (2, 4)),),
        {"h": AtomPlan(4, "rnn.width")},
        {
            "rnn.weight_ih_l0": ((4, "h"), (3,)),
            "rnn.weight_hh_l0": ((4, "h"), ("h",)),
            "rnn.bias_ih_l0": ((4, "h"),),
            "rnn.bias_hh_l0": ((4, "h"),),
            "head.weight": ((2,), ("h",)),
        },
    )
    model = planned.filled(Tagger())
    resized = resize(model, plan, {"h": 2}, (), meta=False)
    own: Any = resized.rnn
    assert own.hidden_size == 2
    assert own._flat_weights[0] is own.weight_ih_l0
    x = torch.randn(5, 1, 3)
    torch.testing.assert_close(resized(x), planned.zeroed(model, plan, {"h": 2})(x))


def test_ties_are_kept_and_named_each():
    plan = planned.transformer_plan()
    tensors = dict(plan.tensors) | {"embed.weight": ((7,), ("d",)), "scale": (("d",),)}
    tied = Plan((), {**plan.atoms, "d": AtomPlan(8)}, tensors)
    resized: Any = resize(planned.Transformer(), tied, tied.whole, (), meta=True)
    assert resized.head.weight is resized.embed.weight
    assert resized.__dict__[AXES]["head.weight"] == ((7,), ("d",))


def test_one_parameter_as_two_objects_stays_one():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = nn.Parameter(model[0].weight)
    resized = resize(model, Plan(), {}, (), meta=True)
    assert resized[1].weight is resized[0].weight


def test_a_shared_configuration_is_changed_for_the_module_alone():
    plan, model = planned.transformer_plan(), planned.Transformer()
    sizes = dict(plan.whole) | {"h0": 1}
    resized: Any = resize(model, plan, sizes, ("blocks.0", "blocks.1"), meta=True)
    assert resized.blocks[0].attention.config.heads == 1
    assert resized.blocks[1].attention.config.heads == 4
    assert resized.config.heads == model.config.heads == 4
    assert resized.blocks[1].attention.config is resized.config


def test_numbers_in_containers_are_replaced_and_others_left_alone():
    @dataclass(frozen=True)
    class Frozen:
        size: int

    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(4))
            self.nested = {"a": [1, (4, 4)], "b": Frozen(4)}
            self.alias = self.nested

    numbers = (Number("", ("nested", "a", 1, 0), ("a",)), Number("", ("nested", "b", "size"), ("a",)))
    plan = Plan((), {"a": AtomPlan(4)}, {"weight": (("a",),)}, numbers)
    model = Holder()
    resized: Any = resize(model, plan, {"a": 2}, (), meta=False)
    assert resized.nested == {"a": [1, (2, 4)], "b": Frozen(2)}
    assert resized.alias == model.nested == {"a": [1, (4, 4)], "b": Frozen(4)}


def test_a_number_behind_an_expression_is_solved():
    assert solve(["//", 96, "x"], 32, 6) == 3
    assert solve(["//", "x", 8], 4, 64) == 32  # 39 // 8 is 4, too
    assert solve(["+", ["*", 2, "x"], 1], 9, 64) == 4
    assert solve(["%", "x", 0], 1, 3) is None
    plan = Plan((), {"a": AtomPlan(4)}, {}, (Number("0", ("in_features",), ("a",), ["*", "x", 3]),))
    with pytest.raises(Infeasible, match=r"0\.in_features is 4, and no smaller number"):
        resize(nn.Sequential(nn.Linear(4, 4)), plan, {"a": 2}, (), meta=True)


def test_modules_left_out_give_what_goes_in_and_keep_their_numbers():
    plan, model = planned.transformer_plan(), planned.filled(planned.Transformer())
    model.blocks[0].kind_of_attention = "full"
    resized: Any = resize(model, plan, plan.whole, ("blocks.1",), meta=False)
    assert isinstance(resized.blocks[0], Dropped)
    assert resized.blocks[0].kind_of_attention == "full"
    assert not resized.blocks[0].training
    shorter: Any = copy.deepcopy(model)
    shorter.blocks = shorter.blocks[1:]
    assert torch.equal(output(resized, TOKENS), output(shorter, TOKENS))


def test_a_module_used_twice_is_left_out_under_the_name_given():
    block = nn.Linear(2, 2)
    model = nn.Sequential(block, block)
    resized = resize(model, Plan(units=(Unit("0"),)), {}, (), meta=False)
    assert isinstance(resized[0], Dropped)
    assert isinstance(resized[1], nn.Linear)


class Caching(nn.Module):
    """Keeps in eval mode what it computes, until its mode changes; merges its weights for eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.cache: dict[str, Tensor] = {}
        self.merged = False

    def train(self, mode: bool = True) -> Caching:
        self.cache = {}
        if mode == self.merged:
            with torch.no_grad():
                self.weight.mul_(0.5 if mode else 2.0)
            self.merged = not mode
        return super().train(mode)

    def forward(self) -> Tensor:
        return self.cache.setdefault("twice", self.weight * 2)


@pytest.mark.parametrize("training", [False, True])
def test_caches_are_dropped_and_merged_weights_stay_as_they_are(training):
    model = Caching().train(training)
    with torch.no_grad():
        before = model()
    plan = Plan((), {"a": AtomPlan(4)}, {"weight": (("a",),)})
    resized: Any = resize(model, plan, {"a": 2}, (), meta=False)
    assert resized.cache == {}
    assert (resized.training, resized.merged) == (model.training, model.merged)
    assert torch.equal(resized(), before[:2])


def test_hooks_methods_and_modes_come_along():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    model[1].eval()
    model[0].register_forward_hook(lambda _module, _args, given: given + 1)
    resized = resize(model, Plan(), {}, (), meta=False)
    assert [each.training for each in resized] == [True, False]
    x = torch.ones(1, 2)
    assert torch.equal(resized(x), model(x))


def test_what_a_hook_computed_from_weights_is_no_obstacle():
    with pytest.warns(FutureWarning):
        layer = nn.utils.weight_norm(nn.Linear(3, 4))
    layer(torch.ones(1, 3)).sum()  # leaves a tensor with a history in a plain attribute
    plan = Plan((), {"a": AtomPlan(4)}, {"weight_v": (("a",), (3,)), "weight_g": (("a",), (1,)), "bias": (("a",),)})
    resized = resize(layer, plan, {"a": 2}, (), meta=False)
    torch.testing.assert_close(resized(torch.ones(1, 3)), layer(torch.ones(1, 3))[:, :2])


def test_a_plan_of_another_model_is_refused():
    with pytest.raises(SpaceError, match="has 'first.weight', and Cnn has no such tensor"):
        resize(planned.Cnn(), planned.mlp_plan(), planned.mlp_plan().whole, (), meta=True)
    with pytest.raises(SpaceError, match=r"'first.weight' of shape \(6, 3\), and that of Mlp has \(5, 3\)"):
        resize(planned.Mlp(5), planned.mlp_plan(), planned.mlp_plan().whole, (), meta=True)
    with pytest.raises(SpaceError, match="leaves out 'blocks', and Mlp has no such module"):
        resize(planned.Mlp(), Plan(units=(Unit("blocks"),)), {}, (), meta=True)
    plan = Plan((), {"a": AtomPlan(2)}, {}, (Number("", ("hidden",), ("a",)),))
    with pytest.raises(SpaceError, match="changes the number hidden, and there is none"):
        resize(planned.Mlp(), plan, {"a": 1}, (), meta=True)


def test_what_cannot_be_copied_is_a_sentence():
    import threading

    model = planned.Mlp()
    model.lock = threading.Lock()
    with pytest.raises(SpaceError, match="Mlp cannot be copied .*; keep out of its attributes"):
        resize(model, Plan(), {}, (), meta=True)


def test_a_closure_over_the_original_is_found():
    model = planned.Mlp()
    assert not list(shared_with(model, resize(model, Plan(), {}, (), meta=True)))
    model.act = lambda x: model.head(x)
    assert next(shared_with(model, resize(model, Plan(), {}, (), meta=True))).startswith("act")


def test_spectral_norm_of_a_model_in_training_mode_is_left_to_the_bit() -> None:
    model = nn.Sequential(spectral_norm(nn.Linear(8, 32)), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))
    model.train()[2].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [part.training for part in model.modules()]
    x = torch.randn(4, 8)
    space = nas.elastic(model, x)
    net = nas.Supernet(space, example=x, weights=model)
    first, second = (net.extract(space.largest) for _ in range(2))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [part.training for part in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in first.state_dict().items())
    assert torch.equal(first(x), second(x))
    net.extract(space.smallest)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

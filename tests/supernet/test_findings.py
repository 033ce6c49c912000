"""What `nas.check` finds, one test for each kind, and that it finds nothing where nothing is."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pyglove as pg
import pytest
import torch
from torch import nn

import nas
from nas.errors import LayoutError, SupernetError
from nas.supernet import Findings
from nas.supernet.sameness import fingerprint
from nas.supernet.skeleton import build_skeleton
from searchspaces import matformer, matryoshka, nasbench201, sorted_lm
from tests.supernet import families, tangle

ROWS = torch.randn(3, 4)


def space(function: Any, **choices: Any) -> nas.Space:
    return nas.Space(nas.model(function)(**choices))


def plain(width: int, depth: int, *, norm: bool = False) -> nn.Module:
    """The commonest model there is, with a head as wide as a hidden layer may be."""
    layers = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), *([nn.BatchNorm1d(width)] if norm else []), nn.ReLU()]
    return nn.Sequential(nn.Linear(4, width), *layers, nn.Linear(width, 6))


def named(width: int, depth: int, *, norm: bool = False) -> nn.Module:
    *layers, head = plain(width, depth, norm=norm)
    return nas.sequential(*layers, head=head)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("widths", [[6], [3, 6]])
def test_a_head_as_wide_as_the_hidden_layers_is_refused(widths: list[int], norm: bool) -> None:
    choices = {"width": pg.oneof(widths), "depth": pg.oneof([1, 2]), "norm": norm}
    place = "'4'" if norm else "'3'"
    with pytest.raises(
        LayoutError, match=rf"depth=1, layer {place} gives the output and has the weights .*head="
    ) as told:
        nas.Supernet(space(plain, **choices), example=ROWS)
    silent = nas.Supernet(space(plain, **choices), example=ROWS, check=False)
    (error,) = nas.check(silent).errors
    assert error.kind == "roles"
    assert f"{error.says}; {error.fix}" == str(told.value)
    assert not nas.check(nas.Supernet(space(named, **choices), example=ROWS)).findings


def test_a_head_before_a_softmax_or_without_its_last_axis_is_refused_too() -> None:
    def shaped(depth: int, end: nn.Module) -> nn.Module:
        return nn.Sequential(plain(6, depth), end)

    for end in (nn.LogSoftmax(-1), nn.Flatten(0)):
        with pytest.raises(LayoutError, match="'0.3' gives the output"):
            nas.Supernet(space(shaped, depth=pg.oneof([1, 2]), end=end), example=ROWS)


def test_a_head_of_a_hidden_name_may_be_declared() -> None:
    net = nas.Supernet(space(plain, width=6, depth=pg.oneof([1, 2])), example=ROWS, layouts={"3.*": nas.Corner()})
    assert not nas.check(net).findings


def features(depth: int, kind: str) -> nn.Module:
    """Chains without a head, of which a shorter one has the same roles."""
    after = {"activated": [nn.ReLU()], "linear": [], "normed": [nn.LayerNorm(4)]}[kind]
    return nn.Sequential(*(each for _ in range(depth) for each in (nn.Linear(4, 4), *after)))


class Residual(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(depth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + layer(x.relu())
        return x


@pytest.mark.parametrize("kind", ["activated", "linear", "normed"])
def test_shorter_chains_without_a_head_are_fine(kind: str) -> None:
    net = nas.Supernet(space(features, depth=pg.oneof([1, 2, 3]), kind=kind), example=ROWS)
    assert not nas.check(net).findings


def test_shorter_residual_networks_without_a_head_are_fine() -> None:
    assert not nas.check(nas.Supernet(space(Residual, depth=pg.oneof([1, 2, 3])), example=ROWS)).findings


def test_a_norm_that_may_be_the_last_layer_or_left_out_is_fine() -> None:
    def normed(norm: bool) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 4), *([nn.LayerNorm(4)] if norm else []))

    assert not nas.check(nas.Supernet(space(normed, norm=pg.oneof([False, True])), example=ROWS)).findings


def test_a_name_of_unlike_modules_is_refused() -> None:
    def other_norm(batch: bool) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4) if batch else nn.LayerNorm(4))

    choices = space(other_norm, batch=pg.oneof([True, False]))
    with pytest.raises(
        LayoutError, match=r"'1.weight' is one of a \w+Norm\w* and, in the largest network, of a \w+Norm"
    ):
        nas.Supernet(choices)  # it takes no example
    net = nas.Supernet(choices, check=False)
    (error,) = nas.check(net, example=ROWS).errors
    assert (error.kind, error.decisions, error.parameters) == ("roles", ("batch",), ("1.weight",))
    meant = nas.Supernet(choices, layouts={"1.*": nas.Corner()})
    assert not nas.check(meant, example=ROWS).errors


def test_a_layer_that_moves_the_others_is_refused() -> None:
    def inserted(dropout: bool) -> nn.Module:
        between = [nn.Dropout(0.1)] if dropout else []
        return nn.Sequential(nn.Linear(4, 4), *between, nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2))

    def replaced(dropout: bool) -> nn.Module:
        between = nn.Dropout(0.1) if dropout else nn.Identity()
        return nn.Sequential(nn.Linear(4, 4), between, nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2))

    choice = pg.oneof([False, True])
    with pytest.raises(LayoutError, match=r"layer '4' has \d layers with parameters before it .*nn.Identity\(\)"):
        nas.Supernet(space(inserted, dropout=choice))
    assert not nas.check(nas.Supernet(space(replaced, dropout=choice), example=ROWS)).findings


def test_axes_of_parts_are_among_the_findings() -> None:
    class Halves(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.both, self.last = nn.Linear(4, 2 * width), nn.Linear(width, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            left, right = self.both(x).chunk(2, -1)
            return self.last(left * right.sigmoid())

    net = nas.Supernet(space(Halves, width=pg.oneof([2, 4])), example=ROWS, check=False)
    (error,) = nas.check(net).errors
    assert error.kind == "axes"
    assert "declare layouts=" in error.fix
    assert nas.check(net).table["severity"].tolist() == ["error"]


class Spare(nn.Module):
    """A layer that no arch calls, one that only a shallow arch does."""

    def __init__(self, deep: bool) -> None:
        super().__init__()
        self.first, self.spare, self.shallow = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.deep = deep

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x) if self.deep else self.shallow(self.first(x))


def test_parameters_that_no_arch_uses_are_named() -> None:
    net = nas.Supernet(space(Spare, deep=pg.oneof([False, True])), example=ROWS)
    (found,) = nas.check(net).findings
    assert (found.kind, found.severity, found.parameters) == ("unused", "note", ("spare.bias", "spare.weight"))


def test_without_an_example_that_is_said() -> None:
    net = nas.Supernet(space(Spare, deep=pg.oneof([False, True])))
    assert "no example" in str(nas.check(net))
    assert "spare" in str(nas.check(net, example=ROWS))


def test_a_decision_without_effect_is_named() -> None:
    def careless(width: int, dropout: float) -> nn.Module:
        return nn.Sequential(nn.Linear(4, width), nn.Linear(width, 2))

    def careful(width: int, dropout: float) -> nn.Module:
        return nn.Sequential(nn.Linear(4, width), nn.Dropout(dropout), nn.Linear(width, 2))

    choices = {"width": pg.oneof([4, 8]), "dropout": pg.oneof([0.1, 0.2])}
    (found,) = nas.check(nas.Supernet(space(careless, **choices), example=ROWS)).findings
    assert (found.kind, found.severity, found.decisions) == ("no effect", "note", ("dropout",))
    assert not nas.check(nas.Supernet(space(careful, **choices), example=ROWS)).findings


def test_archs_that_build_the_same_module_are_named() -> None:
    def flat(depth: int, last: int) -> nn.Module:
        blocks = [nn.Linear(4, 4), nn.Sequential(nn.Linear(4, last), nn.Linear(last, 4))]
        return nn.Sequential(*blocks[:depth], nn.ReLU())

    found = nas.check(nas.Supernet(space(flat, depth=pg.oneof([1, 2]), last=pg.oneof([2, 3])), example=ROWS)).findings
    assert [(each.kind, each.severity, each.decisions) for each in found] == [("same", "note", ("last",))]
    assert all("depth=1" in arch for arch in found[0].archs)


class Scale(pg.Object):
    by: float


def test_a_symbolic_object_that_a_module_keeps_is_an_effect() -> None:
    class Scaled(nn.Linear):
        def __init__(self, scales: list[Scale]) -> None:
            super().__init__(4, 2)
            self.first, self.scales = scales[0], list(scales)

    net = nas.Supernet(space(Scaled, scales=[pg.oneof([Scale(1.0), Scale(2.0)])]), example=ROWS)
    assert not nas.check(net).findings


def test_candidates_that_are_equal_in_effect_are_named() -> None:
    def rounded(width: float) -> nn.Module:
        return nn.Sequential(nn.Linear(4, int(width)), nn.Linear(int(width), 2))

    net = nas.Supernet(space(rounded, width=pg.oneof([4.0, 8.2, 8.4])), example=ROWS)
    (found,) = nas.check(net).findings
    assert (found.kind, found.decisions) == ("same", ("width",))


def test_what_was_found_is_shown_as_text_table_and_html() -> None:
    net = nas.Supernet(space(Spare, deep=pg.oneof([False, True])), example=ROWS)
    found = nas.check(net)
    assert isinstance(found, Findings)
    assert str(found).startswith("note: in evaluation mode no output depends on 'spare.bias', 'spare.weight'")
    assert found.table.loc[0, "parameters"] == "spare.bias, spare.weight"
    assert "spare.bias" in found._repr_html_()
    nothing = nas.check(nas.Supernet(families.linear_space(), example=torch.randn(2, 3)))
    assert str(nothing) == "nothing found"
    assert nothing.table.empty


def test_checking_changes_nothing_and_draws_nothing() -> None:
    net = nas.Supernet(space(Spare, deep=pg.oneof([False, True])), example=ROWS)
    before = {name: one.clone() for name, one in net.state_dict().items()}
    states = (torch.get_rng_state(), random.getstate())
    first = nas.check(net)
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert all(torch.equal(one, before[name]) for name, one in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
    assert str(nas.check(net)) == str(first)


def test_what_time_did_not_suffice_for_is_said() -> None:
    net = nas.Supernet(space(named, width=pg.oneof([4, 8]), depth=pg.oneof([1, 2])), example=ROWS)
    assert "no time left" in str(nas.check(net, seconds=1e-9))


def test_arguments_are_checked() -> None:
    with pytest.raises(SupernetError, match="check was given supernet=a Linear; it is a nas.Supernet"):
        nas.check(nn.Linear(2, 2))  # type: ignore[arg-type]
    with pytest.raises(SupernetError, match="seconds"):
        nas.check(nas.Supernet(families.linear_space()), seconds=0)


# -- nothing is found where nothing is; tests/conformance asks that of every family


def elastic(model: nn.Module, example: torch.Tensor) -> nas.Supernet:
    return nas.Supernet(nas.elastic(model, example), example=example)


def convolutional() -> nn.Module:
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(12 * 16, 16), nn.ReLU(), nn.Linear(16, 5))


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True, dropout=0.0)
    return nn.Sequential(
        nn.Linear(4, 16), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(16, 3)
    )


SMALL_LM = {"widths": (16, 24), "depths": (1, 2, 3), "kvs": (1, 2), "ratios": (1, 2.5), "group": 2, "head": 4}
NETS: dict[str, Callable[[], nas.Supernet]] = {
    "matformer": lambda: matformer.supernet(matformer.space(depth=2, width=16, heads=2)),
    "matryoshka": lambda: matryoshka.supernet(matryoshka.space(dims=(2, 4), depths=(1, 2), width=16, head=8)),
    "nasbench201": lambda: nasbench201.supernet(nasbench201.space(width=4, cells=1, stages=2), side=8),
    "sorted_lm": lambda: sorted_lm.supernet(sorted_lm.space(**SMALL_LM, vocabulary=31, context=12)),
    "tangle": lambda: nas.Supernet(tangle.tangle_space()),
    "convolutional": lambda: elastic(convolutional(), torch.randn(2, 3, 8, 8)),
    "encoder": lambda: elastic(encoder(), torch.randn(2, 5, 4)),
}


@pytest.mark.parametrize("name", NETS)
def test_nothing_is_found_in_a_sound_space(name: str) -> None:
    net = NETS[name]()
    assert (
        str(nas.check(net, example=torch.randn(2, 3, 5) if name == "tangle" else None, seconds=60)) == "nothing found"
    )


@pytest.mark.parametrize("name", NETS)
def test_the_same_arch_has_the_same_fingerprint_each_time(name: str) -> None:
    """Else no two archs would ever be the same module, and nothing could be found."""
    space = NETS[name]().space
    for arch in (space.largest, space.smallest):
        first, second = (fingerprint(build_skeleton(space, arch)) for _ in range(2))
        assert first == second
    assert fingerprint(build_skeleton(space, space.largest)) != first

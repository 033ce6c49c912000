"""The judge of `experiments/any_model` sees what it is there to see."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas.errors import SpaceError

FOLDER = Path(__file__).parents[2] / "experiments" / "any_model"


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(FOLDER))
    known = set(sys.modules)
    import judge  # type: ignore[import-not-found]

    yield judge
    for name in set(sys.modules) - known:
        if str(FOLDER) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


class Net(nn.Module):
    """A layer norm and an RMSNorm that is written out, between three layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b, self.c = nn.Linear(6, 16), nn.LayerNorm(16), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.a(x)))
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.c(torch.relu(self.b(x)))


def cut(model: nn.Module, first: Tensor, second: Tensor, inputs: Tensor | None = None) -> nn.Module:
    """`model` with the units `first` of its first layer, `second` of the second, which reads `inputs` of the first."""
    subnet: Any = copy.deepcopy(model)
    inputs = first if inputs is None else inputs
    for name, tensor in {
        "a.weight": model.a.weight[first],
        "a.bias": model.a.bias[first],
        "norm.weight": model.norm.weight[first],
        "norm.bias": model.norm.bias[first],
        "b.weight": model.b.weight[second][:, inputs],
        "b.bias": model.b.bias[second],
        "c.weight": model.c.weight[:, second],
    }.items():
        module, parameter = name.split(".")
        setattr(getattr(subnet, module), parameter, nn.Parameter(tensor.detach().clone()))
    subnet.norm.normalized_shape = (len(first),)
    return subnet


def verdict(judge: Any, half: Callable[[nn.Module], nn.Module], archs: int = 0) -> dict[str, Any]:
    """The row of a conversion whose subnet at half is `half` of the model, with so many random archs."""
    import case  # type: ignore[import-not-found]
    import convert  # type: ignore[import-not-found]

    def converted(model: nn.Module, _: Any) -> Any:
        return convert.Converted({"w": (4, 8, 16)}, (), {}, lambda choices: half(model) if choices["w"] == 8 else model)

    return judge.judged(lambda: case.Case(Net(), (torch.randn(2, 6),)), converted, archs)


HALF, LATER = torch.arange(8), torch.arange(8, 16)


def test_a_network_cut_alike_everywhere_is_correct(judge: Any) -> None:
    row = verdict(judge, lambda model: cut(model, HALF, LATER))
    assert row["verdict"] == "correct"
    assert row["equivalence"] == "yes"
    assert row["left"] < judge.CUT


def test_inputs_of_other_units_are_wrong(judge: Any) -> None:
    assert verdict(judge, lambda model: cut(model, HALF, HALF, inputs=LATER))["verdict"] == "wrong"


def test_units_in_another_order_are_no_slices(judge: Any) -> None:
    assert verdict(judge, lambda model: cut(model, HALF.flip(0), HALF))["verdict"] == "not slices"


def test_weights_that_are_not_the_models_are_no_slices(judge: Any) -> None:
    def foreign(model: nn.Module) -> nn.Module:
        subnet = cut(model, HALF, HALF)
        nn.init.normal_(subnet.b.weight)  # type: ignore[union-attr, arg-type]
        return subnet

    assert verdict(judge, foreign)["verdict"] == "not slices"


def test_random_archs_that_could_not_be_judged_are_counted(judge: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter([("yes", 0.0), ValueError("no such operator"), ("yes", 0.0), ValueError("no such operator")])

    def judged(*_: Any) -> tuple[str, float]:
        found = next(calls)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(judge, "equivalence", judged)
    row = verdict(judge, lambda model: cut(model, HALF, LATER), archs=3)
    assert (row["verdict"], row["equivalence"], row["archs"], row["archs_not_judged"]) == ("correct", "yes", 3, 2)
    import run  # type: ignore[import-not-found]

    rates = run.rates([row, row])
    assert (rates["not_judged"], rates["random_not_judged"]) == (0, 4)


def test_an_output_of_another_form_is_seen(judge: Any) -> None:
    def narrow(model: nn.Module) -> nn.Module:
        subnet = cut(model, HALF, HALF)
        subnet.c = nn.Linear(8, 2)
        return subnet

    assert verdict(judge, narrow)["verdict"] == "shape"


def test_what_does_not_run_fails_and_what_changes_nothing_is_whole(judge: Any) -> None:
    assert verdict(judge, lambda model: cut(model, HALF, HALF, inputs=torch.arange(4)))["verdict"] == "fails"
    assert verdict(judge, copy.deepcopy)["verdict"] == "whole"


def test_a_refusal_is_told_from_a_traceback(judge: Any) -> None:
    def refused(model: nn.Module) -> nn.Module:
        raise SpaceError("no width of it can be cut; give another model")

    assert verdict(judge, refused)["verdict"] == "refused"
    assert verdict(judge, lambda model: {}[model])["verdict"] == "traceback"


def test_the_control_leaves_every_network_of_the_smoke_mode_whole(judge: Any) -> None:
    import cases  # type: ignore[import-not-found]
    import convert  # type: ignore[import-not-found]

    for name in ("hand/mlp", "hand/lstm_tagger", "hand/weight_standardisation", "hand/grouped_expand"):
        row = judge.judged(cases.catalogue()[name], convert.noop, 1)
        assert (row["verdict"], row["equivalence"], row["error"], row["archs"]) == ("whole", "yes", 0.0, 1)


class Remembering(nn.Module):
    """Attention by torch's own function, and a bias that is kept between calls until train()."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.a = nn.Linear(6, width)
        self.attend, self.bias, self.c = (
            nn.MultiheadAttention(width, 1),
            nn.Parameter(torch.zeros(1)),
            nn.Linear(width, 3),
        )
        self.cache: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> Remembering:
        self.cache = {} if mode else self.cache
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        found, _ = self.attend(x, x, x, need_weights=False)
        return self.c(found) + self.cache.setdefault("bias", 2 * self.bias)


def half_of(model: Any) -> nn.Module:
    """Of a `Remembering`, with half the width, which is that of its only head."""
    subnet = Remembering(4)
    rows = torch.cat([torch.arange(4) + 8 * third for third in range(3)])
    with torch.no_grad():
        for name, own in subnet.named_parameters():
            given = dict(model.named_parameters())[name]
            given = given[rows] if "in_proj" in name else given
            own.copy_(given[tuple(slice(size) for size in own.shape)])
    return subnet.eval()


def test_neither_what_a_model_remembers_nor_a_scale_inside_torch_is_taken_for_an_error(judge: Any) -> None:
    import case  # type: ignore[import-not-found]
    import convert  # type: ignore[import-not-found]

    def converted(model: nn.Module, _: Any) -> Any:
        return convert.Converted({"w": (4, 8)}, (), {}, lambda _: half_of(model))

    row = judge.judged(lambda: case.Case(Remembering(), (torch.randn(5, 2, 6),)), converted, 0)
    assert (row["verdict"], row["equivalence"]) == ("correct", "yes")
    assert row["error"] < 1e-12


@pytest.mark.parametrize("call", ["torch.var_mean(x, [1], False)", "torch.var_mean(x, dim=1, unbiased=False)"])
def test_variances_of_an_axis_that_was_cut_count_what_is_not_there(judge: Any, call: str) -> None:
    import equivalence  # type: ignore[import-not-found]

    whole = torch.tensor([[1.0, 2, 0, 0], [5, 1, 0, 0]])
    mode = equivalence.Recorded()
    found = []
    for x in (whole, whole[:, :2]):
        mode.start(x is not whole)
        with mode:
            found.append(eval(call))  # of this file
    assert torch.allclose(torch.stack(found[0]), torch.stack(found[1]))
    mode.start(True)
    with mode:
        graph = torch.ops.aten.var_mean.dim(whole[:, :2], [1], False)
    assert torch.allclose(torch.stack(found[0]), torch.stack(graph))


def test_rows_name_no_folder_of_a_machine(judge: Any) -> None:
    del judge  # which makes the experiment's modules importable
    import run  # type: ignore[import-not-found]

    said = 'hangs: File "/home/me/copy/nas/supernet/comparing.py", line 3, of a/b/c/d and 1/2'
    assert run.anywhere(said) == 'hangs: File "nas/supernet/comparing.py", line 3, of a/b/c/d and 1/2'
    rows = (Path(run.__file__).parent / "results.jsonl").read_text(encoding="utf-8")
    assert 'File \\"/' not in rows

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import nas
from nas.identity import (
    changes,
    code_changes,
    described,
    identity,
    inputs_described,
    inputs_in,
    same,
    setting_changes,
    unknown,
)

SCALE = 1


def evaluate(arch: Any, scale: float = 1.0) -> dict[str, float]:
    return {"quality": scale * SCALE}


class Evaluator:
    """Keeps a parameter, and what it has seen."""

    def __init__(self, scale: Any) -> None:
        self.scale = scale
        self.seen: list[Any] = []

    def __call__(self, arch: Any) -> dict[str, float]:
        self.seen.append(arch)
        return evaluate(arch, self.scale)

    def method(self, arch: Any) -> dict[str, float]:
        return self(arch)


class Private(Evaluator):
    def __init__(self, scale: Any) -> None:
        super().__init__(scale=0)
        self._twice = 2 * scale


class Slotted:
    __slots__ = ("scale",)

    def __init__(self, scale: Any) -> None:
        self.scale = scale

    def __call__(self, arch: Any) -> dict[str, float]:
        return {"quality": self.scale}


@dataclasses.dataclass
class Data:
    scale: Any

    def __call__(self, arch: Any) -> dict[str, float]:
        return {"quality": self.scale}


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


def closure(scale: Any) -> Callable[[Any], dict[str, float]]:
    def inner(arch: Any) -> dict[str, float]:
        return {"quality": scale}

    return inner


def default(scale: Any) -> Callable[[Any], dict[str, float]]:
    def inner(arch: Any, scale: Any = scale, *, more: Any = scale) -> dict[str, float]:
        return {"quality": scale, "more": more}

    return inner


def attribute(scale: Any) -> Callable[[Any], dict[str, float]]:
    def inner(arch: Any) -> dict[str, float]:
        return {"quality": inner.scale}  # type: ignore[attr-defined]

    inner.scale = scale  # type: ignore[attr-defined]
    return inner


WAYS: dict[str, Callable[[Any], Any]] = {
    "partial": lambda scale: functools.partial(evaluate, scale=scale),
    "partial by place": lambda scale: functools.partial(evaluate, None, scale),
    "partial of a partial": lambda scale: functools.partial(functools.partial(evaluate, scale=scale), None),
    "object": Evaluator,
    "object in an object": lambda scale: Evaluator(Evaluator(scale)),
    "derived and private": Private,
    "slots": Slotted,
    "dataclass": Data,
    "method": lambda scale: Evaluator(scale).method,
    "closure": closure,
    "defaults": default,
    "attribute of a function": attribute,
    "cached": lambda scale: functools.lru_cache(closure(scale)),
    "list": lambda scale: [Evaluator(scale)],
    "dict": lambda scale: Evaluator({"lr": scale}),
    "composed": lambda scale: nas.Evaluation([Evaluator(scale)]),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(
    ("old", "new"),
    [(1, 100), (0.1, 0.1 + 1e-16), (2**53, 2**53 + 1), ("a", "b"), ((1, 2), (1, 3)), (None, 1), (True, False)],
)
def test_a_changed_parameter_is_seen_wherever_it_is_kept(way: Callable[[Any], Any], old: Any, new: Any) -> None:
    if way is Private and (old is None or isinstance(old, (str, tuple))):
        old, new = 1, 2
    assert changes(identity(way(old)), identity(way(old))) == []
    assert changes(identity(way(old)), identity(way(new))) != []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (1, 100, "scale 1 → 100"),
        (0.1, 0.2, "scale 0.1 → 0.2"),
        ("a" * 1000, "b" * 1000, "scale a text (digest "),
        (float("nan"), float("inf"), "scale nan → inf"),
        (Colour.RED, Colour.BLUE, "scale RED → BLUE"),
        (Path("a"), Path("b"), "scale a → b"),
        (np.float32(0.5), np.float32(0.25), "scale 0.5 → 0.25"),
        (np.zeros(3), np.ones(3), "scale float64 array of 3 (digest "),
        (torch.zeros(2, 2), torch.zeros(2, 3), "scale torch.float32 array of 2x2 (digest "),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64), "torch.float64 array"),
        (pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [2]}), "scale DataFrame array of 1x1"),
        ({"lr": 1, "wd": 2}, {"lr": 1, "wd": 3}, "scale['wd'] 2 → 3"),
        ([1, 2], [1, 2, 3], "scale [1, 2] → [1, 2, 3]"),
        ({1, 2}, {1, 3}, "scale a set"),
        (evaluate, closure, "scale evaluate (code "),
        (int, float, "scale int → float"),
        (Evaluator(1), Slotted(1), "scale a Evaluator → a Slotted"),
    ],
    ids=lambda value: str(type(value).__name__),
)
def test_a_change_is_named_with_what_it_was_and_is(old: Any, new: Any, said: str) -> None:
    (found,) = changes(identity(Evaluator(old)), identity(Evaluator(new)))
    assert said in found


def test_weights_of_modules_are_told_by_their_digest() -> None:
    torch.manual_seed(0)
    one, other = nn.Linear(3, 2), nn.Linear(3, 2)
    assert changes(identity(Evaluator(one)), identity(Evaluator(other)))[0].startswith("scale a Linear (digest ")
    other.load_state_dict(one.state_dict())
    assert changes(identity(Evaluator(nn.Linear(3, 2))), identity(Evaluator(other)))
    assert identity(nn.Sequential(one)) == identity(nn.Sequential(one))


def test_lambdas_are_told_by_their_code() -> None:
    assert changes(identity(lambda arch: {"a": 1}), identity(lambda arch: {"a": 1})) == []
    assert changes(identity(lambda arch: {"a": 1}), identity(lambda arch: {"a": 2})) != []
    assert changes(identity(lambda arch: abs(arch)), identity(lambda arch: max(arch))) != []


def made_by(source: str) -> Any:
    scope: dict[str, Any] = {"__name__": "job"}
    exec(source, scope)
    return scope["ev"]


def test_edited_code_of_a_named_function_is_told_apart_and_said() -> None:
    one, other = (
        made_by('def ev(arch):\n    "Doc."\n    return {"a": 1}'),
        made_by("def ev(arch):\n    return {'a': 2}"),
    )
    assert changes(identity(one), identity(other)) == []
    assert code_changes(identity(one), identity(other)) == ["ev"]
    again = made_by('# a comment\ndef ev( arch ):\n    "Another text."\n\n    return {"a": 1}')
    assert code_changes(identity(one), identity(again)) == []


def test_constants_of_the_module_count_for_what_reads_them() -> None:
    source = "SCALE = {}\nCALLS = 0\ndef helper():\n    return SCALE\n"
    source += "def ev(arch):\n    global CALLS\n    CALLS += 1\n    return helper()"
    assert changes(identity(made_by(source.format(1))), identity(made_by(source.format(2)))) == [
        "global helper.global SCALE 1 → 2"
    ]
    counted = made_by(source.format(1))
    before = identity(counted)
    counted(None)
    assert changes(before, identity(counted)) == []


def test_what_an_evaluation_keeps_is_no_change() -> None:
    evaluator = Evaluator(3)
    before = identity(evaluator)
    evaluator("an arch")
    assert changes(before, identity(evaluator)) == []
    evaluator.scale = 4  # and what its user sets is one
    assert changes(before, identity(evaluator)) == ["scale 3 → 4"]


def test_what_cannot_be_told_is_named_and_equal_to_anything() -> None:
    for value in (
        threading.Lock(),
        random.Random(),
        np.random.default_rng(),
        torch.Generator(),
        iter([]),
        sys.__stdout__,
    ):
        found = identity(Evaluator(value))
        assert unknown(found) == [f"scale ({type(value).__name__})"]
        assert changes(found, identity(Evaluator(7))) == []


def test_an_object_that_refuses_to_be_looked_at_cannot_be_told() -> None:
    class Shy:
        def __getattribute__(self, name: str) -> Any:
            raise RuntimeError("no")

    endless: list[Any] = []
    endless.append(endless)
    assert identity(Shy())["kind"] == "opaque"
    assert json.dumps(identity(endless))


def test_an_identity_is_bounded() -> None:
    large = {str(number): list(range(50)) for number in range(10_000)}
    assert len(json.dumps(identity(large))) < 70_000
    assert len(json.dumps(identity(["x" * 150] * 5000))) < 70_000
    assert identity(["x" * 150] * 5000) != identity(["y" * 150] * 5000)
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    assert json.dumps(identity(deep))


def test_another_python_says_nothing_of_code() -> None:
    here = identity(lambda arch: {"a": 1})
    there = {**here, "code": "0" * 16, "python": "3.99"}
    assert changes(there, here) == []
    assert code_changes(there, here) == []


def test_settings_without_identity_are_those_of_an_earlier_version() -> None:
    assert same({"class": "L", "w": 1}, {"class": "L", "w": 1, "identity": {"k": 1}})
    assert same([{"loss": {"class": "L"}}], [{"loss": {"class": "L", "identity": {"k": 1}}}])
    assert not same({"class": "L", "identity": {"k": 1}}, {"class": "L", "identity": {"k": 2}})
    assert not same({"class": "L"}, {"class": "M"})
    assert not same({"class": "L", "w": 1}, {"class": "L"})


def test_a_dataclass_is_described_by_its_fields_as_ever() -> None:
    def fields(one: Any) -> dict[str, Any]:
        return {name: value for name, value in described(one).items() if name != "identity"}

    assert fields(Data((1, 2))) == {"class": "Data", "scale": (1, 2)}
    assert fields(Data(Data(3))) == {"class": "Data", "scale": {"scale": 3}}
    assert fields(Data([Data(3)])) == {"class": "Data", "scale": [{"scale": 3}]}
    assert described(Data(evaluate))["scale"]["name"] == "evaluate"
    json.dumps(described(Data(torch.zeros(2))))


def test_other_processes_say_the_same(tmp_path: Path) -> None:
    program = tmp_path / "say.py"
    program.write_text(
        "import functools, json, numpy as np, torch\nfrom nas.identity import identity\n"
        "class E:\n    def __init__(self):\n        self.names = {'a', 'b', 'c'}\n"
        "        self.many = {str(i): i for i in range(9)}\n"
        "        self.w = torch.arange(5)\n        self.f = functools.partial(max, key=lambda a: a in {'x', 'y', 'z'})\n"
        "    def __call__(self, arch):\n        return {'q': 1.0 if arch in {'p', 'q'} else 0.0}\n"
        "print(json.dumps(identity(E())))\n"
    )
    said = {
        subprocess.run(
            [sys.executable, str(program)],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PATH": ""},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1


def test_our_own_objects_say_what_they_are() -> None:
    task: Mapping[str, Any] = identity(Evaluator(nas.digits()))
    assert "data" in json.dumps(task)
    assert changes(identity(Evaluator(nas.digits(seed=1))), identity(Evaluator(nas.digits(seed=2)))) != []


def test_what_one_side_does_not_say_of_itself_is_not_compared() -> None:
    with_inputs, without = {"name": "Costs", **inputs_described("(3, 8, 8) float32")}, {"name": "Costs"}
    other = {"name": "Costs", **inputs_described("(3, 32, 32) float32")}
    for was, now in ((with_inputs, without), (without, with_inputs)):
        assert same(was, now)
        assert changes(was, now) == []
    assert not same(with_inputs, other)
    assert changes(with_inputs, other) == ['inputs "(3, 8, 8) float32" → "(3, 32, 32) float32"']
    assert inputs_in([{"evaluators": [with_inputs, without]}]) == "(3, 8, 8) float32"
    assert inputs_in([with_inputs, other]) == ""


@pytest.mark.parametrize(
    ("stored", "now", "said"),
    [
        (
            [{"name": "A", "x": 1}, "f"],
            [{"name": "A", "x": 2, "y": {"z": 1}}, "f"],
            ["A.x: 1 → 2", 'A.y: nothing → {"z": 1}'],
        ),
        ([{"name": "A"}], [{"name": "A"}, {"name": "B"}], ["[A] → [A, B]"]),
        ({"name": "a", "o": [1, 2]}, {"name": "b", "o": [1, 3]}, ['name: "a" → "b"', "o: [1, 2] → [1, 3]"]),
        ({"o": 1, "identity": {"x": 1}}, {"o": 1, "identity": {"x": 2}}, ["x 1 → 2"]),
        ({"o": 1}, {"o": 1, "identity": {"x": 2}}, []),
    ],
)
def test_settings_that_differ_are_told_by_entry(stored: Any, now: Any, said: list[str]) -> None:
    assert setting_changes(stored, now) == said
    assert same(stored, now) == (not said)


class Held:
    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale


READ = {
    "dict": "DATA = {{'k': {0}}}\ndef ev(arch): return DATA['k']",
    "list": "DATA = [{0}]\ndef ev(arch): return DATA[0]",
    "array": "import numpy\nDATA = numpy.full(3, {0})\ndef ev(arch): return DATA.sum()",
    "tensor": "import torch\nDATA = torch.full((3,), {0})\ndef ev(arch): return DATA.sum()",
    "object": "from tests.test_identity import Held\nDATA = Held({0})\ndef ev(arch): return DATA.scale",
    "in a helper": "DATA = {{'k': {0}}}\ndef helper(): return DATA['k']\ndef ev(arch): return helper()",
    "large": "DATA = [{0}] * 5_000\ndef ev(arch): return DATA[0]",
}


@pytest.mark.parametrize("source", READ.values(), ids=READ)
def test_containers_arrays_and_objects_of_the_module_count_for_what_reads_them(source: str) -> None:
    one, other = made_by(source.format(1.0)), made_by(source.format(2.0))
    assert changes(identity(one), identity(made_by(source.format(1.0)))) == []
    (said,) = changes(identity(one), identity(other))
    assert "global DATA" in said
    assert len(json.dumps(identity(one))) < 5_000


KEPT = {
    "a cache": "DATA = {{'first': {0}}}\ndef ev(arch):\n    DATA[arch] = 1\n    return DATA",
    "a count": "DATA = {{'calls': {0}}}\ndef ev(arch): DATA['calls'] += 1",
    "a list that another function fills": "DATA = [{0}]\ndef keep(x): DATA.append(x)\ndef ev(arch): return DATA",
    "an attribute that is assigned": "from tests.test_identity import Held\nDATA = Held({0})\ndef ev(arch): DATA.scale += 1",
    "a logger": "import logging\nDATA = logging.getLogger('{0}')\ndef ev(arch): DATA.info('')",
    "a lock": "import threading\nDATA = threading.Lock()\ndef ev(arch): return DATA",
    "a module": "import math, random\nDATA = math if {0} == 1 else random\ndef ev(arch): return DATA",
    "a network that is trained": "from torch import nn\nDATA = nn.Linear(3, 3)\ndef ev(arch): return DATA(arch)",
    "a generator": "import random\nDATA = random.Random({0})\ndef ev(arch): return DATA.random()",
}


@pytest.mark.parametrize("source", KEPT.values(), ids=KEPT)
def test_what_changes_by_itself_is_no_change(source: str) -> None:
    assert changes(identity(made_by(source.format(1))), identity(made_by(source.format(2)))) == []


def test_a_global_is_taken_as_it_was_when_it_was_first_seen() -> None:
    evaluator = made_by("DATA = {'k': 1}\ndef ev(arch):\n    known = DATA\n    known[arch] = 1\n    return 1")
    before = identity(evaluator)
    evaluator("a")
    assert changes(before, identity(evaluator)) == []


def test_a_record_of_before_globals_were_read_is_no_other() -> None:
    now = identity(made_by(READ["dict"].format(1)))
    assert changes({**now, "of": {}}, now) == []
    constant = identity(made_by("DATA = 1\ndef ev(arch): return DATA"))
    assert changes({**constant, "of": {}}, constant) == ["global DATA nothing → 1"]


def test_edited_code_of_a_class_that_is_read_is_said() -> None:
    source = (
        "class Net:\n    def run(self): return helper() + {}\ndef helper(): return 1\ndef ev(arch): return Net().run()"
    )
    one, other = made_by(source.format(1)), made_by(source.format(2))
    assert changes(identity(one), identity(other)) == []
    assert code_changes(identity(one), identity(other)) == ["Net"]
    assert code_changes(identity(one), identity(made_by(source.format(1)))) == []

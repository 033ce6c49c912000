"""Model functions, and building with them."""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pyglove as pg
import pytest
import torch

import nas
from nas.errors import SpaceError
from nas.space import nodes
from nas.space.records import Record
from tests.space.families import Box, by_hand, plain

if TYPE_CHECKING:
    from somewhere import Nothing  # type: ignore[import-not-found]


class Net:
    """A class that knows nothing of PyGlove."""

    def __init__(self, width: int, *layers: Any, act: str = "relu", **rest: Any) -> None:
        self.arguments = (width, layers, act, rest)


class Config:
    """Another."""

    def __init__(self, hidden: int = 4, heads: int = 1) -> None:
        self.hidden, self.heads = hidden, heads


@nas.model
def echo(width: int, /, depth: int = 2, *rest: Any, act: str = "relu", **more: Any) -> Nothing:
    """Give back the arguments.

    More text.
    """
    return width, depth, rest, act, more


@nas.model
def fails(width: int, kind: str = "type") -> Any:
    """Fail for odd widths."""
    if kind == "infeasible":
        raise nas.Infeasible("too wide")
    if width % 2:
        raise KeyError("no odd widths")
    return width


wrapped = nas.model(Net)


class ByKeyword:
    """As Hugging Face's configs: nothing by position, and a default that must not be passed."""

    def __init__(self, a: int, *args: Any, b: int = 1, **kwargs: Any) -> None:
        assert not args
        assert not kwargs
        self.a, self.b = a, b

    __signature__ = inspect.Signature(
        [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=0) for name in ("hidden", "a", "b")]
    )


class TestModel:
    def test_keeps_name_docstring_and_signature(self) -> None:
        assert str(inspect.signature(echo)).startswith(
            "(width: 'int', /, depth: 'int' = 2, *rest: 'Any', act: 'str' = 'relu'"
        )
        assert echo.__doc__.startswith("Give back the arguments.")
        assert (echo.__name__, echo.__module__) == ("echo", __name__)
        assert list(inspect.signature(wrapped).parameters) == ["width", "layers", "act", "rest"]
        assert wrapped.__doc__ == Net.__doc__
        assert nas.model(echo) is echo
        assert nas.model(Net) is wrapped

    def test_call_gives_a_symbolic_value_and_calling_that_the_result(self) -> None:
        value = echo(1, 2, 3, act="gelu", extra=4)
        assert isinstance(value, pg.Functor)
        assert value() == (1, 2, (3,), "gelu", {"extra": 4})
        assert echo(1)(act="late") == (1, 2, (), "late", {})

    def test_pickles_by_reference(self) -> None:
        for cls in (echo, wrapped):
            assert pickle.loads(pickle.dumps(cls)) is cls
        for value in (echo(1, extra=pg.oneof([1, 2])), wrapped(pg.oneof([1, 2]), 3)):
            assert pg.eq(pickle.loads(pickle.dumps(value)), value)

    def test_of_a_class_calls_the_model_functions_among_its_arguments(self) -> None:
        value = wrapped(nas.model(Config)(hidden=8), [nas.model(Config)(), {"c": nas.model(Config)()}], act=(echo(1),))
        width, layers, act, _ = value().arguments
        assert isinstance(width, Config)
        assert width.hidden == 8
        assert isinstance(layers[0][0], Config)
        assert isinstance(layers[0][1]["c"], Config)
        assert act == ((1, 2, (), "relu", {}),)
        assert not isinstance(layers[0], pg.List)

    @pytest.mark.parametrize("target", [dict, 3])
    def test_needs_a_signature(self, target: Any) -> None:
        with pytest.raises(SpaceError, match="cannot read the arguments of .*; wrap it in a function"):
            nas.model(target)

    def test_passes_by_name_what_has_one(self) -> None:
        value = nas.model(ByKeyword)(a=pg.oneof([1, 2]))
        space = nas.Space(value)
        for config in (space.build(space.largest), space.largest.value()):
            assert (config.a, config.b) == (2, 1)

    def test_of_a_function_leaves_them_to_it(self) -> None:
        inner = nas.Space(echo(echo(pg.oneof([1, 2])))).largest
        (functor, *_) = inner.space.build(inner)
        assert isinstance(functor, pg.Functor)
        assert functor()[0] == 2


class TestBuild:
    @pytest.mark.parametrize(
        "value",
        [
            echo(pg.oneof([1, 2]), depth=pg.oneof([3, 4]), act=pg.oneof(["a", "b"])),
            echo(pg.oneof([1, 2])),
            echo(1, 2, pg.oneof([3, 4]), [pg.oneof([5, 6])], extra=pg.oneof([{"k": 7}, {"j": [8, Box(9)]}])),
            echo(pg.manyof(2, [Box(1), Box(2, b=pg.oneof([3, 4])), [Box([5])]]), more_=Box(Box(6))),
            *(echo(value) for value in by_hand()),
        ],
    )
    def test_calls_with_what_pyglove_would_call_with(self, value: Any) -> None:
        space = nas.Space(value)
        template = pg.template(value)
        rng = Random(0)
        for arch in [space.sample(rng) for _ in range(6)] * 2:  # the second time from what is shared
            expected = template.decode(space.to_dna(arch))()
            assert plain([*space.build(arch)]) == plain([*expected])

    def test_of_a_plain_value_gives_a_fresh_symbolic_one(self) -> None:
        space = nas.Space({"x": [pg.oneof([1, 2])]})
        built = space.build(space.largest)
        assert isinstance(built, pg.Dict)
        built.x.append(3)
        assert space.build(space.largest) == space.largest.value == {"x": [2]}

    def test_arguments_that_a_function_changes_are_its_own(self) -> None:
        space = nas.Space(echo([pg.oneof([1, 2]), [5]], {"a": [3]}, {"b": pg.oneof([1, 2])}))
        layers, fixed, (opened,), _, _ = space.build(space.largest)
        for changed in (layers, layers[1], fixed.a):
            changed.append(9)
        fixed.b = opened.c = 9
        again = space.build(space.largest)
        assert again[:3] == ([2, [5]], {"a": [3]}, ({"b": 2},))

    def test_objects_are_shared_and_sealed(self) -> None:
        space = nas.Space(echo(Box([1, pg.oneof([1, 2])])))
        first, second = space.build(space.largest)[0], space.build(space.largest)[0]
        assert first is second
        with pytest.raises(pg.WritePermissionError):
            first.a.append(3)
        with pytest.raises(pg.WritePermissionError):
            first.rebind(a=3)
        assert first.clone().seal(False).rebind(a=3).a == 3

    def test_objects_with_a_life_of_their_own_are_not_shared(self) -> None:
        space = nas.Space(echo([Counting(pg.oneof([1, 2])), Symbolic(pg.oneof([1, 2])), Counting(3), Box(Counting(4))]))
        first, second = space.build(space.largest)[0], space.build(space.largest)[0]
        for x, y in zip(first, second, strict=True):
            assert x is not y
        assert first[0].made == ["counting"]

    def test_the_number_of_shared_objects_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(nodes, "_MOST_SHARED", 8)
        space = nas.Space(echo(Box(pg.floatv(0.0, 1.0))))
        shared = dict(space._node.items)["width"]._shared
        rng = Random(0)
        for _ in range(30):
            arch = space.sample(rng)
            assert space.build(arch)[0].a == arch.choices["width.a"]
            assert len(shared) <= 8

    def test_failure_names_the_arch_and_the_cause(self) -> None:
        space = nas.Space(fails(width=pg.oneof([1, 2])), name="odd")
        with pytest.raises(
            SpaceError, match=r"arch {'width': 1} of space 'odd' cannot be built: KeyError: 'no odd widths'"
        ) as e:
            space.build(space.smallest)
        assert isinstance(e.value.__cause__, KeyError)
        assert space.build(space.largest) == 2

    def test_infeasible_is_passed_on(self) -> None:
        space = nas.Space(fails(width=pg.oneof([2, 4]), kind="infeasible"))
        with pytest.raises(nas.Infeasible, match="too wide"):
            space.build(space.largest)

    def test_a_missing_argument_is_a_failure_too(self) -> None:
        space = nas.Space(fails(kind=pg.oneof(["a", "b"])))
        with pytest.raises(
            SpaceError, match="cannot be built: TypeError: .* missing 1 required positional argument: 'width'"
        ):
            space.build(space.largest)

    def test_references_follow_what_was_chosen(self) -> None:
        value = pg.Dict(a=pg.oneof([1, 2]), b=pg.hyper.ValueReference(["a"]))
        space = nas.Space(value)
        template = pg.template(value)
        for arch in space.enumerate():
            assert arch.value == template.decode(space.to_dna(arch)) == {"a": arch.choices["a"], "b": arch.choices["a"]}
        called = nas.Space(echo(pg.oneof([1, 2]), depth=pg.hyper.ValueReference(["width"])))
        assert called.build(called.largest)[:2] == (2, 2)

    def test_functors_that_pyglove_made_are_called_too(self) -> None:
        for functor in (Subclassed, plain_functor):
            space = nas.Space(functor(x=pg.oneof([1, 2]), y=pg.Ref(shared)))
            assert space.build(space.largest) == (2, shared)
            assert space.build(space.largest)[1] is shared

    def test_a_reference_keeps_its_object(self) -> None:
        space = nas.Space(echo(pg.oneof([1, 2]), act=pg.Ref(shared)))
        assert space.build(space.largest)[3] is shared
        assert space.largest.value()[3] is shared


shared = object()


class Subclassed(pg.Functor):
    """A functor with a method."""

    x: Any
    y: Any

    def _call(self) -> Any:
        return self.x, self.y


@pg.functor
def plain_functor(x: Any, y: Any) -> Any:
    """A functor of a function."""
    return x, y


class Counting(pg.Object):
    """Runs code of its own when it is made."""

    x: int

    def _on_bound(self) -> None:
        super()._on_bound()
        self.made = ["counting"]


@pg.symbolize
class Symbolic:
    """Somebody's class made symbolic: holds whatever it likes."""

    def __init__(self, x: int) -> None:
        self.state = [x]


def test_a_record_is_a_dict_with_attributes() -> None:
    record = Record(a=1)
    record.b = 2
    assert (record.a, record["b"]) == (1, 2)
    with pytest.raises(AttributeError, match=r"no item 'c'; there are \['a', 'b'\]"):
        _ = record.c


def test_a_space_of_a_job_file_goes_to_another_process(tmp_path: Path) -> None:
    (tmp_path / "jobfile.py").write_text(
        textwrap.dedent("""
            import pyglove as pg, nas

            class Layer(pg.Object):
                k: int

            @nas.model
            def net(width: int, layers: list[Layer]):
                return width, [layer.k for layer in layers]

            space = nas.Space(
                net(pg.oneof([1, 2]), [Layer(pg.oneof([3, 5])), net(pg.oneof([7]), 8)][:1]),
                name="job", version=3, largest={"width": 1},
            )
        """)
    )
    make = "import pickle, sys, jobfile; sys.stdout.buffer.write(pickle.dumps([jobfile.space.largest] * 2))"
    read = (
        "import pickle, sys; a, b = pickle.load(sys.stdin.buffer); s = a.space;"
        "print(s.name, s.version, s.build(a), a.space is b.space, s.arch(a.choices) == a)"
    )
    environment = {"PYTHONPATH": f"{tmp_path}:{Path(nas.__file__).parents[1]}"}
    pickled = subprocess.run([sys.executable, "-c", make], env=environment, capture_output=True, check=True).stdout
    shown = subprocess.run(
        [sys.executable, "-c", read], env=environment, input=pickled, capture_output=True, check=True
    )
    assert shown.stdout.decode() == "job 3 (1, [5]) True True\n"


@nas.model
def activation() -> Any:
    return torch.nn.ReLU()


@nas.model
def forgetful(act: Any, width: int) -> Any:
    return torch.nn.Sequential(torch.nn.Linear(2, width), act)


@pytest.mark.parametrize(
    ("act", "hint"),
    [
        (activation(), r"test_model.activation is not a Module subclass; call it, as in activation\(\)$"),
        (torch.nn.ReLU, r"ReLU is not a Module subclass; call it, as in ReLU\(\)$"),
        (nas.model(torch.nn.ReLU)(), r"ReLU is not a Module subclass; call it, as in ReLU\(\)$"),
        ("relu", "str is not a Module subclass$"),
        (3, "int is not a Module subclass$"),
    ],
)
def test_a_call_that_was_forgotten_is_hinted_at(act: Any, hint: str) -> None:
    space = nas.Space(forgetful(act=act, width=pg.oneof([2, 3])))
    with pytest.raises(SpaceError, match=hint):
        space.build(space.smallest)

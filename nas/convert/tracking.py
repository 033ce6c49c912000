"""Numbers that remember where they came from: attributes of modules and lengths of axes, through Python's arithmetic.

Every whole number that a module keeps is replaced by one of the same value that remembers its place, and what is computed from
it remembers how.  An argument of an operator is then known to follow from an attribute because the value flowed there:
names and values are compared nowhere.
"""

from __future__ import annotations

import copy
import math
import operator
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Expression = int | float | tuple[Any, ...]
"""`("attr", module path, place in it)`, `("dim", node, axis)`, an arithmetic sign with two expressions, or a number.

Signs are those of `ARITHMETIC`.  "/" and "**" occur in floating-point numbers only, such as the scale of attention.
"""
Path = tuple[str | int, ...]

ARITHMETIC: Mapping[str, Callable[[Any, Any], Any]] = types.MappingProxyType(
    {
        "+": operator.add,
        "-": operator.sub,
        "*": operator.mul,
        "//": operator.floordiv,
        "%": operator.mod,
        "/": operator.truediv,
        "**": operator.pow,
    }
)
UNKNOWN = frozenset({"attr", "dim", "axis"})
"""What begins an expression that is no computation; `("axis", axis)` where axes of tensors are known."""
_SYMBOLS = (torch.SymInt, torch.SymFloat)
"""Numbers that torch follows by itself: they know no subclass of int or float beside them."""
_listening: list[dict[tuple[Expression, Expression], bool]] = []
_INTERNAL = frozenset(vars(nn.Module()))
_DEPTH = 3
"""How deep numbers are looked for inside an attribute: a list in a field of a configuration is 2 deep."""
_LONGEST = 256
"""Longer containers are tables of data, such as a vocabulary."""


class TrackedInt(int):
    """A whole number that remembers the expression it is the value of."""

    expression: Expression

    def __new__(cls, value: int, expression: Expression | None = None) -> TrackedInt:
        """`value`; it is its own expression if none is given."""
        self = super().__new__(cls, value)
        self.expression = int(value) if expression is None else expression
        return self

    def __eq__(self, other: object) -> bool:
        return self._compared(other, same=True)

    def __ne__(self, other: object) -> bool:
        return self._compared(other, same=False)

    __hash__ = int.__hash__

    def _compared(self, other: object, *, same: bool) -> bool:
        """Whether they are the same, or not; it is noted, for what the model does depends on it."""
        if isinstance(other, _SYMBOLS):
            return bool(plain(self) == other) is same
        found = int.__eq__(self, other)
        if found is not NotImplemented and _listening and not isinstance(other, bool):
            compared = self.expression, _expression(other)
            if compared[0] != compared[1]:
                _listening[-1][compared] = found
        return found if same or found is NotImplemented else not found

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (int(self),)


class TrackedFloat(float):
    """A floating-point number that remembers the expression it is the value of."""

    expression: Expression

    def __new__(cls, value: float, expression: Expression | None = None) -> TrackedFloat:
        """`value`; it is its own expression if none is given."""
        self = super().__new__(cls, value)
        self.expression = float(value) if expression is None else expression
        return self

    def __reduce__(self) -> tuple[type[float], tuple[float]]:
        return float, (float(self),)


def _expression(value: Any) -> Expression:
    if isinstance(value, (TrackedInt, TrackedFloat)):
        return value.expression
    return float(value) if isinstance(value, float) else int(value)


def _tracked(value: Any, expression: Expression) -> Any:
    """`value` with where it came from, if it is a number."""
    if type(value) is int:
        return TrackedInt(value, expression)
    return TrackedFloat(value, expression) if type(value) is float else value


def _operator(sign: str, *, reflected: bool) -> Callable[[Any, Any], Any]:
    compute = ARITHMETIC[sign]

    def method(self: Any, other: Any) -> Any:
        if isinstance(other, _SYMBOLS):
            return compute(other, plain(self)) if reflected else compute(plain(self), other)
        if not isinstance(other, (int, float)):
            return NotImplemented  # a tensor: its own method has the word
        if isinstance(other, bool) or type(other) not in (int, float, TrackedInt, TrackedFloat):
            own, foreign = plain(self), other  # a number of a library's: the result is as if nothing were tracked
            return compute(foreign, own) if reflected else compute(own, foreign)
        left, right = (other, self) if reflected else (self, other)
        if sign == "**" and type(plain(left)) is int and type(plain(right)) is int:
            return left * left if right == 2 else plain(left) ** plain(right)
        return _tracked(compute(plain(left), plain(right)), (sign, _expression(left), _expression(right)))

    return method


def _ordering(name: str, own: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    compare = getattr(operator, name)

    def method(self: Any, other: Any) -> Any:
        return compare(plain(self), other) if isinstance(other, _SYMBOLS) else own(self, other)

    return method


def _negated(self: Any) -> Any:
    return _tracked(-plain(self), ("-", 0, self.expression))


for _name, _sign in (
    *(("add", "+"), ("sub", "-"), ("mul", "*"), ("floordiv", "//"), ("mod", "%")),
    *(("truediv", "/"), ("pow", "**")),
):
    for _class in (TrackedInt, TrackedFloat):
        setattr(_class, f"__{_name}__", _operator(_sign, reflected=False))
        setattr(_class, f"__r{_name}__", _operator(_sign, reflected=True))
        setattr(_class, "__neg__", _negated)  # noqa: B010  # as the others are set
for _class in (TrackedInt, TrackedFloat):
    for _name in ("lt", "le", "gt", "ge"):
        setattr(_class, f"__{_name}__", _ordering(_name, getattr(_class.__base__, f"__{_name}__")))


def whole(value: Any) -> Any:
    """`value` as a whole number that keeps where it came from; a plain one where that is no computation in whole numbers."""
    if isinstance(value, TrackedInt):
        return value
    exact = _exact(value.expression) if isinstance(value, TrackedFloat) and value.is_integer() else None
    return int(plain(value)) if exact is None else TrackedInt(int(plain(value)), exact)


def _exact(expression: Expression) -> Expression | None:
    """An expression in whole numbers that has the same value where no division leaves a rest; whoever uses it asks that."""
    if not isinstance(expression, tuple):
        return int(expression) if float(expression).is_integer() else None
    if expression[0] in UNKNOWN:
        return expression
    sign, left, right = expression
    if sign == "*":
        for share, other in ((left, right), (right, left)):
            if isinstance(share, float) and 0 < share < 1 and (1 / share).is_integer():
                return _exact(("/", other, int(1 / share)))
    ours, theirs = _exact(left), _exact(right)
    if sign == "**" or ours is None or theirs is None:
        return None
    return ("//" if sign == "/" else sign, ours, theirs)


def _rounded(self: Any, digits: int | None = None) -> Any:
    return (
        whole(self)
        if isinstance(self, TrackedInt) or (digits is None and self.is_integer())
        else round(plain(self), digits)
    )


def _floor(self: Any) -> Any:
    return whole(self) if self.is_integer() else math.floor(plain(self))


def _ceil(self: Any) -> Any:
    return whole(self) if self.is_integer() else math.ceil(plain(self))


for _class in (TrackedInt, TrackedFloat):
    for _name, _function in (("round", _rounded), ("floor", _floor), ("ceil", _ceil)):
        setattr(_class, f"__{_name}__", _function)


class _AsInt(type):
    """Of a class that is `int` to whoever asks, and keeps where numbers come from when it is called."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return (
            whole(args[0])
            if len(args) == 1 and isinstance(args[0], (TrackedInt, TrackedFloat))
            else int(*args, **kwargs)
        )

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, int)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, int)

    def __eq__(cls, other: object) -> bool:
        return other is int or other is cls

    def __hash__(cls) -> int:
        return hash(int)


class Whole(int, metaclass=_AsInt):
    """What stands for `int` in the modules of a model's classes while it is captured."""


def square_root(value: Any) -> float:
    """`math.sqrt` that keeps where a number came from."""
    found = math.sqrt(value)
    tracked = isinstance(value, (TrackedInt, TrackedFloat))
    return TrackedFloat(found, ("**", value.expression, 0.5)) if tracked else found


@contextmanager
def comparing() -> Iterator[dict[tuple[Expression, Expression], bool]]:
    """Notes which tracked whole numbers were compared with others, and whether they were found to be equal."""
    found: dict[tuple[Expression, Expression], bool] = {}
    _listening.append(found)
    try:
        yield found
    finally:
        _listening.pop()


def plain(value: Any) -> Any:
    """`value` with ordinary numbers in the place of those that are tracked, also in tuples, lists, dicts and slices."""
    if isinstance(value, TrackedInt):
        return int(value)
    if isinstance(value, TrackedFloat):
        return float(value)
    if not any(True for _ in leaves(value)):
        return value  # itself: what is written into it must be seen by whoever gave it
    if isinstance(value, slice):
        return slice(plain(value.start), plain(value.stop), plain(value.step))
    if isinstance(value, dict):
        return type(value)((key, plain(item)) for key, item in value.items())
    return _sequence(value, [plain(item) for item in value])


def _sequence(like: Any, items: list[Any]) -> Any:
    """`items` in a sequence of the type of `like`."""
    return type(like)(*items) if hasattr(like, "_fields") else type(like)(items)


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, TrackedInt | TrackedFloat]]:
    """Places of tracked numbers in tuples, lists, dicts and slices (`"start"`, `"stop"`, `"step"`), and the numbers."""
    if isinstance(value, (TrackedInt, TrackedFloat)):
        yield path, value
    elif isinstance(value, (tuple, list)):
        for place, item in enumerate(value):
            yield from leaves(item, (*path, place))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, slice):
        for name in ("start", "stop", "step"):
            yield from leaves(getattr(value, name), (*path, name))


# -- attributes


def track_attributes(module: nn.Module) -> dict[tuple[Any, ...], int | float]:
    """Replace numbers that `module` and its submodules keep: whole ones above 1, and floating-point ones, by tracked ones.

    Those in tuples, lists, dicts and objects of settings too.  An object of settings that modules share is copied for each,
    so that its fields are told apart by module.

    Returns:
        Value of each, by its expression.
    """
    found: dict[tuple[Any, ...], int | float] = {}
    for name, one in module.named_modules():
        for key, value in [*_of_classes(one), *vars(one).items()]:
            if key not in _INTERNAL:
                changed = _replaced(value, name, (key,), found)
                if changed is not value:
                    vars(one)[key] = changed
    return found


def _of_classes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Numbers that a user's classes say for all their modules, and the module does not say for itself."""
    for kind in type(module).__mro__:
        if kind.__module__.partition(".")[0] not in ("torch", "builtins"):
            yield from (
                (key, value)
                for key, value in vars(kind).items()
                if type(value) in (int, float) and key not in vars(module) and getattr(module, key) is value
            )


def _replaced(value: Any, module: str, path: Path, found: dict[tuple[Any, ...], int | float]) -> Any:
    """`value` with tracked numbers in it, which are added to `found`; itself where there are none."""
    if (type(value) is int and value > 1) or (type(value) is float and math.isfinite(value)):
        place = ("attr", module, path)
        found[place] = value
        return _tracked(value, place)
    if len(path) > _DEPTH or (isinstance(value, (tuple, list, dict)) and len(value) > _LONGEST):
        return value
    if isinstance(value, (tuple, list)):
        items = [_replaced(item, module, (*path, place), found) for place, item in enumerate(value)]
        return _sequence(value, items) if any(map(operator.is_not, items, value)) else value
    if type(value) is dict:
        entries = {
            key: _replaced(item, module, (*path, key), found) if isinstance(key, (str, int)) else item
            for key, item in value.items()
        }
        return entries if any(entries[key] is not item for key, item in value.items()) else value
    return _settings(value, module, path, found) if _is_settings(value) else value


def _is_settings(value: Any) -> bool:
    """Whether it is an object that only keeps values: no module, tensor, function, container or class."""
    if (
        isinstance(value, (type, nn.Module, Tensor, types.ModuleType))
        or callable(value)
        or not hasattr(value, "__dict__")
    ):
        return False
    if type(value).__module__.partition(".")[0] in ("builtins", "torch", "numpy", "enum"):
        return False
    return not any(isinstance(one, (nn.Module, Tensor)) for one in vars(value).values())


def _settings(value: Any, module: str, path: Path, found: dict[tuple[Any, ...], int | float]) -> Any:
    fields = {key: _replaced(item, module, (*path, key), found) for key, item in vars(value).items()}
    if all(fields[key] is item for key, item in vars(value).items()):
        return value
    try:
        copied = copy.copy(value)
    except Exception:  # of somebody's class: its numbers stay plain
        return value
    vars(copied).update(fields)
    return copied


# -- expressions


def evaluate(expression: Expression, value_of: Callable[[tuple[Any, ...]], Any]) -> Any:
    """Value of an expression; `value_of` gives that of an attribute or the length of an axis.

    Raises:
        ZeroDivisionError: it divides by zero for these values.
    """
    if not isinstance(expression, tuple):
        return expression
    if expression[0] in UNKNOWN:
        return value_of(expression)
    sign, left, right = expression
    return ARITHMETIC[sign](evaluate(left, value_of), evaluate(right, value_of))


def unknowns(expression: Expression) -> Iterator[tuple[Any, ...]]:
    """Attributes and axes that occur in an expression, in order; one that occurs twice comes twice."""
    if isinstance(expression, tuple):
        if expression[0] in UNKNOWN:
            yield expression
        else:
            yield from unknowns(expression[1])
            yield from unknowns(expression[2])


def replaced(expression: Expression, change: Callable[[tuple[Any, ...]], Expression]) -> Expression:
    """The expression with `change` applied to its attributes and axes."""
    if not isinstance(expression, tuple):
        return expression
    if expression[0] in UNKNOWN:
        return change(expression)
    return (expression[0], replaced(expression[1], change), replaced(expression[2], change))


def is_size(value: Any) -> bool:
    """Whether it is the length of an axis as a number, no symbol of torch's."""
    return isinstance(value, int) and not isinstance(value, (bool, torch.SymInt))

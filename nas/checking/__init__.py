"""What callers give, checked against the annotations of what they call, with the argument's name in the sentence.

Numbers come from numpy, pandas and torch as often as from Python: scalars of these, and arrays without dimensions, are taken for
the Python number that they hold.  A bool is no number, and a float with a whole value is no whole number.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from nas.checking.annotations import Annotation
from nas.checking.kinds import Range, Unfit
from nas.checking.scalars import is_number, plain_scalar, shown
from nas.errors import NasError, suggest

__all__ = [
    "Count",
    "Natural",
    "NonNegative",
    "Positive",
    "Probability",
    "Range",
    "checked",
    "is_number",
    "plain_scalar",
    "shown",
]

Wrapped = TypeVar("Wrapped", bound=Callable[..., Any])

Natural = Annotated[int, Range(least=0)]
Count = Annotated[int, Range(least=1)]
NonNegative = Annotated[float, Range(least=0)]
Positive = Annotated[float, Range(above=0)]
Probability = Annotated[float, Range(least=0, most=1)]


def checked(error: type[NasError], *, called: str | None = None) -> Callable[[Wrapped], Wrapped]:
    """A decorator: arguments of a function, method or class are checked against their annotations when it is called.

    int, float, bool and str (numbers by `Range` too), paths, `Literal`s, functions, sequences, mappings, and objects of classes
    are told apart, through unions and `None`; what an annotation says beyond that is left to the function.  Scalars of numpy and
    torch arrive as Python's numbers.  A keyword that is not there is answered with the closest one that is.

    >>> @checked(NasError)
    ... def repeat(text: str, times: Count = 1) -> str:
    ...     return text * times
    >>> repeat("ab", times=0)
    Traceback (most recent call last):
    ...
    nas.errors.NasError: repeat was given times=0; it is a whole number, 1 or more

    Args:
        error: what is raised, with one sentence.
        called: attribute of the object that says how it is called in the sentence; the function's or class's name unless given.
    """

    def decorate(target: Wrapped) -> Wrapped:
        if isinstance(target, type):
            # In place, so that the class stays what pickle and `isinstance` know.
            target.__init__ = _checking(target.__init__, error, target.__name__, called)  # type: ignore[misc]
            return target
        owner = target.__qualname__.split("<locals>.")[-1].removesuffix(".__init__")
        return typing.cast(Wrapped, _checking(target, error, owner, called))

    return decorate


def _checking(
    function: Callable[..., Any], error: type[NasError], owner: str, called: str | None
) -> Callable[..., Any]:
    signature = inspect.signature(function)
    parameters = signature.parameters.values()
    tests = {
        one.name: Annotation(one.annotation, inspect.unwrap(function).__globals__)
        for one in parameters
        if one.annotation is not one.empty and one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)
    }
    keywords = [one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    is_open = any(one.kind is one.VAR_KEYWORD for one in parameters)
    is_constructor = function.__name__ == "__init__"

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        who = owner
        if is_constructor and args:
            who = str(getattr(args[0], called)) if called else type(args[0]).__name__
        strangers = [] if is_open else [name for name in kwargs if name not in keywords]
        if strangers:
            takes = ", ".join([name for name in keywords if name != "self"]) or "none"
            near = suggest(strangers[0], keywords)
            raise error(f"{who} has no argument {strangers[0]!r}{near or f'; it takes {takes}'}")
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)  # Python says best what is missing
        for name, value in bound.arguments.items():
            if name in tests:
                try:
                    bound.arguments[name] = tests[name].kind.take(name, value)
                except Unfit as unfit:
                    raise error(f"{who} was given {unfit}") from None
        return function(*bound.args, **bound.kwargs)

    return call

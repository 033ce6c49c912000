"""`nas.model`: makes model functions, whose call with open arguments is a search space."""

from __future__ import annotations

import copyreg
import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any, ParamSpec

import pyglove as pg

from nas.errors import SpaceError

P = ParamSpec("P")
_NO_LAYER = " is not a Module subclass"  # how torch refuses it


class _Class(type(pg.Functor)):  # type: ignore[misc]  # PyGlove's metaclass, under our own name for `copyreg`
    """Class of model functions, so that pickle asks us how to find one."""


class ModelFunction(pg.Functor, metaclass=_Class):  # type: ignore[misc]
    """Base of what `model` makes: `_nas_origin` is the function or class that was given, `_nas_target` what calls it."""

    auto_schema = False


class _Signature(type(pg.Functor.__signature__), inspect.Signature):  # type: ignore[misc]
    """PyGlove's signature, which `inspect.signature` and `help` understand as well."""

    __repr__ = inspect.Signature.__repr__
    __str__ = inspect.Signature.__str__


def model(target: Callable[P, Any]) -> Callable[P, ModelFunction]:
    """Make a model function: called with open arguments it gives a symbolic value, which a `Space` takes.

    A decorator for functions of your own, and a wrapper of functions and classes that you do not own:

    >>> import pyglove as pg
    >>> @model
    ... def widths(width, depth=2):
    ...     return [width] * depth
    >>> widths(width=pg.oneof([8, 16])).width.candidates
    [8, 16]
    >>> from fractions import Fraction
    >>> model(Fraction)(numerator=3, denominator=4)()
    Fraction(3, 4)

    Arguments may be open at any depth: in lists, dicts, symbolic objects, and calls of other model functions.  A function gets
    symbolic objects and calls of model functions as they are, and calls the latter itself; a *class* knows nothing of them, so
    they are called for it: `model(BertModel)(config=model(BertConfig)(num_hidden_layers=pg.oneof([2, 4])))`.

    `Space.build` shares symbolic objects between builds and therefore seals them: `clone().seal(False)` one before changing it.

    Args:
        target: a function or class with any signature that names its arguments, or takes `**kwargs`.

    Returns:
        A `pg.Functor` class with the target's signature and docstring.  It pickles when `target` can be imported.  To type
        checkers it takes the target's arguments (open ones are `Any`) and gives a symbolic value.

    Raises:
        SpaceError: `target` has no signature that Python can read.
    """
    if isinstance(target, _Class):
        return target
    try:
        inspect.signature(target)
    except (TypeError, ValueError) as error:
        raise SpaceError(
            f"nas.model cannot read the arguments of {target!r} ({error}); wrap it in a function"
        ) from None
    found: Callable[P, ModelFunction] = _wrapped(target)
    return found


@functools.cache
def _wrapped(target: Callable[..., Any]) -> Any:
    """The model function of `target`: the same one each time, so that an unpickled value equals the original."""
    function = _caller(target)
    cls = pg.functor(base_class=ModelFunction)(function)
    cls._nas_origin, cls._nas_target = staticmethod(target), staticmethod(function)
    signature = _Signature.__new__(_Signature)
    signature.__dict__.update(cls.__signature__.__dict__)
    inspect.Signature.__init__(signature, list(inspect.signature(target).parameters.values()))
    cls.__signature__ = signature
    return cls


def _caller(target: Callable[..., Any]) -> Callable[..., Any]:
    """A function that calls `target`; when that is a class, the model functions among its arguments first.

    It shows PyGlove no annotations, which may name what cannot be imported, and which it would enforce on the result.  PyGlove
    passes by position and fills in defaults; what can be named is passed by name here and left out where it is the default, since
    Hugging Face configs take nothing else.
    """
    parameters = inspect.signature(target).parameters.values()
    named = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    only_named = not any(p.kind is p.POSITIONAL_ONLY for p in parameters)
    prepare = _as_it_is if inspect.isfunction(target) else called

    def call(*args: Any, **kwargs: Any) -> Any:
        if only_named and len(args) <= len(named):
            given = zip(named, args, strict=False)
            kwargs = {p.name: value for p, value in given if value is not p.default} | kwargs
            args = ()
        return target(*map(prepare, args), **{key: prepare(value) for key, value in kwargs.items()})

    for attribute in ("__module__", "__name__", "__qualname__", "__doc__"):
        setattr(call, attribute, getattr(target, attribute, None))
    call.__signature__ = inspect.Signature([p.replace(annotation=p.empty) for p in parameters])  # type: ignore[attr-defined]
    return call


def _as_it_is(value: Any) -> Any:
    return value


def called(value: Any) -> Any:
    """`value` with calls of model functions in it (through lists, tuples and dicts) carried out, containers plain."""
    if isinstance(value, ModelFunction):
        return value()
    if isinstance(value, list):
        return [called(item) for item in value]
    if isinstance(value, dict):
        return {key: called(item) for key, item in value.items()}
    return tuple(map(called, value)) if type(value) is tuple else value


def uncalled(error: Exception) -> str:
    """What to do where torch says that a model function, or a class of layers, is no layer; "" for other errors."""
    said = str(error)
    name = said.removesuffix(_NO_LAYER)
    module, _, function = name.rpartition(".")
    found = _by_name(module, function)
    is_made = isinstance(found, _Class) or (isinstance(found, type) and hasattr(found, "forward"))
    return f"; call it, as in {function}()" if name != said and is_made else ""


def _by_name(module: str, qualname: str) -> Any:
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


def _reduce(cls: _Class) -> Any:
    """A decorated function by its name, which is the class's; a wrapped one by what it wraps."""
    origin = origin_of(cls)
    return cls.__qualname__ if origin is None else (_wrapped, (origin,))


def origin_of(cls: type) -> Any:
    """What the class of a model function wraps, where its name stands for that and not for the class; else None."""
    if "_nas_origin" not in cls.__dict__ or _by_name(cls.__module__, cls.__qualname__) is cls:
        return None
    return cls.__dict__["_nas_origin"].__func__


copyreg.pickle(_Class, _reduce)

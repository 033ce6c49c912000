"""Optuna's samplers by name, what is said of one, and the random states inside it."""

from __future__ import annotations

import importlib.util
import inspect
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from nas.errors import AlgorithmError, suggest

if TYPE_CHECKING:
    import numpy as np
    from optuna.samplers import BaseSampler

#: Name -> Optuna's class, and the options that suit spaces of architectures.
SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "tpe": ("TPESampler", {"multivariate": True, "group": True}),
    "nsga2": ("NSGAIISampler", {}),
    "nsga3": ("NSGAIIISampler", {}),
    "gp": ("GPSampler", {}),
    "cmaes": ("CmaEsSampler", {"warn_independent_sampling": False}),
    "qmc": ("QMCSampler", {"warn_independent_sampling": False, "warn_asynchronous_seeding": False}),
    "random": ("RandomSampler", {}),
    "bruteforce": ("BruteForceSampler", {}),
}


def make_sampler(given: BaseSampler | str, options: Mapping[str, Any] | None) -> BaseSampler:
    """The sampler itself, or the one of that name.

    Raises:
        AlgorithmError: there is none of that name, it has no such option, or options come with a sampler.
    """
    import optuna

    if isinstance(given, optuna.samplers.BaseSampler):
        if options:
            raise AlgorithmError(
                f"optuna was given options={dict(options)} with a {type(given).__name__}; give them to the sampler"
            )
        return given
    if not isinstance(given, str) or given not in SAMPLERS:
        near = suggest(given, SAMPLERS) if isinstance(given, str) else ""
        raise AlgorithmError(
            f"optuna was given sampler={given!r}; it is an Optuna sampler or one of {', '.join(SAMPLERS)}{near}"
        )
    if given == "cmaes" and importlib.util.find_spec("cmaes") is None:
        raise AlgorithmError("optuna's sampler 'cmaes' needs the package cmaes; install it: pip install cmaes")
    kind, defaults = SAMPLERS[given]
    cls = getattr(optuna.samplers, kind)
    known = [name for name in inspect.signature(cls).parameters if name != "seed"]
    for option in options or {}:
        if option not in known:
            raise AlgorithmError(
                f"{kind} has no option {option!r} here; it has {', '.join(known)}{suggest(option, known)}"
            )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental options are chosen knowingly
            sampler: BaseSampler = cls(**{**defaults, **(options or {})})
            return sampler
    except (TypeError, ValueError, ImportError) as error:
        raise AlgorithmError(f"{kind} cannot be made with {dict(options or {})}: {error}") from error


def described_sampler(given: BaseSampler | str) -> str | dict[str, Any]:
    """The name, or the class and those settings of a sampler that are plain values."""
    if isinstance(given, str):
        return given
    settings = {
        name.lstrip("_"): value
        for name, value in sorted(vars(given).items())
        if isinstance(value, bool | int | float | str) or value is None
    }
    return {"class": type(given).__name__, "settings": settings}


def random_states(sampler: Any) -> Iterator[np.random.RandomState]:
    """Every random state that a sampler, or a part of it, holds; in an order that is always the same."""
    import optuna
    from optuna.samplers._lazy_random_state import LazyRandomState

    seen: set[int] = set()
    stack = [sampler]
    while stack:
        part = stack.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, LazyRandomState):
            yield part.rng
        elif type(part).__module__.startswith(optuna.__name__) or isinstance(part, optuna.samplers.BaseSampler):
            stack.extend(value for _, value in sorted(getattr(part, "__dict__", {}).items(), reverse=True))
        elif isinstance(part, list | tuple):
            stack.extend(part)

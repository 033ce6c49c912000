"""How a process comes by the module that is resized.

A `Template` is a constant of the space: what archs are depends on its class, on the names, shapes and types of its tensors,
and on what its layers say of themselves (`repr`), never on weights or on the object.  It gives the module in one of two ways:

- by a call that builds it (`build=nas.model(Net)(…)`), or for a model with a configuration of Hugging Face's that call;
- by a copy without weights of the model itself, which workers get with the task.  It is never written to a file.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import re
from collections.abc import Iterator, Mapping, Sized
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from nas.convert.emission import Reference
from nas.convert.plan import Plan
from nas.convert.refusing import check_modules
from nas.convert.resize import Axes, named_axes, shared_with, without_weights
from nas.errors import SpaceError
from nas.identity import behaviour
from nas.space.model import ModelFunction, model
from nas.supernet import attributes
from nas.supernet.constructor import structure
from nas.supernet.inputs import describe, zeros
from nas.supernet.skeleton import STATE, parameters_of, parameters_on_meta, quiet

if TYPE_CHECKING:
    from nas.convert.converting import Conversion

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


class Template:
    """The module that archs are cut from; make one with `of`.

    Args:
        cls: class of the module.
        structure: digest of what the module is, without its weights.
        skeleton: the module with its parameters on the meta device; None where `build` gives it.
        build: a closed call that builds the module.
        held: names of buffers that are data, beside those that are cut: what the model has is not what `build` gives.
    """

    def __init__(
        self,
        cls: type[nn.Module],
        structure: str,
        *,
        skeleton: nn.Module | None = None,
        build: ModelFunction | None = None,
        held: frozenset[str] = frozenset(),
    ) -> None:
        self.cls, self.structure, self.build, self.held = cls, structure, build, held
        self._skeleton = skeleton
        self._weights: nn.Module | None = None  # in the process that made it, where nothing builds it
        self._axes: tuple[Plan, Axes] | None = None
        self.captured_with: tuple[Any, Any, bool] | None = None  # of a graph: the example, options, open samples
        self._reference: Reference | None = None

    @classmethod
    def of(cls, module: nn.Module, build: Any = None) -> Template:
        """The template of `module`, which is copied without its weights.

        Args:
            module: what is converted.  Without a builder, its weights are those of archs that are built for real.
            build: a call that builds the same module, but for its weights: of a model function (`nas.model(Net)(…)`), or
                any function without arguments that can be imported.  Found out for models of Hugging Face's.

        Raises:
            SpaceError: it builds another module, or the model cannot be copied.
        """
        check_modules(module)
        skeleton = _apart(module, without_weights(module))
        if build is not None:
            return _same(module, skeleton, _call(build))
        try:
            found = configured(module)
            if found is not None:
                return _same(module, skeleton, found)
        except (SpaceError, AttributeError, KeyError, TypeError, ValueError):
            pass  # the configuration does not say all that was done to the model
        template = cls(type(module), digest(module), skeleton=skeleton)
        template._weights = module
        return template

    def skeleton(self) -> nn.Module:
        """The module with its parameters on the meta device; not to be changed."""
        if self._skeleton is None:
            assert self.build is not None
            self._skeleton = _built(self.build)
        return self._skeleton

    def axes(self, plan: Plan) -> Axes:
        """Axes of the skeleton's tensors by name; they are looked up once for a plan."""
        if self._axes is None or self._axes[0] is not plan:
            self._axes = plan, named_axes(self.skeleton(), plan)
        return self._axes[1]

    def real(self) -> nn.Module:
        """The module with weights: those that its builder gives, or those of the model as they are now.

        Raises:
            SpaceError: this process has no weights of the model.
        """
        if self.build is not None:
            return _module(self.build)
        if self._weights is None:
            raise SpaceError(
                f"this process got the {self.cls.__name__} without its weights, which only the process has that called "
                "nas.elastic; build archs through a nas.Supernet, or give build= to nas.elastic"
            )
        name = next((name for name, parameter in self._weights.named_parameters() if parameter.is_meta), None)
        if name is not None:
            raise SpaceError(
                f"{name!r} of this {self.cls.__name__} is on the meta device, so that no arch can be built with weights; give "
                "build= to nas.elastic, or a model with weights"
            )
        return self._weights

    def capture_with(self, found: Conversion, reference: Reference) -> None:
        """Archs are captured graphs: what another process captures the graph with again, and the graph for this one."""
        self.captured_with = describe(found.example), found.options, bool(found.samples)
        self._reference = reference

    def reference(self, plan: Plan) -> Reference:
        """The captured graph of archs of `plan`.

        Raises:
            SpaceError: this process would have to capture it, and what it captures is another one.
        """
        if self._reference is None:
            from nas.convert.converting import graph_of

            if self.captured_with is None:
                raise SpaceError(
                    f"archs of this {self.cls.__name__} are captured graphs, which only nas.elastic makes; write the network as "
                    "pt2 or ONNX with 'nas export'"
                )
            described, options, samples = self.captured_with
            found = graph_of(self.skeleton(), zeros(described), options, samples=samples)
            if {**found.names.tensors} != {**plan.tensors}:
                raise SpaceError(
                    "the graph that was captured here has other atoms than the plan; use the versions of torch and nas that "
                    "made it"
                )
            self._reference = found.reference(plan, samples=True)
        return self._reference

    # -- as a constant of a space

    def _nas_described(self) -> dict[str, Any]:
        return {"model": self.cls, "structure": self.structure}

    def _nas_code(self) -> dict[str, str]:
        """What the model computes beside its weights: attributes, buffers and code."""
        found = behaviour(self.skeleton())
        return {**found["code"], "digest": f"{found['attributes']}{found['code']['digest']}"}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Template) and (self.cls, self.structure) == (other.cls, other.structure)

    def __hash__(self) -> int:
        return hash((self.cls, self.structure))

    def __copy__(self) -> Template:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Template:
        return self

    def __getstate__(self) -> dict[str, Any]:
        state = vars(self) | {"_weights": None, "_axes": None, "_reference": None}
        return state | {"_skeleton": None} if self.build is not None else state

    def __repr__(self) -> str:
        return f"Template({self.cls.__name__}, {self.structure[:8]})"


def digest(module: nn.Module) -> str:
    """32 hex characters: equal for modules of equal tensors (names, shapes, types, ties) and layers, whatever the weights."""
    told = [_ADDRESS.sub("", repr(module))]
    told += [f"{entry.names} {tuple(entry.shape)} {entry.tensor.dtype}" for entry in parameters_of(module)]
    told += [f"{name} {tuple(buffer.shape)} {buffer.dtype}" for name, buffer in module.named_buffers()]
    return sha256("\n".join(told).encode()).hexdigest()[:32]


# -- builders


def _call(build: Any) -> ModelFunction:
    """`build` as a closed call of a model function."""
    from nas.space import Space

    if isinstance(build, ModelFunction):
        if Space(build).decisions:
            raise SpaceError("build= has open choices; give the call that builds the model as it is")
        return build
    if callable(build) and not isinstance(build, nn.Module):
        try:
            wrapped: ModelFunction = model(build)()
        except SpaceError as error:
            raise SpaceError(f"build: {error}") from None
        return wrapped
    raise SpaceError(
        f"build= is a {type(build).__name__}, and must be a call that builds the model: nas.model(Net)(width=64)"
    )


def _module(build: ModelFunction) -> nn.Module:
    try:
        module = build()
    except Exception as error:
        raise SpaceError(f"build= failed ({type(error).__name__}: {error})") from error
    if not isinstance(module, nn.Module):
        raise SpaceError(f"build= gives a {type(module).__name__}, and must give the model")
    return module


def _built(build: ModelFunction) -> nn.Module:
    """What `build` gives, with its parameters on the meta device, in the one random state in which constructors run."""
    with quiet(STATE):
        try:
            with parameters_on_meta():
                module = _module(build)
            if not any(one.is_meta for one in (*module.buffers(), *attributes.tensors(module))):
                return module
        except SpaceError:  # it reads the values of its parameters
            pass
    with quiet(STATE):
        return without_weights(_module(build))


def _same(module: nn.Module, skeleton: nn.Module, build: ModelFunction) -> Template:
    """The template of what `build` gives, which is the same as `module` but for weights and persistent buffers.

    Args:
        module: the original.
        skeleton: its copy, without caches.
        build: gives it again.

    Raises:
        SpaceError: `build` gives another module.
    """
    built = _built(build)
    for one, other in itertools.zip_longest(structure(module), structure(built)):
        if one != other:
            raise _another(f"{_told(one)}, and {_told(other)} there")
    different = next(_differing(skeleton, built), None)
    if different is not None:
        raise _another(f"attribute {different!r} differs")
    persistent, theirs = set(module.state_dict()), dict(built.named_buffers())
    held = set()
    for name, buffer in module.named_buffers():
        if name not in theirs or theirs[name].shape != buffer.shape:
            raise _another(f"buffer {name!r} has another shape")
        if not attributes.same(buffer.cpu(), theirs[name].cpu()):
            if name not in persistent:
                raise _another(
                    f"buffer {name!r} has other numbers, and no checkpoint has it; register it with persistent=True"
                )
            held.add(name)
    return Template(type(module), digest(module), skeleton=built, build=build, held=frozenset(held))


def _apart(module: nn.Module, copied: nn.Module) -> nn.Module:
    """`copied`, which must share no tensor with the `module` that it is a copy of.

    Raises:
        SpaceError: it does: Python copies no closures.
    """
    path = next(shared_with(module, copied), None)
    if path is not None:
        raise SpaceError(
            f"{path!r} of {type(module).__name__} refers to a tensor of the model where a copy cannot follow, as a lambda or an "
            "inner function does; make it a method of the module"
        )
    return copied


def _another(what: str) -> SpaceError:
    return SpaceError(f"build= gives another model than the one to convert: {what}")


def _told(part: tuple[Any, ...] | None) -> str:
    """A submodule or a parameter, in words."""
    if part is None:
        return "nothing"
    if len(part) == 3:
        return f"{part[0] or 'the model'!r} is a {part[2]}"
    name, _, shape, dtype, trains = part
    return f"{name!r} is {shape} of {dtype}{'' if trains else ' without a gradient'}"


def _differing(module: nn.Module, built: nn.Module) -> Iterator[str]:
    """Paths of attributes that differ; one that is empty or false is the same as none: loading leaves such marks."""
    ours, theirs = attributes.leaves(module), attributes.leaves(built)
    for path in dict.fromkeys([*ours, *theirs]):
        if path.rpartition(".")[2] in _ABOUT:
            continue
        one, other = ours.get(path), theirs.get(path)
        if not (_is_empty(one) and _is_empty(other)) and not attributes.same(one, other):
            yield path


def _is_empty(value: Any) -> bool:
    return (
        value is None
        or value is False
        or (isinstance(value, Sized) and not isinstance(value, Tensor) and not len(value))
    )


# -- models that keep a configuration

_ABOUT = frozenset(
    {"transformers_version", "architectures", "_name_or_path", "name_or_path", "_commit_hash", "model_type", "dtype"}
) | {"torch_dtype"}
"""Fields of configurations that say where a model comes from, and what its weights are stored as: weights say that themselves."""


def configured(module: nn.Module, opened: Mapping[str, Any] | None = None) -> ModelFunction | None:
    """The call that builds a model of a Hugging Face model's class and configuration; None where it has none.

    Args:
        module: the model.
        opened: fields of the configuration that get other values, open ones for example.
    """
    config: Any = getattr(module, "config", None)
    if config is None or not hasattr(config, "to_diff_dict"):
        return None
    values = {name: _strings(value) for name, value in config.to_diff_dict().items() if name not in _ABOUT}
    values |= dict(opened or {})
    accepted = inspect.signature(type(config)).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
    made: ModelFunction = (
        model(type(config))(**values)
        if takes_all or values.keys() <= accepted.keys()
        else configuration(type(config), **values)
    )
    call: ModelFunction = model(type(module))(config=made)
    return call


@model
def configuration(kind: Any, **values: Any) -> Any:
    """A configuration with fields that its class does not know, as files of earlier versions have them.

    Args:
        kind: a class of configurations of Hugging Face's.
        values: of its fields, and others.
    """
    return kind.from_dict(values)


def _strings(value: Any) -> Any:
    """Mappings with keys that are texts, as symbolic values need them; Hugging Face takes those for numbers too."""
    return {str(key): _strings(item) for key, item in value.items()} if isinstance(value, Mapping) else copy.copy(value)

"""One set of weights in memory, and every point of a front ready on it."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from nas.checking import checked
from nas.deploy import folder
from nas.deploy.export import Export, Format, export
from nas.errors import DeployError, DeviceError, suggest
from nas.metrics import Constraint, Metric, exact, parse_constraint, parse_objective
from nas.space import Arch, Space
from nas.supernet import Inputs, Supernet
from nas.supernet.inputs import call, convert
from nas.supernet.rounding import first_difference, gap
from nas.supernet.skeleton import buffers_of, build_skeleton, parameters_of, statistics_of


@dataclass(frozen=True)
class Point:
    """An arch of a front, and what it measured."""

    arch: Arch
    measurements: Mapping[str, float]


class ElasticModel:
    """A supernet and a front: switches to the best subnet within a budget between two calls, and reloads nothing.

    >>> model = ElasticModel(supernet, study.front(), objective="max accuracy")  # doctest: +SKIP
    >>> model.switch(latency_ms=2.0)  # doctest: +SKIP
    >>> output = model(images)  # doctest: +SKIP

    Every point is made ready at the start: a module of the model's own class whose parameters are views on the supernet's,
    and calibrated statistics of its own.  Parameters that are no plain views (fused layouts, learned transforms) are copies,
    one for each part that occurs; see `extra_mib`.  Subnets compute in eval mode and without gradients, exactly what
    `extract` gives computes.  The weights are those at the start: make a new one after training on or moving the supernet.

    Calls may come from several threads, also while another one switches: a call computes with the point that was active
    when it began, and only reads weights.  A model whose own forward keeps state (a cache) is not made safe by this.

    Args:
        supernet: trained; its device is where subnets compute.
        front: what `Study.front` gives, or (arch, measurements) pairs; an arch may be its choices.
        objective: what is best among the points within a budget.
        calibration: inputs for BatchNorm statistics, as `task.calibration_inputs()`; needed when a subnet has such layers.

    Raises:
        DeployError: the front is empty, lacks the objective, or a subnet needs calibration inputs.
        SpaceError: a point is not of the supernet's space.
    """

    @checked(DeployError)
    def __init__(
        self,
        supernet: Supernet,
        front: Any,
        *,
        objective: str | Metric = "max accuracy",
        calibration: Iterable[Inputs] | None = None,
    ) -> None:
        batches = [convert(inputs, lambda tensor: tensor.to(supernet.device)) for inputs in calibration or ()]
        ordered = _ordered(_points(front, supernet.space), parse_objective(objective))
        statistics = {point.arch.key: _statistics(supernet, point.arch, batches) for point in ordered}
        self._fill(supernet, ordered, parse_objective(objective), statistics)

    def _fill(
        self,
        supernet: Supernet,
        points: tuple[Point, ...],
        objective: Metric,
        statistics: Mapping[str, Mapping[str, Tensor]],
    ) -> None:
        """All points ready, the best of them active."""
        self.supernet, self.points, self.objective = supernet, points, objective
        self._buffers = {key: dict(each) for key, each in statistics.items()}
        self._parts: dict[tuple[str, tuple[int, ...]], list[Tensor]] = {}
        self._modules = {point.arch.key: self._ready(point.arch) for point in points}
        self._active = (points[0], self._modules[points[0].arch.key])  # replaced whole: no half-made switch

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write the supernet, the front and what it measured to folder `path`: safetensors and JSON, no code.

        The folder is read again: weights and statistics are compared bit for bit and, where the supernet has an example, each
        point's outputs within their rounding.  The supernet is then known as the one saved here, as after `Supernet.save`.

        Args:
            path: folder, which must be empty or not there.
            force: replace a model that was saved there, if nothing else is in its folder.

        Raises:
            DeployError: it is not, cannot be written, or computes something else when it is read again; nothing stays.
            CheckpointError: as `Supernet.save`.
        """
        saved = folder.Saved(
            self.supernet,
            self.objective,
            [(point.arch, dict(point.measurements)) for point in self.points],
            [self._buffers[point.arch.key] for point in self.points],
        )
        folder.write(Path(path), saved, self._compare, force=force)

    @classmethod
    def load(cls, path: str | Path, space: Space, *, device: str = "cpu") -> Self:
        """What `save` wrote; on a CPU the weights are mapped from the file and shared with other processes.

        Args:
            path: folder that `save` wrote.
            space: the space that the supernet was saved with.
            device: where subnets compute.

        Raises:
            DeployError: missing, foreign, newer or altered.
            CheckpointError: so is its supernet, or that is of another space.
            DeviceError: the device is not there.
        """
        _check_device(device)
        saved = folder.read(Path(path), space)
        model = cls.__new__(cls)
        points = tuple(Point(arch, measurements) for arch, measurements in saved.points)
        statistics = {
            point.arch.key: {name: tensor.to(device) for name, tensor in each.items()}
            for point, each in zip(points, saved.statistics, strict=True)
        }
        model._fill(
            saved.supernet.to(device).eval(), _ordered(list(points), saved.objective), saved.objective, statistics
        )
        return model

    @property
    def active(self) -> Point:
        """The point that the next call computes with; at first the best of all."""
        return self._active[0]

    @property
    def extra_mib(self) -> float:
        """Memory beside the supernet's weights: statistics, and copies of parameters that are no views."""
        held = {tensor.untyped_storage().data_ptr() for tensor in self.supernet.state_dict().values()}
        parts = (tensor for each in self._parts.values() for tensor in each)
        own = [*parts, *(tensor for each in self._buffers.values() for tensor in each.values())]
        copies = (tensor for tensor in own if tensor.untyped_storage().data_ptr() not in held)
        return sum(tensor.numel() * tensor.element_size() for tensor in copies) / 2**20

    def choose(self, *constraints: str | Constraint, **budget: float) -> Point:
        """The best point within a budget; nothing is switched.

        Args:
            constraints: as `"accuracy >= 0.9"`.
            budget: measurement -> most that is allowed: `latency_ms=2.0, macs=1e6`, or one of your own.  The objective has no
                most where more of it is better: its least is a constraint.

        Raises:
            DeployError: no point is within the budget (says how near the front comes), a name was not measured, or the budget
                names an objective to maximise.
            MetricError: a constraint is ill-formed.
        """
        wanted = [parse_constraint(constraint) for constraint in constraints]
        wanted += [Constraint(name, "<=", self._most(name, bound)) for name, bound in budget.items()]
        for constraint in wanted:
            self._check_measured(constraint.metric)
        for point in self.points:  # best first
            if all(_meets(point, constraint) for constraint in wanted):
                return point
        raise DeployError(f"no point of the front has {' and '.join(map(str, wanted))}; {self._reach(wanted)}")

    def _most(self, name: str, bound: Any) -> float:
        most = _bound(name, bound)
        if name == self.objective.name and self.objective.goal == "max":
            raise DeployError(
                f"budget {name}={exact(most)} is the most that is allowed, and the objective is {self.objective}; write "
                f"'{name} >= {exact(most)}'"
            )
        return most

    def switch(self, *constraints: str | Constraint, **budget: float) -> Point:
        """Compute with the best point within a budget from the next call on; a budget that cannot be met changes nothing.

        Args:
            constraints: as `choose`.
            budget: as `choose`.

        Raises:
            DeployError: as `choose`.
            MetricError: as `choose`.
        """
        return self.switch_to(self.choose(*constraints, **budget))

    def switch_to(self, point: Point | Arch) -> Point:
        """Compute with this point from the next call on.

        Raises:
            DeployError: it is not of the front.
        """
        found = self._own(point)
        self._active = (found, self._modules[found.arch.key])
        return found

    def __call__(self, inputs: Inputs) -> Any:
        """Output of the active subnet, without gradients.

        Args:
            inputs: a tensor, a tuple of positional arguments, or a mapping of keyword arguments.
        """
        module = self._active[1]
        with torch.no_grad():
            return call(module, inputs)

    def extract(self, point: Point | Arch | None = None) -> nn.Module:
        """A point, the active one unless given, as an ordinary module of its own that computes the same.

        Raises:
            DeployError: it is not of the front.
        """
        arch = self._own(point or self.active).arch
        return self.supernet.extract(arch, self._buffers[arch.key])

    def export(
        self,
        path: str | Path,
        format: Format | None = None,
        point: Point | Arch | None = None,
        *,
        example: Inputs | None = None,
        any_batch: bool = True,
        force: bool = False,
    ) -> Export:
        """Write a point, the active one unless given, for another runtime; see `nas.deploy.export`.

        Args:
            path: file, or folder of "pretrained".
            format: one of `FORMATS`; what the ending of `path` says unless given.
            point: of the front.
            example: inputs to trace and compare with; the supernet's unless given.
            any_batch: the axis of the batch stays open.
            force: as `export`.

        Raises:
            DeployError: as `export`, or the point is not of the front, or there is no example.
        """
        inputs = self.supernet.example if example is None else example
        if inputs is None:
            raise DeployError("export needs inputs to compare with; give example= to it, or to the supernet")
        return export(self.extract(point), path, format, inputs, any_batch=any_batch, force=force)

    def __repr__(self) -> str:
        lowest, highest = self.points[-1], self.points[0]
        name = self.objective.name
        span = f"{lowest.measurements[name]:.4g}..{highest.measurements[name]:.4g}"
        return f"ElasticModel({self.supernet.space.name!r}, {len(self.points)} points, {name} {span})"

    # -- inside

    def _ready(self, arch: Arch) -> nn.Module:
        """The module of `arch` on the supernet's weights, as it stays."""
        module = build_skeleton(self.supernet.space, arch)
        with torch.inference_mode(False), torch.no_grad():
            held = {name: table[key] for name, (table, key) in buffers_of(self.supernet.bind(arch).module).items()}
            cut = self.supernet.cut(arch)
            for entry in parameters_of(module):
                name = entry.names[0]
                part = self._shared(name, cut[name].detach())
                for table, key in entry.slots:
                    table[key] = nn.Parameter(part, requires_grad=False)
            for name, (table, key) in buffers_of(module).items():
                table[key] = self._buffers[arch.key].get(name, held[name])
        return module.eval()

    def _shared(self, name: str, part: Tensor) -> Tensor:
        """One of the parts of parameter `name` that there are already, if it is the same: a shape may be cut in several ways."""
        known = self._parts.setdefault((name, tuple(part.shape)), [])
        same = next((each for each in known if torch.equal(each, part)), None)
        if same is None:
            known.append(part)
        return part if same is None else same

    def _compare(self, path: Path) -> None:
        """What was written in `path` is the same, and computes the same."""
        again = type(self).load(path, self.supernet.space, device=str(self.supernet.device))
        other = first_difference(self._kept(), again._kept())
        if other is not None:
            raise DeployError(f"the saved model has another {other!r} when it is read again; nothing was written")
        if self.supernet.example is None:
            return
        inputs = convert(self.supernet.example, lambda tensor: tensor.to(self.supernet.device))
        for point in self.points:
            ours, theirs = (model._modules[point.arch.key] for model in (self, again))
            if not gap(ours, functools.partial(call, theirs), inputs).same:
                raise DeployError("the saved model computes something else when it is read again; nothing was written")

    def _kept(self) -> dict[str, Tensor]:
        """Every tensor of a folder."""
        statistics = ((f"{key}/{name}", one) for key, each in self._buffers.items() for name, one in each.items())
        return {**self.supernet.state_dict(), **dict(statistics)}

    def _own(self, point: Point | Arch) -> Point:
        key = (point.arch if isinstance(point, Point) else point).key
        for own in self.points:
            if own.arch.key == key:
                return own
        raise DeployError(f"the arch is not one of the {len(self.points)} points of this front; choose one of .points")

    def _check_measured(self, name: str) -> None:
        known = list(dict.fromkeys(key for point in self.points for key in point.measurements))
        if name not in known:
            raise DeployError(
                f"{name!r} was not measured on this front{suggest(name, known)}; there are {', '.join(known)}"
            )

    def _reach(self, wanted: Sequence[Constraint]) -> str:
        """How near the front comes to each bound that it cannot meet even alone; else that they conflict."""
        parts = []
        for constraint in wanted:
            values = [p.measurements[constraint.metric] for p in self.points if constraint.metric in p.measurements]
            if all(constraint.violation(value) > 0 for value in values):
                nearest = min(values, key=constraint.violation)
                parts.append(f"the nearest has {constraint.metric} {exact(nearest)}")
        return " and ".join(parts) or "no point meets all of them at once"


def _check_device(name: str) -> None:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise DeviceError(f"device {name!r} is not there; give 'cpu', or 'cuda' on a machine that has it") from error


def _statistics(supernet: Supernet, arch: Arch, batches: Sequence[Inputs]) -> dict[str, Tensor]:
    """Calibrated statistics of a subnet; {} where it has none."""
    if not statistics_of(supernet.bind(arch).module):
        return {}
    if not batches:
        raise DeployError(
            f"subnets of space {supernet.space.name!r} have BatchNorm statistics of their own; "
            "give calibration=task.calibration_inputs(), or any list of training inputs"
        )
    return supernet.calibrate(arch, batches)


def _meets(point: Point, constraint: Constraint) -> bool:
    value = point.measurements.get(constraint.metric)
    return value is not None and constraint.violation(value) == 0


def _bound(name: str, bound: Any) -> float:
    if isinstance(bound, bool) or not isinstance(bound, (int, float)) or not math.isfinite(bound):
        raise DeployError(f"budget {name}={bound!r} is no finite number")
    return float(bound)


def _points(front: Any, space: Space) -> list[Point]:
    """The points of a front: a frame with a `choices` column, or pairs."""
    if hasattr(front, "to_dict") and hasattr(front, "columns"):
        if "choices" not in front.columns:
            raise DeployError("the front has no column 'choices'; give what study.front() returns")
        rows = [_pair((row.pop("choices"), row)) for row in front.to_dict("records")]
    else:
        rows = [(each.arch, each.measurements) if isinstance(each, Point) else _pair(each) for each in front]
    points: dict[str, Point] = {}
    for given, measurements in rows:
        arch = given if isinstance(given, Arch) else space.arch(given)
        points.setdefault(arch.key, Point(arch, _numbers(measurements)))
    return list(points.values())


def _pair(each: Any) -> tuple[Any, Mapping[str, Any]]:
    if not isinstance(each, tuple) or len(each) != 2 or not isinstance(each[1], Mapping):
        raise DeployError(f"a point of a front is an (arch, measurements) pair, not a {type(each).__name__}")
    return each[0], each[1]


def _numbers(measurements: Mapping[str, Any]) -> dict[str, float]:
    """Those that are numbers; a frame also has texts, and NaN where nothing was measured."""
    plain = {str(name): getattr(value, "item", lambda v=value: v)() for name, value in measurements.items()}
    return {
        name: value
        for name, value in plain.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)
    }


def _ordered(points: list[Point], objective: Metric) -> tuple[Point, ...]:
    """Best first; equal ones stay in the front's order."""
    if not points:
        raise DeployError("the front has no points; run the study first, or relax its filter")
    for point in points:
        if objective.name not in point.measurements:
            known = list(point.measurements)
            raise DeployError(
                f"a point of the front has no {objective.name!r}, the objective{suggest(objective.name, known)}; "
                f"it has {', '.join(known) or 'nothing'}"
            )
    return tuple(sorted(points, key=lambda point: point.measurements[objective.name] * objective.sign))

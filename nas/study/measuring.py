"""Measuring archs on a device for a predictor, fitting it, and measuring a front that was predicted.

Everything is kept in the store as it is found: what is killed goes on where it stopped.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from nas.errors import PredictorError, StudyError
from nas.evaluate import Predicted, Weights
from nas.evaluate.base import every
from nas.evaluate.subnets import sample_for
from nas.hardware import Device, exclusive, measure, resources
from nas.predict import FewShot, Known, Learned, LookUp, Predictor
from nas.predict.pieces import Part, realised
from nas.predict.transfer import LEAST_KNOWN
from nas.store import ArchMeasurement, HardwareRecord, StoredPredictor
from nas.store.filters import Filter
from nas.store.further import COMPLETED, allowing, non_dominated_rows
from nas.supernet.inputs import sample_text
from nas.supernet.unbuildable import can_build

if TYPE_CHECKING:
    from nas.hardware import Measured, Target
    from nas.space import Arch, Space
    from nas.study.study import Study
    from nas.supernet import Supernet

Kind = Literal["auto", "ridge", "gp", "gbdt", "mlp", "lookup", "fewshot"]
Tick = Callable[[int, int, str], None]
"""Told how many are done, of how many, and what was found last."""


@dataclass(frozen=True)
class Plan:
    """What `measure_archs` will do.

    `unread` archs were measured by a version that did not record what is fixed in a space: not known to be of this one.  `notes`
    are sentences about archs that were measured with other inputs, or with inputs that are not known, and about devices that a
    few-shot choice does not learn from.
    """

    device: str
    wanted: int
    done: int
    archs: Sequence[Arch]
    unread: int = 0
    notes: Sequence[str] = ()


def supernet_of(study: Study) -> Supernet:
    """The supernet that the study's evaluators read.

    Raises:
        StudyError: none of them has one, or it has no example inputs.
    """
    for evaluator in every(study.evaluators):
        if isinstance(evaluator.weights, Weights):
            found = evaluator.weights.get(study.space)
            if found.example is None:
                raise StudyError(f"the supernet of study {study.name!r} has no example inputs; build it with example=")
            return found
    raise StudyError(f"no evaluator of study {study.name!r} has a supernet to measure; add nas.Costs(supernet)")


def inputs_of(supernet: Supernet | None) -> str:
    """One sample of what a supernet's archs are run with, as text; "" where that is not known."""
    return "" if supernet is None or supernet.example is None else sample_text(supernet.example)


def notes_on_inputs(space: Space, hardware: HardwareRecord, device: str, inputs: str) -> list[str]:
    """What must be said of measurements on a device before figures of `inputs` are made of them: a sentence each."""
    found = hardware.inputs(device, space.fingerprint) if inputs and _is_known(hardware, device) else {}
    unknown = found.pop("", 0)
    found.pop(inputs, None)
    notes = []
    if found:
        others = " and ".join(f"{count} archs were measured with inputs {what}" for what, count in found.items())
        notes.append(f"on device {device!r}, {others}, these are {inputs}: those figures are not used")
    if unknown:
        notes.append(
            f"on device {device!r}, {unknown} archs were measured by a version that did not record the inputs: their figures are "
            f"taken for those of {inputs}"
        )
    return notes


def _is_known(hardware: HardwareRecord, device: str) -> bool:
    return any(one.name == device for one in hardware.devices())


def plan(
    space: Space, hardware: HardwareRecord, device: Target, count: int, *, few: bool = False, inputs: str = ""
) -> Plan:
    """Which archs are still to be measured so that the device has `count`.

    The smallest, the largest and random ones, in an order that is the same each time; those whose measurement is noisy are
    measured again.  With `few`, those that say most about a new device, given the other devices of the store.  What was measured
    with other inputs than `inputs` (`inputs_of`) does not count; "" counts all.

    Raises:
        StudyError: the space has fewer archs.
    """
    if count < 1 or count > space.size:
        raise StudyError(
            f"{count} archs cannot be measured; space {space.name!r} has {space.shown_size}, give 1 to as many"
        )
    known = _is_known(hardware, device.key)
    rows = hardware.measurements(device.key, space.fingerprint, noisy=False, inputs=inputs) if known else []
    done = {one.key for one in rows}
    before = hardware.measurements(device.key, space.labels_fingerprint) if known else []
    unread, notes = len({one.key for one in before}), notes_on_inputs(space, hardware, device.key, inputs)
    if few:
        chosen = FewShot(space, device.key, known_devices(space, hardware, device.key, inputs)).choose(count)
        notes += notes_on_devices(space, hardware, device.key, inputs)
        return Plan(device.key, count, len(done), [arch for arch in chosen if arch.key not in done], unread, notes)
    rng, found = random.Random(0), {space.smallest: None, space.largest: None}
    while len(found) < min(space.size, count + len(done) + 2):
        found[space.sample(rng)] = None
    rest = [arch for arch in found if arch.key not in done]
    return Plan(device.key, count, len(done), rest[: max(0, count - len(done))], unread, notes)


def measure_archs(
    supernet: Supernet,
    hardware: HardwareRecord,
    device: Target,
    archs: Sequence[Arch],
    *,
    budget_s: float = 0.08,
    energy: bool = False,
    tick: Tick | None = None,
) -> list[ArchMeasurement]:
    """Measure archs on a device, each kept in the store at once.

    A noisy measurement is repeated once, with twice the time; the one with less spread is kept.  Archs that the model function
    refuses (`Infeasible`) are passed over.

    Args:
        supernet: gives modules and inputs.
        hardware: where results go.
        device: to measure on.
        archs: which.
        budget_s: time for the timed runs of one.
        energy: also energy and memory, where the platform exposes them.
        tick: progress.

    Raises:
        DeviceError: the device is not there, or disappears; what was measured before is kept.
    """
    device.check()
    hardware.add_device(device.key, device.describe())
    kept = []
    for place, arch in enumerate(archs):
        if not supernet.has(arch):
            if tick is not None:
                tick(place + 1, len(archs), "cannot be built")
            continue
        found, spent = _measured(supernet, device, arch, budget_s, energy)
        details = {**found.details(), **spent}
        row = ArchMeasurement(
            arch.key, arch.row(), found.median_ms, found.noisy, details, found.environment, inputs=inputs_of(supernet)
        )
        hardware.add_measurements(device.key, arch.space.fingerprint, [row])
        kept.append(row)
        if tick is not None:
            tick(place + 1, len(archs), f"{found.median_ms:.3g} ms{', noisy' if found.noisy else ''}")
    return kept


def _measured(
    supernet: Supernet, device: Target, arch: Arch, budget_s: float, energy: bool
) -> tuple[Measured, dict[str, float]]:
    module = supernet.extract(arch).eval()
    inputs = sample_for(supernet, arch)
    with exclusive():
        found = measure(module, inputs, device, budget_s=budget_s)
        if found.noisy and isinstance(device, Device):
            again = measure(module, inputs, device, budget_s=2 * budget_s)
            found = min(found, again, key=lambda one: one.spread_ms / one.median_ms)
        spent = resources(module, inputs, device) if energy and isinstance(device, Device) else {}
    return found, spent


def fit(
    space: Space,
    hardware: HardwareRecord,
    device: Target,
    kind: Kind = "auto",
    *,
    supernet: Supernet | None = None,
    noisy: bool = False,
    tick: Tick | None = None,
) -> Predictor:
    """Fit a predictor to what was measured on a device, and keep it in the store.

    Args:
        space: whose archs.
        hardware: where measurements are, and where the predictor goes.
        device: of the measurements.
        kind: a regressor of `Learned`, "lookup" (parts that are not known are measured now, on this machine) or "fewshot".
        supernet: its example is what models are run with, and what was measured with others is left out; without one features are
            decisions alone, and all measurements must be of the same inputs.
        noisy: also use measurements that are flagged.
        tick: progress of measuring parts.

    Raises:
        StoreError: nothing is known of the device.
        PredictorError: too few measurements, or they contradict each other, or are of different inputs.
    """
    inputs = inputs_of(supernet)
    rows = hardware.measurements(device.key, space.fingerprint, noisy=noisy, inputs=inputs)
    archs = space.rows_to_archs([one.row for one in rows])
    inputs = inputs or _inputs_of_all(rows, device.key)
    one = _made(space, hardware, device, kind, supernet=supernet, inputs=inputs)
    if isinstance(one, LookUp) and not isinstance(device, Device):
        raise StudyError(f"parts cannot be measured on {device.label!r} from here; choose another kind than 'lookup'")
    if len(rows) < one.least:
        every = len(hardware.measurements(device.key, space.fingerprint, inputs=inputs))
        others = "".join(f"; {note}" for note in notes_on_inputs(space, hardware, device.key, inputs))
        flagged = f", and {every - len(rows)} that are noisy" if every > len(rows) else ""
        raise PredictorError(
            f"device {device.key!r} has {len(rows)} measurements of space {space.name!r}{flagged}; a {one.kind!r} predictor "
            f"needs {one.least} or more: run 'nas measure' on a quieter machine"
            f"{', or use the noisy ones (--noisy)' if flagged else ''}{others}"
        )
    if isinstance(one, LookUp) and isinstance(device, Device):
        _fill(one, device, archs, tick)
    try:
        one.fit(archs, [row.median_ms for row in rows])
    except PredictorError as error:
        unused = notes_on_devices(space, hardware, device.key, inputs) if kind == "fewshot" else []
        raise PredictorError("; ".join([str(error), *unused])) from error
    one.inputs = inputs
    packed = one.pack()
    hardware.save_predictor(
        StoredPredictor(
            device.key,
            space.fingerprint,
            space.name,
            packed.kind,
            one.errors,
            packed.state["state"],
            packed.array_bytes(),
            inputs=inputs,
        )
    )
    return one


def _inputs_of_all(rows: Sequence[ArchMeasurement], device: str) -> str:
    """The inputs of all measurements that say theirs; "" where none does.

    Raises:
        PredictorError: they are of different ones.
    """
    found = dict.fromkeys(row.inputs for row in rows if row.inputs)
    if len(found) > 1:
        raise PredictorError(
            f"device {device!r} has measurements with inputs {' and '.join(found)}, and the study has no supernet with an "
            "example that says which are meant; give it one, as with nas.Costs(nas.Supernet(space, example=inputs))"
        )
    return next(iter(found), "")


def _made(
    space: Space, hardware: HardwareRecord, device: Target, kind: Kind, *, supernet: Supernet | None, inputs: str
) -> Predictor:
    example = None if supernet is None or supernet.example is None else sample_for(supernet, space.smallest)
    if kind == "fewshot":
        return FewShot(space, device.key, known_devices(space, hardware, device.key, inputs))
    if kind == "lookup":
        if example is None:
            raise StudyError("a table of parts needs a supernet with example inputs; give the study one")
        return LookUp(space, device.key, example=example, operators=True)
    features = "onehot" if example is None else "onehot+structure"
    return Learned(space, device.key, regressor=kind, features=features, example=example)


def known_devices(space: Space, hardware: HardwareRecord, but: str, inputs: str = "") -> list[Known]:
    """Every other device of the store on which enough archs of the space were measured with these inputs; "" for any."""
    found = []
    for device, rows in _other_devices(space, hardware, but, inputs):
        if len(rows) >= LEAST_KNOWN:
            archs = space.rows_to_archs([row.row for row in rows])
            found.append(Known(device, archs, np.array([row.median_ms for row in rows])))
    return found


def notes_on_devices(space: Space, hardware: HardwareRecord, but: str, inputs: str = "") -> list[str]:
    """A sentence for each other device with too few archs of the space to be learned from."""
    return [
        f"device {device!r} has {len(rows)} archs of space {space.name!r} that are not noisy and is not learned from, "
        f"which needs {LEAST_KNOWN}"
        for device, rows in _other_devices(space, hardware, but, inputs)
        if len(rows) < LEAST_KNOWN
    ]


def _other_devices(
    space: Space, hardware: HardwareRecord, but: str, inputs: str
) -> Iterator[tuple[str, list[ArchMeasurement]]]:
    """The other devices of the store with archs of the space, and what is not noisy of them."""
    for device in hardware.devices():
        if device.name != but and space.fingerprint in device.measured:
            yield device.name, hardware.measurements(device.name, space.fingerprint, noisy=False, inputs=inputs)


def _fill(one: LookUp, device: Device, archs: Sequence[Arch], tick: Tick | None) -> None:
    """Measure the parts that the table lacks, of measured archs and of every candidate once."""
    wanted = [*archs, *filter(can_build, one.space.covering())]
    total, done = len(one.missing(wanted)), 0

    def measured(part: Part) -> float:
        nonlocal done
        ms = part_ms(part, device)
        done += 1
        if tick is not None:
            tick(done, total, f"{ms:.3g} ms {part.key}")
        return ms

    one.measure_parts(wanted, measured)


def part_ms(part: Part, device: Device, budget_s: float = 0.03) -> float:
    """Milliseconds of one part with weights and inputs of its shapes."""
    module, inputs = realised(part)
    with exclusive():
        return measure(module, inputs, device, budget_s=budget_s).median_ms


# -- fronts of predictions -------------------------------------------------------------------------------------------------


def predicted_by(study: Study) -> Predicted | None:
    """The evaluator that predicts the study's latency, if there is one."""
    return next((one for one in every(study.evaluators) if isinstance(one, Predicted)), None)


def measured_front(study: Study, where: str | None = None, tick: Tick | None = None) -> pd.DataFrame:
    """The front of a study whose latencies are predictions, with every one of its trials measured.

    Trials that are on the front with what is known so far are measured until all of the front is: a trial that was predicted too
    fast falls behind, and one that it had hidden may come forward.  Constraints and filters on latency hold for what was
    measured, so that nothing over the budget is on the front, whatever was predicted.

    Args:
        study: whose evaluators predict.
        where: the front of the trials that satisfy a filter.
        tick: progress.

    Returns:
        As `Study.front`, with `latency_ms` measured and `latency_ms_predicted` beside it.

    Raises:
        StudyError: the study predicts no latency, or has no supernet.
        FilterError: the filter does not parse, or names a column that is not there.
        DeviceError: the device is not there; what was measured before is kept.
    """
    evaluator = predicted_by(study)
    if evaluator is None:
        raise StudyError(f"study {study.name!r} predicts no latency: its front is measured already")
    device, hardware = evaluator.device, study.store.hardware
    condition = Filter(where) if where else None
    on_latency = condition if condition is not None and "latency_ms" in condition.names else None
    frame = study.trials(f"{COMPLETED} and ({where})" if where and on_latency is None else COMPLETED)
    if frame.empty:
        return study.front(where)
    allowed = allowing(study.record, on_latency, ["latency_ms"])
    frame["latency_ms_predicted"] = frame["latency_ms"]
    archs = {int(number): study.arch(int(number)) for number in frame.index}
    supernet = supernet_of(study)
    device.check()
    hardware.add_device(device.key, device.describe())
    rows = hardware.measurements(device.key, study.space.fingerprint, inputs=inputs_of(supernet))
    known = {one.key: one.median_ms for one in rows}
    measured = 0
    while True:
        frame["latency_ms"] = [
            known.get(archs[int(number)].key, predicted) for number, predicted in frame["latency_ms_predicted"].items()
        ]
        front = non_dominated_rows(frame[allowed(frame)], study.objectives)
        missing = [archs[int(number)] for number in front.index if archs[int(number)].key not in known]
        if not missing:
            return _tidy(front, study)
        for arch in missing:
            found = measure_archs(supernet, hardware, device, [arch])
            known[arch.key] = found[0].median_ms
            measured += 1
            if tick is not None:
                tick(measured, max(measured, len(front)), f"{found[0].median_ms:.3g} ms")


def _tidy(front: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Columns as of `Study.front`: objectives first, then the prediction."""
    names = [metric.name for metric in study.objectives]
    drop = {"state", "worker", "attempt", "duration_s", "violation", "reason", "latency_sd_ms"}
    rest = [
        name
        for name in front.columns
        if name not in (*names, "latency_ms", "latency_ms_predicted") and name not in drop
    ]
    latency = [] if "latency_ms" in names else ["latency_ms"]
    return front[[*names, *latency, "latency_ms_predicted", *rest]]

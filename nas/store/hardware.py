"""Devices in the results database: what was measured on each, and the predictor fitted to it.

A device is known by its name.  Measurements are of archs of one space, told apart by the space's fingerprint, and of the inputs
that the archs were run with: those of other inputs are not read for these.  An earlier version did not record the inputs; what
it measured counts as of any.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam as p

from nas.errors import StoreError, brief, suggest
from nas.identity import IDENTITY, changes, same
from nas.store.damage import Suspect, check, of_row, refuse_strays
from nas.store.database import Database
from nas.store.schema import device_measurements as measured
from nas.store.schema import devices, predictors
from nas.store.sql import Row, Statement, Transaction
from nas.store.statements import STRAY_LATENCIES

INPUTS = "inputs"
"""The name under which a measurement's environment and a predictor's state say the inputs."""


def _otherwise(was: dict[str, Any], now: dict[str, Any], where: str) -> str:
    """How a device was described, and how it is."""
    inside = changes(was.pop(IDENTITY, None), now.pop(IDENTITY, None))
    if was == now:
        return f"described otherwise in database {where}: {', '.join(inside[:5])}"
    return f"{json.dumps(was)} in database {where}, now it is {json.dumps(now)}"


@dataclass(frozen=True)
class ArchMeasurement:
    """A latency of one arch on one device.

    Args:
        key: `Arch.key`.
        row: `Arch.row()`.
        median_ms: the figure.
        noisy: it is not to be trusted.
        details: what else was found, by a name with its unit; what the platform does not expose is absent.
        environment: versions and the processor.
        created: seconds since the epoch; set by the store.
        inputs: one sample of what the arch was run with, as `nas.supernet.inputs.sample_text` says it; "" if it is not known.
    """

    key: str
    row: Sequence[float | None]
    median_ms: float
    noisy: bool = False
    details: Mapping[str, float] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    created: float = 0.0
    inputs: str = ""


@dataclass(frozen=True)
class StoredPredictor:
    """A fitted predictor as the store keeps it; `nas.hardware.Predictor.unpack` makes it one again.

    Args:
        device: name.
        fingerprint: of the space.
        space: its name, for people.
        kind: which predictor it is.
        errors: on archs held out of the fit.
        state: JSON-able.
        arrays: an .npz without objects.
        created: seconds since the epoch; set by the store.
        inputs: one sample of what the measured archs were run with; "" if it is not known.
    """

    device: str
    fingerprint: str
    space: str
    kind: str
    errors: Mapping[str, float]
    state: Mapping[str, Any]
    arrays: bytes
    created: float = 0.0
    inputs: str = ""


@dataclass(frozen=True)
class StoredDevice:
    """A device, and how many archs were measured on it, by the fingerprint of their space."""

    name: str
    description: Mapping[str, Any]
    created: float
    measured: Mapping[str, int]


_DEVICES = Statement(
    sa.select(devices.c.id, devices.c.name, devices.c.description, devices.c.created).order_by(devices.c.name)
)
_FIND = Statement(sa.select(devices.c.id, devices.c.description).where(devices.c.name == p("label")), "label")
_ADD = Statement(sa.insert(devices).values(name=p("a"), description=p("b"), created=p("c")), "a b c")
_DESCRIBE = Statement(
    sa.update(devices).where(devices.c.name == p("label")).values(description=p("described")), "described label"
)
_COUNTS = Statement(
    sa.select(measured.c.device_id, measured.c.fingerprint, sa.func.count(measured.c.key.distinct())).group_by(
        measured.c.device_id, measured.c.fingerprint
    )
)
_ADD_MEASUREMENT = Statement(
    sa.insert(measured).values(
        device_id=p("a"),
        fingerprint=p("b"),
        key=p("c"),
        arch=p("d"),
        median_ms=p("e"),
        noisy=p("f"),
        details=p("g"),
        environment=p("h"),
        created=p("i"),
    ),
    "a b c d e f g h i",
)
_MEASURED = Statement(
    sa.select(
        measured.c.id,
        measured.c.key,
        measured.c.arch,
        measured.c.median_ms,
        measured.c.noisy,
        measured.c.details,
        measured.c.environment,
        measured.c.created,
    )
    .where(measured.c.device_id == p("device"), measured.c.fingerprint == p("mark"))
    .order_by(measured.c.id),
    "device mark",
)
_DROP_PREDICTOR = Statement(
    sa.delete(predictors).where(predictors.c.device_id == p("device"), predictors.c.fingerprint == p("mark")),
    "device mark",
)
_ADD_PREDICTOR = Statement(
    sa.insert(predictors).values(
        device_id=p("a"),
        fingerprint=p("b"),
        space=p("c"),
        kind=p("d"),
        errors=p("e"),
        state=p("f"),
        arrays=p("g"),
        created=p("h"),
    ),
    "a b c d e f g h",
)
_PREDICTORS = Statement(
    sa.select(
        devices.c.name,
        predictors.c.fingerprint,
        predictors.c.space,
        predictors.c.kind,
        predictors.c.errors,
        predictors.c.state,
        predictors.c.arrays,
        predictors.c.created,
    )
    .join_from(predictors, devices, devices.c.id == predictors.c.device_id, isouter=True)
    .order_by(devices.c.name, predictors.c.created)
)


class HardwareRecord:
    """Devices, measurements and predictors of one database; made by `Store.hardware`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __repr__(self) -> str:
        return f"HardwareRecord({self._database.shown})"

    # -- devices -------------------------------------------------------------------------------------------------------

    def add_device(self, name: str, description: Mapping[str, Any]) -> None:
        """Make a device known; a known one must be described the same.

        Raises:
            StoreError: the name is empty, or it is another device's.
        """
        if not name or not name.strip():
            raise StoreError("a device needs a name; give one, as in 'pixel7'")
        text = json.dumps(description, sort_keys=True, separators=(",", ":"))

        def add(sql: Transaction) -> None:
            found = sql.one(_FIND, (name,))
            if found is None:
                sql.run(_ADD, (name, text, time.time()))
            elif same(json.loads(found[1]), json.loads(text)):
                sql.run(_DESCRIBE, (text, name))  # an earlier version said less of it
            else:
                raise StoreError(
                    f"device {name!r} is {_otherwise(json.loads(found[1]), json.loads(text), self._database.shown)}; "
                    "figures of the two do not compare, give the new one another name"
                )

        self._database.writing(add, alone=True)

    def devices(self) -> list[StoredDevice]:
        """Every device, by name."""

        def read(sql: Transaction) -> list[StoredDevice]:
            refuse_strays(sql, STRAY_LATENCIES)
            counts, rows = sql.all(_COUNTS), sql.all(_DEVICES)
            for row in rows:
                of_row("devices", "id name description created", row)
            for device, mark, _ in counts:
                of_row("device_measurements", "device_id fingerprint", (device, mark))
            if {device for device, _, _ in counts} - {row[0] for row in rows}:
                raise Suspect("measurements are of a device that is not there")
            return [
                StoredDevice(
                    name, json.loads(text), created, {mark: n for device, mark, n in counts if device == identity}
                )
                for identity, name, text, created in rows
            ]

        return self._database.reading(read)

    # -- measurements --------------------------------------------------------------------------------------------------

    def add_measurements(self, device: str, fingerprint: str, rows: Sequence[ArchMeasurement]) -> None:
        """Append measurements of archs of the space with this fingerprint, in one transaction.

        Raises:
            StoreError: the device is not known, or a latency is no positive number.
        """
        now = time.time()
        for row in rows:
            if not 0.0 < row.median_ms < float("inf"):
                raise StoreError(
                    f"latency {row.median_ms!r} ms of arch {row.key} is no positive number; measure it again"
                )

        def add(sql: Transaction) -> None:
            identity = self._device(sql, device)
            sql.many(_ADD_MEASUREMENT, [(identity, fingerprint, *_packed(row), now) for row in rows])

        # Done again after a lost connection it may leave an arch's figure twice; the newest counts, and they are equal.
        self._database.writing(add)

    def measurements(
        self, device: str, fingerprint: str, *, noisy: bool = True, inputs: str = ""
    ) -> list[ArchMeasurement]:
        """The newest measurement of each arch, in the order in which archs were first measured.

        Args:
            device: name.
            fingerprint: of the space.
            noisy: False leaves out archs whose newest measurement is flagged.
            inputs: leave out what was measured with others than these, as far as that is known; "" leaves out none.

        Raises:
            StoreError: the device is not known.
        """
        rows = self._measured(device, fingerprint)
        newest = {one.key: one for one in rows if not (inputs and one.inputs) or one.inputs == inputs}
        return [one for one in newest.values() if noisy or not one.noisy]

    def inputs(self, device: str, fingerprint: str) -> dict[str, int]:
        """How many archs were measured with which inputs; "" of those that do not say it.

        Raises:
            StoreError: the device is not known.
        """
        return dict(
            Counter(
                inputs for inputs, _ in {(one.inputs, one.key): None for one in self._measured(device, fingerprint)}
            )
        )

    def _measured(self, device: str, fingerprint: str) -> list[ArchMeasurement]:
        """Every measurement, in order."""

        def read(sql: Transaction) -> list[Row]:
            refuse_strays(sql, STRAY_LATENCIES)
            for identity, mark, _ in sql.all(_COUNTS):  # a row of another mark is nobody's: it must be one
                of_row("device_measurements", "device_id fingerprint", (identity, mark))
            return sql.all(_MEASURED, (self._device(sql, device), fingerprint))

        return [_unpacked(row) for row in self._database.reading(read)]

    # -- predictors ----------------------------------------------------------------------------------------------------

    def save_predictor(self, predictor: StoredPredictor) -> None:
        """Keep a predictor; it replaces the older one of the same device and space, whatever its inputs.

        Raises:
            StoreError: the device is not known.
        """
        one = predictor

        def save(sql: Transaction) -> None:
            identity = self._device(sql, one.device)
            sql.run(_DROP_PREDICTOR, (identity, one.fingerprint))
            state = {**one.state, INPUTS: one.inputs} if one.inputs else dict(one.state)
            texts = [json.dumps(part, separators=(",", ":")) for part in (dict(one.errors), state)]
            sql.run(_ADD_PREDICTOR, (identity, one.fingerprint, one.space, one.kind, *texts, one.arrays, time.time()))

        self._database.writing(save, alone=True)

    def predictors(self) -> list[StoredPredictor]:
        """Every predictor, by device."""
        return self._database.reading(lambda sql: [_predictor(row) for row in sql.all(_PREDICTORS)])

    def predictor(self, device: str, fingerprint: str, space: str = "") -> StoredPredictor:
        """The predictor of a device for the space with this fingerprint.

        Args:
            device: name.
            fingerprint: of the space.
            space: its name, for the message.

        Raises:
            StoreError: the device is not known, or has no predictor of this space; with the ones that it has.
        """
        self._database.reading(lambda sql: self._device(sql, device))
        own = [one for one in self.predictors() if one.device == device]
        for one in own:
            if one.fingerprint == fingerprint:
                return one
        asked = f"space {space!r}" if space else f"the space {fingerprint}"
        if own:
            raise StoreError(
                f"device {device!r} has a predictor of {_names(own)} and none of {asked} as it is now; "
                "fit one with 'nas predictor fit JOB'"
            )
        raise StoreError(f"device {device!r} has no predictor; measure archs and fit one with 'nas predictor fit JOB'")

    def _device(self, sql: Transaction, name: str) -> int:
        found = sql.one(_FIND, (name,))
        if found is not None:
            return int(found[0])
        names = [brief(row[1], 100) for row in sql.all(_DEVICES)]
        have = f"it has {', '.join(names)}" if names else "it has none yet; 'nas measure' adds them"
        raise StoreError(f"database {self._database.shown} has no device {name!r}{suggest(name, names)}; {have}")


def _names(stored: Sequence[StoredPredictor]) -> str:
    return ", ".join(f"space {one.space!r} ({one.fingerprint[:8]})" for one in stored)


def _packed(row: ArchMeasurement) -> Row:
    environment = {**row.environment, INPUTS: row.inputs} if row.inputs else dict(row.environment)
    texts = [json.dumps(part, separators=(",", ":")) for part in (list(row.row), dict(row.details), environment)]
    return (row.key, texts[0], row.median_ms, int(row.noisy), texts[1], texts[2])


def _unpacked(row: Row) -> ArchMeasurement:
    of_row("device_measurements", "id key arch median_ms noisy details environment created", row)
    _, key, arch, median, noisy, details, text, created = row
    environment, inputs = _without_inputs(text)
    return ArchMeasurement(
        key, json.loads(arch), median, bool(noisy), json.loads(details), environment, created, inputs
    )


def _without_inputs(text: str) -> tuple[dict[str, Any], str]:
    """A stored object, and the inputs that it says a figure belongs to."""
    found = json.loads(text)
    return found, str(found.pop(INPUTS, ""))


def _predictor(row: Row) -> StoredPredictor:
    device, mark, space, kind, errors, state, arrays, created = row
    check("devices", {"name": device})
    of_row("predictors", "fingerprint space kind errors state arrays created", row[1:])
    described, inputs = _without_inputs(state)
    return StoredPredictor(device, mark, space, kind, json.loads(errors), described, bytes(arrays), created, inputs)

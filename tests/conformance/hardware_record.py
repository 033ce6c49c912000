"""What a database must do with devices, measurements and predictors; every backend inherits it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nas.errors import StoreError
from nas.store import ArchMeasurement, HardwareRecord, StoredPredictor, open_store

CPU = {"name": "cpu", "threads": 1}


class HardwareRecordConformance:
    """Inherit it and give a fixture `url`: the address of an empty database."""

    @pytest.fixture
    def record(self, url: str) -> Iterator[HardwareRecord]:
        with open_store(url) as store:
            yield store.hardware

    def test_a_device_is_described_once(self, record: HardwareRecord) -> None:
        record.add_device("board", CPU)
        record.add_device("board", dict(reversed(CPU.items())))
        assert [(one.name, one.description, one.measured) for one in record.devices()] == [("board", CPU, {})]
        with pytest.raises(StoreError, match="do not compare, give the new one another name"):
            record.add_device("board", {"name": "cpu", "threads": 2})
        with pytest.raises(StoreError, match="needs a name"):
            record.add_device(" ", CPU)

    def test_the_newest_measurement_of_an_arch_counts(self, record: HardwareRecord, url: str) -> None:
        record.add_device("board", CPU)
        rows = [
            ArchMeasurement("k1", [0, None, 0.5], 2.0, True, {"load": 3.0}, {"torch": "2"}),
            ArchMeasurement("k2", [1], 3.0),
        ]
        record.add_measurements("board", "f", rows)
        record.add_measurements("board", "other space", rows[:1])
        assert [one.key for one in record.measurements("board", "f", noisy=False)] == ["k2"]
        record.add_measurements("board", "f", [ArchMeasurement("k1", [0, None, 0.5], 1.5, False, {"load": 0.1})])
        with open_store(url) as again:
            found = again.hardware.measurements("board", "f", noisy=False)
            assert [(one.key, one.row, one.median_ms, one.details) for one in found] == [
                ("k1", [0, None, 0.5], 1.5, {"load": 0.1}),
                ("k2", [1], 3.0, {}),
            ]
            assert again.hardware.devices()[0].measured == {"f": 2, "other space": 1}

    def test_measurements_of_other_inputs_are_told_apart(self, record: HardwareRecord) -> None:
        record.add_device("board", CPU)
        rows = [
            ArchMeasurement("k1", [0], 1.0),
            ArchMeasurement("k2", [1], 2.0, environment={"torch": "2"}, inputs="small"),
            ArchMeasurement("k2", [1], 9.0, inputs="large"),
            ArchMeasurement("k3", [2], 8.0, inputs="large"),
        ]
        record.add_measurements("board", "f", rows)
        found = record.measurements("board", "f", inputs="small")  # an earlier version did not say them
        assert [(one.key, one.median_ms, one.inputs) for one in found] == [("k1", 1.0, ""), ("k2", 2.0, "small")]
        assert found[1].environment == {"torch": "2"}
        assert [one.median_ms for one in record.measurements("board", "f")] == [1.0, 9.0, 8.0]
        assert record.inputs("board", "f") == {"": 1, "small": 1, "large": 2}
        record.save_predictor(StoredPredictor("board", "f", "conv", "ridge", {}, {"a": 1}, b"", inputs="small"))
        kept = record.predictor("board", "f")
        assert (kept.inputs, kept.state) == ("small", {"a": 1})

    @pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
    def test_a_latency_is_a_positive_number(self, record: HardwareRecord, value: float) -> None:
        record.add_device("board", CPU)
        with pytest.raises(StoreError, match="no positive number"):
            record.add_measurements(
                "board", "f", [ArchMeasurement("good", [0], 1.0), ArchMeasurement("bad", [0], value)]
            )
        assert record.measurements("board", "f") == []

    def test_an_unknown_device_is_one_sentence(self, record: HardwareRecord) -> None:
        with pytest.raises(StoreError, match="has no device 'board'; it has none yet"):
            record.measurements("board", "f")
        record.add_device("board", CPU)
        with pytest.raises(StoreError, match="has no device 'bord'; did you mean 'board'"):
            record.add_measurements("bord", "f", [])

    def test_a_newer_predictor_replaces_the_older(self, record: HardwareRecord) -> None:
        record.add_device("board", CPU)
        for kind, arrays in (("ridge", b"\x00one"), ("gp", b"\x00two\xff")):
            record.save_predictor(StoredPredictor("board", "f", "conv", kind, {"mape": 0.1}, {"a": [1]}, arrays))
        record.save_predictor(StoredPredictor("board", "g", "vit", "ridge", {}, {}, b""))
        found = record.predictor("board", "f")
        assert (found.kind, found.arrays, found.state, found.errors) == (
            "gp",
            b"\x00two\xff",
            {"a": [1]},
            {"mape": 0.1},
        )
        assert [(one.space, one.kind) for one in record.predictors()] == [("conv", "gp"), ("vit", "ridge")]

    def test_a_predictor_of_another_space_is_one_sentence(self, record: HardwareRecord) -> None:
        record.add_device("board", CPU)
        with pytest.raises(StoreError, match="device 'board' has no predictor; measure archs and fit one"):
            record.predictor("board", "f")
        record.save_predictor(StoredPredictor("board", "0123456789", "conv", "ridge", {}, {}, b""))
        with pytest.raises(
            StoreError, match=r"has a predictor of space 'conv' \(01234567\) and none of space 'vit' as it is"
        ):
            record.predictor("board", "f", "vit")

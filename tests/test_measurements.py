from __future__ import annotations

import decimal
import enum
import fractions
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from nas.measurements import RESERVED, name_fault, number, usable
from nas.store.schema import TRIAL_COLUMNS


class Size(enum.IntEnum):
    SMALL = 3


class Measured:
    """A number of a foreign type."""

    def __repr__(self) -> str:
        return "Measured()"  # names the test, which must be called the same in every process

    def __float__(self) -> float:
        return 0.25


class Broken:
    def __float__(self) -> float:
        raise RuntimeError("no data")

    def __repr__(self) -> str:
        raise RuntimeError("no text either")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (0.5, 0.5),
        (3, 3),
        (True, 1),
        (2**60 + 1, 2**60 + 1),
        (-0.0, -0.0),
        (5e-324, 5e-324),
        (Size.SMALL, 3),
        (fractions.Fraction(1, 3), 1 / 3),
        (decimal.Decimal("0.1"), 0.1),
        (np.float16(0.1), float(np.float16(0.1))),
        (np.float32(0.1), float(np.float32(0.1))),
        (np.longdouble(0.1), float(np.longdouble(0.1))),
        (np.int64(3), 3),
        (np.uint64(2**64 - 1), 2**64 - 1),
        (np.True_, 1),
        (np.array(0.5), 0.5),
        (np.array([[7]]), 7),
        (np.array(0.5, dtype=object), 0.5),
        (np.ma.array(0.5), 0.5),
        (pd.Series([0.5]), 0.5),
        (torch.tensor(0.1), float(np.float32(0.1))),
        (torch.tensor([[3]]), 3),
        (torch.tensor(True), 1),
        (torch.tensor(0.1, dtype=torch.bfloat16), 0.10009765625),
        (torch.tensor(0.1, requires_grad=True), float(np.float32(0.1))),
        (torch.nn.Parameter(torch.tensor([2.0])), 2.0),
        (Measured(), 0.25),
    ],
    ids=repr,
)
def test_any_real_finite_number_is_a_measurement_with_its_value(given: Any, expected: float) -> None:
    found = number(given)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ("0.5", "'0.5' (str)"),
        (np.str_("0.5"), "str"),
        (b"0.5", "bytes"),
        (np.array("0.5"), "str"),
        (None, "None (NoneType)"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (np.float32("inf"), "inf"),
        (decimal.Decimal("NaN"), "NaN"),
        (decimal.Decimal("sNaN"), "gives no number"),
        (torch.tensor(math.nan), "nan"),
        (np.array([math.inf]), "inf"),
        (1j, "complex"),
        (np.complex64(1), "complex"),
        (torch.tensor(1j), "complex"),
        (10**400, "larger than a 64-bit float can be"),
        (fractions.Fraction(10**400), "larger than a 64-bit float can be"),
        (np.longdouble("1e4000"), "finite"),
        (np.array([0.5, 0.6]), "a ndarray of shape (2,)"),
        (torch.zeros(3, 1), "a Tensor of shape (3, 1)"),
        (torch.zeros(0), "a Tensor of shape (0,)"),
        (torch.zeros((), device="meta"), "gives no number"),
        (np.ma.masked, "masked"),
        (np.ma.array([0.5], mask=[True]), "masked"),
        (np.timedelta64(5, "s"), "timedelta"),
        (np.array(5, dtype="timedelta64[ns]"), "timedelta"),
        (np.datetime64("2026-01-01"), "datetime"),
        (pd.NA, "NAType"),
        ([0.5], "[0.5] (list)"),
        ({"value": 0.5}, "dict"),
        (range(10**6), "range"),
        ([0] * 10**6, "1000000 items (list)"),
        (lambda: 0.5, "function"),
        (Broken(), "a value of type Broken"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_measurement_is_shown_and_refused(given: Any, what: str) -> None:
    with pytest.raises(ValueError, match="it must be one finite number") as refused:
        number(given)
    assert what in str(refused.value)
    assert len(str(refused.value)) < 200


@pytest.mark.gpu
def test_a_tensor_on_a_gpu_is_a_number() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    assert number(torch.tensor([0.5], device="cuda")) == 0.5


@pytest.mark.parametrize("name", ["accuracy", "latency_ms", "_x", "A1", "a" * 200, "lambda", "epochs"])
def test_identifiers_name_metrics(name: str) -> None:
    assert name_fault(name) is None


@pytest.mark.parametrize(
    "name", ["", "état", "val/acc", "a b", "2nd", "a\n", "a" * 201, "a" * 10**6, 3, None, b"a", ("a",)]
)
def test_anything_else_does_not(name: Any) -> None:
    found = name_fault(name)
    assert found is not None
    assert "is not an identifier" in found
    assert len(found) < 250


def test_columns_of_trials_name_no_metric() -> None:
    assert set(TRIAL_COLUMNS) < RESERVED
    assert all("reserved" in str(name_fault(name)) for name in RESERVED)


def test_what_is_usable_is_kept_and_the_first_fault_is_said() -> None:
    assert usable({"a": np.float32(0.5), "b": "x", "état": 1.0, "c": 2}) == (
        {"a": 0.5, "c": 2},
        "metric 'b' is 'x' (str); it must be one finite number",
    )
    assert usable({}) == ({}, None)

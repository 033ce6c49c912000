from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.store.numbers import Numbers
from nas.store.wave import _encode

_NUMBER = st.one_of(
    st.none(), st.integers(0, 12_345), st.integers(0, 3), st.floats(allow_nan=False, allow_infinity=False)
)


@given(st.integers(1, 5).flatmap(lambda width: st.lists(st.lists(_NUMBER, min_size=width, max_size=width), min_size=1)))
def test_columns_are_those_that_json_gives(rows: list[list[float | None]]) -> None:
    text = ",".join(_encode(row) for row in rows)
    parsed = json.loads(f"[{text}]")
    numbers = Numbers(text, len(rows[0]))
    for index in range(len(rows[0])):
        expected = np.array([math.nan if row[index] is None else row[index] for row in parsed], dtype=np.float64)
        np.testing.assert_array_equal(numbers.column(index), expected)


def test_no_archs_give_no_numbers() -> None:
    assert Numbers("", 3).column(1).shape == (0,)


@pytest.mark.parametrize("row", ["-1", "1e3", "0.5", "-0.0", "9999", "10000", "null"])
def test_a_number_that_is_no_short_count_is_read_too(row: str) -> None:
    expected = math.nan if row == "null" else float(row)
    np.testing.assert_array_equal(Numbers(f"[{row}],[7]", 1).column(0), [expected, 7.0])

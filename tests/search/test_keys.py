from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nas.search.keys import KeySet


@given(st.lists(st.text(max_size=3)))
def test_it_is_a_set(keys: list[str]) -> None:
    found, truth = KeySet(), set[str]()
    for key in keys:
        assert (key in found) == (key in truth)
        assert found.add(key) == (key not in truth)
        truth.add(key)
        assert len(found) == len(truth)
    assert set(found) == truth
    again = KeySet()
    again.update(keys)
    assert set(again) == truth
    assert None not in again

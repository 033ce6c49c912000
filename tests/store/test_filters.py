from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.errors import FilterError
from nas.store.filters import NOTHING, Filter, Kind, Table, column_key

NAN = float("nan")
COLUMNS = {
    "latency_ms": np.array([1.0, 2.0, 3.0, NAN]),
    "params": np.array([10.0, 50_000.0, NAN, 5.0]),
    "state": np.array(["COMPLETED", "FAILED", "COMPLETED", None], dtype=object),
    "layers[0].kernel": np.array([3.0, 5.0, NAN, 7.0]),
    "choices['op=Conv.k']": np.array([1.0, 2.0, 3.0, 4.0]),
    "mixed": np.array(["skip", 3.0, None, 5.0], dtype=object),
}
KINDS = {
    name: frozenset({"text"} if name == "state" else {"text", "number"} if name == "mixed" else {"number"})
    for name in COLUMNS
}


def select(text: str) -> list[int]:
    parsed = Filter(text)
    parsed.check(KINDS)
    return np.flatnonzero(parsed.mask({name: COLUMNS[name] for name in parsed.names}, 4)).tolist()


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("latency_ms <= 2", [0, 1]),
        ("latency_ms<=2 and params<50_000", [0]),
        ("latency_ms <= 1 or params < 7", [0, 3]),
        ("1 < latency_ms < 3", [1]),
        ("1 < latency_ms <= 3 != params", [1]),
        ("2 >= latency_ms", [0, 1]),
        ("latency_ms > -1", [0, 1, 2]),
        ("latency_ms > +1.5e0", [1, 2]),
        ("latency_ms == params", []),
        ("latency_ms < params", [0, 1]),
        ("  (latency_ms == 1)  ", [0]),
        ("latency_ms in (1, 3)", [0, 2]),
        ("latency_ms not in [1, 3]", [1]),
        ("latency_ms in {2}", [1]),
        ("state == 'FAILED'", [1]),
        ('state != "FAILED"', [0, 2]),
        ("state in ('FAILED', 'RUNNING')", [1]),
        ("state < 'D'", [0, 2]),
        ("layers[0].kernel >= 5", [1, 3]),
        ("layers[ 0 ].kernel >= 5", [1, 3]),
        ("choices['op=Conv.k'] == 2", [1]),
        ('choices["op=Conv.k"] == 2', [1]),
        ("mixed == 'skip'", [0]),
        ("mixed != 'skip'", [1, 3]),
        ("mixed > 3", [3]),
        ("mixed <= 'z'", [0]),
        ("mixed == params", [3]),
        ("latency_ms == True", [0]),
        ("params < 1" + "0" * 400, [0, 1, 3]),
    ],
)
def test_filter_selects(text: str, rows: list[int]) -> None:
    assert select(text) == rows


@pytest.mark.parametrize(
    "condition", ["latency_ms > 2", "latency_ms == 2", "state == 'FAILED'", "mixed > 3", "params in (5, 10)"]
)
def test_a_trial_without_a_value_satisfies_neither_a_comparison_nor_its_negation(condition: str) -> None:
    name, _, _ = condition.partition(" ")
    missing = [i for i, value in enumerate(COLUMNS[name]) if value is None or str(value) == "nan"]
    both = select(condition) + select(f"not ({condition})")
    assert not set(missing) & set(both)
    known = set(range(4)) - set(missing)
    # 'skip' and 3 have no order: such a pair is as unknown as a missing value.
    assert set(both) == known - ({0} if condition == "mixed > 3" else set())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "does not parse"),
        ("latency_ms <", "does not parse"),
        ("latency_ms = 2", "compare with '==', not '='"),
        ("latency_ms <= 2 AND params < 3", "joined by and, or, not"),
        ("latency_ms <= 2; params", "does not parse"),
        ("latency_ms", "'latency_ms' is not a comparison"),
        ("True", "'True' is not a comparison"),
        ("latency_ms + 1 < 2", "'latency_ms \\+ 1' is neither a column nor a number"),
        ("abs(latency_ms) < 2", "'abs\\(latency_ms\\)' is neither a column"),
        ("(lambda: 1) < 2", "is neither a column"),
        ("latency_ms is 2", "uses 'is'"),
        ("1 < 2", "compares two values; name a column"),
        ("latency_ms < None", "'None' is neither"),
        ("latency_ms < b'x'", "is neither"),
        ("latency_ms < 2j", "is neither"),
        ("latency_ms < -'x'", "has a sign but is not a number"),
        ("latency_ms in 2", "is not a list of values"),
        ("latency_ms in ()", "is not a list of values"),
        ("'x' in state", "is not a list of values"),
        ("latency_ms[0] < 2", "no column 'latency_ms\\[0\\]'; did you mean 'latency_ms'"),
        ("acuracy > 1 or latency_ms < 1", "no column 'acuracy'"),
        ("latncy_ms < 1", "no column 'latncy_ms'; did you mean 'latency_ms'.; there are latency_ms, params"),
        ("latency_ms < '2'", "'latency_ms < '2'' compares a number with text"),
        ("state == 3", "'state == 3' compares text with a number"),
        ("state in (3, 4)", "compares text with a number"),
        ("state < latency_ms", "compares text with a number"),
        ("x" * 10 + "\0", "does not parse"),
        ("(" * 300 + "x < 1" + ")" * 300, "nested"),
        ("not " * 50_000 + "latency_ms < 1", "nested too deeply"),
    ],
)
def test_filter_that_is_none_says_why(text: str, sentence: str) -> None:
    with pytest.raises(FilterError, match=sentence) as caught:
        select(text)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=30))
def test_any_text_selects_or_is_a_filter_error(text: str) -> None:
    try:
        select(text)
    except FilterError:
        return


# Choices of decisions: inactive is None, the candidate None is NOTHING.
CHOSEN = Table(
    {
        "rate": np.array([0.1, 0.1 + 0.2, 0.5, NAN]),
        "close": np.array([0.3, 0.1 + 0.2, NAN, 0.3]),
        "size": np.array([1.0, 0.0, 1.0, NAN]),
        "flag": np.array([True, False, None, True], dtype=object),
        "any": np.array([True, 1.0, "1", NOTHING], dtype=object),
        "some": np.array([NOTHING, 8.0, None, 0.1 + 0.2], dtype=object),
        "noisy": np.array([1.0, 0.0, NAN, 1.0]),  # a metric
    },
    {
        "rate": frozenset({0.1, 0.1 + 0.2, 0.5}),
        "close": frozenset({0.3, 0.1 + 0.2}),
        "size": frozenset({0.0, 1.0}),
        "flag": frozenset(),
        "any": frozenset({1.0}),
        "some": frozenset({8.0, 0.1 + 0.2}),
    },
)
CHOSEN_KINDS: dict[str, frozenset[Kind]] = {
    **dict.fromkeys(("rate", "close", "size", "noisy"), frozenset({"number"})),
    "flag": frozenset({"flag"}),
    "any": frozenset({"flag", "number", "text", "none"}),
    "some": frozenset({"number", "none"}),
}


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("rate == 0.3", [1]),
        ("rate != 0.3", [0, 2]),
        ("rate <= 0.3", [0, 1]),
        ("rate < 0.3", [0]),
        ("rate >= 0.3", [1, 2]),
        ("rate > 0.3", [2]),
        ("0.3 >= rate", [0, 1]),
        ("rate in (0.3, 0.5)", [1, 2]),
        ("rate not in (0.3, 0.5)", [0]),
        ("rate == 0.30001", []),
        ("close == 0.3", [0, 3]),
        ("close == 0.30000000000000004", [1]),
        ("size == 1", [0, 2]),
        ("size == 1.0", [0, 2]),
        ("size == True", []),
        ("size == False", []),
        ("size != True", [0, 1, 2]),
        ("flag == True", [0, 3]),
        ("flag == False", [1]),
        ("flag == 1", []),
        ("flag in (True, False)", [0, 1, 3]),
        ("any == True", [0]),
        ("any == 1", [1]),
        ("any == 1.0", [1]),
        ("any == '1'", [2]),
        ("any == None", [3]),
        ("any != None", [0, 1, 2]),
        ("any in (1, None)", [1, 3]),
        ("any >= 1", [1]),
        ("some == None", [0]),
        ("some != None", [1, 3]),
        ("None == some", [0]),
        ("not some == None", [1, 3]),
        ("some == 0.3", [3]),
        ("some > 0.3", [1]),
        ("some in (None, 8)", [0, 1]),
        ("noisy == True", [0, 3]),
        ("noisy == False", [1]),
        ("noisy == 1", [0, 3]),
    ],
)
def test_candidates_are_found_by_kind_and_as_they_are_shown(text: str, rows: list[int]) -> None:
    parsed = Filter(text)
    parsed.check(CHOSEN_KINDS)
    columns = Table({name: CHOSEN[name] for name in parsed.names}, CHOSEN.candidates)
    assert np.flatnonzero(parsed.mask(columns, 4)).tolist() == rows


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("rate == None", "compares a number with None"),
        ("flag == 'a'", "compares True or False with text"),
        ("flag < True", "compares True or False with True or False"),
        ("noisy < True", "compares a number with True or False"),
        ("some < None", "'None' is neither more nor less"),
        ("some == -None", "has a sign but is not a number"),
    ],
)
def test_kinds_that_do_not_compare_are_refused(text: str, sentence: str) -> None:
    with pytest.raises(FilterError, match=sentence):
        Filter(text).check(CHOSEN_KINDS)


@pytest.mark.parametrize("name", ["layers[0].kernel", "depth", "a.b[1][2].c"])
def test_decision_names_can_be_written_as_they_are(name: str) -> None:
    assert column_key(name) == name


@pytest.mark.parametrize("name", ["block=MBConv.kernel", "a-b", "a b", "", "3", "f(x)"])
def test_other_decision_names_need_choices(name: str) -> None:
    assert column_key(name) is None

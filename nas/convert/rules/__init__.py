"""What each ATen operation asks of the axes of its operands; see `base` for how a rule is written."""

from __future__ import annotations

from nas.convert.rules import indexing, norms, pointwise, products, recurrent, shapes
from nas.convert.rules.base import RULES, Call, Derived, Path, Result, Value, name_of, whole
from nas.convert.rules.pointwise import is_pointwise
from nas.convert.rules.pointwise import pointwise as elementwise
from nas.convert.rules.shapes import SPLITS, frozen, is_view, split_dim

__all__ = [
    "RULES",
    "SPLITS",
    "Call",
    "Derived",
    "Path",
    "Result",
    "Value",
    "elementwise",
    "frozen",
    "is_pointwise",
    "is_view",
    "name_of",
    "split_dim",
    "whole",
]

_FILES = (indexing, norms, pointwise, products, recurrent, shapes)  # imported for the rules that they register

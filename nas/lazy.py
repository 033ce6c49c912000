"""Names of a package that are imported when they are first used.

Type checkers do not run this: beside the table a package imports the same names under `if TYPE_CHECKING:`, and gives them
`__getattr__` only `if not TYPE_CHECKING:`, so that they know every name's type and that no other is there.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def names(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """`__getattr__` of `package`.

    Args:
        package: its `__name__`.
        homes: public name to the module that defines it.
    """

    def get(name: str) -> Any:
        if name not in homes:
            from nas.errors import suggest

            raise AttributeError(f"module {package!r} has no attribute {name!r}{suggest(name, homes)}")
        value = getattr(importlib.import_module(homes[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return get

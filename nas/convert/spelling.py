"""How places in a model are written in names of decisions."""

from __future__ import annotations


def spelled(path: str) -> str:
    """A path as names of decisions are written, so that filters read them; `*` is every block, `model` a list's root.

    >>> spelled("encoder.layer.0.attention.heads"), spelled("layer.*.heads"), spelled("0.hidden")
    ('encoder.layer[0].attention.heads', 'layer[:].heads', 'model[0].hidden')
    """
    found = ""
    for key in path.split("."):
        if key == "*" or key.isdigit():
            found = f"{found or 'model'}[{':' if key == '*' else key}]"
        else:
            found += f".{key}"
    return found.lstrip(".")


def keep(unit: str) -> str:
    """What the decision about a unit is called."""
    return f"{spelled(unit)}.keep"

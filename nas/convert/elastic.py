"""`nas.elastic`: from a model to a search space of its own parts."""

from __future__ import annotations

from typing import Any

from nas.convert.model import conditions, value
from nas.convert.plan import Plan
from nas.convert.template import Template
from nas.space import Space


class ElasticSpace(Space):
    """The space of a model's own widths, heads and depth; `nas.elastic` makes one.

    Its archs are resized copies of the model, of the model's own class.  The largest is the original.

    Args:
        template: gives the model.
        plan: what decisions there are, and what they change.
        name: of the space; the model's class by default.
        version: a number of your own, stored with every arch.
    """

    plan: Plan

    def __init__(self, template: Template, plan: Plan, *, name: str | None = None, version: int = 1) -> None:
        super().__init__(
            value(template, plan),
            name=name if name is not None else template.cls.__name__,
            version=version,
            active_when=conditions(template.skeleton(), plan),
        )
        self.template, self.plan = template, plan

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.template, self.plan, self.name, self.version, self.rules)


def _restored(template: Template, plan: Plan, name: str, version: int, rules: tuple[Any, ...]) -> ElasticSpace:
    space = ElasticSpace(template, plan, name=name, version=version)
    space.rules = rules
    return space

"""One model, judged without help of the conversion."""

from __future__ import annotations

import copy
import resource
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from case import Case
from convert import Choices, Converted
from equivalence import equivalence, tensors_of
from tags import Origins, Tags, tagged
from torch import Tensor, nn

from nas.errors import NasError

Row = dict[str, Any]
CUT, DEEP = 0.75, 0.40  # share of the parameters that may be left at half of each width
EXACT = 1e-4


def judged(build: Callable[[], Case], convert: Callable[[nn.Module, Any], Converted], archs: int) -> Row:
    """What became of the model, as a row; its `verdict` is one of:

    "skipped": a library is missing.  "broken": the model does not run plain.  "refused": one sentence.  "traceback":
    the conversion raised another error.  "fails": a subnet does not run.  "shape": its output has another form.  "not
    slices": its weights are not cut from the model's.  "wrong": its output is another function.  "random": one of the
    random archs is any of these, or the supernet's subnet differs
    from the extracted one.  "whole": little was cut.  "correct".
    """
    row: Row = {}
    try:
        torch.manual_seed(0)
        with timed(row, "build_s"):
            case = build()
            case.model.eval()
        with torch.no_grad():
            expected = [tuple(each.shape) for each in tensors_of(case())]
    except ModuleNotFoundError as error:
        return {"verdict": "skipped", "why": str(error)}
    except Exception as error:
        return {"verdict": "broken", "why": sentence(error), "where": where(error)}
    row.update(_converted(case, expected, convert, archs, row))
    row["mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return row


def _converted(
    case: Case, expected: list[tuple[int, ...]], convert: Callable[[nn.Module, Any], Converted], archs: int, row: Row
) -> Row:
    initial = {name: tensor.detach().clone() for name, tensor, _ in tagged(case.model)}
    tags = Tags(case.model)
    reference = copy.deepcopy(case.model)
    row["parameters"] = parameters(case.model)
    try:
        with timed(row, "convert_s"):
            converted = convert(case.model, case.inputs)
    except NasError as error:
        return {"verdict": "refused", "why": str(error)[:600]}
    except Exception as error:
        return {"verdict": "traceback", "why": sentence(error), "where": where(error)}
    row.update(
        widths=len(converted.widths),
        units=len(converted.units),
        kinds=dict(converted.kinds),
        stages={stage: round(seconds, 3) for stage, seconds in converted.stages.items()},
        **converted.notes,
    )
    judge = Judge(case, expected, reference, tags, initial, converted)
    found = judge.half()
    if found["verdict"] in ("correct", "whole"):
        random = [judge.random(seed) for seed in range(archs)]
        row["archs"] = sum(each["verdict"] == "correct" for each in random)
        unjudged = [each for each in random if not_judged(each)]
        if unjudged:
            row.update(archs_not_judged=len(unjudged), archs_why=unjudged[0]["equivalence"])
        wrong = [each for each in random if each["verdict"] != "correct"]
        if wrong:
            found.update(wrong[0], verdict="random", random=wrong[0]["verdict"])
    return found


@dataclass
class Judge:
    """The checks of a model's subnets.

    Attributes:
        expected: shapes of the model's outputs.
        reference: the model, tagged.
        initial: its own weights, by name.
    """

    case: Case
    expected: list[tuple[int, ...]]
    reference: nn.Module
    tags: Tags
    initial: dict[str, Tensor]
    converted: Converted

    def half(self) -> Row:
        """At half of every width: is the subnet correct, and how much is left?"""
        try:
            subnet = self.converted.build(self.converted.at(0.5))
        except NasError as error:
            return {"verdict": "refused", "why": str(error)[:600]}
        except Exception as error:
            return {"verdict": "traceback", "why": sentence(error), "where": where(error)}
        left = parameters(subnet) / max(1, parameters(self.case.model))
        found = self.subnet(subnet, self.reference)
        if found["verdict"] == "correct" and left > CUT:
            found["verdict"] = "whole"
        return {"left": round(left, 4), **found}

    def random(self, seed: int) -> Row:
        """A random arch: the same checks, against the whole model without the units that it leaves out."""
        choices = self.converted.drawn(seed)
        units = {name: choices[name] for name in self.converted.units}
        try:
            subnet = self.converted.build(choices)
            whole = self.converted.build(units) if units else self.reference
        except Exception as error:
            return {"verdict": "traceback", "why": sentence(error), "where": where(error), "seed": seed}
        found = self.subnet(subnet, whole)
        if found["verdict"] == "correct" and self.converted.shared is not None:
            found.update(self.shared(choices, subnet))
        return {**found, "seed": seed}

    def shared(self, choices: Choices, subnet: nn.Module) -> Row:
        """Does the supernet give what the extracted network gives?"""
        assert self.converted.shared is not None
        try:
            with torch.no_grad():
                ours, theirs = (
                    tensors_of(run(self.case))
                    for run in (self.run(self.converted.shared(choices)), self.run(subnet.eval()))
                )
        except Exception as error:
            return {"verdict": "traceback", "why": sentence(error), "where": where(error)}
        difference = max(float((a.double() - b.double()).abs().max()) for a, b in zip(ours, theirs, strict=True))
        return (
            {"shared": difference}
            if difference < EXACT
            else {"verdict": "supernet differs", "why": f"by {difference:.1e}"}
        )

    @staticmethod
    def run(module: Callable[..., Any]) -> Callable[[Case], Any]:
        def called(case: Case) -> Any:
            torch.manual_seed(0)  # of models that draw numbers in every mode
            return case(module)  # type: ignore[arg-type]

        return called

    def subnet(self, subnet: nn.Module, whole: nn.Module) -> Row:
        """Does it run, keep the output's form, hold slices, and compute the part of `whole` that it keeps?"""
        try:
            with torch.no_grad():
                outputs = tensors_of(self.case(subnet.eval()))
        except Exception as error:
            return {"verdict": "fails", "why": sentence(error), "where": where(error)}
        shapes = [tuple(each.shape) for each in outputs]
        if shapes != self.expected:
            return {"verdict": "shape", "why": f"{shapes} instead of {self.expected}"}
        if not all(bool(torch.isfinite(each).all()) for each in outputs if each.is_floating_point()):
            return {"verdict": "wrong", "why": "not finite"}
        origins = Origins.of(self.tags, subnet)
        found: Row = {"kinds_of_cut": origins.kinds}
        if not origins.slices:
            return {**found, "verdict": "not slices", "why": str(origins.kinds)}
        try:
            verdict, error = equivalence(self.tags, whole, subnet, self.initial, self.case)
        except Exception as problem:
            return {
                **found,
                "verdict": "correct",
                "equivalence": f"not judged: {sentence(problem)}",
                "where": where(problem),
            }
        found.update(equivalence=verdict, error=error)
        return {
            **found,
            "verdict": "wrong" if verdict == "no" else "correct",
            **({"why": f"off by {error:.1e}"} if verdict == "no" else {}),
        }


def not_judged(row: Row) -> bool:
    """Whether the equivalence could not be computed: such a subnet counts as correct by the rest."""
    return str(row.get("equivalence", "")).startswith("not judged")


def parameters(module: nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


@contextmanager
def timed(row: Row, name: str) -> Iterator[None]:
    """Seconds on the clock, and in `…_cpu` those of the processor, which other processes change little."""
    started, worked = time.perf_counter(), time.process_time()
    yield
    row[name] = round(time.perf_counter() - started, 3)
    row[f"{name}_cpu"] = round(time.process_time() - worked, 3)


def sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:400]}"


def where(error: Exception) -> list[str]:
    """The innermost lines of code that are not torch's."""
    frames = traceback.extract_tb(error.__traceback__)
    mine = [frame for frame in frames if "/torch/" not in frame.filename] or list(frames)
    return [f"{'/'.join(frame.filename.split('/')[-3:])}:{frame.lineno} {frame.line}" for frame in mine[-3:]]

"""Proofs on smaller images: a convolution shows as much on 64 × 64 as on 331 × 331, in a twentieth of the time.

A smaller image counts as the same only where the model calls the same operators in the same order on it, each giving as many
axes, none of which shrinks to 1: an attention over one place shows nothing of its queries.  So every branch that the example
takes is taken, with the same parameters.  Models that take one size alone, pad another, or interpolate, are proved at their own.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves, tree_map

from nas.convert.copying import named_tensors, with_tensors
from nas.convert.emission import Reference
from nas.convert.healthy import Called, Operators, Patient, run_first, same_draws
from nas.supernet.inputs import Inputs, arguments, few_samples, like, tensors_in

STRIDE = 32
"""Images keep their remainder by it, so that strides divide them as they do the whole."""
SIDES = (2, 3, 4)
"""Strides on a side, tried in turn."""
SHARE = 0.5
"""Of the image, at most, for a smaller one to be worth it."""


def smaller(patient: Patient) -> Patient:
    """`patient` on smaller images, where it calls the same operators on them; `patient` where it does not."""
    for inputs in _cropped(patient.inputs):
        found = on(patient, inputs)
        if found is not None and alike(patient.operators, found.operators):
            return found
    return patient


def of_few(patient: Patient, example: Inputs, samples: int) -> Patient:
    """`patient` on the first samples alone, unless it refuses so few; the example says which axis they are on."""
    return on(patient, arguments(few_samples(like(patient.example, example), samples))) or patient


def on(patient: Patient, inputs: Called) -> Patient | None:
    """The same weights on other inputs, in a copy that an attempt which fails does not harm; None where it fails."""
    module = with_tensors(patient.module, {})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sizes that the user did not ask for
            return run_first(replace(patient, module=module, inputs=inputs))
    except Exception:  # whatever a model says to another size
        return None


def alike(ours: Operators, theirs: Operators) -> bool:
    """Are these the same operators in the same order, the second on smaller tensors of the same form?"""
    return len(ours) == len(theirs) and all(
        one == other and len(shapes) == len(smaller) and all(map(_same_form, shapes, smaller))
        for (one, shapes), (other, smaller) in zip(ours, theirs, strict=True)
    )


def _same_form(shape: Sequence[int], other: Sequence[int]) -> bool:
    return len(shape) == len(other) and all(new == old or 1 < new < old for old, new in zip(shape, other, strict=True))


def _cropped(inputs: Called) -> Iterator[Called]:
    """Inputs with smaller images, the smallest first: their last two axes, where all images are of one size."""
    sizes = {tuple(leaf.shape[-2:]) for leaf in tree_leaves(inputs) if _is_image(leaf)}
    if len(sizes) != 1:
        return
    height, width = sizes.pop()
    for strides in SIDES:
        crop = [_side(length, strides * length / min(height, width)) for length in (height, width)]
        if crop[0] < height and crop[1] < width and math.prod(crop) <= SHARE * height * width:
            yield tree_map(lambda leaf, c=crop: leaf[..., : c[0], : c[1]].clone() if _is_image(leaf) else leaf, inputs)


def _side(length: int, strides: float) -> int:
    return STRIDE * round(strides) + length % STRIDE


def _is_image(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.dim() >= 4 and min(leaf.shape[-2:]) > STRIDE


# -- the graph on them


@torch.no_grad()
def reference_on(reference: Reference, patient: Patient) -> tuple[Reference, list[Tensor]] | None:
    """The graph on the inputs of `patient`, which are not those of its capture, and what it gives; None where it fails.

    Whether that is what the module gives has to be looked at: sizes that are written into the graph are those of the capture.
    """
    shapes = _Shapes(reference.capture.module)
    tensors = {name: tensor.detach() for name, tensor in named_tensors(patient.module)}
    try:
        with same_draws():
            outputs = shapes.run(*reference.capture.values(patient.example, tensors))
    except Exception:  # whatever an operator says to another size
        return None
    return replace(reference, values=shapes.found), tensors_in(tree_leaves(outputs))


class _Shapes(fx.Interpreter):
    """Runs a graph and notes the form of what each node gives."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.found: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        """As `fx.Interpreter.run_node`."""
        given = super().run_node(n)
        self.found[n] = tree_map(lambda one: one.to("meta") if isinstance(one, Tensor) else one, given)
        return given

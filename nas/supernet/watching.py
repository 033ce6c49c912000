"""What calls of bound subnets are watched for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nas.supernet import attributes, effects
from nas.supernet.constructor import refusal
from nas.supernet.inputs import Inputs

if TYPE_CHECKING:
    from nas.space import Arch
    from nas.supernet.supernet import Supernet


class Watch:
    """Watches the calls of one arch's binding.

    Args:
        supernet: the binding's.
        arch: the binding's.
    """

    def __init__(self, supernet: Supernet, arch: Arch) -> None:
        self._supernet, self._arch = supernet, arch
        self._first = True

    @contextmanager
    def around(self, inputs: Inputs) -> Iterator[None]:
        """A call with `inputs` inside.

        Raises:
            SupernetError: the output depends on a number that the constructor drew at random.
        """
        if self._first:
            self._first = False
            check_numbers(self._supernet, self._arch, inputs)
        yield


def check_numbers(supernet: Supernet, arch: Arch, inputs: Inputs) -> None:
    """Refuse a plain attribute of one number or text that is drawn by the constructor and matters.

    Tensors, arrays and lists are refused when the supernet is made; single numbers may as well say when or where it was made.

    Raises:
        SupernetError: there is one.
    """
    numbers = supernet._shared.union.numbers
    if not numbers:
        return
    module = supernet._binding(arch).module
    found = sorted(numbers & attributes.leaves(module).keys())
    if found and effects.constructor_matters(supernet, arch, inputs):
        raise refusal(supernet.space, found[0])

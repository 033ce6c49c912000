"""Steps of a compression, as they are told: which of how many, what it does, and how it ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nas.errors import NasError
from nas.study.progress import reporter
from nas.train.log import Reporter

CONVERT, ORDER, WARM_UP, SEARCH = "convert", "order", "warm-up", "search"
RACE, TUNING, UNIFORM = "race", "tuning", "uniform scaling"


class Stages:
    """Tells a person how far a compression is: a line for each stage, beside what its trainings and studies say themselves.

    Args:
        names: of the stages, in order.
        show: False says nothing.
        folder: of the compression, for errors.
    """

    def __init__(self, names: Sequence[str], folder: Path, *, show: bool) -> None:
        self.names, self.folder, self.show = tuple(names), folder, show
        self._teller = reporter(show)

    def say(self, text: str) -> None:
        """A line that stays."""
        if self.show:
            self._teller.say(text)

    @contextmanager
    def stage(self, name: str, what: str) -> Iterator[None]:
        """Around a stage; an error of it names it, and says that what was made before is kept.

        Args:
            name: one of those that there are.
            what: is done in it.
        """
        where = f"{self.names.index(name) + 1}/{len(self.names)} {name}"
        self.say(f"{where}: {what}")
        try:
            yield
        except NasError as error:
            kept = (
                f"what was made before is kept in '{self.folder}', where the same call goes on, with other options too"
            )
            error.args = (f"{name}: {error}; {kept}", *error.args[1:])
            raise

    def steps(self, total: int, done: int, per_epoch: int) -> Reporter:
        """A bar or lines with an estimated end, for trainings that are made an epoch at a time.

        Args:
            total: optimizer steps of all of them.
            done: of earlier calls.
            per_epoch: of these.
        """
        return Reporter(total, show=self.show, done=done, per_epoch=per_epoch)

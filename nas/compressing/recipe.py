"""`nas.compress`: from a trained model and data to the best network within a budget.

A recipe over what there is: `nas.elastic` makes a space, `nas.reorder` puts what matters first, a study searches archs on a few
training batches, `nas.Trained` tunes the best of them beside uniform scaling.  Every step is kept in a folder and can be made by
itself; a killed compression goes on where it was.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from nas import files
from nas.checking import Count, Natural, Probability, checked
from nas.compressing import card
from nas.compressing.budgets import Budget, parse_budgets
from nas.compressing.calibration import DIVERGENCE, LOSS, Calibration
from nas.compressing.memory import Memory
from nas.compressing.profiling import Profile, check_metrics, profile, target_of
from nas.compressing.uniform import ladder, largest_within
from nas.convert.elastic import elastic
from nas.errors import NasError, StudyError, TrainError
from nas.evaluate import Accuracy, Costs, Latency, Once, Trained
from nas.evaluate.base import Evaluator
from nas.hardware import Target
from nas.search import Algorithm, Given, Surrogate
from nas.study import Study
from nas.study.progress import reporter
from nas.supernet import Supernet, reorder
from nas.text import human
from nas.train import Task
from nas.train.losses import digest

if TYPE_CHECKING:
    import pandas as pd

    from nas.space import Arch

BEYOND = 60  # trials of the search beside one for each alternative of each decision
SEARCH, TUNED = "search", "tuned"
STORE, SUPERNET, NOTE = "compress.db", "supernet", "compress.json"


@dataclass(frozen=True)
class Choice:
    """The network for one budget, tuned, beside uniform scaling.

    Attributes:
        budget: as it was asked.
        bound: the same in the metric's unit.
        number: of its trial in the study `tuned`.
        measured: of the tuned network, on the validation split.
        untuned: what the search measured.
        uniform: of uniform scaling, tuned by the same; None where no uniform network is within the budget.
        is_uniform: uniform scaling was the better one, and is the choice.
    """

    budget: Budget
    bound: float
    number: int
    arch: Arch
    measured: Mapping[str, float]
    untuned: Mapping[str, float]
    uniform: Mapping[str, float] | None
    is_uniform: bool


@dataclass(frozen=True)
class Compressed:
    """What `nas.compress` found.

    Attributes:
        profile: costs of the smallest, a middle and the original network.
        original: quality and costs of the original.
        choices: one for each budget.
        search: the study of untuned networks.
        tuned: the study of tuned ones.
        notes: what was decided, and why.
    """

    profile: Profile
    original: Mapping[str, float]
    choices: Sequence[Choice]
    search: Study
    tuned: Study
    folder: Path
    notes: Sequence[str] = field(default=())

    @property
    def front(self) -> pd.DataFrame:
        """Networks of the search that nothing is better than, measured before tuning."""
        return self.search.front()

    @property
    def model(self) -> nn.Module:
        """The tuned network of the first budget, of the original's class, in eval mode."""
        return self.model_of(0)

    def model_of(self, number: Natural) -> nn.Module:
        """The tuned network of budget 0, 1, …"""
        return self.tuned.extract(self.choices[number].number)

    def __str__(self) -> str:
        return "\n".join(self.notes)


@dataclass(frozen=True)
class Settings:
    """Options of a compression."""

    device: Target | None
    folder: Path
    epochs: int
    trials: int | None
    batches: int
    candidates: int
    teacher: float
    workers: int
    best: str
    algorithm: Algorithm | None
    training: Mapping[str, Any]
    say: Callable[[str], None]


@checked(NasError)
def compress(
    model: nn.Module | Supernet,
    task: Task,
    budget: Any,
    *,
    device: Target | str | None = None,
    folder: str | Path = "compressed",
    epochs: Count = 5,
    trials: Count | None = None,
    batches: Count = 8,
    candidates: Count = 3,
    teacher: Probability = 0.5,
    best: str = "",
    algorithm: Algorithm | None = None,
    workers: Natural = 0,
    options: Mapping[str, Any] | None = None,
    progress: bool = True,
    **training: Any,
) -> Compressed:
    """The best network within a budget that is left of a trained one.

    >>> result = nas.compress(model, task, "latency_ms <= 0.6 * original", device="cpu")  # doctest: +SKIP
    >>> result.model, result.front  # doctest: +SKIP

    Args:
        model: trained; left as it is.  Or a supernet with its weights, whose space is searched.
        task: data, loss and metrics; its training split is what networks are searched and tuned on.
        budget: the most that a network may cost: "latency_ms <= 5", "params <= 0.5 * original", "macs <= 60%", "50%" (of the
            latency where a device is given, else of the operations); several are searched at once.
        device: where latency is measured: "cpu", "cpu,threads=2", a `nas.Device`, `nas.Command` or `nas.Custom`.
        folder: of everything that is made; a killed compression goes on there.
        epochs: of the tuning of each network that is chosen.
        trials: networks that the search measures; one for each alternative of each decision and 60 more unless given.
        batches: training batches that they are measured on.
        candidates: networks of a budget that are tuned for an epoch, before the best of them is tuned to the end; uniform
            scaling is one.
        teacher: weight of the original's outputs in the loss of tuning; the rest is the labels'.
        best: metric that decides between tuned networks, as "max accuracy"; "min loss" unless given.
        algorithm: of the search.
        workers: processes of the search; 0 is this one.
        options: of `nas.elastic`.
        progress: say what is done.
        training: options of `nas.Training` for the tuning: lr=, optimizer=, …

    Raises:
        MetricError: a budget is not understood, on what nothing measures, or below the smallest network.
        SpaceError: nothing of the model is elastic.
    """
    settings = Settings(
        device=None if device is None else target_of(device),
        folder=Path(folder),
        epochs=epochs,
        trials=trials,
        batches=batches,
        candidates=candidates,
        teacher=teacher if task.divergence is not None else 0.0,
        workers=workers,
        best=best or "min loss",
        algorithm=algorithm,
        training=dict(training),
        say=reporter(True).say if progress else _quiet,
    )
    budgets = parse_budgets(budget, "macs" if device is None else "latency_ms")
    check_metrics(budgets, settings.device)
    return Compression(model, task, budgets, settings, dict(options or {})).run()


class Compression:
    """One call of `compress`, a method for each step."""

    def __init__(
        self,
        model: nn.Module | Supernet,
        task: Task,
        budgets: Sequence[Budget],
        settings: Settings,
        options: dict[str, Any],
    ) -> None:
        self.model, self.task, self.budgets, self.settings, self.options = model, task, budgets, settings, options
        self.notes: list[str] = []

    def run(self) -> Compressed:
        """All of it."""
        net = self.supernet()
        costs = self.costs(net)
        found = profile(net, self.budgets, device=self.settings.device)
        found.check()
        self.say(str(found))
        original = {**Accuracy(net, self.task)(net.space.largest), **found.original}
        search = self.search(net, costs)
        tuned, choices = self.tune(net, costs, search, found)
        self.conclude(original, choices)
        result = Compressed(found, original, choices, search, tuned, self.settings.folder, tuple(self.notes))
        with files.explained(self.settings.folder, StudyError):
            files.write(self.settings.folder / "README.md", card.markdown(result))
            files.write(self.settings.folder / "report.html", card.page(result))
        return result

    def say(self, text: str) -> None:
        """Tell what was decided, now and in the result."""
        self.notes.append(text)
        self.settings.say(text)

    # -- the steps

    def supernet(self) -> Supernet:
        """The model with every width in order of importance, kept in the folder."""
        folder = self.settings.folder
        given = self.model
        space = given.space if isinstance(given, Supernet) else elastic(given, self.task.example, **self.options)
        self._remember(given)
        if (folder / SUPERNET).exists():
            return Supernet.load(folder / SUPERNET, space)
        net = (
            copy.deepcopy(given)
            if isinstance(given, Supernet)
            else Supernet(space, example=self.task.example, weights=given)
        )
        try:
            reorder(net)
        except NasError as error:
            self.say(f"widths stay in the model's order: {error}")
        net.save(folder / SUPERNET)
        self.say(f"space {space.name!r}: {len(space.decisions)} decisions, {space.shown_size} networks")
        return net

    def costs(self, net: Supernet) -> list[Evaluator]:
        """What measures the costs that budgets are about."""
        found: list[Evaluator] = [Costs(net), Memory(net)]
        return found if self.settings.device is None else [*found, Latency(net, self.settings.device)]

    def search(self, net: Supernet, costs: Sequence[Evaluator]) -> Study:
        """Networks measured on a few training batches, for every budget on the same metrics."""
        settings, quality = self.settings, Calibration(net, self.task, batches=self.settings.batches)
        judged = DIVERGENCE if DIVERGENCE in (quality.metrics or ()) else LOSS
        measured = Once(quality, _key, settings.folder / "measured")
        metrics = list(dict.fromkeys(budget.metric for budget in self.budgets))
        study = Study(
            f"{SEARCH}-{_named(metrics)}",
            space=net.space,
            objectives=[f"min {judged}", *(f"min {name}" for name in metrics)],
            evaluators=[measured, *costs],
            algorithm=settings.algorithm or Surrogate(),
            store=settings.folder / STORE,
            trials=settings.trials or alternatives(net.space) + BEYOND,
        )
        study.run(workers=settings.workers, progress=False)
        return study

    def tune(
        self, net: Supernet, costs: Sequence[Evaluator], search: Study, found: Profile
    ) -> tuple[Study, list[Choice]]:
        """For each budget the best networks of the search and uniform scaling, tuned."""
        settings = self.settings
        options = dict(settings.training)
        if settings.teacher:
            options |= {"teacher": net, "weight": settings.teacher}
        trained = Trained(self.task, settings.folder / TUNED, epochs=settings.epochs, start=net, **options)
        plans = [self._plan(net, costs, search, verdict.budget, verdict.constraint.bound) for verdict in found.verdicts]
        picked = [self._race(trained, archs, uniform) for archs, uniform in plans]
        wanted = list(
            dict.fromkeys(
                one
                for (_, uniform), arch in zip(plans, picked, strict=True)
                for one in (arch, uniform)
                if one is not None
            )
        )
        study = Study(
            f"{TUNED}-{_named([one.key for one in wanted])}",
            space=net.space,
            objectives=[
                settings.best,
                *(f"min {name}" for name in dict.fromkeys(budget.metric for budget in self.budgets)),
            ],
            evaluators=[trained, *costs],
            algorithm=Given(wanted),
            store=settings.folder / STORE,
            trials=len(wanted),
        )
        study.run(workers=0, progress=False)
        rows = study.trials()
        failed = rows[rows["state"] == "FAILED"]
        if len(failed):
            raise TrainError(f"tuning failed: {failed.iloc[0]['reason']}")
        numbers = {study.arch(int(number)).key: int(number) for number in rows.index}
        metric = study.objectives[0]
        choices = []
        for verdict, (_, uniform), arch in zip(found.verdicts, plans, picked, strict=True):
            mine, other = self._measured(study, numbers[arch.key]), None
            if uniform is not None:
                other = self._measured(study, numbers[uniform.key])
            is_uniform = other is not None and other[metric.name] * metric.sign < mine[metric.name] * metric.sign
            chosen = uniform if is_uniform and uniform is not None else arch
            measured = other if is_uniform and other is not None else mine
            before = search.record.lookup(chosen.key)
            choices.append(
                Choice(
                    verdict.budget,
                    verdict.constraint.bound,
                    numbers[chosen.key],
                    chosen,
                    measured,
                    {} if before is None else dict(before.measurements),
                    other,
                    is_uniform or uniform == arch,
                )
            )
        return study, choices

    def conclude(self, original: Mapping[str, float], choices: Sequence[Choice]) -> None:
        """A sentence for each budget."""
        name = self.settings.best.split()[-1]
        for one in choices:
            cost = one.measured[one.budget.metric]
            beside = "" if one.uniform is None else f"; uniform scaling {human(one.uniform[name])}"
            self.say(
                f"{one.budget}: {name} {human(one.measured[name])} (original {human(original[name])}{beside}) at "
                f"{one.budget.metric} {human(cost)}, {cost / original[one.budget.metric]:.1%} of the original"
            )

    # -- inside

    def _plan(
        self, net: Supernet, costs: Sequence[Evaluator], search: Study, budget: Budget, bound: float
    ) -> tuple[list[Arch], Arch | None]:
        """The best archs of the search within a budget, and uniform scaling."""
        rows = search.trials(f"{budget.metric} <= {bound!r}")
        rows = rows[rows["state"] == "COMPLETED"]
        if rows.empty:
            raise StudyError(f"the search found no network within the budget {budget}; give it more trials=")
        judged = search.objectives[0].name
        best = rows.sort_values(judged, kind="stable").index[: max(self.settings.candidates - 1, 1)]
        archs = [search.arch(int(number)) for number in best]
        one = next(one for one in costs if budget.metric in (one.metrics or ()))
        uniform = largest_within(ladder(net.space), lambda arch: one(arch)[budget.metric], bound)
        return archs, uniform

    def _race(self, trained: Trained, archs: Sequence[Arch], uniform: Arch | None) -> Arch:
        """The arch that is best after an epoch; all of these epochs are kept."""
        field_of = list(dict.fromkeys([*archs, *([uniform] if uniform is not None else [])]))
        if len(field_of) == 1 or self.settings.epochs == 1:
            return field_of[0]
        goal, name = self.settings.best.split()
        sign = 1.0 if goal == "min" else -1.0
        after = {arch: trained.up_to(arch, 1)[name] * sign for arch in field_of}
        return min(field_of, key=lambda arch: after[arch])

    def _measured(self, study: Study, number: int) -> dict[str, float]:
        return dict(study.record.trial(number).measurements)

    def _remember(self, given: nn.Module) -> None:
        """Note what is compressed, or refuse a folder of something else."""
        note = {"model": digest(given), "task": self.task.describe(), "options": self.options}
        text = json.dumps(note, sort_keys=True, default=str)
        path = self.settings.folder / NOTE
        if path.exists():
            if path.read_text(encoding="utf-8") != text:
                raise StudyError(
                    f"'{self.settings.folder}' holds the compression of another model, task or space; give another folder="
                )
            return
        with files.explained(path, StudyError):
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write(path, text)


def alternatives(space: Any) -> int:
    """How many archs differ from the largest in one decision."""
    return sum(max(len(decision.candidates) - 1, 1) for decision in space.decisions)


def _quiet(_text: str) -> None:
    """Nobody asked."""


def _key(arch: Arch) -> str:
    return arch.key


def _named(what: Sequence[str]) -> str:
    """A short name of some words."""
    return hashlib.blake2b("\0".join(what).encode(), digest_size=4).hexdigest()

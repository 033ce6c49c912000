"""`nas.compress`: from a trained model and data to the best network within a budget.

A recipe over what there is: `nas.elastic` makes a space, `nas.reorder` puts what matters first, a short training of the networks
near the budget makes what they lose comparable, a study searches them on a few training batches, `nas.Trained` tunes the best
beside uniform scaling.  Every step is kept in a folder and can be made by itself; a killed compression goes on where it was.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from nas import files
from nas.checking import Count, Natural, Probability, checked
from nas.compressing import card
from nas.compressing.budgets import Budget, parse_budgets
from nas.compressing.calibration import LOSS, Calibration
from nas.compressing.memory import Memory
from nas.compressing.near import Near
from nas.compressing.profiling import Profile, Verdict, check_metrics, profile, target_of
from nas.compressing.result import Choice, Compressed
from nas.compressing.settings import Settings, named
from nas.compressing.tuning import Tuning
from nas.compressing.uniform import ladder, largest_within
from nas.convert.elastic import elastic
from nas.errors import EvaluationError, NasError, StudyError
from nas.evaluate import Accuracy, Costs, Latency, Once
from nas.evaluate.base import Evaluator
from nas.hardware import Target
from nas.metrics import Constraint
from nas.search import Algorithm, Surrogate
from nas.space import Arch, Space
from nas.study import Study
from nas.study.progress import reporter
from nas.supernet import Supernet, reorder
from nas.text import human
from nas.train import Labels, Loss, Task, Teacher, Training
from nas.train.losses import digest

BEYOND = 60  # trials of the search beside one for each alternative of each decision
SEARCH, WITHIN = "search", "within"
SUPERNET, WARMED, MEASURED, NOTE = "supernet", "warmed", "measured", "compress.json"


@checked(NasError)
def compress(
    model: nn.Module | Supernet,
    task: Task,
    budget: Any,
    *,
    device: Target | str | None = None,
    folder: str | Path = "compressed",
    epochs: Count = 6,
    warmup: Natural | None = None,
    candidates: Count | None = None,
    trials: Count | None = None,
    batches: Count = 8,
    order: str = "fisher",
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
        epochs: of training, warm-up and race included; uniform scaling is trained by itself for as many.
        warmup: of them for all networks of about the budgets' sizes together, before the search; a third unless given.
        candidates: networks of a budget that are tuned for an epoch, before the best of them is tuned to the end; 2 where there
            are epochs for it.
        trials: networks that are measured, half of them within a budget (as many for each further one); one for each
            alternative of each decision and 60 more unless given.
        batches: training batches that they are measured on.
        order: importance score by which channels are put in order, as `nas.reorder` takes it.
        teacher: weight of the original's outputs in the loss; the rest is the labels'.  0 for tasks that compare no outputs.
        best: metric that decides between tuned networks, as "max accuracy"; "min loss" unless given.
        algorithm: of the search.
        workers: processes of the search; 0 is this one.
        options: of `nas.elastic`.
        progress: say what is done.
        training: options of `nas.Training` for warm-up and tuning: lr=, optimizer=, …

    Raises:
        MetricError: a budget is not understood, on what nothing measures, or below the smallest network.
        SpaceError: nothing of the model is elastic.
        EvaluationError: warm-up and race leave no epoch for tuning.
    """
    warm = epochs // 3 if warmup is None else warmup
    race = (2 if epochs - warm > 2 else 1) if candidates is None else candidates
    settings = Settings(
        device=None if device is None else target_of(device),
        folder=Path(folder),
        epochs=epochs,
        warmup=warm,
        race=race,
        trials=trials,
        batches=batches,
        teacher=teacher if task.divergence is not None else 0.0,
        workers=workers,
        best=best or "min loss",
        order=order,
        algorithm=algorithm,
        training=dict(training),
        say=reporter(True).say if progress else _quiet,
    )
    if settings.tuning < 1:
        raise EvaluationError(
            f"epochs={epochs} with warmup={warm} and a race of {race} candidates leave {settings.tuning} epochs for tuning; give "
            f"at least {warm + race} epochs"
        )
    budgets = parse_budgets(budget, "macs" if device is None else "latency_ms")
    check_metrics(budgets, settings.device)
    return Compression(model, task, budgets, settings, dict(options or {})).run()


class Compression:
    """One call of `compress`, a method for each step.

    Args:
        model: what is compressed.
        task: data, loss and metrics.
        budgets: at least one.
        settings: options.
        options: of `nas.elastic`.
    """

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
        settings = self.settings
        net = self.supernet()
        found = profile(net, self.budgets, device=settings.device)
        found.check()
        self.say(str(found))
        original = {**Accuracy(net, self.task)(net.space.largest), **found.original}
        warmed = self.warm(net, found)
        costs = self.costs(net)
        search = self.search(warmed, costs)
        tuning = Tuning(self.task, settings, costs, net, warmed)
        plans = [tuning.plan([self.within(warmed, costs, verdict), search], verdict) for verdict in found.verdicts]
        for plan in plans:
            self.say(str(plan))
        choices = tuning.run(plans)
        self.conclude(original, choices)
        result = Compressed(found, original, choices, search, settings.folder, tuple(self.notes))
        with files.explained(settings.folder, StudyError):
            files.write(settings.folder / "README.md", card.markdown(result))
            files.write(settings.folder / "report.html", card.page(result))
        return result

    def say(self, text: str) -> None:
        """Tell what was decided, now and in the result."""
        for line in text.splitlines():
            self.notes.append(line)
            self.settings.say(line)

    # -- the steps

    def supernet(self) -> Supernet:
        """The model with every width in order of importance, kept in the folder."""
        folder, given = self.settings.folder, self.model
        space = given.space if isinstance(given, Supernet) else elastic(given, self.task.example, **self.options)
        self._remember(given)
        self.say(f"space {space.name!r}: {len(space.decisions)} decisions, {space.shown_size} networks")
        if (folder / SUPERNET).exists():
            return Supernet.load(folder / SUPERNET, space)
        net = (
            copy.deepcopy(given)
            if isinstance(given, Supernet)
            else Supernet(space, example=self.task.example, weights=given)
        )
        try:
            reorder(net, by=self.settings.order, task=None if self.settings.order == "magnitude" else self.task)
        except NasError as error:
            self.say(f"channels stay in the model's order: {error}")
        net.save(folder / SUPERNET)
        return net

    def warm(self, net: Supernet, found: Profile) -> Supernet:
        """A copy after the training of networks near the budgets; the supernet itself without a warm-up."""
        settings = self.settings
        if not settings.warmup:
            return net
        archs = [self._near(net, found, number) for number in range(len(self.budgets))]
        targets = sorted({net.macs(arch) for arch in archs})
        loss: Loss = Labels()
        if settings.teacher:
            loss = Teacher(net.extract(net.space.largest), weight=settings.teacher)
        path = settings.folder / f"{WARMED}-{named([*map(str, targets), str(settings.warmup)])}"
        training = Training(
            copy.deepcopy(net),
            self.task,
            path=path,
            sampler=Near(net, targets),
            loss=loss,
            epochs=settings.warmup,
            **settings.training,
        )
        if not training.trained:
            training.run(progress=False)
        aimed = ", ".join(map(human, targets))
        self.say(f"warm-up: {training.steps} steps, one network of about {aimed} operations each")
        return training.load()

    def costs(self, net: Supernet) -> list[Evaluator]:
        """What measures the costs that budgets are about."""
        found: list[Evaluator] = [Costs(net), Memory(net)]
        return found if self.settings.device is None else [*found, Latency(net, self.settings.device)]

    def search(self, warmed: Supernet, costs: Sequence[Evaluator]) -> Study:
        """Networks of all sizes: quality beside what budgets are about."""
        metrics = list(dict.fromkeys(budget.metric for budget in self.budgets))
        study = self._study(SEARCH, warmed, costs, [f"min {LOSS}", *(f"min {name}" for name in metrics)])
        study.run(workers=self.settings.workers, progress=False)
        return study

    def within(self, warmed: Supernet, costs: Sequence[Evaluator], verdict: Verdict) -> Study:
        """Networks within a budget; what was measured in another study is not measured again."""
        study = self._study(WITHIN, warmed, costs, [f"min {LOSS}"], verdict.constraint)
        study.run(workers=self.settings.workers, progress=False)
        return study

    def _study(
        self,
        name: str,
        warmed: Supernet,
        costs: Sequence[Evaluator],
        objectives: Sequence[str],
        constraint: Constraint | None = None,
    ) -> Study:
        settings = self.settings
        quality = Calibration(warmed, self.task, batches=settings.batches)
        where = warmed.source[1] if warmed.source else ""
        trials = settings.trials or alternatives(warmed.space) + BEYOND
        return Study(
            f"{name}-{named([*objectives, str(constraint), where])}",
            space=warmed.space,
            objectives=objectives,
            constraints=[] if constraint is None else [constraint],
            evaluators=[Once(quality, _key, settings.folder / MEASURED), *costs],
            algorithm=settings.algorithm or Surrogate(),
            store=settings.store,
            trials=max(trials // 2, 1),
        )

    def conclude(self, original: Mapping[str, float], choices: Sequence[Choice]) -> None:
        """A sentence for each budget."""
        name, _ = self.settings.goal
        for one in choices:
            metric = one.budget.metric
            cost = one.chosen.measured[metric]
            beside = "" if one.uniform is None else f", uniform scaling {human(one.uniform.measured[name])}"
            which = "uniform scaling was better and is chosen" if one.is_uniform else "the found network is chosen"
            self.say(
                f"{one.budget}: {name} {human(one.found.measured[name])} (original {human(original[name])}{beside}) at {metric} "
                f"{human(cost)}, {cost / original[metric]:.1%} of the original; {which}"
            )

    # -- inside

    def _near(self, net: Supernet, found: Profile, number: int) -> Arch:
        """The largest uniform network within a budget, or the smallest of all."""
        verdict = found.verdicts[number]
        metric = verdict.budget.metric
        one = next(one for one in self.costs(net) if metric in (one.metrics or ()))
        arch = largest_within(ladder(net.space), lambda arch: one(arch)[metric], verdict.constraint.bound)
        return arch or net.space.smallest

    def _remember(self, given: nn.Module) -> None:
        """Note what is compressed, or refuse a folder of something else."""
        note = {
            "model": digest(given),
            "task": self.task.describe(),
            "options": self.options,
            "order": self.settings.order,
        }
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


def alternatives(space: Space) -> int:
    """How many archs differ from the largest in one decision."""
    return sum(max(len(decision.candidates) - 1, 1) for decision in space.decisions)


def _key(arch: Arch) -> str:
    return arch.key


def _quiet(_text: str) -> None:
    """Nobody asked."""

"""The last steps: which networks of a search are tuned, for how long, and beside what."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from nas import files
from nas.compressing.calibration import LOSS
from nas.compressing.family import Family, Members, members_of
from nas.compressing.profiling import Verdict
from nas.compressing.result import Choice, Tuned
from nas.compressing.settings import Settings, named, told
from nas.compressing.stages import RACE, TUNING, UNIFORM
from nas.compressing.uniform import ladder, largest_within
from nas.errors import StudyError, TrainError
from nas.evaluate import Accuracy, Trained
from nas.evaluate.base import Evaluator
from nas.metrics import Metric
from nas.search import Given
from nas.study import Study
from nas.study.retrying import FAILED
from nas.supernet import Supernet, checkpoint
from nas.text import human
from nas.train import Labels, Loss, Sampler, Task, Teacher, TeacherOutputs, Training

if TYPE_CHECKING:
    from torch import nn

    from nas.space import Arch

SUPERNET = "supernet"


@dataclass(frozen=True)
class Plan:
    """What is tuned for a budget.

    Attributes:
        archs: the best of the search within it, the best first.
        uniform: uniform scaling within it; None where there is none.
        measured: of the best, before it is tuned.
        tried: how many networks within the budget were measured.
    """

    verdict: Verdict
    archs: Sequence[Arch]
    uniform: Arch | None
    measured: Mapping[str, float]
    tried: int

    @property
    def share(self) -> float:
        """Of the budget, that the best costs."""
        return self.measured[self.verdict.budget.metric] / self.verdict.constraint.bound

    def __str__(self) -> str:
        return (
            f"search: {self.tried} networks within {self.verdict.budget}; the best has {LOSS} {human(self.measured[LOSS])} and "
            f"fills {self.share:.1%} of the budget"
        )


@dataclass(frozen=True)
class Measures:
    """What measures costs.

    Attributes:
        costs: of networks that are tuned.
        kept: the same, with times as they were measured first: uniform scaling within a budget stays what it was.
    """

    costs: Sequence[Evaluator]
    kept: Sequence[Evaluator]


class Tuning:
    """Tunes networks of a search.

    Args:
        task: what they learn.
        settings: of the compression.
        measures: what measures costs.
        original: the supernet before any training, with which uniform scaling begins.
        warmed: the supernet after the warm-up, with which networks of the search begin.
        teaching: the original as it came, and where its outputs are stored.
    """

    def __init__(
        self,
        task: Task,
        settings: Settings,
        measures: Measures,
        original: Supernet,
        warmed: Supernet,
        *,
        teaching: Teaching | None = None,
    ) -> None:
        self._task, self._settings, self._original, self._teaching = task, settings, original, teaching
        self._costs, self._kept, self._warmed = measures.costs, measures.kept, warmed
        self._tuned: dict[int, Trained] = {}
        self._uniform = self._trained("uniform", settings.epochs, original)

    def plan(self, searches: Sequence[Study], verdict: Verdict) -> Plan:
        """What is tuned for a budget.

        Raises:
            StudyError: the searches met no network within it.
        """
        metric, bound = verdict.budget.metric, verdict.constraint.bound
        found: dict[Arch, dict[str, float]] = {}
        failed: list[str] = []
        for search in searches:
            failed += [str(why) for why in search.trials(FAILED)["reason"]]
            rows = search.trials(f"{metric} <= {bound!r}")
            for number in rows[rows["state"] == "COMPLETED"].index:
                found.setdefault(search.arch(int(number)), dict(search.record.trial(int(number)).measurements))
        if not found:
            why = f"; {len(failed)} failed, the first because: {failed[0]}" if failed else ""
            raise StudyError(f"the search met no network within the budget {verdict.budget}; give it more trials={why}")
        cost, ranked = cost_by(metric, self._kept), sorted(found, key=lambda arch: found[arch][LOSS])
        # A search finds networks whose one noisy time was too short: what is tuned is measured again.
        archs = list(islice((arch for arch in ranked if cost(arch) <= bound), self._settings.race))
        archs = archs or [min(ranked, key=cost)]
        uniform = largest_within(ladder(archs[0].space), cost, bound)
        return Plan(verdict, archs, uniform, {**found[archs[0]], metric: cost(archs[0])}, len(found))

    def run(self, plans: Sequence[Plan]) -> list[Choice]:
        """The choice of each plan; what was tuned before is not tuned again."""
        winners = self._race(plans)
        alike: dict[Trained, list[Arch]] = {}  # winners of races that were as long
        for plan, arch in zip(plans, winners, strict=True):
            alike.setdefault(self._tuning(plan), []).append(arch)
        self._tune(TUNING, alike)
        wide = self._scaled(plans)
        studies = {trained: self._study("tuned", trained, archs, plans) for trained, archs in alike.items()}
        tuned = [_of(studies[self._tuning(plan)], arch) for plan, arch in zip(plans, winners, strict=True)]
        return self._choices(plans, tuned, self._study("uniform", self._uniform, wide, plans))

    def whole(self, verdict: Verdict, quality: Accuracy) -> Choice:
        """The original, for a budget that it is within."""
        largest = self._original.space.largest
        study = self._study("original", quality, [largest], [Plan(verdict, [largest], None, {}, 1)])
        return Choice(verdict.budget, verdict.constraint.bound, _of(study, largest), None, False, is_original=True)

    def family(self, plans: Sequence[Plan], search: Study) -> tuple[list[Choice], Family]:
        """The choice of each plan among networks that are tuned together."""
        settings = self._settings
        members = members_of(search, [plan.archs[0] for plan in plans], plans[0].verdict.budget.metric)
        epochs = settings.tuning(1)
        what = f"{len(members)} networks together, one a step, {epochs} epochs"
        with settings.stages.stage(TUNING, what):
            training, net = trained_together(
                self._warmed,
                self._task,
                settings,
                Together(Members(members), epochs),
                self._teaching,
            )
            assert training.path is not None
            folder = training.path / SUPERNET
            if checkpoint.held(folder)[0] is None:
                with files.explained(folder, StudyError):
                    net.save(folder)
            kept = Supernet.load(folder, net.space)
        wide = self._scaled(plans)
        found = self._study("family", Accuracy(kept, self._task), members, plans)
        uniform = self._study("uniform", self._uniform, wide, plans)
        assert found is not None
        best = [_best(found, members, plan, settings.best) for plan in plans]
        return self._choices(plans, best, uniform), Family(folder, kept, found)

    def _scaled(self, plans: Sequence[Plan]) -> list[Arch]:
        """Uniform scaling of each plan, trained by itself."""
        wide = list(dict.fromkeys(plan.uniform for plan in plans if plan.uniform))
        self._tune(UNIFORM, {self._uniform: wide} if wide else {})
        return wide

    def _tuning(self, plan: Plan) -> Trained:
        """Trains the networks of a plan, which have as many passes in all as uniform scaling."""
        epochs = self._settings.tuning(len(plan.archs))
        if epochs not in self._tuned:
            self._tuned[epochs] = self._trained("tuned", epochs, self._warmed)
        return self._tuned[epochs]

    def _tune(self, stage: str, archs: Mapping[Trained, Sequence[Arch]]) -> None:
        """Trains networks to the end, each by what trains it."""
        what = [_told(len(set(some)), trained.epochs) for trained, some in archs.items()]
        with self._settings.stages.stage(stage, "; ".join(what) or "none fits"):
            for trained, some in archs.items():
                self._train(trained, some, trained.epochs)

    def _choices(self, plans: Sequence[Plan], found: Sequence[Tuned], uniform: Study | None) -> list[Choice]:
        """Of each plan what was found, what that was before it was tuned, and uniform scaling."""
        quality, archs = Accuracy(self._warmed, self._task), [one.arch for one in found]
        begun = self._warmed.source[1] if self._warmed.source else ""
        before = self._study("untuned", quality, archs, plans, where=begun)
        return [self._choice(plan, one, _of(before, one.arch), uniform) for plan, one in zip(plans, found, strict=True)]

    def _choice(self, plan: Plan, found: Tuned, untuned: Tuned, uniform: Study | None) -> Choice:
        """The best of the three; what was tuned where they are equal, and what was found."""
        name, sign = self._settings.best.name, self._settings.best.sign
        other = None if plan.uniform is None else _of(uniform, plan.uniform)
        best = min(
            (one for one in (found, other, untuned) if one is not None), key=lambda one: one.measured[name] * sign
        )
        budget, bound = plan.verdict.budget, plan.verdict.constraint.bound
        return Choice(budget, bound, found, other, best is other, untuned=untuned, is_untuned=best is untuned)

    def _race(self, plans: Sequence[Plan]) -> list[Arch]:
        """For each plan the candidate that is best after an epoch, of which nothing is lost."""
        settings = self._settings
        if settings.race == 1:
            return [plan.archs[0] for plan in plans]
        counts = sorted({len(plan.archs) for plan in plans})
        many = " or ".join(map(str, counts)) + (" network" if counts == [1] else " networks")
        with settings.stages.stage(
            RACE, f"{many} for each budget{', no race' if counts == [1] else ', an epoch each'}"
        ):
            return [self._raced(plan) for plan in plans]

    def _raced(self, plan: Plan) -> Arch:
        """Of a plan the arch that is best after an epoch; its only one without any."""
        if len(plan.archs) == 1:
            return plan.archs[0]
        after = self._train(self._tuning(plan), plan.archs, 1)
        for arch in plan.archs:
            if math.isnan(after[arch]):
                name = self._settings.best.name
                raise TrainError(f"{name} of arch {arch.choices} is nan after an epoch; lower lr")
        return min(plan.archs, key=lambda arch: after[arch])

    def _train(self, trained: Trained, archs: Sequence[Arch], epochs: int) -> dict[Arch, float]:
        """Goes on with the training of each to so many epochs; what decides, to minimise.  Finished epochs are not made again."""
        name, sign = self._settings.best.name, self._settings.best.sign
        each, per_epoch = list(dict.fromkeys(archs)), max(1, trained.steps_per_epoch)
        done = sum(min(len(trained.progress(arch)), epochs) for arch in each)
        found: dict[Arch, float] = {}
        with self._settings.stages.steps(len(each) * epochs * per_epoch, done * per_epoch, per_epoch) as teller:
            for place, arch in enumerate(each):
                before = len(trained.progress(arch))
                for epoch, row in enumerate(islice(trained.each_epoch(arch), epochs), 1):
                    found[arch] = row[name] * sign
                    if epoch > before:
                        done += 1
                        teller.measured(done * per_epoch, f"network {place + 1}/{len(each)}, {name} {human(row[name])}")
        return found

    def _trained(self, name: str, epochs: int, start: Supernet) -> Trained:
        settings = self._settings
        options: dict[str, Any] = {**settings.training, "device": settings.train_device}
        if self._teaching is not None:
            options |= {"teacher": self._teaching.module, "weight": settings.teacher, "outputs": self._teaching.outputs}
        if self._teaching is not None and settings.hidden:
            options["hidden"] = settings.hidden
        return Trained(self._task, settings.folder / name, epochs=epochs, start=start, **options)

    def _study(
        self, name: str, quality: Evaluator, archs: Sequence[Arch], plans: Sequence[Plan], where: str = ""
    ) -> Study | None:
        """A study of these archs, run to its end; None without any.

        Args:
            name: of it, with a hash of what it measures.
            quality: what decides.
            archs: in order; each once.
            plans: say which costs are measured.
            where: the weights are, where `quality` does not say so.
        """
        wanted = list(dict.fromkeys(archs))
        if not wanted:
            return None
        settings, algorithm = self._settings, Given(wanted)
        metrics = [f"min {metric}" for metric in dict.fromkeys(plan.verdict.budget.metric for plan in plans)]
        objectives, evaluators = [str(settings.best), *metrics], [quality, *self._costs]
        study = Study(
            f"{name}-{named(objectives, told(evaluators, algorithm), *([where] if where else []))}",
            space=wanted[0].space,
            objectives=objectives,
            evaluators=evaluators,
            algorithm=algorithm,
            store=settings.store,
            trials=len(wanted),
        )
        study.run(workers=0, progress=False, retry_failed=True)
        failed = study.trials(FAILED)
        if len(failed):
            raise TrainError(f"tuning failed: {failed.iloc[0]['reason']}")
        return study


@dataclass(frozen=True)
class Teaching:
    """The original as a teacher.

    Attributes:
        module: with the BatchNorm statistics that it came with.
        outputs: where what it gives is stored; None runs it for each network.
    """

    module: nn.Module
    outputs: TeacherOutputs | None = None


@dataclass(frozen=True)
class Together:
    """A training of several networks.

    Attributes:
        sampler: which of them a step trains.
        epochs: of it.
        name: of its folder.
        is_first: before any other training.
    """

    sampler: Sampler
    epochs: int
    name: str = "family"
    is_first: bool = False

    def after(self, begun: str) -> list[str]:
        """What it began with, where that may be one of several."""
        return [] if self.is_first else [begun]


def trained_together(
    start: Supernet, task: Task, settings: Settings, together: Together, teaching: Teaching | None
) -> tuple[Training, Supernet]:
    """A copy of a supernet after the training of several of its networks; finished steps are not made again.

    Args:
        start: left as it is.
        task: what they learn.
        settings: of the compression.
        together: which networks, and for how long.
        teaching: the original; None teaches labels alone.
    """
    loss: Loss = Labels()
    if teaching is not None:
        loss = Teacher(teaching.module, weight=settings.teacher, outputs=teaching.outputs)
    options: dict[str, Any] = {"sampler": together.sampler, "loss": loss, "epochs": together.epochs}
    options |= {**settings.training, "device": settings.train_device}
    net = copy.deepcopy(start)
    config = Training(net, task, **options).config  # of other options in another place
    begun = start.source[1] if start.source else ""
    path = settings.folder / f"{together.name}-{named(config, *together.after(begun))}"
    training = Training(net, task, path=path, **options)
    if not training.trained:
        training.run(progress=settings.stages.show)
    return training, training.load()


def _told(networks: int, epochs: int) -> str:
    return f"{epochs} epochs" if networks == 1 else f"{networks} networks, {epochs} epochs each"


def _best(study: Study, members: Sequence[Arch], plan: Plan, best: Metric) -> Tuned:
    """The best of those within the budget as they were measured; the search's best where none is."""
    metric, bound = plan.verdict.budget.metric, plan.verdict.constraint.bound
    tuned = [_of(study, arch) for arch in members]
    within = [one for one in tuned if one.measured[metric] <= bound]
    return min(within, key=lambda one: one.measured[best.name] * best.sign) if within else _of(study, plan.archs[0])


def cost_by(metric: str, evaluators: Sequence[Evaluator]) -> Callable[[Arch], float]:
    """What gives a metric of an arch."""
    one = next(one for one in evaluators if metric in (one.metrics or ()))
    return lambda arch: one(arch)[metric]


def _of(study: Study | None, arch: Arch) -> Tuned:
    found = None if study is None else study.record.lookup(arch.key)
    assert study is not None
    assert found is not None, "every arch of the study was evaluated"
    return Tuned(study, found.number, arch, dict(found.measurements))

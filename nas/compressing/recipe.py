"""`nas.compress`: from a trained model and data to the best network within a budget.

A recipe over what there is: `nas.elastic` makes a space, `nas.reorder` puts what matters first, a study searches networks by
their loss on a few training batches, `nas.Trained` tunes the best beside uniform scaling.  Every step is kept in a folder and can
be made by itself; a killed compression goes on where it was.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from nas import files
from nas.checking import Count, Natural, NonNegative, Probability, checked
from nas.compressing import card
from nas.compressing.budgets import Budget, parse_budgets
from nas.compressing.calibration import LOSS, Calibration, first_batches
from nas.compressing.filling import filled, larger
from nas.compressing.kept import Kept, kept
from nas.compressing.memory import Cache
from nas.compressing.near import Near
from nas.compressing.profiling import Profile, Verdict, check_metrics, memory_of, profile
from nas.compressing.refusing import check_fits, check_hidden, check_stored, check_training, goal_of, weight_of
from nas.compressing.result import Choice, Compressed, Turns
from nas.compressing.settings import Settings, named, told
from nas.compressing.stages import CONVERT, ORDER, RACE, SEARCH, TUNING, UNIFORM, WARM_UP, Stages
from nas.compressing.tuning import SUPERNET, Measures, Plan, Teaching, Together, Tuning, cost_by, trained_together
from nas.compressing.turns import Beside, in_turns
from nas.compressing.uniform import ladder, largest_within
from nas.convert.elastic import ElasticSpace, elastic
from nas.errors import EvaluationError, NasError, StudyError
from nas.evaluate import Accuracy, Costs, Latency, Once
from nas.evaluate.base import Evaluator
from nas.hardware import Device, Target, target_of
from nas.hardware.idle import wait_for_quiet, wait_s
from nas.identity import code_changes, jsonable, same
from nas.metrics import Constraint
from nas.search import Algorithm, Given, Surrogate
from nas.space import Arch, Space
from nas.study import Study
from nas.supernet import Supernet, checkpoint, factorize, fit_linear, reorder
from nas.supernet.scores import Data, chosen
from nas.text import human
from nas.train import Labels, Task, TeacherOutputs, Training, Uniform
from nas.train.losses import digest
from nas.train.trainer import device_named
from nas.train.validate import device_of, evaluating

BEYOND = 60  # trials of the search beside one for each alternative of each decision
WARMED, MEASURED, TIMES, NOTE = "warmed", "measured", "times", "compress.json"
OUTPUTS = "outputs"
CONFIRMING = 16  # rounds of the times of what may be tuned
GIB = 2**30
TOLD_GIB = 0.1
SAME = "the found network and uniform scaling are one network, which is chosen"
STORED_GIB = 4.0  # of outputs that are stored without being asked for


@checked(NasError)
def compress(
    model: nn.Module | Supernet,
    task: Task,
    budget: Any,
    *,
    device: Target | str | None = None,
    folder: str | Path = "compressed",
    epochs: Count = 6,
    warmup: Natural = 0,
    candidates: Count | None = None,
    trials: Count | None = None,
    batches: Count = 8,
    order: str = "group_fisher",
    teacher: Probability | None = None,
    hidden: NonNegative = 0.0,
    stored: bool | None = None,
    tune: Literal["network", "family"] = "network",
    train_device: str = "cpu",
    best: str = "",
    algorithm: Algorithm | None = None,
    fill: bool = True,
    workers: Natural = 0,
    options: Mapping[str, Any] | None = None,
    cache: Cache | None = None,
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
            latency where a device is given, else of the operations).  Several, in a list or separated by commas, are searched at
            once and have one network each: see `result.choices`.
        device: where latency is measured: "cpu", "cpu,threads=2", a `nas.Device`, `nas.Command` or `nas.Custom`.
        folder: of everything that is made; a killed compression goes on there.
        epochs: of training, warm-up and race included; uniform scaling is trained by itself for as many.
        warmup: of them for all networks of about the budgets' sizes together, before the search.
        candidates: networks of a budget that are tuned for an epoch, before the best of them is tuned to the end; 2 where there
            are epochs for it.
        trials: networks that are measured, half of them within a budget (as many for each further one); one for each
            alternative of each decision and 60 more unless given.
        batches: training batches that they are measured on.
        order: importance score by which channels are put in order, as `nas.reorder` takes it.
        teacher: weight of the original's outputs in the loss; the rest is the labels'.  Half unless given, and 0 for a task that
            does not compare outputs.
        hidden: weight of how far layers' outputs are from the original's while one network is tuned, of layers whose channels
            were not cut: see `nas.Trained`.
        stored: keep the original's outputs for every training batch in the folder, so that it runs once for all networks; None
            does where they take up to 4 GiB.
        tune: "network" tunes one network for each budget; "family" the front of the search and the best within each budget
            together, as one supernet, one network a step: `result.family` has all of them, each a little worse than alone.
        train_device: where networks are trained, and measured before they are: "cpu", "cuda", "cuda:1".
        best: metric of the task that decides between tuned networks, as "max accuracy"; "min loss" unless given.
        algorithm: of the search.
        fill: make what the search found larger, a candidate at a time, while it stays within the budget and loses no more; for
            it at most as many networks are measured as in a study of the search.
        workers: processes of the search; 0 is this one.
        options: of `nas.elastic`.
        cache: (batch, length) of sequences that a decoder writes: counts its key-value cache, for budgets as "memory_mib <= 50%"
            (weights and cache) or "cache_mib <= 64", which need it.
        progress: say which stage it is at, how far that is and when it ends, and what was decided.
        training: options of `nas.Training` for warm-up and tuning: lr=, optimizer=, …

    A budget that the original is within has the original as its choice, and nothing is trained for it.

    On a device of this machine every latency is measured in turns with the original's, which has what it had first: what else
    runs slows both, though not alike, so that it waits for a quiet machine first (NAS_WAIT_S seconds at most, 60 unless set).
    What is about to be tuned is measured again, for longer, and given up where it is above the budget; and what was tuned once
    more at the end (`Choice.turns`).

    A second call in the folder uses again what was made with the same options and makes the rest: with another lr= what is
    trained, with other batches= the search, too.  Another model, task, space or order needs another folder; a model of
    equal weights with another attribute, function or code of `forward` is another one.

    Raises:
        MetricError: a budget is not understood, on what nothing measures, or below the smallest network; or `best` is on what
            the task does not measure.
        SpaceError: nothing of the model is elastic.
        EvaluationError: model and task do not fit; the model gives other outputs at each call; an option has no effect; or
            warm-up and race leave no epoch for tuning.
        StudyError: the folder is a file, or of another compression.
        TrainError: a training diverged; the same call goes on, with a lower lr= too.
    """
    asked = _unlike_defaults(locals())
    metric = goal_of(best, task)
    weight = weight_of(teacher, task)
    check_training(training)
    check_stored(stored, weight, task)
    check_hidden(hidden, weight, tune, stored)
    if order != "magnitude":  # which needs no data
        chosen(order, Data(task=task))
    device_named(train_device)
    if tune == "family" and candidates is not None:
        raise EvaluationError(
            f"candidates={candidates} has no effect with tune='family', which tunes the best networks together; leave it out"
        )
    race = (2 if epochs - warmup > 2 and tune == "network" else 1) if candidates is None else candidates
    if epochs - warmup - (race - 1) < 1:
        raise EvaluationError(
            f"epochs={epochs} with warmup={warmup} and a race of {race} candidates leave no epoch for tuning; give at least "
            f"epochs={warmup + race}"
        )
    target = None if device is None else target_of(device)
    budgets = parse_budgets(budget, "macs" if device is None else "latency_ms")
    check_metrics(budgets, target, cache=cache)
    path = Path(folder)
    names = [CONVERT, ORDER, *([WARM_UP] if warmup else []), SEARCH, *([RACE] if race > 1 else []), TUNING, UNIFORM]
    settings = Settings(
        device=target,
        folder=path,
        epochs=epochs,
        warmup=warmup,
        race=race,
        trials=trials,
        batches=batches,
        teacher=weight,
        hidden=hidden,
        stored=stored,
        tune=tune,
        train_device=train_device,
        workers=workers,
        best=metric,
        order=order,
        algorithm=algorithm,
        fill=fill,
        cache=cache,
        training=dict(training),
        stages=Stages(names, path, show=progress),
    )
    check_fits(model, task)
    return Compression(model, task, budgets, settings, dict(options or {}), asked=asked).run()


def _unlike_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a call of `compress` that decide something and are not as they are by default; those of trainings after them."""
    usual = {name: one.default for name, one in inspect.signature(compress).parameters.items()}
    told = {"model", "task", "budget", "folder", "progress", "training"}
    ours = {name: value for name, value in given.items() if name not in told and not _same(value, usual[name])}
    return {**ours, **given["training"]}


def _same(value: Any, usual: Any) -> bool:
    return value is usual or value == {} or (type(value) is type(usual) and bool(value == usual))


class Compression:
    """One call of `compress`, a method for each step.

    Args:
        model: what is compressed.
        task: data, loss and metrics.
        budgets: at least one.
        settings: options.
        options: of `nas.elastic`.
        asked: options of the call that are not the defaults.
    """

    def __init__(
        self,
        model: nn.Module | Supernet,
        task: Task,
        budgets: Sequence[Budget],
        settings: Settings,
        options: dict[str, Any],
        *,
        asked: Mapping[str, Any],
    ) -> None:
        self.model, self.task, self.budgets, self.settings, self.options = model, task, budgets, settings, options
        self.asked, self.notes = asked, list[str]()

    def run(self) -> Compressed:
        """All of it."""
        settings = self.settings
        self._remember()
        self.quiet()
        net, found = self.supernet()
        original = {**self._judge(net)(net.space.largest), **found.original}
        wanted = [verdict for verdict in found.verdicts if not verdict.wide]
        costs = self.costs(net)
        if wanted and self.task.divergence is None:
            self.say(
                f"{type(self.task).__name__} does not say how outputs of two networks are compared: labels alone teach"
            )
        if wanted:
            teaching = self.teaching(net)
            warmed = self.warm(net, wanted, teaching)
            tuning = Tuning(self.task, settings, Measures(costs, self._kept(net)), net, warmed, teaching=teaching)
            search, plans = self.searched(warmed, costs, wanted, tuning)
            if settings.tune == "family":
                of_plans, family = tuning.family(plans, search)
                self.say(f"family: {len(family.study.trials())} networks share the weights in '{family.folder}'")
            else:
                of_plans, family = tuning.run(plans), None
            made = dict(zip(wanted, of_plans, strict=True))
        else:
            family = None
            tuning, made = Tuning(self.task, settings, Measures(costs, self._kept(net)), net, net), {}
        for verdict in found.verdicts:
            if verdict.wide:
                made[verdict] = tuning.whole(verdict, self._judge(net))
        choices = self.timed(net, [made[verdict] for verdict in found.verdicts])
        self.conclude(original, choices)
        studied = search if wanted else choices[0].found.study
        result = Compressed(found, original, choices, studied, settings.folder, tuple(self.notes), family, self.asked)
        with files.explained(settings.folder, StudyError):
            files.write(settings.folder / "README.md", card.markdown(result))
            files.write(settings.folder / "report.html", card.page(result))
        return result

    def say(self, text: str) -> None:
        """Tell what was decided, now and in the result."""
        for line in text.splitlines():
            self.notes.append(line)
            self.settings.stages.say(line)

    def quiet(self) -> None:
        """Wait, for a bounded time, until this machine has room to measure latencies, and note where it had not.

        Once for a folder: a second call uses the latencies that are kept, and has the same note.
        """
        path, limit_s = self.settings.folder / TIMES / "machine.json", wait_s(None)
        if not isinstance(self.settings.device, Device) or not (limit_s or path.exists()):
            return

        def looked() -> dict[str, float]:
            say = self.settings.stages.say
            return {"quiet": float(wait_for_quiet(limit_s, say, how="NAS_WAIT_S=0 in the environment"))}

        if not kept(path, looked, ["quiet"])["quiet"]:
            self.say(
                "latencies are measured beside other work of this machine, which slows large networks more than small ones: on a "
                "quiet one a network takes a larger share of the original's time"
            )

    # -- the steps

    def supernet(self) -> tuple[Supernet, Profile]:
        """The model with every width in order of importance, kept in the folder, and what its networks cost.

        Raises:
            MetricError: a budget is below the smallest.
        """
        settings, given = self.settings, self.model
        folder = settings.folder / SUPERNET
        is_kept = checkpoint.held(folder)[0] is not None  # the folder alone may be left by a kill or a full disk
        with settings.stages.stage(CONVERT, f"{type(given).__name__} into a space"):
            space = given.space if isinstance(given, Supernet) else elastic(given, self.task.example, **self.options)
            self.say(f"space {space.name!r}: {len(space.decisions)} decisions, {space.shown_size} networks")
            if is_kept:
                net = Supernet.load(folder, space)
            elif isinstance(given, Supernet):
                net = copy.deepcopy(given)
            else:
                net = Supernet(space, example=self.task.example, weights=given)
            self._check_options(net)
        found = profile(net, self.budgets, evaluators=self._times(net), cache=settings.cache)
        found.check()
        self.say(str(found))
        with settings.stages.stage(ORDER, f"channels by {settings.order}" + (", kept" if is_kept else "")):
            if not is_kept:
                self._order(net)
                self._fit(net)
                net.save(folder)
        return net, found

    def _order(self, net: Supernet) -> None:
        by = self.settings.order
        try:
            reorder(net, by=by, task=None if by == "magnitude" else self.task)
        except NasError as error:
            self.say(f"channels stay in the model's order: {error}")

    def _fit(self, net: Supernet) -> None:
        """What stands for other parts of the model, as well as it can on data; a supernet that was given has its own."""
        space = net.space
        if isinstance(self.model, Supernet) or not isinstance(space, ElasticSpace):
            return
        if space.plan.mappable:
            found = fit_linear(net, task=self.task)
            best = min(found, key=lambda name: found[name])
            self.say(
                f"{len(found)} blocks may be linear maps; the best leaves {found[best]:.1%} of the variance of what "
                f"its block gives ({best})"
            )
        if space.plan.factors:
            errors = factorize(net, task=self.task)
            worst = max(errors, key=lambda name: errors[name])
            self.say(
                f"{len(errors)} layers may be two factors; at their largest ranks these leave at most {errors[worst]:.1%} of "
                f"what a layer gives ({worst})"
            )

    def teaching(self, net: Supernet) -> Teaching | None:
        """The original as it came: statistics of a few batches would make it a worse teacher.  None where labels alone teach."""
        if not self.settings.teacher:
            return None
        return Teaching(self._judge(net).extract(net.space.largest), self._outputs(net))

    def _outputs(self, net: Supernet) -> TeacherOutputs | None:
        """Where the original's outputs are stored; None where it runs for each network."""
        settings = self.settings
        if settings.stored is False or settings.hidden:
            return None
        gib = size_of_outputs(net, self.task, settings.epochs) / GIB
        if settings.stored is None and (not self.task.repeatable or gib > STORED_GIB):
            if self.task.repeatable:
                self.say(
                    f"the original runs for every network: its outputs would take {gib:.1f} GiB (stored=True keeps them)"
                )
            return None
        if gib >= TOLD_GIB:
            self.say(f"the original runs once for all networks: its outputs take about {gib:.1f} GiB in '{OUTPUTS}'")
        return TeacherOutputs(settings.folder / OUTPUTS, limit_gib=max(STORED_GIB, 1.1 * gib))

    def warm(self, net: Supernet, verdicts: Sequence[Verdict], teaching: Teaching | None) -> Supernet:
        """A copy after the training of networks near the budgets; the supernet itself without a warm-up."""
        settings = self.settings
        if not settings.warmup:
            return net
        targets = sorted({net.macs(self._near(net, verdict)) for verdict in verdicts})
        aimed = ", ".join(map(human, targets))
        what = f"{settings.warmup} epochs, one network of about {aimed} operations a step"
        with settings.stages.stage(WARM_UP, what):
            together = Together(Near(net, targets), settings.warmup, WARMED, is_first=True)
            training, warmed = trained_together(net, self.task, settings, together, teaching)
        self.say(f"warm-up: {training.steps} steps, one network of about {aimed} operations each")
        return warmed

    def searched(
        self, warmed: Supernet, costs: Sequence[Evaluator], verdicts: Sequence[Verdict], tuning: Tuning
    ) -> tuple[Study, list[Plan]]:
        """The search, within each budget too, and what is tuned."""
        stages, plans = self.settings.stages, []
        with stages.stage(SEARCH, f"{len(verdicts) + 1} studies of {self._trials(warmed)} networks each"):
            search = self.search(warmed, costs)
            for verdict in verdicts:
                studies = [self.within(warmed, costs, verdict), search]
                plans.append(self.grown(warmed, tuning, tuning.plan(studies, verdict), studies))
        for plan in plans:
            self.say(str(plan))
        return search, plans

    def costs(self, net: Supernet) -> list[Evaluator]:
        """What measures the costs that budgets are about."""
        found: list[Evaluator] = [Costs(net), memory_of(net, self.settings.cache)]
        return [*found, *self._clocks(net)]

    def search(self, warmed: Supernet, costs: Sequence[Evaluator]) -> Study:
        """Networks of all sizes: quality beside what budgets are about."""
        metrics = list(dict.fromkeys(budget.metric for budget in self.budgets))
        study = self._study("search", warmed, costs, [f"min {LOSS}", *(f"min {name}" for name in metrics)])
        study.run(workers=self.settings.workers, progress=self.settings.stages.show)
        return study

    def within(self, warmed: Supernet, costs: Sequence[Evaluator], verdict: Verdict) -> Study:
        """Networks within a budget; what was measured in another study is not measured again."""
        study = self._study("within", warmed, costs, [f"min {LOSS}"], verdict.constraint)
        study.run(workers=self.settings.workers, progress=self.settings.stages.show)
        return study

    def grown(self, warmed: Supernet, tuning: Tuning, plan: Plan, studies: Sequence[Study]) -> Plan:
        """The plan after its networks grew into what is left of its budget."""
        if not self.settings.fill:
            return plan
        found = tuning.plan([*studies, *self.filled(warmed, plan)], plan.verdict)
        if found.archs[0] != plan.archs[0]:
            self.say(
                f"fill: the best grew from {plan.share:.1%} to {found.share:.1%} of {plan.verdict.budget}, {LOSS} from "
                f"{human(plan.measured[LOSS])} to {human(found.measured[LOSS])}"
            )
        return found

    def filled(self, warmed: Supernet, plan: Plan) -> list[Study]:
        """Studies of what the plan's networks grow into, within its budget."""
        verdict = plan.verdict
        costs, sizes, studies = self._kept(warmed), Costs(warmed), list[Study]()
        cost, bound = cost_by(verdict.budget.metric, costs), verdict.constraint.bound

        def size(arch: Arch) -> tuple[float, float]:
            found = sizes(arch)
            return found["macs"], found["params"]

        def losses(archs: Sequence[Arch]) -> dict[Arch, float]:
            if not archs:
                return {}
            study = self._study("filled", warmed, costs, [f"min {LOSS}"], archs=archs)
            study.run(workers=self.settings.workers, progress=self.settings.stages.show)
            studies.append(study)
            found = {arch: study.record.lookup(arch.key) for arch in archs}
            return {arch: one.measurements[LOSS] for arch, one in found.items() if one and LOSS in one.measurements}

        for arch in plan.archs:
            filled(
                arch,
                wider=lambda one: larger(warmed.space, one, size, warmed.has),
                fits=lambda one: cost(one) <= bound,
                losses=losses,
                most=max(1, self._trials(warmed) // len(plan.archs)),
            )
        return studies

    def _study(
        self,
        name: str,
        warmed: Supernet,
        costs: Sequence[Evaluator],
        objectives: Sequence[str],
        constraint: Constraint | None = None,
        *,
        archs: Sequence[Arch] = (),
    ) -> Study:
        """Of the networks that the search asks for, or of some that are given."""
        settings = self.settings
        quality = Calibration(warmed, self.task, batches=settings.batches, device=settings.train_device)
        where = warmed.source[1] if warmed.source else ""
        evaluators = [Once(quality, _key, settings.folder / MEASURED), *costs]
        algorithm = Given(archs) if archs else settings.algorithm or Surrogate()
        bound = None if constraint is None else str(constraint)
        return Study(
            f"{name}-{named(list(objectives), bound, where, told(evaluators, algorithm))}",
            space=warmed.space,
            objectives=objectives,
            constraints=[] if constraint is None else [constraint],
            evaluators=evaluators,
            algorithm=algorithm,
            store=settings.store,
            trials=len(archs) or self._trials(warmed),
        )

    def _trials(self, net: Supernet) -> int:
        """Of each study."""
        return max((self.settings.trials or alternatives(net.space) + BEYOND) // 2, 1)

    def timed(self, net: Supernet, choices: Sequence[Choice]) -> list[Choice]:
        """Latencies of what was chosen, and of uniform scaling, in turns with the original's, on a device of this machine."""
        device = self.settings.device
        if not isinstance(device, Device) or all(one.is_original for one in choices):
            return list(choices)
        tuned = [each.arch for one in choices for each in (one.found, one.uniform) if each is not None]
        ms = in_turns(net, [net.space.largest, *tuned], device, self.settings.folder / TIMES)
        whole = ms[net.space.largest]
        return [
            replace(one, turns=Turns(whole, ms[one.found.arch], None if one.uniform is None else ms[one.uniform.arch]))
            for one in choices
        ]

    def conclude(self, original: Mapping[str, float], choices: Sequence[Choice]) -> None:
        """A sentence for each budget."""
        name = self.settings.best.name
        for one in choices:
            metric = one.budget.metric
            cost, whole = one.cost(original)
            if one.is_original:
                self.say(
                    f"{one.budget}: the original, with {metric} {human(cost)}, is within it and is chosen; nothing was trained"
                )
                continue
            beside = "" if one.uniform is None else f", uniform scaling {human(one.uniform.measured[name])}"
            which = "uniform scaling was better and is chosen" if one.is_uniform else "the found network is chosen"
            which = SAME if one.is_same else which
            which = "what it was before it was tuned is chosen" if one.is_untuned else which
            self.say(
                f"{one.budget}: {name} {human(one.found.measured[name])} (original {human(original[name])}{beside}) at {metric} "
                f"{human(cost)}, {cost / whole:.1%} of the original; {which}"
            )
            if one.untuned is not None and self._is_worse(one.found.measured[name], one.untuned.measured[name]):
                self.say(
                    f"{one.budget}: the found network was better before it was tuned, {name} {human(one.untuned.measured[name])}"
                    f"{', and is chosen as it was' if one.is_untuned else ''}; give a lower lr= or more epochs"
                )
            if more := one.excess(original):
                self.say(f"{one.budget}: {more}; ask for a little less")

    # -- inside

    def _judge(self, net: Supernet) -> Accuracy:
        """Quality of the original: with the BatchNorm statistics that the model came with, where it is one network."""
        return Accuracy(net, self.task, calibrate=isinstance(self.model, Supernet))

    def _is_worse(self, one: float, other: float) -> bool:
        """Whether the first value of what decides is the worse one."""
        sign = self.settings.best.sign
        return one * sign > other * sign

    def _near(self, net: Supernet, verdict: Verdict) -> Arch:
        """The largest uniform network within a budget, or the smallest of all."""
        cost = cost_by(verdict.budget.metric, self._kept(net))
        return largest_within(ladder(net.space), cost, verdict.constraint.bound) or net.space.smallest

    def _kept(self, net: Supernet) -> list[Evaluator]:
        return [Costs(net), memory_of(net, self.settings.cache), *self._times(net)]

    def _times(self, net: Supernet) -> list[Evaluator]:
        """What measures times for longer, kept: that budgets and what is trained for them are the same in a second call."""
        return [Kept(one, self.settings.folder / TIMES) for one in self._clocks(net, rounds=CONFIRMING)]

    def _clocks(self, net: Supernet, **options: Any) -> list[Evaluator]:
        """What measures times: beside the original's on this machine, by itself where another device measures."""
        match self.settings.device:
            case None:
                return []
            case Device() as device:
                return [Beside(net, device, self.settings.folder / TIMES, **options)]
            case other:
                return [Latency(net, other)]

    def _check_options(self, net: Supernet) -> None:
        """Refuse options of trainings that mean nothing before anything is made."""
        settings = self.settings
        Training(net, self.task, sampler=Uniform(1), loss=Labels(), epochs=settings.epochs, **settings.training)

    def _remember(self) -> None:
        """Note what is compressed, or refuse a folder of something else."""
        given = self.model
        note = {
            "model": digest(given),
            "task": self.task.describe(),
            "options": {name: jsonable(value) for name, value in self.options.items()},
            "order": self.settings.order,
            **({"space": given.space.fingerprint} if isinstance(given, Supernet) else {}),
        }
        text = json.dumps(note, sort_keys=True, default=str)
        path = self.settings.folder / NOTE
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            before = None
        except (OSError, ValueError) as error:
            raise StudyError(f"'{path}' cannot be read ({error}); give another folder=") from error
        if before is not None:
            differs = [what for what, now in json.loads(text).items() if _differs(before.get(what), now)]
            if differs:
                raise StudyError(
                    f"'{self.settings.folder}' holds the compression of another {' and '.join(differs)}; give another folder="
                )
            return
        with files.explained(path, StudyError):
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write(path, text)


def _differs(before: Any, now: Any) -> bool:
    """Whether what is compressed is another, or computed by other code."""
    return not same(before, now) or bool(code_changes(before, now))


def alternatives(space: Space) -> int:
    """How many archs differ from the largest in one decision."""
    return sum(max(len(decision.candidates) - 1, 1) for decision in space.decisions)


@torch.no_grad()
def size_of_outputs(net: Supernet, task: Task, epochs: int) -> int:
    """About how many bytes the largest network's outputs take, of all training batches of some epochs."""
    batch = first_batches(task, 1)[0].to(device_of(net))
    with evaluating(net):
        logits = task.logits(net(batch.inputs, net.space.largest))
    return logits.nbytes * task.steps_per_epoch * epochs


def _key(arch: Arch) -> str:
    return arch.key

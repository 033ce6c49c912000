"""Published searches on shared weights as settings of a training: a policy, which archs are trained, and what they are taught.

Each is what its authors' code does as far as it is a setting here, and its docstring says what is not.  Schedules are shares of
the training, and rates are theirs, for trainings of theirs: tens of thousands of steps of a policy.  In shorter ones its logits
hardly move; give `lr=`.  Options given by name replace theirs.

Second-order gradients of an architecture's loss are not here.
"""

from __future__ import annotations

from typing import Any

from nas.checking import Count, Positive, checked
from nas.errors import TrainError
from nas.train.estimators import MaskGates, Mixture, ScoreFunction
from nas.train.losses import Labels
from nas.train.policy import Cost, Policy
from nas.train.rewards import AbsoluteReward, LinearReward
from nas.train.samplers import Uniform, Widened

WARM = 0.25  # of TuNAS's training, without a policy


_IN_TURN: dict[str, Any] = {"share": 0.5, "warmup": 0.0, "lr": 3e-4, "betas": (0.5, 0.999), "weight_decay": 1e-3}
"""Of a policy in the programs of DARTS and GDAS: a step after each of the weights, on half of the training split."""


@checked(TrainError)
def tunas(cost: Cost, target: Positive, *, steps: Count, batch: Count = 64, **options: Any) -> dict[str, Any]:
    """TuNAS (Bender et al. 2020): a quarter of the training without a policy, then reward and weights on the same arch.

    Adam's rate is 3e-4 · batch / 256 and grows tenfold; the absolute reward is taken on four batches that are held out, against a
    moving average of 0.95.  In the first quarter the largest arch is trained with a probability that falls from 1 to 0.  Not
    here: all operations of a choice at once in that quarter, since here an arch has one.

    >>> settings = nas.train.published.tunas(nas.Costs(net), 2e6, steps=9000, metric="macs")  # doctest: +SKIP
    >>> nas.Training(net, task, steps=9000, **settings)  # doctest: +SKIP

    Args:
        cost: of an arch, as for `nas.Policy`.
        target: cost that is aimed at.
        steps: of the training.
        batch: samples of a batch of the weights.
        options: others of `nas.Policy`.
    """
    policy = Policy(
        cost,
        target,
        **{
            "reward": AbsoluteReward(-0.1),
            "estimator": ScoreFunction(1, baseline=0.95),
            "batches": 4,
            "warmup": WARM,
            "lr": 3e-4 * batch / 256,
            "growth": 10.0,
            **options,
        },
    )
    sampler = Widened(Uniform(1), max(1, round(WARM * steps)))
    return {"policy": policy, "sampler": sampler, "loss": Labels()}


@checked(TrainError)
def enas(cost: Cost | None = None, target: Positive | None = None, *, every: Count, **options: Any) -> dict[str, Any]:
    """ENAS (Pham et al. 2018): twenty archs for each step of the controller, weighted entropy, no warm-up.

    Adam at 1e-3; entropy 1e-4; a moving average of 0.99.  Its end, the best of a hundred draws on shared weights, is a study of
    100 trials with `nas.PolicySearch`.  Not here: the LSTM, in whose place decisions have logits of their own; and its steps
    are spread over the epoch instead of following it.

    >>> settings = nas.train.published.enas(every=10)  # doctest: +SKIP
    >>> nas.Training(net, task, steps=9000, **settings)  # doctest: +SKIP

    Args:
        cost: of an arch, as for `nas.Policy`; ENAS has none.
        target: cost that is aimed at.
        every: steps of the weights for one of the policy: a fiftieth of an epoch for theirs.
        options: others of `nas.Policy`.
    """
    policy = Policy(
        cost,
        target,
        every=every,
        **{"estimator": ScoreFunction(20, baseline=0.99), "warmup": 0.0, "lr": 1e-3, "entropy": 1e-4, **options},
    )
    return {"policy": policy, "sampler": Uniform(1), "loss": Labels()}


@checked(TrainError)
def proxylessnas(cost: Cost, target: Positive, **options: Any) -> dict[str, Any]:
    """ProxylessNAS (Cai, Zhu & Han 2019): binary gates, a third of the training without them, then a step of five.

    Adam at 1e-3; the loss and 0.1 · cost / target.  Gates of all options are felt at once, of the candidates' outputs where the
    model is `nas.train.Mixable`; elsewhere masks of the largest arch are in the place of paths, and decisions that cannot be
    masked have the score function of the same draw.  Not here: two paths drawn at a time; and logits begin at 0 instead of near
    it.

    >>> settings = nas.train.published.proxylessnas(nas.Costs(net), 2e6, metric="macs")  # doctest: +SKIP
    >>> nas.Training(net, task, steps=9000, **settings)  # doctest: +SKIP

    Args:
        cost: of an arch, as for `nas.Policy`: it is asked for every option of a step, so give a predictor or exact counts.
        target: cost in whose units costs are paid.
        options: others of `nas.Policy`.
    """
    policy = Policy(
        cost,
        target,
        **{
            "reward": LinearReward(-0.1),
            "estimator": MaskGates(1),
            "warmup": 1 / 3,
            "every": 5,
            "lr": 1e-3,
            **options,
        },
    )
    return {"policy": policy, "sampler": Uniform(1), "loss": Labels()}


@checked(TrainError)
def gdas(**options: Any) -> dict[str, Any]:
    """GDAS (Dong & Yang 2019): an arch drawn with Gumbel noise, felt through its softmax, whose temperature falls from 10 to 0.1.

    Adam at 3e-4 with betas (0.5, 0.999) and a decay of 1e-3; half of the training split is the policy's; a step after each of the
    weights, from the first.  Gates are those of operations where the model is `nas.train.Mixable`, and else masks of the
    largest arch.

    >>> settings = nas.train.published.gdas()  # doctest: +SKIP
    >>> nas.Training(net, task, steps=9000, **settings)  # doctest: +SKIP

    Args:
        options: others of `nas.Policy`; GDAS knows no cost.
    """
    policy = Policy(**{"estimator": MaskGates(1, (10.0, 0.1)), **_IN_TURN, **options})
    return {"policy": policy, "sampler": Uniform(1), "loss": Labels()}


@checked(TrainError)
def darts(**options: Any) -> dict[str, Any]:
    """First-order DARTS (Liu, Simonyan & Yang 2019): weights and logits in turn on one mixture of all options by their softmax.

    Adam at 3e-4 with betas (0.5, 0.999) and a decay of 1e-3; half of the training split is the policy's; a step after each of the
    weights, from the first.  Where the model is `nas.train.Mixable` outputs of operations are mixed, as theirs; elsewhere masked
    weights of the largest arch, as in "Weight-Entanglement Meets Gradient-Based Neural Architecture Search".  Its end is
    `Policy.likeliest`: the likeliest option of each decision, zero included.

    Not here: the second order; BatchNorm without scale and shift in the mixture; the choice of two inputs a node, which is a rule
    of their cell; logits that begin near 0 instead of at it; and the weights' SGD, which is
    `Training(optimizer="sgd", lr=0.025, floor=0.04, weight_decay=3e-4, clip=5.0)`.

    >>> settings = nas.train.published.darts()  # doctest: +SKIP
    >>> nas.Training(net, task, steps=9000, **settings)  # doctest: +SKIP

    Args:
        options: others of `nas.Policy`; DARTS knows no cost.
    """
    policy = Policy(**{"estimator": Mixture(), **_IN_TURN, **options})
    return {"policy": policy, "sampler": Uniform(1), "loss": Labels()}

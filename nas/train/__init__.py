"""Training one supernet for every arch of its space.

`train(supernet, task, sampler=…, loss=…)`: a sampler says which archs a step trains, a loss says what each is taught;
the two are independent and any pair works.

Task:       Task, Batch, Classification, recipe, digits, Shift
Own data:   Regression, Segmentation, MultiLabel, LanguageModel, Embedding; Task.of (Supervised), DataTask, averaged, Unlabelled
Samplers:   Sampler, Uniform, Sandwich, Widened, Bucketed
            Progressive, Phase (once-for-all's shrinking), Delayed (delayed shrinking), Attentive, BatchScore
            Fading (moves Fade from one layer to another while it trains; RepNorm), so that nas.fold merges it
Losses:     Loss, Step, Labels, Teacher (TeacherOutputs: it runs once), InPlace, Interpolated, Ramped, Snapshots, distillation
Divergences: Divergence, KL, StandardizedKL, BalancedKL, Hard, AdaptiveAlpha, DIST, MeanSquares, Binary, Similarities,
            SoftSimilarities (what InPlace and Teacher minimise)
Features:   Features (loss; layers by name), Comparison, Hint, Relative, AttentionTransfer, RKD, SimilarityPreserving;
            NormAndDirection (loss)
Modules:    train_modules (Deep Incubation, m2mKD), Hybrid, as_supernet (any ordinary module)
Nested:     AllGranularities, FixedList, TwoDimensional (samplers), Granular (loss), Nested (models that share a trunk)
Policies:   Policy (logits trained between the weights' steps), ScoreFunction, Flip, MaskGates, Mixture, Mixable (models that
            mix their candidates), AbsoluteReward, LinearReward, ProductReward; published (TuNAS, ENAS, ProxylessNAS, GDAS,
            DARTS as settings)
Exits:      SortedExits (sampler), ExitMean (loss)
Data:       LanguageModelling, BytePairs, python_corpus, text_files, image_folder, class_names
Dropping:   similarities, importance, drop, Similarity, Dropped (LLM-Drop)
Training:   Training, TrainResult, train, Schedule, subnet_metrics
Processes:  whole (for losses that relate samples); nas.distributed.run trains on several
"""

from nas.supernet.mixtures import Mixable
from nas.train import published
from nas.train.attentive import Attentive, BatchScore
from nas.train.buckets import Bucketed
from nas.train.comparisons import RKD, AttentionTransfer, Comparison, Hint, Relative, SimilarityPreserving
from nas.train.data import Shift, digits
from nas.train.delayed import Delayed, Ramped
from nas.train.directions import NormAndDirection
from nas.train.divergences import (
    DIST,
    KL,
    AdaptiveAlpha,
    BalancedKL,
    Binary,
    Divergence,
    Hard,
    MeanSquares,
    Similarities,
    SoftSimilarities,
    StandardizedKL,
)
from nas.train.dropping import Dropped, Similarity, drop, importance, similarities
from nas.train.estimators import Estimator, Flip, MaskGates, Mixture, ScoreFunction
from nas.train.exits import ExitMean, SortedExits
from nas.train.fading import Fade, Fading, RepNorm
from nas.train.features import Features
from nas.train.fitting import distillation
from nas.train.given import DataTask
from nas.train.granularities import AllGranularities, FixedList, Granular, TwoDimensional
from nas.train.images import class_names, image_folder
from nas.train.interpolated import Interpolated
from nas.train.losses import InPlace, Labels, Loss, Step, Teacher
from nas.train.modules import Hybrid, as_supernet, train_modules
from nas.train.outputs import TeacherOutputs
from nas.train.policy import Policy
from nas.train.rewards import AbsoluteReward, LinearReward, ProductReward, Reward
from nas.train.samplers import Sampler, Sandwich, Uniform, Widened
from nas.train.schedule import Schedule
from nas.train.shrinking import Phase, Progressive
from nas.train.snapshots import Snapshots
from nas.train.supervised import Supervised, averaged
from nas.train.synced import whole
from nas.train.task import Batch, Classification, Task, recipe
from nas.train.tasks import Embedding, LanguageModel, MultiLabel, Regression, Segmentation
from nas.train.text import BytePairs, LanguageModelling, python_corpus, text_files
from nas.train.trainer import Training, TrainResult, train
from nas.train.trunk import Nested
from nas.train.unlabelled import Unlabelled
from nas.train.validate import subnet_metrics

__all__ = [
    "DIST",
    "KL",
    "RKD",
    "AbsoluteReward",
    "AdaptiveAlpha",
    "AllGranularities",
    "AttentionTransfer",
    "Attentive",
    "BalancedKL",
    "Batch",
    "BatchScore",
    "Binary",
    "Bucketed",
    "BytePairs",
    "Classification",
    "Comparison",
    "DataTask",
    "Delayed",
    "Divergence",
    "Dropped",
    "Embedding",
    "Estimator",
    "ExitMean",
    "Fade",
    "Fading",
    "Features",
    "FixedList",
    "Flip",
    "Granular",
    "Hard",
    "Hint",
    "Hybrid",
    "InPlace",
    "Interpolated",
    "Labels",
    "LanguageModel",
    "LanguageModelling",
    "LinearReward",
    "Loss",
    "MaskGates",
    "MeanSquares",
    "Mixable",
    "Mixture",
    "MultiLabel",
    "Nested",
    "NormAndDirection",
    "Phase",
    "Policy",
    "ProductReward",
    "Progressive",
    "Ramped",
    "Regression",
    "Relative",
    "RepNorm",
    "Reward",
    "Sampler",
    "Sandwich",
    "Schedule",
    "ScoreFunction",
    "Segmentation",
    "Shift",
    "Similarities",
    "Similarity",
    "SimilarityPreserving",
    "Snapshots",
    "SoftSimilarities",
    "SortedExits",
    "StandardizedKL",
    "Step",
    "Supervised",
    "Task",
    "Teacher",
    "TeacherOutputs",
    "TrainResult",
    "Training",
    "TwoDimensional",
    "Uniform",
    "Unlabelled",
    "Widened",
    "as_supernet",
    "averaged",
    "class_names",
    "digits",
    "distillation",
    "drop",
    "image_folder",
    "importance",
    "published",
    "python_corpus",
    "recipe",
    "similarities",
    "subnet_metrics",
    "text_files",
    "train",
    "train_modules",
    "whole",
]

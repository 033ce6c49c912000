"""Neural architecture search over supernets.

Names are imported when they are first used (`nas.lazy`), so that `import nas` and `nas --help` cost no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas import lazy

if TYPE_CHECKING:
    from nas.compressing import Blocks as Blocks
    from nas.compressing import Budget as Budget
    from nas.compressing import Calibration as Calibration
    from nas.compressing import Memory as Memory
    from nas.compressing import compress as compress
    from nas.compressing import profile as profile
    from nas.compressing import sensitivities as sensitivities
    from nas.convert.elastic import ElasticSpace as ElasticSpace
    from nas.convert.elastic import elastic as elastic
    from nas.convert.ordering import order_depth as order_depth
    from nas.deploy import ElasticModel as ElasticModel
    from nas.deploy.export import export as export
    from nas.deploy.folding import fold as fold
    from nas.errors import Infeasible as Infeasible
    from nas.errors import NasError as NasError
    from nas.evaluate import Accuracy as Accuracy
    from nas.evaluate import Costs as Costs
    from nas.evaluate import Evaluation as Evaluation
    from nas.evaluate import Evaluator as Evaluator
    from nas.evaluate import Function as Function
    from nas.evaluate import Gated as Gated
    from nas.evaluate import Latency as Latency
    from nas.evaluate import Once as Once
    from nas.evaluate import Predicted as Predicted
    from nas.evaluate import Trained as Trained
    from nas.evaluate import evaluator as evaluator
    from nas.hardware import Command as Command
    from nas.hardware import Custom as Custom
    from nas.hardware import Device as Device
    from nas.hardware import measure as measure
    from nas.metrics import Constraint as Constraint
    from nas.metrics import Metric as Metric
    from nas.placement import needs as needs
    from nas.predict import FewShot as FewShot
    from nas.predict import Learned as Learned
    from nas.predict import LookUp as LookUp
    from nas.proxies import Proxies as Proxies
    from nas.remote import Remote as Remote
    from nas.search import LINAS as LINAS
    from nas.search import MCTS as MCTS
    from nas.search import NSGA2 as NSGA2
    from nas.search import REINFORCE as REINFORCE
    from nas.search import SMBO as SMBO
    from nas.search import Compose as Compose
    from nas.search import ConcurrentNAS as ConcurrentNAS
    from nas.search import DNASearch as DNASearch
    from nas.search import Exhaustive as Exhaustive
    from nas.search import Given as Given
    from nas.search import LocalSearch as LocalSearch
    from nas.search import MultiFidelity as MultiFidelity
    from nas.search import OptunaSearch as OptunaSearch
    from nas.search import PolicySearch as PolicySearch
    from nas.search import QualityDiversity as QualityDiversity
    from nas.search import RandomSearch as RandomSearch
    from nas.search import RegularizedEvolution as RegularizedEvolution
    from nas.search import RoBoT as RoBoT
    from nas.search import Source as Source
    from nas.search import Surrogate as Surrogate
    from nas.search import Transfer as Transfer
    from nas.space import Arch as Arch
    from nas.space import Space as Space
    from nas.space.model import model as model
    from nas.store import Store as Store
    from nas.study import Study as Study
    from nas.supernet import HESSO as HESSO
    from nas.supernet import Activations as Activations
    from nas.supernet import CentreCrop as CentreCrop
    from nas.supernet import Corner as Corner
    from nas.supernet import Example as Example
    from nas.supernet import Fisher as Fisher
    from nas.supernet import GroupFisher as GroupFisher
    from nas.supernet import KernelTransform as KernelTransform
    from nas.supernet import Layout as Layout
    from nas.supernet import Magnitude as Magnitude
    from nas.supernet import MeanActivation as MeanActivation
    from nas.supernet import Residuals as Residuals
    from nas.supernet import Score as Score
    from nas.supernet import Supernet as Supernet
    from nas.supernet import Taylor as Taylor
    from nas.supernet import check as check
    from nas.supernet import factorize as factorize
    from nas.supernet import fit_linear as fit_linear
    from nas.supernet import grow as grow
    from nas.supernet import reorder as reorder
    from nas.supernet import sequential as sequential
    from nas.train import DIST as DIST
    from nas.train import KL as KL
    from nas.train import RKD as RKD
    from nas.train import AbsoluteReward as AbsoluteReward
    from nas.train import AdaptiveAlpha as AdaptiveAlpha
    from nas.train import AllGranularities as AllGranularities
    from nas.train import AttentionTransfer as AttentionTransfer
    from nas.train import Attentive as Attentive
    from nas.train import BalancedKL as BalancedKL
    from nas.train import BatchScore as BatchScore
    from nas.train import Binary as Binary
    from nas.train import Bucketed as Bucketed
    from nas.train import Classification as Classification
    from nas.train import Delayed as Delayed
    from nas.train import Embedding as Embedding
    from nas.train import ExitMean as ExitMean
    from nas.train import Fade as Fade
    from nas.train import Fading as Fading
    from nas.train import Features as Features
    from nas.train import FixedList as FixedList
    from nas.train import Flip as Flip
    from nas.train import Granular as Granular
    from nas.train import Hard as Hard
    from nas.train import Hint as Hint
    from nas.train import InPlace as InPlace
    from nas.train import Interpolated as Interpolated
    from nas.train import Labels as Labels
    from nas.train import LanguageModel as LanguageModel
    from nas.train import LinearReward as LinearReward
    from nas.train import MaskGates as MaskGates
    from nas.train import MeanSquares as MeanSquares
    from nas.train import Mixture as Mixture
    from nas.train import MultiLabel as MultiLabel
    from nas.train import NormAndDirection as NormAndDirection
    from nas.train import Phase as Phase
    from nas.train import Policy as Policy
    from nas.train import ProductReward as ProductReward
    from nas.train import Progressive as Progressive
    from nas.train import Ramped as Ramped
    from nas.train import Regression as Regression
    from nas.train import RepNorm as RepNorm
    from nas.train import Sandwich as Sandwich
    from nas.train import ScoreFunction as ScoreFunction
    from nas.train import Segmentation as Segmentation
    from nas.train import Similarities as Similarities
    from nas.train import SimilarityPreserving as SimilarityPreserving
    from nas.train import Snapshots as Snapshots
    from nas.train import SoftSimilarities as SoftSimilarities
    from nas.train import SortedExits as SortedExits
    from nas.train import StandardizedKL as StandardizedKL
    from nas.train import Task as Task
    from nas.train import Teacher as Teacher
    from nas.train import TeacherOutputs as TeacherOutputs
    from nas.train import Training as Training
    from nas.train import TwoDimensional as TwoDimensional
    from nas.train import Uniform as Uniform
    from nas.train import Unlabelled as Unlabelled
    from nas.train import Widened as Widened
    from nas.train import as_supernet as as_supernet
    from nas.train import averaged as averaged
    from nas.train import digits as digits
    from nas.train import image_folder as image_folder
    from nas.train import python_corpus as python_corpus
    from nas.train import text_files as text_files
    from nas.train import train_modules as train_modules

__version__ = "0.1.0"

# public name -> module that defines it
_HOME = {
    "model": "nas.space",
    "Remote": "nas.remote",
    "Space": "nas.space",
    "Arch": "nas.space",
    "elastic": "nas.convert.elastic",
    "ElasticSpace": "nas.convert.elastic",
    "order_depth": "nas.convert.ordering",
    "compress": "nas.compressing",
    "profile": "nas.compressing",
    "sensitivities": "nas.compressing",
    "Blocks": "nas.compressing",
    "Budget": "nas.compressing",
    "Calibration": "nas.compressing",
    "Memory": "nas.compressing",
    "Supernet": "nas.supernet",
    "Example": "nas.supernet",
    "Corner": "nas.supernet",
    "Layout": "nas.supernet",
    "CentreCrop": "nas.supernet",
    "KernelTransform": "nas.supernet",
    "reorder": "nas.supernet",
    "factorize": "nas.supernet",
    "fit_linear": "nas.supernet",
    "grow": "nas.supernet",
    "Score": "nas.supernet",
    "Magnitude": "nas.supernet",
    "MeanActivation": "nas.supernet",
    "Activations": "nas.supernet",
    "Taylor": "nas.supernet",
    "Fisher": "nas.supernet",
    "GroupFisher": "nas.supernet",
    "HESSO": "nas.supernet",
    "check": "nas.supernet",
    "sequential": "nas.supernet",
    "Training": "nas.train",
    "Policy": "nas.train",
    "LinearReward": "nas.train",
    "Widened": "nas.train",
    "MaskGates": "nas.train",
    "Mixture": "nas.train",
    "Flip": "nas.train",
    "AbsoluteReward": "nas.train",
    "ProductReward": "nas.train",
    "ScoreFunction": "nas.train",
    "Classification": "nas.train",
    "averaged": "nas.train",
    "Task": "nas.train",
    "Segmentation": "nas.train",
    "Regression": "nas.train",
    "MultiLabel": "nas.train",
    "LanguageModel": "nas.train",
    "Embedding": "nas.train",
    "digits": "nas.train",
    "Uniform": "nas.train",
    "Sandwich": "nas.train",
    "Bucketed": "nas.train",
    "Progressive": "nas.train",
    "Phase": "nas.train",
    "AllGranularities": "nas.train",
    "FixedList": "nas.train",
    "TwoDimensional": "nas.train",
    "Granular": "nas.train",
    "Labels": "nas.train",
    "Teacher": "nas.train",
    "TeacherOutputs": "nas.train",
    "InPlace": "nas.train",
    "Interpolated": "nas.train",
    "Ramped": "nas.train",
    "KL": "nas.train",
    "Hard": "nas.train",
    "Similarities": "nas.train",
    "SoftSimilarities": "nas.train",
    "MeanSquares": "nas.train",
    "Binary": "nas.train",
    "AdaptiveAlpha": "nas.train",
    "BalancedKL": "nas.train",
    "StandardizedKL": "nas.train",
    "Unlabelled": "nas.train",
    "DIST": "nas.train",
    "Features": "nas.train",
    "NormAndDirection": "nas.train",
    "Hint": "nas.train",
    "AttentionTransfer": "nas.train",
    "RKD": "nas.train",
    "SimilarityPreserving": "nas.train",
    "Snapshots": "nas.train",
    "train_modules": "nas.train",
    "as_supernet": "nas.train",
    "Delayed": "nas.train",
    "Fade": "nas.train",
    "Fading": "nas.train",
    "RepNorm": "nas.train",
    "Residuals": "nas.supernet",
    "Attentive": "nas.train",
    "BatchScore": "nas.train",
    "SortedExits": "nas.train",
    "ExitMean": "nas.train",
    "python_corpus": "nas.train",
    "text_files": "nas.train",
    "image_folder": "nas.train",
    "Device": "nas.hardware",
    "Command": "nas.hardware",
    "Custom": "nas.hardware",
    "measure": "nas.hardware",
    "Accuracy": "nas.evaluate",
    "Costs": "nas.evaluate",
    "Latency": "nas.evaluate",
    "Predicted": "nas.evaluate",
    "Evaluation": "nas.evaluate",
    "Evaluator": "nas.evaluate",
    "evaluator": "nas.evaluate",
    "needs": "nas.placement",
    "Once": "nas.evaluate",
    "Gated": "nas.evaluate",
    "Trained": "nas.evaluate",
    "Function": "nas.evaluate",
    "Proxies": "nas.proxies",
    "ElasticModel": "nas.deploy",
    "export": "nas.deploy",
    "fold": "nas.deploy",
    "Learned": "nas.predict",
    "LookUp": "nas.predict",
    "FewShot": "nas.predict",
    "Metric": "nas.metrics",
    "Constraint": "nas.metrics",
    "Infeasible": "nas.errors",
    "NasError": "nas.errors",
    "Store": "nas.store",
    "Study": "nas.study",
    "RandomSearch": "nas.search",
    "Exhaustive": "nas.search",
    "Given": "nas.search",
    "RegularizedEvolution": "nas.search",
    "NSGA2": "nas.search",
    "Surrogate": "nas.search",
    "DNASearch": "nas.search",
    "OptunaSearch": "nas.search",
    "LINAS": "nas.search",
    "Compose": "nas.search",
    "ConcurrentNAS": "nas.search",
    "LocalSearch": "nas.search",
    "QualityDiversity": "nas.search",
    "MCTS": "nas.search",
    "SMBO": "nas.search",
    "REINFORCE": "nas.search",
    "PolicySearch": "nas.search",
    "RoBoT": "nas.search",
    "MultiFidelity": "nas.search",
    "Transfer": "nas.search",
    "Source": "nas.search",
}

__all__ = ["__version__", *_HOME]  # noqa: PLE0604 (the names are the keys above)


if not TYPE_CHECKING:
    __getattr__ = lazy.names(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted(__all__)

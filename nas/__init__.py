"""Neural architecture search over supernets.

Names are imported when they are first used, so that `import nas` and `nas --help` cost no torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# public name -> module that defines it
_HOME = {
    "model": "nas.space",
    "Space": "nas.space",
    "Arch": "nas.space",
    "Supernet": "nas.supernet",
    "Layout": "nas.supernet",
    "CentreCrop": "nas.supernet",
    "KernelTransform": "nas.supernet",
    "reorder": "nas.supernet",
    "Training": "nas.train",
    "Classification": "nas.train",
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
    "InPlace": "nas.train",
    "Interpolated": "nas.train",
    "Ramped": "nas.train",
    "KL": "nas.train",
    "Hard": "nas.train",
    "AdaptiveAlpha": "nas.train",
    "DIST": "nas.train",
    "Features": "nas.train",
    "Hint": "nas.train",
    "AttentionTransfer": "nas.train",
    "RKD": "nas.train",
    "SimilarityPreserving": "nas.train",
    "Snapshots": "nas.train",
    "train_modules": "nas.train",
    "as_supernet": "nas.train",
    "Delayed": "nas.train",
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
    "needs": "nas.placement",
    "Once": "nas.evaluate",
    "Trained": "nas.evaluate",
    "Function": "nas.evaluate",
    "Proxies": "nas.proxies",
    "ElasticModel": "nas.deploy",
    "export": "nas.deploy",
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
    "RegularizedEvolution": "nas.search",
    "NSGA2": "nas.search",
    "Surrogate": "nas.search",
    "DNASearch": "nas.search",
    "OptunaSearch": "nas.search",
    "LINAS": "nas.search",
    "ConcurrentNAS": "nas.search",
    "LocalSearch": "nas.search",
    "QualityDiversity": "nas.search",
    "MCTS": "nas.search",
    "SMBO": "nas.search",
    "REINFORCE": "nas.search",
    "RoBoT": "nas.search",
    "Transfer": "nas.search",
    "Source": "nas.search",
}

__all__ = ["__version__", *_HOME]  # noqa: PLE0604 (the names are the keys above)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        from nas.errors import suggest

        raise AttributeError(f"module 'nas' has no attribute {name!r}{suggest(name, _HOME)}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

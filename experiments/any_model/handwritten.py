"""Nets as people write them, all of them by name."""

from __future__ import annotations

import hand_attention
import hand_generators
import hand_graphs
import hand_images
import hand_recommendations
import hand_sequences
import hand_tables
import hand_transformers
from registry import MODELS

__all__ = [
    "MODELS",
    "hand_attention",
    "hand_generators",
    "hand_graphs",
    "hand_images",
    "hand_recommendations",
    "hand_sequences",
    "hand_tables",
    "hand_transformers",
]

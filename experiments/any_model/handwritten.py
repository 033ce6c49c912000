"""Nets as people write them, all of them by name."""

from __future__ import annotations

import hand_attention
import hand_images
import hand_sequences
import hand_tables
from registry import MODELS

__all__ = ["MODELS", "hand_attention", "hand_images", "hand_sequences", "hand_tables"]

"""Any Hugging Face configuration, small: one rule by the names of its fields, so that hundreds of architectures can
be tried."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

HEADS, GROUPED, WIDTH, HIDDEN, VOCABULARY, LAYERS = 4, 2, 64, 160, 211, 2

Rule = tuple[str, Callable[[int], int]]
RULES: tuple[Rule, ...] = (
    (r"(^|_)vocab(ulary)?_size$|^n_vocab$|^vocab$|codebook_size$|num_embeddings$", lambda _: VOCABULARY),
    (r"type_vocab_size", lambda value: min(value, 2)),
    (r"(num_key_value_heads|num_kv_heads|n_kv_heads|multi_query_group_num|num_key_value_groups)$", lambda _: GROUPED),
    (r"(attention_heads|num_heads|n_heads?|_heads|_head)$", lambda value: min(value, HEADS)),
    (
        r"(head_dim|d_kv|head_size|attention_head_size|kv_channels|qk_nope_head_dim|v_head_dim)$",
        lambda _: WIDTH // HEADS,
    ),
    (r"(qk_rope_head_dim|rotary_dim|rope_dim)$", lambda _: 8),
    (r"(kv_lora_rank|q_lora_rank)$", lambda _: 24),
    (
        r"(num_layers|n_layers?|_layers|_depth|num_blocks|num_hidden_layers|num_stages_layers)$",
        lambda value: min(value, LAYERS),
    ),
    (r"(num_experts_per_tok|moe_topk|top_k_experts|moe_k|moe_top_k)$", lambda value: min(value, 2)),
    (r"(num_(local_|routed_)?experts|n_routed_experts|num_experts|moe_num_experts)$", lambda value: min(value, 4)),
    (r"(n_group|topk_group|n_shared_experts|num_shared_experts)$", lambda value: min(value, 1)),
    (
        r"(intermediate_size|intermediate_dim|ffn_dim|d_ff|n_inner|d_inner|inner_dim|ffn_hidden_size|feed_forward_size|mlp_dim)$",
        lambda value: HIDDEN if value > HIDDEN else value,
    ),
    (
        r"(hidden_size|hidden_dim|d_model|n_embd|embed_dim|embedding_size|embedding_dim|emb_dim|_dim|dim|width|_size_per_head|channels|_width)$",
        lambda value: WIDTH if value > WIDTH else value,
    ),
    (
        r"(max_position_embeddings|n_positions|max_seq_len|max_sequence_length|n_ctx|max_source_positions|max_target_positions|seq_length)$",
        lambda value: min(value, 128),
    ),
    (r"^image_size$|input_image_size$", lambda _: 64),
    (r"(sliding_window|window_size)$", lambda value: min(value, 8)),
)


def shrunk(config: Any) -> Any:
    """`config`, a copy, with every width, depth, vocabulary and image of it small; configurations inside too."""
    config = copy.deepcopy(config)
    seen: set[int] = set()
    _shrink(config, seen)
    return config


def _shrink(config: Any, seen: set[int]) -> None:
    if id(config) in seen:
        return
    seen.add(id(config))
    for name, value in list(vars(config).items()):
        if hasattr(value, "to_dict"):
            _shrink(value, seen)
        else:
            small = _small(name, value)
            if small != value:
                try:
                    setattr(config, name, small)
                except (AttributeError, TypeError, ValueError):
                    continue


def _small(name: str, value: Any) -> Any:
    if isinstance(value, bool) or name.startswith("_"):
        return value
    if isinstance(value, int):
        if re.search(r"token_id$|_token_index$|_id$|(^|_)token$", name):
            return value if value < VOCABULARY else VOCABULARY - 1 - value % 40
        for pattern, rule in RULES:
            if re.search(pattern, name):
                return rule(value)
        return value
    if (
        isinstance(value, (list, tuple))
        and value
        and all(isinstance(each, int) and not isinstance(each, bool) for each in value)
    ):
        return type(value)(_numbers(name, list(value)))
    return value


def _numbers(name: str, values: list[int]) -> list[int]:
    """Lists are one number a stage."""
    if re.search(r"depths|layers|num_blocks|layer_counts", name):
        return [min(value, LAYERS) for value in values]
    if re.search(r"heads", name):
        return [min(value, HEADS) for value in values]
    if re.search(r"hidden_sizes|dims|channels|widths|embed_dim|out_features_dim", name) and max(values) > WIDTH:
        return [max(8, value * WIDTH // max(values) // 8 * 8) for value in values]
    return values

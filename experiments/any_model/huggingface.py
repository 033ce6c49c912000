"""Hugging Face architectures from tiny configurations: the first class of each model type that runs on inputs made
by rule.

`python experiments/any_model/huggingface.py` tries every model type that the installed transformers knows, and
writes those that run to `huggingface.json`; the experiment builds from that list.
"""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from case import Case
from shrink import VOCABULARY, shrunk
from torch import Tensor, nn

LISTED = Path(__file__).with_name("huggingface.json")
LARGEST = 40_000_000  # parameters: a configuration that the rule did not make small
LABELS = 5
TASKS = (
    "SEQUENCE_CLASSIFICATION",
    "CAUSAL_LM",
    "SEQ_TO_SEQ_CAUSAL_LM",
    "MASKED_LM",
    "IMAGE_CLASSIFICATION",
    "VIDEO_CLASSIFICATION",
    "SEMANTIC_SEGMENTATION",
    "DEPTH_ESTIMATION",
    "SPEECH_SEQ_2_SEQ",
    "CTC",
    "AUDIO_CLASSIFICATION",
    "IMAGE_TO_IMAGE",
    "TIME_SERIES_CLASSIFICATION",
    "TIME_SERIES_PREDICTION",
    "PRETRAINING",
    "IMAGE_TEXT_TO_TEXT",
    "TEXT_TO_WAVEFORM",
)
KEYS = (
    "logits",
    "logits_per_image",
    "prediction_logits",
    "predicted_depth",
    "reconstruction",
    "prediction_outputs",
    "waveform",
    "audio_values",
    "last_hidden_state",
    "pooler_output",
    "text_embeds",
    "image_embeds",
)
STATES = {"last_hidden_state", "pooler_output", "text_embeds", "image_embeds"}
"""Outputs as wide as the network itself: they get a head, as their users give them one."""


class Picked(nn.Module):
    """`inner`, called by keyword with the tensors of a positional call; one tensor of what it returns, through
    `head` if there is one."""

    def __init__(self, inner: nn.Module, names: tuple[str, ...], key: str | int, head: nn.Module | None = None) -> None:
        super().__init__()
        self.inner, self.head = inner, head
        self._names, self._key = names, key

    def forward(self, *tensors: Tensor) -> Tensor:
        found = self.inner(**dict(zip(self._names, tensors, strict=True)))[self._key]
        return found if self.head is None else self.head(found)


def texts(length: int = 13) -> Tensor:
    return torch.randint(5, VOCABULARY - 45, (1, length))


def inputs(config: Any, side: int) -> dict[str, Callable[[], Tensor]]:
    """Tensors by the names that forward methods use."""
    vision = getattr(config, "vision_config", config)
    channels = next(
        (c for c in (getattr(vision, n, None) for n in ("num_channels", "in_channels")) if isinstance(c, int)), 3
    )
    mels = next(
        (
            m
            for m in (
                getattr(config, n, None) for n in ("num_mel_bins", "feature_size", "n_mels", "input_feat_per_channel")
            )
            if isinstance(m, int)
        ),
        80,
    )
    frames = next((f for f in (getattr(config, n, None) for n in ("num_frames",)) if isinstance(f, int)), 4)
    return {
        "input_ids": texts,
        "attention_mask": lambda: torch.ones(1, 13, dtype=torch.long),
        "decoder_input_ids": lambda: texts(7),
        "pixel_values": lambda: torch.randn(1, channels, side, side),
        "pixel_values_video": lambda: torch.randn(1, frames, channels, side, side),
        "input_values": lambda: torch.randn(1, 4000),
        "input_values_channel": lambda: torch.randn(1, 1, 3840),
        "input_features": lambda: torch.randn(1, mels, 128),
        "input_features_last": lambda: torch.randn(1, 128, mels),
        "past_values": lambda: torch.randn(
            1, getattr(config, "context_length", 32) or 32, getattr(config, "num_input_channels", 1)
        ),
        "bbox": lambda: torch.randint(0, 100, (1, 13, 4)).sort(-1).values,
        "bbox_float": lambda: torch.rand(1, 13, 8),
    }


ATTEMPTS: tuple[tuple[str, ...], ...] = (
    ("input_ids",),
    ("input_ids", "decoder_input_ids"),
    ("input_ids", "bbox"),
    ("input_ids", "bbox_float"),
    ("pixel_values",),
    ("pixel_values_video",),
    ("pixel_values", "input_ids"),
    ("input_ids", "pixel_values"),
    ("pixel_values", "decoder_input_ids"),
    ("input_values",),
    ("input_values_channel",),
    ("input_values", "decoder_input_ids"),
    ("input_features",),
    ("input_features_last",),
    ("input_features", "decoder_input_ids"),
    ("input_features_last", "decoder_input_ids"),
    ("past_values",),
)


def build(entry: Mapping[str, Any]) -> Case:
    """The case of an entry of `huggingface.json`."""
    import transformers

    transformers.logging.set_verbosity_error()
    config = configuration(entry["config"])
    model = inner(getattr(transformers, entry["class"]), config)
    made = inputs(config, entry["side"])
    tensors = tuple(made[each]() for each in entry["inputs"])
    names = tuple(
        each.split("_video")[0].split("_channel")[0].split("_float")[0].split("_last")[0] for each in entry["inputs"]
    )
    head = nn.Linear(entry["head"], LABELS) if entry.get("head") else None
    return Case(Picked(model, names, entry["key"], head), tensors)


def configuration(name: str) -> Any:
    """The default configuration of class `name`, small and without cache."""
    import transformers

    config = shrunk(getattr(transformers, name)())
    for each, value in (
        ("use_cache", False),
        ("return_dict", True),
        ("output_hidden_states", False),
        ("pad_token_id", 0),
    ):
        try:
            setattr(config, each, value)
        except (AttributeError, TypeError, ValueError):
            continue
    return config


def inner(model: type[nn.Module], config: Any) -> nn.Module:
    with torch.device("meta"):
        parameters = sum(each.numel() for each in model(config).parameters())
    if parameters > LARGEST:
        raise ValueError(f"{parameters} parameters")
    return model(config).eval()


def found(model_type: str) -> dict[str, Any]:
    """The first class, inputs and output that run, as an entry; else `{"why": [sentence of each attempt, …]}`."""
    why: list[str] = []
    for class_name, config_name in classes(model_type):
        for entry in attempts(class_name, config_name, why):
            return {"type": model_type, **entry}
    return {"type": model_type, "why": why[-6:]}


def classes(model_type: str) -> Iterator[tuple[str, str]]:
    from transformers.models.auto import configuration_auto, modeling_auto

    config = configuration_auto.CONFIG_MAPPING_NAMES[model_type]
    encoder = model_type in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    pair = model_type in modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    first = () if encoder else ("CAUSAL_LM",)  # a decoder's classifier looks for the end of the text
    tasks = ("SEQ_TO_SEQ_CAUSAL_LM",) * pair + first + TASKS
    tables = [f"MODEL_FOR_{task}_MAPPING_NAMES" for task in tasks] + ["MODEL_MAPPING_NAMES"]
    for table in tables:
        name = getattr(modeling_auto, table, {}).get(model_type)
        for each in name if isinstance(name, (tuple, list)) else [name]:
            if each:
                yield each, config


def attempts(class_name: str, config_name: str, why: list[str]) -> Iterator[dict[str, Any]]:
    import transformers

    try:
        config = configuration(config_name)
        kind = getattr(transformers, class_name)
        model = inner(kind, config)
    except Exception as error:  # any library code may raise anything
        why.append(f"{class_name}: {type(error).__name__}: {str(error)[:160]}")
        return
    accepted = set(inspect.signature(kind.forward).parameters)
    main = getattr(kind, "main_input_name", "input_ids")
    for side in (64, 224, 32):
        made = inputs(config, side)
        for names in sorted(ATTEMPTS, key=lambda each: not each[0].startswith(main)):
            plain = [n.split("_video")[0].split("_channel")[0].split("_float")[0].split("_last")[0] for n in names]
            if not accepted.issuperset(plain) or (side != 64 and "pixel" not in str(names)):
                continue
            try:
                result = model(**{plain[i]: made[name]() for i, name in enumerate(names)})
            except Exception as error:
                why.append(f"{class_name}({', '.join(names)}): {type(error).__name__}: {str(error)[:160]}")
                continue
            key = (
                next((k for k in KEYS if k in result and isinstance(result[k], Tensor)), None)
                if hasattr(result, "keys")
                else None
            )
            if key is None:
                why.append(
                    f"{class_name}({', '.join(names)}): gives {type(result).__name__}, none of the outputs known"
                )
                continue
            entry: dict[str, Any] = {
                "class": class_name,
                "config": config_name,
                "inputs": list(names),
                "key": key,
                "side": side,
            }
            if key in STATES:
                entry["head"] = result[key].shape[-1]
            if not torch.isfinite(result[key]).all():
                why.append(f"{class_name}: not finite")
                continue
            entry["used"] = used(model, result[key])
            if entry["used"] < 0.5:
                why.append(f"{class_name}({', '.join(names)}): uses {entry['used']:.0%} of its parameters")
                continue
            yield entry


def used(model: nn.Module, output: Tensor) -> float:
    """Share of the parameters that `output` depends on."""
    model.zero_grad()
    if not output.requires_grad:
        return 0.0
    output.float().sum().backward()
    sizes = [(each.numel(), each.grad is not None) for each in model.parameters()]
    return round(sum(size for size, has in sizes if has) / sum(size for size, _ in sizes), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="a model type: print its entry")
    arguments = parser.parse_args()
    if arguments.only:
        torch.set_num_threads(1)
        print(json.dumps(found(arguments.only)))
        return
    from transformers.models.auto import modeling_auto
    from worker import forked

    torch.set_num_threads(1)
    listed = []
    for model_type in modeling_auto.MODEL_MAPPING_NAMES:
        result = forked(lambda model_type=model_type: found(model_type), seconds=60, gib=6)
        entry = result if isinstance(result, dict) else {"type": model_type, "why": [str(result)]}
        listed.append(entry)
        print(json.dumps(entry), flush=True)
        LISTED.write_text(
            "[\n" + ",\n".join(json.dumps(e) for e in listed if "why" not in e) + "\n]\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()

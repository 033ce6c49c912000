"""A supernet from a pretrained model: its heads, neurons and blocks become elastic while it is fine-tuned.

Sridhar et al. 2023, "InstaTune: Instantaneous Neural Architecture Search During Fine-Tuning": the supernet is not trained
before, but starts from the pretrained weights and is trained during fine-tuning alone, the intact model teaching the smaller
ones; then it is searched.  Fine-tune with any sampler and loss, as `nas.Training(net, task, loss=nas.InPlace())`.

Any module will do whose blocks stand in a list: one of Hugging Face as it is, one of timm or of your own with the call that
builds it.  `Units` say what inside a block can be left out; the largest arch is the original.  First of all heads and neurons
are put in order of importance (Σ|w| over what reads them, as Cai et al. 2020), which changes no output, so that a
smaller subnet has the more important ones; blocks are left out in the order that `nas.train.dropping` gives, if you ask it.

    model = BertForSequenceClassification.from_pretrained(…)
    net = supernet(
        model, blocks="bert.encoder.layer.*", units=bert_units(model.config),
        choices={"heads": (6, 8, 12), "neurons": (1024, 2048, 3072)}, depths=(8, 10, 12), example={"input_ids": ids},
    )

Without units, fields of a Hugging Face config can be opened, the same for all blocks: `fields={"intermediate_size": (…)}`.
Such a subnet's config says what it is, and its `save_pretrained` can be read again; that of one with other units in each
block cannot: export it as safetensors, pt2 or ONNX.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import pyglove as pg
import torch
from torch import nn

import nas
from nas.convert.template import configured
from nas.errors import SpaceError, suggest
from nas.supernet import Cut, Inputs
from nas.supernet.inputs import call
from nas.train.dropping import Dropped, replace


class Units(pg.Object):  # type: ignore[misc]
    """What comes `count` times in each block and can be left out: heads of an attention, neurons of a perceptron.

    Args:
        count: in the original.
        outputs: linear layers that give the units -> features of one unit, with paths inside the block.
        inputs: linear layers that read the units -> features of one unit.
        fused: those of `outputs` that hold several such lists, one after the other -> how many: 3 for a `qkv`.
        attributes: numbers that a module keeps -> its value for one unit: `{"attention.self.num_attention_heads": 1}`.
    """

    count: int
    outputs: dict[str, Any]
    inputs: dict[str, Any]
    fused: dict[str, Any] = {}  # noqa: RUF012 (a symbolic field, copied for each object)
    attributes: dict[str, Any] = {}  # noqa: RUF012


def bert_units(config: Any) -> dict[str, Units]:
    """Heads and neurons of the blocks of BERT, RoBERTa and their like, from a Hugging Face config."""
    head = config.hidden_size // config.num_attention_heads
    return {
        "heads": Units(
            count=config.num_attention_heads,
            outputs={f"attention.self.{name}": head for name in ("query", "key", "value")},
            inputs={"attention.output.dense": head},
            attributes={"attention.self.num_attention_heads": 1, "attention.self.all_head_size": head},
        ),
        "neurons": Units(count=config.intermediate_size, outputs={"intermediate.dense": 1}, inputs={"output.dense": 1}),
    }


def llama_units(config: Any) -> dict[str, Units]:
    """Heads (a key-value head with its queries) and neurons of the blocks of Llama, Mistral, Qwen and their like."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    group = config.num_attention_heads // config.num_key_value_heads
    return {
        "heads": Units(
            count=config.num_key_value_heads,
            outputs={"self_attn.q_proj": group * head, "self_attn.k_proj": head, "self_attn.v_proj": head},
            inputs={"self_attn.o_proj": group * head},
        ),
        "neurons": Units(
            count=config.intermediate_size,
            outputs={"mlp.gate_proj": 1, "mlp.up_proj": 1},
            inputs={"mlp.down_proj": 1},
        ),
    }


def timm_units(model: nn.Module) -> dict[str, Units]:
    """Heads and neurons of the blocks of timm's `VisionTransformer` and its like (DeiT, CLIP's image tower), from the model.

    Give `supernet` also `blocks="blocks.*"` and `build=nas.model(VisionTransformer)(…)` with the model's own arguments.
    """
    block: Any = model.get_submodule("blocks.0")
    heads, head = block.attn.num_heads, block.attn.head_dim
    sizes = {"attn.num_heads": 1, "attn.attn_dim": head}  # the second is newer than the first
    return {
        "heads": Units(
            count=heads,
            outputs={"attn.qkv": head},
            inputs={"attn.proj": head},
            fused={"attn.qkv": 3},
            attributes={name: each for name, each in sizes.items() if hasattr(block.attn, name.removeprefix("attn."))},
        ),
        "neurons": Units(count=block.mlp.fc1.out_features, outputs={"mlp.fc1": 1}, inputs={"mlp.fc2": 1}),
    }


@nas.model
def elastic(
    *,
    model: Any,
    blocks: str,
    units: Mapping[str, Units],
    sizes: Mapping[str, Sequence[int]],
    depth: int,
    order: Sequence[int],
    extras: int | None = None,
) -> nn.Module:
    """A model with fewer units in its blocks, and without some of these.

    Args:
        model: the call that builds it.
        blocks: name pattern of its blocks, `*` for their number.
        units: what can be left out, by kind.
        sizes: of each kind how many each block has.
        depth: blocks that are kept.
        order: indices of the blocks; the first `depth` are kept, where they stand.
        extras: entries after the first when blocks give tuples.
    """
    module: nn.Module = model()
    kept = set(order[:depth])
    for index, name in enumerate(_block_names(module, blocks)):
        if index not in kept:
            replace(module, name, Dropped(extras=extras))
            continue
        for kind, unit in units.items():
            _narrow(module.get_submodule(name), unit, sizes[kind][index])
    return module


def hugging_face(model: nn.Module, fields: Mapping[str, Sequence[Any]] | None = None) -> Any:
    """The call that builds a model of the class and config of `model`; `fields` of the config are opened.

    Raises:
        SpaceError: the model has no config, the config no such field, or the model's own value is not the largest choice.
    """
    if configured(model) is None:
        raise SpaceError(
            f"{type(model).__name__} has no Hugging Face config; give build=nas.model({type(model).__name__})(...)"
        )
    config: Any = model.config
    known, opened = config.to_dict(), {}
    for name, candidates in (fields or {}).items():
        if name not in known:
            raise SpaceError(f"{type(config).__name__} has no field {name!r}{suggest(name, known)}")
        opened[name] = pg.oneof(_checked(name, candidates, known[name]))
    return configured(model, opened)


def space(
    build: Any,
    *,
    blocks: str,
    count: int,
    units: Mapping[str, Units] | None = None,
    choices: Mapping[str, Sequence[int]] | None = None,
    depths: Sequence[int] | None = None,
    order: Sequence[int] | None = None,
    extras: int | None = None,
    name: str = "pretrained",
) -> nas.Space:
    """The space of a model with elastic blocks.

    Args:
        build: the call that builds the original.
        blocks: name pattern of its blocks.
        count: how many there are.
        units: what can be left out of a block, by kind.
        choices: how many of a kind a block may have; kinds that are not named stay whole.
        depths: choices of the number of blocks; all by default.
        order: indices of the blocks, the most important first; from the front to the back by default.
        extras: as `elastic` takes it.
        name: of the space.

    Raises:
        SpaceError: a choice is larger than the original, or the original is not among the choices.
    """
    units, choices = dict(units or {}), dict(choices or {})
    for kind in choices:
        if kind not in units:
            raise SpaceError(
                f"choices are given for {kind!r}, and the units are {', '.join(units)}{suggest(kind, units)}"
            )
    elastic_units = {kind: unit for kind, unit in units.items() if kind in choices}
    checked = {kind: _checked(kind, choices[kind], unit.count) for kind, unit in elastic_units.items()}
    deep = _checked("depths", depths or (count,), count)
    ranks = list(range(count) if order is None else order)
    if sorted(ranks) != list(range(count)):
        raise SpaceError(f"order {ranks} does not name each of the {count} blocks once")
    value = elastic(
        model=build,
        blocks=blocks,
        units=elastic_units,
        sizes={kind: [pg.oneof(list(sizes)) for _ in range(count)] for kind, sizes in checked.items()},
        depth=pg.oneof(deep),
        order=ranks,
        extras=extras,
    )
    active = {
        f"sizes.{kind}[{block}]": ("depth", {depth for depth in deep if depth > rank})
        for kind in checked
        for rank, block in enumerate(ranks)
        if rank >= min(deep) and len(checked[kind]) > 1
    }
    return nas.Space(value, name=name, active_when=active)


def supernet(
    model: nn.Module,
    *,
    example: Inputs,
    build: Any = None,
    fields: Mapping[str, Sequence[Any]] | None = None,
    blocks: str | None = None,
    units: Mapping[str, Units] | None = None,
    choices: Mapping[str, Sequence[int]] | None = None,
    depths: Sequence[int] | None = None,
    order: Sequence[int] | None = None,
    layouts: Mapping[str, Cut] | None = None,
    ordered: bool = True,
    name: str = "pretrained",
    seed: int = 0,
) -> nas.Supernet:
    """A supernet whose largest arch is `model`, with its weights.

    Args:
        model: pretrained; it is left alone.
        example: inputs that it takes.
        build: the call that builds it; for a Hugging Face model its class and config unless given.
        fields: of a Hugging Face config, to be opened; without `blocks`.
        blocks: name pattern of the blocks, as `"bert.encoder.layer.*"`.
        units: what can be left out of a block, by kind.
        choices: how many of a kind a block may have.
        depths: choices of the number of blocks.
        order: indices of the blocks, the most important first: `nas.train.dropping.importance`.
        layouts: of fused parameters, as `nas.Supernet` takes them.
        ordered: put units in order of importance first.
        name: of the space.
        seed: of weights that the largest arch lacks.

    Raises:
        SpaceError: what is asked does not fit the model; says what it has.
    """
    if blocks is None:
        given = [
            what
            for what, value in {"units": units, "choices": choices, "depths": depths, "order": order}.items()
            if value
        ]
        if given:
            raise SpaceError(
                f"{' and '.join(given)} say nothing without blocks=; give the pattern of the blocks' names"
            )
        opened = build if build is not None else hugging_face(model, fields)
        return nas.Supernet(nas.Space(opened, name=name), layouts=layouts, example=example, weights=model, seed=seed)
    if fields:
        raise SpaceError(
            "fields and blocks are two ways to say the same; open fields, or give units and depths of the blocks"
        )
    names = _block_names(model, blocks)
    for unit in (units or {}).values():
        for block in names:
            _check(model.get_submodule(block), unit, block)
    opened = space(
        build if build is not None else hugging_face(model),
        blocks=blocks,
        count=len(names),
        units=units,
        choices=choices,
        depths=depths,
        order=order,
        extras=_extras(model, names[0], example),
        name=name,
    )
    weights = in_order(model, blocks, units or {}) if ordered else model
    return nas.Supernet(opened, layouts=layouts, example=example, weights=weights, seed=seed)


@torch.no_grad()
def in_order(model: nn.Module, blocks: str, units: Mapping[str, Units]) -> nn.Module:
    """A copy of `model` with the units of each block in order of importance; it computes the same, up to rounding.

    The importance of a unit is Σ|w| over the weights that read it.
    """
    ordered = copy.deepcopy(model)
    for name in _block_names(ordered, blocks):
        block = ordered.get_submodule(name)
        for unit in units.values():
            layers = [_linear(block, path) for path in unit.inputs]
            scores = [layer.weight.double().abs().reshape(layer.out_features, unit.count, -1) for layer in layers]
            ranking = torch.stack([score.sum((0, 2)) for score in scores]).sum(0).argsort(descending=True, stable=True)
            for layer in layers:
                parts = layer.weight.reshape(layer.out_features, unit.count, -1)
                layer.weight.copy_(parts[:, ranking].reshape(layer.weight.shape))
            for path in unit.outputs:
                for tensor in _linear(block, path).parameters():  # weight, and bias if it has one
                    parts = tensor.reshape(unit.fused.get(path, 1), unit.count, -1)  # (lists, units, what one unit has)
                    tensor.copy_(parts[:, ranking].reshape(tensor.shape))
    return ordered


# -- inside


def _narrow(block: nn.Module, unit: Units, size: int) -> None:
    """Leave the first `size` units of a block; a whole block stays what it is."""
    if size == unit.count:
        return
    for path, features in unit.outputs.items():
        layer = _linear(block, path)
        replace(block, path, _like(layer, layer.in_features, unit.fused.get(path, 1) * size * features))
    for path, features in unit.inputs.items():
        layer = _linear(block, path)
        replace(block, path, _like(layer, size * features, layer.out_features))
    for path, each in unit.attributes.items():
        owner, _, attribute = path.rpartition(".")
        setattr(block.get_submodule(owner), attribute, size * each)


def _like(layer: nn.Linear, inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=layer.bias is not None, dtype=layer.weight.dtype)


def _linear(block: nn.Module, path: str) -> nn.Linear:
    layer = block.get_submodule(path)
    assert isinstance(layer, nn.Linear)
    return layer


def _check(block: nn.Module, unit: Units, name: str) -> None:
    """Do the layers exist, and have so many units?"""
    known = dict(block.named_modules())
    for paths, attribute, fused in ((unit.outputs, "out_features", unit.fused), (unit.inputs, "in_features", {})):
        for path, features in paths.items():
            layer = known.get(path)
            if type(layer) is not nn.Linear:
                what = f"a {type(layer).__name__}, no nn.Linear" if layer is not None else "not there"
                linear = [key for key, each in known.items() if type(each) is nn.Linear]
                raise SpaceError(
                    f"layer {path!r} of block {name!r} is {what}; its linear layers are {', '.join(linear)}"
                )
            wanted = unit.count * features * fused.get(path, 1)
            if getattr(layer, attribute) != wanted:
                raise SpaceError(
                    f"layer {path!r} of block {name!r} has {attribute} {getattr(layer, attribute)}, and {unit.count} units of "
                    f"{features} features make {wanted}"
                )
    for path in unit.attributes:
        owner, _, attribute = path.rpartition(".")
        if not hasattr(known.get(owner), attribute):
            raise SpaceError(f"block {name!r} has no attribute {path!r}, which is to hold its number of units")


def _block_names(module: nn.Module, pattern: str) -> list[str]:
    """Names of the blocks that `pattern`, with one `*` for their number, stands for."""
    before, star, after = pattern.partition("*")
    known = [name for name, _ in module.named_modules() if name]
    found = [
        name
        for name in known
        if star and name.startswith(before) and name.endswith(after) and name[len(before) :].isdigit()
    ]
    if not found:
        near = suggest(before.rstrip("."), known)
        raise SpaceError(
            f"{type(module).__name__} has no blocks {pattern!r}{near}; write where their list is, as 'encoder.layer.*'"
        )
    return found


def _checked(what: str, candidates: Sequence[Any], whole: Any) -> list[Any]:
    """Choices without repetition, of which the largest is the original's."""
    found = list(dict.fromkeys(candidates))
    if not found or any(candidate > whole for candidate in found) or whole not in found or min(found) < 1:
        raise SpaceError(
            f"{what} has choices {found}, and the original has {whole}; give numbers from 1 to {whole}, {whole} among them"
        )
    return found


@torch.no_grad()
def _extras(model: nn.Module, block: str, example: Inputs) -> int | None:
    """How many entries after the first a block gives; None when it gives a tensor."""
    seen: list[Any] = []
    handle = model.get_submodule(block).register_forward_hook(lambda _module, _args, output: seen.append(output))
    training = model.training
    try:
        call(model.eval(), example)
    finally:
        handle.remove()
        model.train(training)
    if not seen:
        raise SpaceError(f"block {block!r} is not called for the example; name the blocks that the model runs through")
    return len(seen[0]) - 1 if isinstance(seen[0], tuple) else None

"""Models of libraries: the first 53, then more of Hugging Face, timm and torchvision."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import operators
import torch
from case import Case
from torch import Tensor, nn

Build = Callable[[], Case]

# -- timm

TIMM_FIRST = [
    "beit_base_patch16_224",
    "cait_xxs24_224",
    "convmixer_768_32",
    "crossvit_tiny_240",
    "cspnext_tiny",
    "deit_tiny_patch16_224",
    "dpn48b",
    "efficientformerv2_s0",
    "efficientvit_b0",
    "fasternet_t0",
    "gcvit_xxtiny",
    "hardcorenas_b",
    "sam2_hiera_tiny",
    "inception_next_atto",
    "inception_v4",
    "lowformer_b0",
    "poolformerv2_s12",
    "mobilenetv5_base",
    "naflexvit_base_patch16_parfac_gap",
    "nextvit_small",
    "pnasnet5large",
    "rdnet_tiny",
    "repvit_m1",
    "resnet10t",
    "selecsls42",
    "shvit_s1",
    "swiftformer_xs",
    "swinv2_cr_tiny_224",
    "tresnet_m",
    "visformer_tiny",
    "vit_srelpos_small_patch16_224",
    "volo_d1_224",
    "xception41p",
]
TIMM_MORE = [
    "convnext_atto",
    "convnextv2_atto",
    "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256",
    "vit_tiny_patch16_224",
    "eva02_tiny_patch14_224",
    "mobilenetv3_small_050",
    "mobilenetv4_conv_small",
    "mobilenetv2_050",
    "efficientnet_b0",
    "tf_efficientnetv2_b0",
    "ghostnet_050",
    "ghostnetv2_100",
    "mixnet_s",
    "regnetx_002",
    "regnety_002",
    "resnet18",
    "resnet26d",
    "resnext26ts",
    "seresnet18",
    "ecaresnet26t",
    "res2net50_26w_4s",
    "resnest14d",
    "densenet121",
    "vgg11_bn",
    "xcit_nano_12_p16_224",
    "mixer_s32_224",
    "gmixer_12_224",
    "resmlp_12_224",
    "gmlp_ti16_224",
    "convit_tiny",
    "coat_tiny",
    "coat_lite_tiny",
    "maxvit_tiny_rw_224",
    "maxxvitv2_nano_rw_256",
    "coatnet_nano_rw_224",
    "edgenext_xx_small",
    "mobilevit_xxs",
    "mobilevitv2_050",
    "mobileone_s0",
    "repvgg_a0",
    "levit_128s",
    "pit_ti_224",
    "tnt_s_patch16_224",
    "twins_svt_small",
    "poolformer_s12",
    "pvt_v2_b0",
    "mvitv2_tiny",
    "nest_tiny",
    "sequencer2d_s",
    "nf_regnet_b0",
    "dm_nfnet_f0",
    "nfnet_l0",
    "skresnet18",
    "lambda_resnet26t",
    "halonet26t",
    "botnet26t_256",
    "bat_resnext26ts",
    "lcnet_050",
    "tinynet_e",
    "hgnetv2_b0",
    "hrnet_w18_small",
    "dla34",
    "darknet17",
    "cs3darknet_s",
    "cspresnet50",
    "efficientvit_m0",
    "tiny_vit_5m_224",
    "fastvit_t8",
    "hiera_tiny_224",
    "mambaout_femto",
    "rexnetr_200",
    "vovnet39a",
    "ese_vovnet19b_dw",
    "spnasnet_100",
    "mnasnet_050",
    "fbnetc_100",
    "semnasnet_075",
    "starnet_s1",
    "vit_medium_patch16_gap_240",
    "vit_base_patch16_rope_224",
    "vit_relpos_small_patch16_224",
    "davit_tiny",
    "focalnet_tiny_srf",
    "gernet_s",
    "inception_v3",
    "inception_resnet_v2",
    "xception41",
    "senet154",
    "legacy_seresnet18",
    "samvit_base_patch16_224",
    "csatv2",
    "ghostnetv3_100",
    "swin_s3_tiny_224",
    "efficientformer_l1",
    "convformer_s18",
    "caformer_s18",
    "test_vit",
    "test_convnext",
    "test_efficientnet",
    "test_resnet",
    "test_byobnet",
    "resnetv2_18",
    "resnetv2_50",
    "resnetaa34d",
    "repghostnet_050",
    "vitamin_small_224",
    "wide_resnet50_2",
    "haloregnetz_b",
    "eca_botnext26ts_256",
    "visformer_small",
]
TIMM_SIDES = {"sam2_hiera_tiny": 224, "naflexvit_base_patch16_parfac_gap": 224, "samvit_base_patch16_224": 224}


def timm_model(name: str) -> Case:
    operators.declare()
    import timm

    model = timm.create_model(name, pretrained=False)
    if not getattr(model, "num_classes", 1000) and hasattr(
        model, "reset_classifier"
    ):  # features only: some width is to be the task's
        model.reset_classifier(10)
    size = model.pretrained_cfg.get("input_size") or (3, 224, 224)
    side = TIMM_SIDES.get(name)
    return Case(model, (torch.randn(1, *((3, side, side) if side else size)),))


TIMM: dict[str, Build] = {name: partial(timm_model, name) for name in TIMM_MORE}

# -- torchvision

TORCHVISION_FIRST = (
    "alexnet",
    "efficientnet_b0",
    "inception_v3",
    "mobilenet_v2",
    "regnet_y_400mf",
    "shufflenet_v2_x0_5",
    "swin_v2_t",
)
TORCHVISION_MORE = [
    "resnet18",
    "resnet50",
    "wide_resnet50_2",
    "resnext50_32x4d",
    "vgg11",
    "vgg11_bn",
    "squeezenet1_0",
    "squeezenet1_1",
    "densenet121",
    "googlenet",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "mnasnet0_5",
    "shufflenet_v2_x1_0",
    "efficientnet_v2_s",
    "regnet_x_400mf",
    "convnext_tiny",
    "vit_b_32",
    "swin_t",
    "maxvit_t",
]
SEGMENTATION = ("fcn_resnet50", "deeplabv3_mobilenet_v3_large", "deeplabv3_resnet50", "lraspp_mobilenet_v3_large")
VIDEO = ("r3d_18", "mc3_18", "r2plus1d_18", "s3d", "mvit_v1_b", "swin3d_t")


def torchvision_model(name: str) -> Case:
    operators.declare()
    from torchvision import models

    extra: dict[str, Any] = (
        {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    )
    side = 299 if name == "inception_v3" else 224
    return Case(getattr(models, name)(weights=None, **extra), (torch.randn(1, 3, side, side),))


def segmentation(name: str) -> Case:
    operators.declare()
    from torchvision.models import segmentation as models

    return Case(getattr(models, name)(weights=None, weights_backbone=None, num_classes=5), (torch.randn(1, 3, 96, 96),))


def video(name: str) -> Case:
    operators.declare()
    from torchvision.models import video as models

    frames, side = (16, 224) if name in ("mvit_v1_b", "s3d") else (16, 112)
    return Case(getattr(models, name)(weights=None), (torch.randn(1, 3, frames, side, side),))


class Pyramid(nn.Module):
    """A detector's backbone with its feature pyramid, and a small head of one's own on each level."""

    def __init__(self, backbone: nn.Module, channels: int = 256) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Conv2d(channels, 9, 3, padding=1)

    def forward(self, image: Tensor) -> list[Tensor]:
        return [self.head(level) for level in self.backbone(image).values()]


def pyramid(name: str) -> Case:
    operators.declare()
    from torchvision.models.detection import backbone_utils

    if name == "mobilenet":
        made = backbone_utils.mobilenet_backbone(backbone_name="mobilenet_v3_large", weights=None, fpn=True)
    else:
        made = backbone_utils.resnet_fpn_backbone(backbone_name=name, weights=None)
    return Case(Pyramid(made), (torch.randn(1, 3, 96, 96),))


TORCHVISION: dict[str, Build] = {
    **{name: partial(torchvision_model, name) for name in TORCHVISION_MORE},
    **{f"segmentation_{name}": partial(segmentation, name) for name in SEGMENTATION},
    **{f"video_{name}": partial(video, name) for name in VIDEO},
    **{f"pyramid_{name}": partial(pyramid, name) for name in ("resnet18", "resnet50", "mobilenet")},
}

# -- Hugging Face

WORDS, WIDTH, HIDDEN = 211, 64, 160
USED = 0.7  # least share of the parameters that an output depends on, here
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
TEXT = {
    "vocab_size": WORDS,
    "hidden_size": WIDTH,
    "intermediate_size": HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    **SPECIAL,
}
GROUPED = {**TEXT, "num_attention_heads": 8, "num_key_value_heads": 2}
VISION = {
    "hidden_size": WIDTH,
    "intermediate_size": HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 64,
    "patch_size": 16,
}
PAIR = {
    "vocab_size": WORDS,
    "d_model": WIDTH,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": HIDDEN,
    "decoder_ffn_dim": HIDDEN,
    "max_position_embeddings": 64,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
    **SPECIAL,
}
WORDY, MASKED, TWO, IMAGE = (
    ("input_ids",),
    ("input_ids", "attention_mask"),
    ("input_ids", "decoder_input_ids"),
    ("pixel_values",),
)

# configuration and model class, fields, arguments, output
HF_FIRST: dict[str, tuple[str, str, dict[str, Any], tuple[str, ...], str]] = {
    "bert": ("BertConfig", "BertForSequenceClassification", {**TEXT, "num_labels": 5}, MASKED, "logits"),
    "albert": (
        "AlbertConfig",
        "AlbertForSequenceClassification",
        {**TEXT, "embedding_size": 32, "num_labels": 5},
        MASKED,
        "logits",
    ),
    "mpnet": ("MPNetConfig", "MPNetForSequenceClassification", {**TEXT, "num_labels": 5}, MASKED, "logits"),
    "bart": ("BartConfig", "BartForConditionalGeneration", PAIR, TWO, "logits"),
    "gptj": (
        "GPTJConfig",
        "GPTJForCausalLM",
        {
            "vocab_size": WORDS,
            "n_embd": WIDTH,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 64,
            "rotary_dim": 8,
            **SPECIAL,
        },
        WORDY,
        "logits",
    ),
    "falcon": (
        "FalconConfig",
        "FalconForCausalLM",
        {"vocab_size": WORDS, "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 4, **SPECIAL},
        WORDY,
        "logits",
    ),
    "mixtral": (
        "MixtralConfig",
        "MixtralForCausalLM",
        {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2},
        WORDY,
        "logits",
    ),
    "gemma": ("GemmaConfig", "GemmaForCausalLM", {**GROUPED, "head_dim": 16}, WORDY, "logits"),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", GROUPED, WORDY, "logits"),
    "vit": ("ViTConfig", "ViTForImageClassification", {**VISION, "num_labels": 10}, IMAGE, "logits"),
    "dinov2": (
        "Dinov2Config",
        "Dinov2ForImageClassification",
        {
            **{name: value for name, value in VISION.items() if name != "intermediate_size"},
            "mlp_ratio": 3,
            "num_labels": 10,
        },
        IMAGE,
        "logits",
    ),
    "resnet": (
        "ResNetConfig",
        "ResNetForImageClassification",
        {"embedding_size": 16, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1], "num_labels": 10},
        IMAGE,
        "logits",
    ),
    "clip": (
        "CLIPConfig",
        "CLIPModel",
        {"text_config": TEXT, "vision_config": VISION, "projection_dim": 48},
        ("input_ids", "pixel_values"),
        "logits_per_image",
    ),
}
TENSORS: dict[str, Callable[[], Tensor]] = {
    "input_ids": lambda: torch.randint(3, WORDS, (1, 13)),
    "attention_mask": lambda: torch.ones(1, 13, dtype=torch.long),
    "decoder_input_ids": lambda: torch.randint(3, WORDS, (1, 7)),
    "pixel_values": lambda: torch.randn(1, 3, 64, 64),
}


def first_huggingface(name: str, *, picked: bool = True) -> Case:
    """One of the first list.  Without `picked`: the class itself by keywords, and whatever it returns."""
    import transformers
    from huggingface import Picked

    config_name, class_name, fields, arguments, key = HF_FIRST[name]
    config = getattr(transformers, config_name)(**copy.deepcopy(fields))
    config.use_cache = False
    inner = getattr(transformers, class_name)(config)
    tensors = {each: TENSORS[each]() for each in arguments}
    return Case(Picked(inner, arguments, key), tuple(tensors.values())) if picked else Case(inner, tensors)


def huggingface() -> dict[str, Build]:
    """Those of `huggingface.json`, and some as their users call them."""
    from huggingface import LISTED, build

    entries = json.loads(LISTED.read_text(encoding="utf-8")) if LISTED.exists() else []
    direct = {
        f"{name}_by_keyword": partial(first_huggingface, name, picked=False)
        for name in ("bert", "mpnet", "gemma", "vit")
    }
    used = {entry["type"]: partial(build, entry) for entry in entries if entry["used"] >= USED}
    return {**used, **direct}


FIRST: dict[str, Build] = {
    **{f"timm/{name}": partial(timm_model, name) for name in TIMM_FIRST},
    **{f"tv/{name}": partial(torchvision_model, name) for name in TORCHVISION_FIRST},
    **{f"hf/{name}": partial(first_huggingface, name) for name in HF_FIRST},
}

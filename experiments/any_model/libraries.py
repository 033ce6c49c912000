"""Models of other libraries, where they are installed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import operators
import torch
from case import Case

MODELS: dict[str, Callable[[], Case]] = {}

Shape = tuple[int, ...]


def drawn(shape: Shape | torch.Tensor) -> torch.Tensor:
    return torch.randn(shape) if isinstance(shape, tuple) else shape


def made(module: str, attribute: str, inputs: tuple[Any, ...], options: dict[str, Any]) -> Case:
    operators.declare()
    model = getattr(import_module(module), attribute)(**options)
    return Case(model, tuple(map(drawn, inputs)))


def add(name: str, module: str, attribute: str, *inputs: Any, **options: Any) -> None:
    MODELS[name] = partial(made, module, attribute, inputs, options)


IMAGE = (1, 3, 64, 64)
VIT = {"image_size": 64, "patch_size": 16, "num_classes": 10, "dim": 64, "depth": 2, "heads": 4, "mlp_dim": 128}

for _module, _name, _options in (
    ("vit", "ViT", {}),
    ("simple_vit", "SimpleViT", {}),
    ("deepvit", "DeepViT", {}),
    ("vit_for_small_dataset", "ViT", {}),
    ("parallel_vit", "ViT", {"num_parallel_branches": 2}),
    ("rvt", "RvT", {}),
    ("simple_vit_with_register_tokens", "SimpleViT", {}),
    ("simple_vit_with_qk_norm", "SimpleViT", {}),
    ("learnable_memory_vit", "ViT", {}),
    ("cait", "CaiT", {"cls_depth": 2}),
    ("normalized_vit", "nViT", {"dim_head": 16}),
):
    add(f"vit_pytorch/{_module}", f"vit_pytorch.{_module}", _name, IMAGE, **{**VIT, **_options})
add(
    "vit_pytorch/pit",
    "vit_pytorch.pit",
    "PiT",
    IMAGE,
    image_size=64,
    patch_size=8,
    dim=32,
    num_classes=10,
    depth=(1, 1),
    heads=2,
    mlp_dim=64,
)
add(
    "vit_pytorch/cvt",
    "vit_pytorch.cvt",
    "CvT",
    IMAGE,
    num_classes=10,
    s1_emb_dim=16,
    s2_emb_dim=32,
    s3_emb_dim=64,
    s3_depth=1,
    s3_heads=2,
)
add(
    "vit_pytorch/cct",
    "vit_pytorch.cct",
    "CCT",
    IMAGE,
    img_size=(64, 64),
    embedding_dim=64,
    n_conv_layers=2,
    kernel_size=7,
    stride=2,
    padding=3,
    num_layers=2,
    num_heads=4,
    mlp_ratio=2,
    num_classes=10,
)
add(
    "vit_pytorch/levit",
    "vit_pytorch.levit",
    "LeViT",
    IMAGE,
    image_size=64,
    num_classes=10,
    stages=2,
    dim=(32, 64),
    depth=1,
    heads=(2, 4),
    mlp_mult=2,
)
add(
    "vit_pytorch/mobile_vit",
    "vit_pytorch.mobile_vit",
    "MobileViT",
    IMAGE,
    image_size=(64, 64),
    dims=[32, 48, 64],
    channels=[8, 16, 24, 24, 32, 32, 48, 48, 64, 64, 96],
    num_classes=10,
)
add(
    "vit_pytorch/twins_svt",
    "vit_pytorch.twins_svt",
    "TwinsSVT",
    (1, 3, 224, 224),
    num_classes=10,
    s1_emb_dim=16,
    s2_emb_dim=32,
    s3_emb_dim=48,
    s4_emb_dim=64,
    s3_depth=1,
)
add(
    "vit_pytorch/max_vit",
    "vit_pytorch.max_vit",
    "MaxViT",
    (1, 3, 224, 224),
    num_classes=10,
    dim=32,
    depth=(1, 1),
    dim_head=16,
    dim_conv_stem=16,
    window_size=7,
)
add(
    "vit_pytorch/nest",
    "vit_pytorch.nest",
    "NesT",
    IMAGE,
    image_size=64,
    patch_size=4,
    dim=32,
    heads=2,
    num_hierarchies=2,
    block_repeats=(1, 1),
    num_classes=10,
)
add(
    "vit_pytorch/xcit",
    "vit_pytorch.xcit",
    "XCiT",
    IMAGE,
    image_size=64,
    patch_size=16,
    num_classes=10,
    dim=64,
    depth=2,
    cls_depth=1,
    heads=4,
    mlp_dim=128,
)
add(
    "vit_pytorch/sep_vit",
    "vit_pytorch.sep_vit",
    "SepViT",
    (1, 3, 224, 224),
    num_classes=10,
    dim=16,
    dim_head=8,
    heads=(1, 2, 4, 8),
    depth=(1, 1, 1, 1),
    window_size=7,
)
add(
    "vit_pytorch/scalable_vit",
    "vit_pytorch.scalable_vit",
    "ScalableViT",
    (1, 3, 256, 256),
    num_classes=10,
    dim=16,
    heads=(2, 2, 2, 2),
    depth=(1, 1, 1, 1),
    ssa_dim_key=(8, 8, 8, 8),
    reduction_factor=(8, 4, 2, 1),
    window_size=(64, 32, None, None),
)
add(
    "vit_pytorch/regionvit",
    "vit_pytorch.regionvit",
    "RegionViT",
    (1, 3, 224, 224),
    dim=(16, 32, 48, 64),
    depth=(1, 1, 1, 1),
    window_size=7,
    num_classes=10,
)
add(
    "vit_pytorch/vivit",
    "vit_pytorch.vivit",
    "ViViT",
    (1, 3, 4, 64, 64),
    image_size=64,
    frames=4,
    image_patch_size=16,
    frame_patch_size=2,
    num_classes=10,
    dim=64,
    spatial_depth=1,
    temporal_depth=1,
    heads=4,
    mlp_dim=128,
)
add(
    "vit_pytorch/vit_1d",
    "vit_pytorch.vit_1d",
    "ViT",
    (1, 3, 64),
    seq_len=64,
    patch_size=16,
    num_classes=10,
    dim=64,
    depth=2,
    heads=4,
    mlp_dim=128,
)
add(
    "vit_pytorch/cross_vit",
    "vit_pytorch.cross_vit",
    "CrossViT",
    IMAGE,
    image_size=64,
    num_classes=10,
    depth=1,
    sm_dim=32,
    sm_patch_size=8,
    sm_enc_depth=1,
    sm_enc_heads=2,
    sm_enc_mlp_dim=64,
    lg_dim=48,
    lg_patch_size=16,
    lg_enc_depth=1,
    lg_enc_heads=4,
    lg_enc_mlp_dim=96,
    cross_attn_depth=1,
    cross_attn_heads=2,
)

SMP = {"encoder_name": "resnet18", "encoder_weights": None, "classes": 3}
for _name in (
    "Unet",
    "UnetPlusPlus",
    "FPN",
    "PSPNet",
    "Linknet",
    "MAnet",
    "PAN",
    "DeepLabV3",
    "DeepLabV3Plus",
    "UPerNet",
    "Segformer",
):
    add(f"smp/{_name.lower()}", "segmentation_models_pytorch", _name, (1, 3, 128, 128), **SMP)
add(
    "smp/unet_mobilenet",
    "segmentation_models_pytorch",
    "Unet",
    (1, 3, 64, 64),
    **{**SMP, "encoder_name": "mobilenet_v2"},
)
add("smp/unet_vgg", "segmentation_models_pytorch", "Unet", (1, 3, 64, 64), **{**SMP, "encoder_name": "vgg11_bn"})
add(
    "smp/unet_attention",
    "segmentation_models_pytorch",
    "Unet",
    (1, 3, 64, 64),
    **{**SMP, "decoder_attention_type": "scse"},
)
add(
    "smp/unet_efficientnet",
    "segmentation_models_pytorch",
    "Unet",
    (1, 3, 64, 64),
    **{**SMP, "encoder_name": "timm-efficientnet-b0"},
)
add(
    "smp/unet_mix_transformer",
    "segmentation_models_pytorch",
    "Unet",
    (1, 3, 64, 64),
    **{**SMP, "encoder_name": "mit_b0"},
)

MONAI = "monai.networks.nets"
VOLUME = (1, 1, 32, 32, 32)
add(
    "monai/unet",
    MONAI,
    "UNet",
    (1, 1, 32, 32),
    spatial_dims=2,
    in_channels=1,
    out_channels=2,
    channels=(16, 32, 64),
    strides=(2, 2),
    num_res_units=2,
)
add(
    "monai/basic_unet",
    MONAI,
    "BasicUNet",
    (1, 1, 32, 32),
    spatial_dims=2,
    in_channels=1,
    out_channels=2,
    features=(16, 16, 32, 64, 64, 16),
)
add(
    "monai/basic_unet_plus",
    MONAI,
    "BasicUNetPlusPlus",
    (1, 1, 32, 32),
    spatial_dims=2,
    in_channels=1,
    out_channels=2,
    features=(16, 16, 32, 64, 64, 16),
)
add(
    "monai/attention_unet",
    MONAI,
    "AttentionUnet",
    (1, 1, 32, 32),
    spatial_dims=2,
    in_channels=1,
    out_channels=2,
    channels=(16, 32, 64),
    strides=(2, 2),
)
add("monai/seg_resnet", MONAI, "SegResNet", VOLUME, spatial_dims=3, init_filters=8, in_channels=1, out_channels=2)
add("monai/vnet", MONAI, "VNet", VOLUME, spatial_dims=3, in_channels=1, out_channels=2)
add(
    "monai/dyn_unet",
    MONAI,
    "DynUNet",
    (1, 1, 32, 32),
    spatial_dims=2,
    in_channels=1,
    out_channels=2,
    kernel_size=(3, 3, 3),
    strides=(1, 2, 2),
    upsample_kernel_size=(2, 2),
    filters=(16, 32, 64),
)
add(
    "monai/unetr",
    MONAI,
    "UNETR",
    VOLUME,
    in_channels=1,
    out_channels=2,
    img_size=(32, 32, 32),
    feature_size=8,
    hidden_size=96,
    mlp_dim=192,
    num_heads=4,
)
add(
    "monai/swin_unetr",
    MONAI,
    "SwinUNETR",
    (1, 1, 64, 64),
    in_channels=1,
    out_channels=2,
    feature_size=12,
    spatial_dims=2,
)
add(
    "monai/densenet",
    MONAI,
    "DenseNet",
    (1, 1, 64, 64),
    spatial_dims=2,
    in_channels=1,
    out_channels=3,
    init_features=16,
    growth_rate=8,
    block_config=(2, 2),
)
add("monai/resnet", MONAI, "resnet10", (1, 1, 32, 32, 32), spatial_dims=3, n_input_channels=1, num_classes=3)
add("monai/high_res_net", MONAI, "HighResNet", (1, 1, 32, 32), spatial_dims=2, in_channels=1, out_channels=2)
add(
    "monai/vit",
    MONAI,
    "ViT",
    (1, 1, 32, 32),
    in_channels=1,
    img_size=(32, 32),
    patch_size=(8, 8),
    hidden_size=64,
    mlp_dim=128,
    num_layers=2,
    num_heads=4,
    spatial_dims=2,
    classification=True,
)
add(
    "monai/autoencoder",
    MONAI,
    "AutoEncoder",
    (1, 1, 32, 32),
    spatial_dims=2,
    in_channels=1,
    out_channels=1,
    channels=(16, 32, 64),
    strides=(2, 2, 2),
)
add(
    "monai/var_autoencoder",
    MONAI,
    "VarAutoEncoder",
    (1, 1, 32, 32),
    spatial_dims=2,
    in_shape=(1, 32, 32),
    out_channels=1,
    latent_size=8,
    channels=(16, 32),
    strides=(2, 2),
)
add(
    "monai/regressor",
    MONAI,
    "Regressor",
    (1, 1, 32, 32),
    in_shape=(1, 32, 32),
    out_shape=(3,),
    channels=(16, 32),
    strides=(2, 2),
)
add(
    "monai/generator",
    MONAI,
    "Generator",
    (1, 16),
    latent_shape=(16,),
    start_shape=(32, 4, 4),
    channels=(32, 16, 1),
    strides=(2, 2, 1),
)
add(
    "monai/diffusion_unet",
    MONAI,
    "DiffusionModelUNet",
    (1, 1, 32, 32),
    torch.tensor([7]),
    spatial_dims=2,
    in_channels=1,
    out_channels=1,
    num_res_blocks=1,
    channels=(16, 32),
    attention_levels=(False, True),
    norm_num_groups=8,
    num_head_channels=16,
)
add(
    "monai/autoencoder_kl",
    MONAI,
    "AutoencoderKL",
    (1, 1, 32, 32),
    spatial_dims=2,
    in_channels=1,
    out_channels=1,
    num_res_blocks=(1, 1),
    channels=(16, 32),
    attention_levels=(False, True),
    norm_num_groups=8,
    latent_channels=4,
)
add("monai/segresnet_vae", MONAI, "SegResNetDS", VOLUME, spatial_dims=3, init_filters=8, in_channels=1, out_channels=2)

WORDS = torch.arange(3, 19)[None]


def decoder(**options: Any) -> Case:
    """x-transformers: a decoder with the options given."""
    library = import_module("x_transformers")
    layers = library.Decoder(dim=64, depth=2, heads=4, attn_dim_head=16, **options)
    return Case(
        library.TransformerWrapper(num_tokens=64, max_seq_len=32, attn_layers=layers), (torch.randint(0, 64, (1, 16)),)
    )


def encoder(**options: Any) -> Case:
    library = import_module("x_transformers")
    layers = library.Encoder(dim=64, depth=2, heads=4, attn_dim_head=16, **options)
    return Case(
        library.TransformerWrapper(num_tokens=64, max_seq_len=32, attn_layers=layers), (torch.randint(0, 64, (1, 16)),)
    )


for _name, _options in (
    ("plain", {}),
    ("rotary", {"rotary_pos_emb": True}),
    ("alibi", {"alibi_pos_bias": True}),
    ("relative", {"rel_pos_bias": True}),
    ("dynamic", {"dynamic_pos_bias": True}),
    ("grouped", {"attn_kv_heads": 2, "rotary_pos_emb": True}),
    ("multi_query", {"attn_one_kv_head": True}),
    ("glu", {"ff_glu": True, "ff_swish": True, "ff_no_bias": True}),
    ("rms", {"use_rmsnorm": True}),
    ("qk_norm", {"attn_qk_norm": True}),
    ("talking", {"attn_pre_talking_heads": True, "attn_post_talking_heads": True}),
    ("gated", {"attn_gate_values": True}),
    ("memory", {"attn_num_mem_kv": 4}),
    ("macaron", {"macaron": True}),
    ("sandwich", {"sandwich_norm": True}),
    ("shift", {"shift_tokens": 1}),
    ("post_norm", {"pre_norm": False}),
    ("scale_norm", {"use_scalenorm": True}),
    ("parallel", {"residual_attn": True}),
    ("relu_squared", {"ff_relu_squared": True, "ff_post_act_ln": True}),
):
    MODELS[f"x_transformers/{_name}"] = partial(decoder, **_options)
MODELS["x_transformers/encoder"] = encoder

add(
    "perceiver",
    "perceiver_pytorch",
    "Perceiver",
    (1, 16, 16, 3),
    input_channels=3,
    input_axis=2,
    num_freq_bands=4,
    max_freq=8.0,
    depth=2,
    num_latents=8,
    latent_dim=64,
    cross_heads=1,
    latent_heads=4,
    cross_dim_head=16,
    latent_dim_head=16,
    num_classes=5,
)
add(
    "conformer", "conformer", "ConformerBlock", (1, 16, 64), dim=64, dim_head=16, heads=4, ff_mult=4, conv_kernel_size=7
)
add(
    "pytorch_tcn",
    "pytorch_tcn",
    "TCN",
    (1, 8, 32),
    num_inputs=8,
    num_channels=[24, 24, 24],
    kernel_size=3,
    causal=True,
    output_projection=4,
)
add(
    "local_attention",
    "local_attention",
    "LocalTransformer",
    WORDS,
    num_tokens=64,
    dim=64,
    depth=2,
    max_seq_len=32,
    local_attn_window_size=8,
    heads=4,
    dim_head=16,
    causal=True,
)


def clip(kind: str) -> Case:
    """open_clip with small towers."""
    library = import_module("open_clip.model")
    vision: dict[str, Any] = {"layers": 2, "width": 64, "head_width": 16, "patch_size": 16, "image_size": 64}
    if kind == "resnet":
        vision = {"layers": (1, 1, 1, 1), "width": 16, "head_width": 16, "image_size": 64}
    text = {"context_length": 16, "vocab_size": 64, "width": 64, "heads": 4, "layers": 2}
    model = library.CLIP(embed_dim=48, vision_cfg=library.CLIPVisionCfg(**vision), text_cfg=library.CLIPTextCfg(**text))
    return Case(model, (torch.randn(1, 3, 64, 64), torch.randint(1, 64, (1, 16))))


MODELS["open_clip/vit"], MODELS["open_clip/resnet"] = partial(clip, "vit"), partial(clip, "resnet")

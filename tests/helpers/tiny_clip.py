"""Small random two-tower models in the forms that users have: of open_clip, of timm, of sentence-transformers."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch
from timm.data import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg
from timm.models.convnext import ConvNeXt
from timm.models.vision_transformer import VisionTransformer

#: Width of the space that both towers share.
WIDTH = 16
SIZE = 32
CONFIG: dict[str, Any] = {
    "embed_dim": WIDTH,
    "vision_cfg": {"image_size": SIZE, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def open_clip_folder(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Write a random model as open_clip writes one, for ``open_clip:FOLDER``.

    Args:
        changes: of the model's configuration.
    """
    config = {**CONFIG, **changes}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    torch.manual_seed(seed)
    model = open_clip.model.CLIP(**config)
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return folder


def registered(folder: Path, name: str = "tiny-clip") -> str:
    """Make the small configuration known to open_clip under a name, for ``open_clip:NAME:FILE``."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps(CONFIG))
    open_clip.add_model_config(path)
    return name


def sentence_transformers_folder(folder: Path) -> Path:
    """Write a random CLIP of transformers as sentence-transformers writes one, for ``st:FOLDER``."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer({word: number for number, word in enumerate(words)}, [])
    layers = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1}
    config = CLIPConfig(
        text_config={**layers, **ends, "vocab_size": len(words), "max_position_embeddings": 40},
        vision_config={**layers, "image_size": SIZE, "patch_size": 8},
        projection_dim=WIDTH,
    )
    torch.manual_seed(0)
    plain = folder.with_name(f"{folder.name}-transformers")
    CLIPModel(config).save_pretrained(plain)
    images = CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE})
    CLIPProcessor(images, tokenizer).save_pretrained(plain)
    SentenceTransformer(modules=[Transformer(str(plain))]).save(str(folder))
    return folder


# --- image towers of timm, known under names as its own are -------------------------------------------------

default_cfgs = generate_default_cfgs({
    name: {
        "input_size": (3, SIZE, SIZE), "num_classes": classes, "classifier": classifier, "first_conv": "",
        "mean": OPENAI_CLIP_MEAN, "std": OPENAI_CLIP_STD, "interpolation": "bicubic", "crop_pct": 1.0,
    }
    for name, classes, classifier in (
        ("tiny_clip_vit.random", WIDTH, "head"),
        ("tiny_siglip_vit.random", 0, "head"),
        ("tiny_clip_convnext.random", WIDTH, "head.fc"),
        ("tiny_clip_resnet.random", WIDTH, "head.proj"),
    )
})  # fmt: skip

_VIT = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": SIZE}


@register_model
def tiny_clip_vit(pretrained: bool = False, **options: Any) -> Any:
    """Build the image tower of :data:`CONFIG`."""
    options = {**_VIT, "pre_norm": True, "norm_layer": partial(torch.nn.LayerNorm, eps=1e-5), **options}
    return build_model_with_cfg(VisionTransformer, "tiny_clip_vit", pretrained, **options)


@register_model
def tiny_siglip_vit(pretrained: bool = False, **options: Any) -> Any:
    """Build a tower whose vector attention makes of all tokens, and which has no projection."""
    options = {**_VIT, "embed_dim": WIDTH, "class_token": False, "global_pool": "map", **options}
    return build_model_with_cfg(VisionTransformer, "tiny_siglip_vit", pretrained, **options)


@register_model
def tiny_clip_convnext(pretrained: bool = False, **options: Any) -> Any:
    """Build a convolutional tower, with a norm between its pooling and its projection."""
    options = {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 24), **options}
    return build_model_with_cfg(ConvNeXt, "tiny_clip_convnext", pretrained, **options)


@register_model
def tiny_clip_resnet(pretrained: bool = False, **options: Any) -> Any:
    """Build a tower with the attention pooling of CLIP's ResNets."""
    config = ByoModelCfg(
        blocks=tuple(ByoBlockCfg(type="bottle", d=1, c=c, s=s, br=0.25) for c, s in ((16, 1), (32, 2), (64, 2))),
        stem_chs=16, stem_type="tiered", stem_pool="avg2", downsample="avg", aa_layer="avg",
        head_type="attn_abs", head_hidden_size=64,
    )  # fmt: skip
    options = {"img_size": SIZE, **options}
    return build_model_with_cfg(ByobNet, "tiny_clip_resnet", pretrained, model_cfg=config, **options)

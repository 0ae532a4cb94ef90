"""Small random two-tower models in the forms that users have: of open_clip, of timm, of sentence-transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch

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

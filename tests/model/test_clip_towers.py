"""Image towers of CLIP as backbones: their projection, open_clip's checkpoints, bad input. Weights are random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import pytest
import tiny_clip
import torch

from zsl_tagger.errors import UserError
from zsl_tagger.model.backbone import Backbone, Projection, normalization, own_size
from zsl_tagger.model.cosine import CosineHead
from zsl_tagger.model.pretrained import load_backbone_file

IMAGES = torch.randn((2, 3, tiny_clip.SIZE, tiny_clip.SIZE), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def tokens(backbone: Backbone) -> torch.Tensor:
    return backbone.eval()(IMAGES)


def tower(name: str, projection: Projection) -> Backbone:
    torch.manual_seed(0)
    return Backbone(name, projection=projection)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip.open_clip_folder(tmp_path_factory.mktemp("clip") / "towers")


def test_a_checkpoint_of_both_towers_gives_open_clips_image_vector(folder: Path) -> None:
    theirs = open_clip.create_model(f"local-dir:{folder}").eval()
    with torch.no_grad():
        expected = theirs.encode_image(IMAGES)
        raw = theirs.visual.transformer(_embedded(theirs.visual, IMAGES))
        each = theirs.visual.ln_post(raw[:, 1:]) @ theirs.visual.proj  # MaskCLIP's dense features of a transformer
    for projection, right in (("pooled", expected[:, None]), ("tokens", each)):
        ours = Backbone("tiny_clip_vit", projection=projection)  # type: ignore[arg-type]
        load_backbone_file(ours, folder / "open_clip_pytorch_model.bin")
        torch.testing.assert_close(tokens(ours), right, atol=1e-5, rtol=1e-4)
        assert ours.channels == tiny_clip.WIDTH


def _embedded(visual: Any, images: torch.Tensor) -> torch.Tensor:
    """Return what the transformer of open_clip's tower reads."""
    patches = visual.conv1(images).flatten(2).transpose(1, 2)  # (B, L, C)
    first = visual.class_embedding.expand(len(images), 1, -1)
    return visual.ln_pre(torch.cat([first, patches], dim=1) + visual.positional_embedding)


def test_the_projection_must_be_in_the_file(folder: Path, tmp_path: Path) -> None:
    state = torch.load(folder / "open_clip_pytorch_model.bin")
    del state["visual.proj"]
    torch.save(state, tmp_path / "without.pt")
    load_backbone_file(Backbone("tiny_clip_vit"), tmp_path / "without.pt")
    with pytest.raises(UserError, match=r"2 of its \d+ tensors are missing \(head\.bias, head\.weight\)"):
        load_backbone_file(Backbone("tiny_clip_vit", projection="tokens"), tmp_path / "without.pt")


def test_a_convolutional_tower_projects_each_place_as_its_pooled_vector() -> None:
    """Norm and linear layer, as over the mean; of one place alone both are the same."""
    plain, backbone = tokens(tower("tiny_clip_convnext", "none")), tower("tiny_clip_convnext", "tokens")
    each, network = tokens(backbone), backbone.network
    assert each.shape == (2, plain.shape[1], tiny_clip.WIDTH)
    with torch.no_grad():
        torch.testing.assert_close(each[0], network.forward_head(plain[0][:, :, None, None]), atol=1e-5, rtol=1e-4)


def test_a_tower_with_attention_pooling_projects_what_a_token_adds_to_it() -> None:
    plain, each = tokens(tower("tiny_clip_resnet", "none")), tokens(tower("tiny_clip_resnet", "tokens"))
    head = tower("tiny_clip_resnet", "tokens").network.head
    with torch.no_grad():
        torch.testing.assert_close(each, head.proj(head.v(plain)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["tiny_clip_vit", "tiny_clip_convnext", "tiny_clip_resnet", "tiny_siglip_vit"])
def test_the_pooled_token_is_the_towers_own_vector(name: str) -> None:
    backbone = tower(name, "pooled")
    with torch.no_grad():
        torch.testing.assert_close(tokens(backbone)[:, 0], backbone.network(IMAGES))
    assert backbone.channels == tiny_clip.WIDTH


@pytest.mark.parametrize("name", ["tiny_clip_vit", "tiny_clip_convnext", "tiny_clip_resnet"])
def test_both_are_the_towers_own_vector_and_then_its_projected_tokens(name: str) -> None:
    backbone = tower(name, "both")
    expected = torch.cat([tokens(tower(name, "pooled")), tokens(tower(name, "tokens"))], dim=1)
    torch.testing.assert_close(tokens(backbone), expected)
    assert backbone.channels == tiny_clip.WIDTH


def test_mean_and_size_are_the_towers_own() -> None:
    assert normalization(Backbone("tiny_clip_vit"))[0] == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    assert (own_size("vit_large_patch14_clip_336.openai"), own_size("tiny_clip_vit"), own_size("none")) == (
        336,
        32,
        None,
    )


@pytest.mark.parametrize(
    ("name", "projection", "message"),
    [
        ("tiny_siglip_vit", "tokens", "no projection that can be applied to each token: attention combines all"),
        ("test_resnet", "tokens", "test_resnet has no projection into .* classifies 1,000 classes of ImageNet"),
        ("test_vit", "pooled", "test_vit has no projection into .* Expected a CLIP or SigLIP tower with its tag"),
        ("pit_ti_224", "tokens", "no projection for the feature maps"),
    ],
)
def test_a_tower_without_projection_is_said(name: str, projection: Projection, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Backbone(name, projection=projection)


def test_the_cosine_head_is_scaled_cosines() -> None:
    head = CosineHead(4, scale=10.0, bias=-2.0)
    found, queries = torch.randn(2, 3, 4), torch.randn(5, 4)
    units = torch.nn.functional.normalize(found, dim=-1).mean(1)
    expected = 10 * torch.nn.functional.cosine_similarity(units[:, None], queries[None], dim=-1) - 2
    torch.testing.assert_close(head(found, queries), expected)
    logits, attention = head.score_with_attention(head.embed_tokens(found), head.prepare(queries))
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(attention.sum(-1), torch.ones(2, 5))

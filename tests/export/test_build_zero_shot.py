"""``zsl-tagger build-zero-shot``: two towers to a model folder, what it scores, and bad input. Weights are random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import tiny_clip
import torch
from made_data import write_photo
from PIL import Image
from typer.testing import CliRunner

import cli
from zsl_tagger import Tagger
from zsl_tagger.errors import UserError
from zsl_tagger.export.run import ExportRun, export
from zsl_tagger.export.zero_shot import ZeroShotRun, _words, build_zero_shot
from zsl_tagger.model.pretrained import load_model
from zsl_tagger.tagging.model_folder import read_config
from zsl_tagger.training.run import resolve_config
from zsl_tagger.words.prompts import TextEncoderSource
from zsl_tagger.words.sources import open_word_source

pytestmark = pytest.mark.slow

LABELS = ["dog", "red panda", "sky"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip.open_clip_folder(tmp_path_factory.mktemp("clip") / "towers")


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    write_photo(path.with_suffix(".jpg"), 3)
    Image.open(path.with_suffix(".jpg")).resize((tiny_clip.SIZE, tiny_clip.SIZE)).save(path)  # nothing to resize
    return path


def run_of(folder: Path, output: Path, **changes: Any) -> ZeroShotRun:
    labels = output.with_name("labels.txt")
    labels.write_text("\n".join(LABELS))
    weights = str(folder / "open_clip_pytorch_model.bin")
    options: dict[str, Any] = {"init": weights, **changes}
    return ZeroShotRun(
        backbone="tiny_clip_vit", word_vectors=f"open_clip:{folder}", labels_file=labels, output=output, **options
    )


@pytest.fixture(scope="module")
def model(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("built") / "model"
    build_zero_shot(run_of(folder, output))
    return output


@torch.no_grad()
def open_clips_cosines(folder: Path, photo: Path) -> np.ndarray:
    """Return the cosines by which open_clip's README classifies: of the image's vector and the prompts'."""
    towers = open_clip.create_model(f"local-dir:{folder}").eval()
    pixels = torch.from_numpy(np.asarray(Image.open(photo).convert("RGB")).copy()).permute(2, 0, 1)[None] / 255
    mean, std = (
        torch.tensor(part)[:, None, None] for part in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    image = towers.encode_image((pixels - mean) / std, normalize=True)
    text = towers.encode_text(open_clip.get_tokenizer("ViT-B-32", context_length=16)(
        [f"a photo of a {label}." for label in LABELS]), normalize=True)  # fmt: skip
    return (image @ text.T)[0].numpy()


def test_its_scores_are_open_clips_cosines_scaled(folder: Path, photo: Path, model: Path) -> None:
    tagger = Tagger(model)
    expected = open_clips_cosines(folder, photo) / 0.07 - 0.25 / 0.07
    scores = tagger.scores(tagger.encode(photo), LABELS)[0]
    np.testing.assert_allclose(np.log(scores / (1 - scores)), expected, atol=2e-3)
    assert {tag.label for tag in tagger.tag(photo, threshold=0)} == set(LABELS)
    assert tagger.heatmap(photo, ["dog"]).shape == (1, 1, 1)
    config = read_config(model)
    assert (config.templates, config.image_size) == (("a photo of a {}.",), tiny_clip.SIZE)
    assert config.architecture == {
        "backbone": "tiny_clip_vit",
        "projection": "pooled",
        "head": "cosine",
        "class_reading": False,
        "class_evidence": False,
    }


def test_the_folder_is_a_model_in_torch_and_is_exported_with_more_words(model: Path, tmp_path: Path) -> None:
    assert load_model(model).head.word_dim == tiny_clip.WIDTH
    (tmp_path / "words.txt").write_text("zebra\n")
    export(ExportRun(model=model, output=tmp_path / "more", bake_words=str(tmp_path / "words.txt")))
    assert "zebra" in Tagger(tmp_path / "more").words


def test_tokens_are_pooled_as_their_mean_and_looked_at_one_by_one(folder: Path, photo: Path, tmp_path: Path) -> None:
    run = run_of(folder, tmp_path / "model", pool="tokens", scale=5.0, bias=1.0)
    lines = build_zero_shot(run)
    assert "sigmoid(5 x cosine +1)" in lines[1]
    tagger = Tagger(tmp_path / "model")
    encoded = tagger.encode(photo)
    places = (tiny_clip.SIZE // 8) ** 2
    assert encoded.tokens.shape == (1, places, tiny_clip.WIDTH)
    mean = encoded.tokens[0].mean(0)
    cosines = tagger.label_set(LABELS).queries @ mean / np.linalg.norm(mean)
    np.testing.assert_allclose(tagger.logits(encoded, tagger.label_set(LABELS))[0], 5 * cosines + 1, atol=1e-3)
    side = tiny_clip.SIZE // 8
    assert tagger.heatmap(photo, ["dog"]).shape == (1, side, side)


def test_two_streams_score_without_training_and_can_be_trained(folder: Path, photo: Path, tmp_path: Path) -> None:
    build_zero_shot(run_of(folder, tmp_path / "model", pool="local-global", scale=5.0, bias=1.0))
    tagger = Tagger(tmp_path / "model")
    encoded, queries = tagger.encode(photo), tagger.label_set(LABELS).queries
    cosines = queries @ encoded.tokens[0].T  # (K, 1 + L); there are 16 patches, as many as are averaged
    assert encoded.tokens.shape == (1, 1 + (tiny_clip.SIZE // 8) ** 2, tiny_clip.WIDTH)
    np.testing.assert_allclose(cosines[:, 0], open_clips_cosines(folder, photo), atol=1e-4)
    expected = 5 * (cosines[:, 0] + cosines[:, 1:].mean(axis=1)) / 2 + 1
    np.testing.assert_allclose(tagger.logits(encoded, tagger.label_set(LABELS))[0], expected, atol=1e-3)
    assert read_config(tmp_path / "model").architecture["head"] == "local-global"
    assert "16 patches most like the label" in (tmp_path / "model" / "README.md").read_text()
    config = resolve_config(recipe="clip-local-global", init=str(tmp_path / "model"))
    assert (config.backbone, config.head, config.image_size) == ("tiny_clip_vit", "local-global", tiny_clip.SIZE)


def test_siglip_has_its_own_bias(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    siglip = tiny_clip.open_clip_folder(tmp_path / "siglip", init_logit_bias=-10.0)
    monkeypatch.setattr("zsl_tagger.export.zero_shot.write_model_folder", lambda *_: None)
    assert "cosine -10)" in build_zero_shot(run_of(siglip, tmp_path / "model"))[1]


def test_the_command_writes_a_folder_that_tags(folder: Path, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("dog\nsky\n")
    command = ["build-zero-shot", "--backbone", "tiny_clip_vit", "--word-vectors", f"open_clip:{folder}"]
    command += ["--labels-file", str(tmp_path / "labels.txt"), "--output", str(tmp_path / "model")]
    command += ["--init", str(folder / "open_clip_pytorch_model.bin")]
    result = CliRunner().invoke(cli.app, command)
    assert result.exit_code == 0, result.output
    assert "nothing trained" in result.output
    result = CliRunner().invoke(cli.app, ["tag", str(photo), "--model", str(tmp_path / "model"), "--threshold", "0"])
    assert result.exit_code == 0, result.output
    assert "dog" in result.output


# --- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"word_vectors": "packaged"}, "expected --word-vectors of the image tower's text tower, .* got 'packaged'"),
        ({"init": "scratch"}, "expected --init timm or a file of the image tower's weights, got 'scratch'"),
        ({"scale": 0.0}, "expected --scale above 0, got 0.0"),
        ({"backbone": "tiny_siglip_vit", "pool": "tokens"}, "no projection that can be applied to each token"),
        ({"backbone": "test_vit"}, "test_vit has no projection into the space of a text tower"),
        ({"backbone": "vit_base_patch16_clp_224"}, "timm has no model .* vit_base_patch16_clip_224"),
    ],
)
def test_towers_that_do_not_fit_are_said(folder: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    run = run_of(folder, tmp_path / "model")
    with pytest.raises(UserError, match=message):
        build_zero_shot(ZeroShotRun(**{**run.__dict__, **changes}))
    assert not (tmp_path / "model").exists()


def test_towers_of_different_spaces_are_said(folder: Path, tmp_path: Path) -> None:
    wide = tiny_clip.open_clip_folder(tmp_path / "wide", embed_dim=24)
    run = run_of(folder, tmp_path / "model")
    with pytest.raises(
        UserError, match=r"do not share a space: tiny_clip_vit has 16 dimensions, open_clip:\S+wide has 24: give"
    ):
        build_zero_shot(ZeroShotRun(**{**run.__dict__, "word_vectors": f"open_clip:{wide}"}))


def test_an_empty_list_of_labels_is_said(folder: Path, tmp_path: Path) -> None:
    run = run_of(folder, tmp_path / "model")
    run.labels_file.write_text("\n")
    with pytest.raises(UserError, match=r"labels\.txt is empty: expected one label per line"):
        build_zero_shot(run)


def test_a_training_does_not_start_from_it(model: Path) -> None:
    with pytest.raises(UserError, match="is an untrained CLIP tagger, and its head has nothing to train: start from"):
        resolve_config(recipe="my-photos", init=str(model))


def test_phrases_are_averaged_into_the_words_of_the_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "phrases.jsonl").write_text('{"label": "cat", "names": ["kitty"], "sentences": ["It has soft fur."]}\n')
    run = run_of(folder, tmp_path / "model", phrases=tmp_path / "phrases.jsonl")
    source = open_word_source(run.word_vectors)
    assert isinstance(source, TextEncoderSource)
    rows = source.encode(["a photo of a cat.", "a photo of a kitty.", "It has soft fur.", "a photo of a dog."], True)
    expected = [rows[:3].mean(axis=0), rows[3]]
    words = _words(["cat", "dog"], source, run)
    found = [words.resolve(label) for label in ("cat", "dog")]
    vectors = words.vectors_of([one for one in found if one])
    assert ((vectors * expected).sum(axis=1) / np.linalg.norm(expected, axis=1)).min() > 0.9999

"""Queries by CLIP's text towers: prompts, their mean, where they are stored, and bad input. Weights are random."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import open_clip
import pytest
import tiny_clip
import torch

from data_prep.wordvecs import prepare_wordvecs, word_vectors
from zsl_tagger.errors import UserError
from zsl_tagger.words.baking import bake_words, open_source_of_other_words
from zsl_tagger.words.prompts import read_templates, templates_of
from zsl_tagger.words.sources import WordSource, open_word_source
from zsl_tagger.words.text_towers import OpenClipSource

pytestmark = pytest.mark.slow

PROMPTS = ("a photo of a {}.", "{} in a {} picture", "art of the {}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip.open_clip_folder(tmp_path_factory.mktemp("clip") / "towers")


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> str:
    """It holds the same weights as ``NAME:FILE``."""
    return f"{tiny_clip.registered(folder.parent)}:{folder / 'open_clip_pytorch_model.bin'}"


def by_open_clip(checkpoint: str, label: str, prompts: tuple[str, ...]) -> np.ndarray:
    """Return the class weight of open_clip's own classifier: the mean of unit vectors, normalised again."""
    name, _, file = checkpoint.partition(":")
    model = open_clip.create_model(name, file).eval()
    tokens = open_clip.get_tokenizer(name)([prompt.replace("{}", label) for prompt in prompts])
    with torch.no_grad():
        rows = model.encode_text(tokens, normalize=True)
    return torch.nn.functional.normalize(rows.mean(0), dim=0).numpy()


def vector(source: WordSource, label: str, unit: bool = True) -> np.ndarray:
    found = source.resolve(label)
    assert found is not None
    return source.vectors_of([found], unit=unit)[0]


def test_a_label_is_asked_in_clips_prompt(checkpoint: str, folder: Path) -> None:
    expected = by_open_clip(checkpoint, "red panda", ("a photo of a {}.",))
    for spec in (f"open_clip:{checkpoint}", f"open_clip:{folder}"):
        source = open_word_source(spec)
        np.testing.assert_allclose(vector(source, "red panda"), expected, atol=1e-6)
        assert templates_of(source) == ("a photo of a {}.",)
        assert source.word_dim == tiny_clip.WIDTH


def test_several_prompts_are_the_mean_of_unit_vectors_normalised_again(
    checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_word_source(f"open_clip:{checkpoint}", templates=PROMPTS)
    np.testing.assert_allclose(vector(source, "dog"), by_open_clip(checkpoint, "dog", PROMPTS), atol=1e-6)
    alone = [vector(source, label) for label in ("dog", "cat", "a {} b")]
    monkeypatch.setattr("zsl_tagger.words.prompts.SENTENCES_AT_ONCE", 4)  # one label at a time
    found = [source.resolve(label) for label in ("dog", "cat", "a {} b")]
    np.testing.assert_allclose(source.vectors_of([one for one in found if one]), alone, atol=1e-6)
    assert source.vectors_of([]).shape == (0, tiny_clip.WIDTH)


def test_the_scale_and_bias_of_the_checkpoint_are_known(tmp_path: Path, folder: Path) -> None:
    assert OpenClipSource(str(folder)).logit_scale == pytest.approx(1 / 0.07, rel=1e-4)
    assert OpenClipSource(str(folder)).logit_bias is None
    siglip = tiny_clip.open_clip_folder(tmp_path / "siglip", init_logit_bias=-10.0)
    assert OpenClipSource(str(siglip)).logit_bias == -10


def test_quick_gelu_follows_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenAI's weights need QuickGELU, which open_clip's architecture of that name does not have."""
    asked: dict[tuple[str, str], object] = {}

    def create_model(name: str, weights: str, **options: object) -> None:
        asked[name, weights] = options["force_quick_gelu"]
        raise RuntimeError("no network")

    monkeypatch.setattr(open_clip, "create_model", create_model)
    for name in ("ViT-B-32", "ViT-B-32:openai", "ViT-B-32:laion2b_e16"):
        with pytest.raises(UserError, match="no network"):
            OpenClipSource(name)
    assert asked == {("ViT-B-32", "openai"): True, ("ViT-B-32", "laion2b_e16"): False}


def test_a_clip_of_sentence_transformers_is_asked_in_the_same_prompt(tmp_path: Path) -> None:
    spec = f"st:{tiny_clip.sentence_transformers_folder(tmp_path / 'clip')}"
    source, alone = open_word_source(spec), open_word_source(spec, templates=())
    assert templates_of(source) == ("a photo of a {}.",)
    assert templates_of(alone) == ()
    np.testing.assert_allclose(vector(source, "dog"), vector(alone, "a photo of a dog."), atol=1e-6)
    both = open_word_source(spec, templates=("one {}", "two {}"))
    raw = [vector(alone, text, unit=False) for text in ("one dog", "two dog")]
    np.testing.assert_allclose(vector(both, "dog", unit=False), np.mean(raw, axis=0), atol=1e-6)
    units = np.mean([row / np.linalg.norm(row) for row in raw], axis=0)
    np.testing.assert_allclose(vector(both, "dog"), units / np.linalg.norm(units), atol=1e-6)


def test_prepared_vectors_say_their_templates(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "labels.txt").write_text("dog\ncat\n")
    (tmp_path / "prompts.txt").write_text("\n".join(["", *PROMPTS, ""]))
    spec, output = f"open_clip:{folder}", tmp_path / "words.pth"
    prepare_wordvecs(tmp_path / "labels.txt", spec, output, templates=tmp_path / "prompts.txt")
    report = json.loads(output.with_suffix(".json").read_text())["word_vectors"]
    assert report["templates"] == list(PROMPTS)
    expected = vector(open_word_source(spec, templates=PROMPTS), "cat")
    np.testing.assert_allclose(torch.load(output)[:, 0].numpy(), expected, atol=1e-6)
    assert word_vectors(["dog"], spec).report().templates == ["a photo of a {}."]
    assert word_vectors(["dog"], "packaged").report().templates == []


def test_words_asked_later_are_put_in_the_same_templates(folder: Path) -> None:
    spec = f"open_clip:{folder}"
    baked = bake_words(open_source_of_other_words(spec, templates=PROMPTS), ["zebra"])
    expected = vector(open_word_source(spec, templates=PROMPTS), "zebra")
    np.testing.assert_allclose(baked.vectors(["zebra"])[0], expected, atol=0.02)  # int8
    old = open_source_of_other_words(spec)  # a folder that states none: labels alone
    assert templates_of(old) == ()


# --- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a photo of a {}.\n\na dog\n", r"prompts\.txt, line 3: expected {} where the label goes, got 'a dog': write"),
        ("a photo of a {label}.", r"prompts\.txt, line 1: expected {} where the label goes"),
        ("\n \n", r'prompts\.txt has no template: expected one per line, such as "a photo of a {}\."'),
    ],
)
def test_a_template_says_where_the_label_goes(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "prompts.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        read_templates(tmp_path / "prompts.txt")


def test_a_templates_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read the templates file .*: No such file"):
        read_templates(tmp_path / "none.txt")


@pytest.mark.parametrize("spec", ["packaged", "file:words.pth", "gensim:glove-wiki-gigaword-50"])
def test_templates_need_an_encoder_of_text(spec: str) -> None:
    with pytest.raises(UserError, match=rf"^templates need word vectors from a text encoder, .* '{spec}' has words"):
        open_word_source(spec, templates=PROMPTS)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-B-33:openai", "open_clip has no model 'ViT-B-33'; the nearest names are: ViT-B-32, "),
        ("vit-b-32", "open_clip has no model 'vit-b-32'; the nearest names are: ViT-B-32, "),
        ("ViT-B-32:opneai", "no checkpoint 'opneai', and open_clip has no weights of that name .* are: openai"),
        ("ViT-B-32:/no/such.pt", "there is no checkpoint '/no/such.pt'"),
        ("tiny-clip", "open_clip has no weights of tiny-clip: give a checkpoint, tiny-clip:FILE"),
    ],
)
def test_names_that_open_clip_lacks_are_answered_with_the_nearest(checkpoint: str, name: str, message: str) -> None:
    assert checkpoint.startswith("tiny-clip:")
    with pytest.raises(UserError, match=message):
        OpenClipSource(name)


def test_files_that_are_no_weights_of_the_model_are_one_line(tmp_path: Path, checkpoint: str) -> None:
    (tmp_path / "broken.pt").write_bytes(b"no weights")
    torch.save({"positional_embedding": torch.zeros(16, 32)}, tmp_path / "other.pt")
    for file, message in (
        ("broken.pt", "contains something other than tensors, or is damaged"),
        ("other.pt", "do not match the model"),
    ):
        with pytest.raises(UserError, match=f"^cannot open the text tower open_clip:tiny-clip:.*{message}") as caught:
            OpenClipSource(f"tiny-clip:{tmp_path / file}")
        assert len(str(caught.value).splitlines()) == 1
        assert "weights_only" not in str(caught.value)
    with pytest.raises(UserError, match=r"is not an open_clip model folder: it has no open_clip_config\.json"):
        OpenClipSource(str(tmp_path))
    assert checkpoint


def test_open_clip_sets_up_no_logging(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    OpenClipSource(str(folder))
    assert logging.root.handlers == []

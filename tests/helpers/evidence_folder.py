"""Make a small model of random weights whose words hear its backbone's classifier, and the folder that it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from zsl_tagger.export.model_writer import architecture_of, preprocessing_of, write_model_folder
from zsl_tagger.images.preprocessing import Preprocessing
from zsl_tagger.model.backbone import Backbone
from zsl_tagger.model.pretrained import build_model
from zsl_tagger.model.tagger_model import TaggerModel
from zsl_tagger.tagging.class_evidence import CLASS_WORDS_FILE, Scoring
from zsl_tagger.tagging.model_folder import ModelConfig, VocabularyLabel
from zsl_tagger.words.table import WordTable

SIZE, WIDTH = 96, 7

WORDS = ("dog", "cat", "beach", "sky", "boat", "zebra", "lion", "animal", "sand", "theorem", "red")

#: The labels it lists; "boat" is not trained.
LABELS = (
    VocabularyLabel("dog", 0.3), VocabularyLabel("cat", 0.6, bias=-0.4), VocabularyLabel("beach", 0.45),
    VocabularyLabel("sky", 0.7, bias=0.2), VocabularyLabel("boat", 0.55, seen=False),
)  # fmt: skip

#: Listed words and others of each kind. Images differ in the first ``LIVE`` classes alone.
CLASS_WORDS = {
    "names": {"dog": [1, 4], "boat": [999], "lion": [3]},
    "above": {"beach": [0, 5], "animal": [2, 3]},
}
LIVE, CLASSES = 7, 1000

SCORING = Scoring(names=(1.3, 0.67, -0.32), above=(0.8, 0.38, 0.23), other=(1.1, 0.0, 0.4))


def evidence_model() -> TaggerModel:
    """Return a model whose class probabilities differ from image to image, and whose logits do by some units."""
    torch.manual_seed(11)
    architecture = {"dim": 21, "ffn_dim": 29, "heads": 3, "class_evidence": True}
    model = build_model(Backbone("test_efficientnet"), architecture, WIDTH).eval()
    blocks = np.random.default_rng(5).integers(0, 256, (13, 3, 3, 3), np.uint8)
    images = blocks.repeat(SIZE // 3, axis=1).repeat(SIZE // 3, axis=2)  # (13, S, S, 3)
    classifier = model.backbone.network.get_classifier()
    with torch.no_grad():
        tokens = model.backbone_tokens(torch.from_numpy(images)).flatten(0, 1)  # (13 * L, C)
        centred = tokens - tokens.mean(dim=0)
        along = torch.linalg.svd(centred, full_matrices=False).Vh[:LIVE]  # where they differ most
        along *= along.sum(dim=1, keepdim=True).sign()  # the same sign on every machine
        classifier.weight.zero_()
        classifier.bias.fill_(-3.2)
        classifier.weight[:LIVE] = 1.5 * along / (centred @ along.T).std(dim=0)[:, None]
        classifier.bias[:LIVE] = -classifier.weight[:LIVE] @ tokens.mean(dim=0)
        model.head.embed.weight.mul_(500)
        model.head.embed.bias.copy_(-model.head.embed.weight @ tokens.mean(dim=0))
        model.head.group_weight.mul_(2)
    return model


def write_evidence_folder(folder: Path) -> Path:
    """Write the folder, as ``train`` leaves it."""
    folder.mkdir()
    (folder / CLASS_WORDS_FILE).write_text(json.dumps(CLASS_WORDS))
    model = evidence_model()
    vectors = np.random.default_rng(3).normal(size=(len(WORDS), WIDTH)).astype(np.float32)
    pixels = preprocessing_of(model, Preprocessing(SIZE))
    config = ModelConfig(pixels, WIDTH, 0.5, architecture_of(model), unseen_bias=0.25, scoring=SCORING)
    table = WordTable(WORDS, vectors, normalized=True)
    reason = write_model_folder(model, folder, config, list(LABELS), table, "the card")
    assert reason is None
    return folder

"""zsl_tagger/packaged/prefilter.py: the network and the regressions of the prefilter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import onnxruntime
import pytest
import torch
from made_data import write_crops
from sklearn.linear_model import Ridge

from zsl_tagger import Tagger, UserError
from zsl_tagger.assets import PACKAGED
from zsl_tagger.export.networks import write_prediction
from zsl_tagger.model.ml_decoder import CrossAttention
from zsl_tagger.model.tagger_model import PredictionForExport
from zsl_tagger.packaged import prefilter
from zsl_tagger.packaged.folders import photos_in
from zsl_tagger.packaged.prefilter import Sample
from zsl_tagger.tagging.prefilter import PREFILTER_FILE, PREFILTER_NETWORK

pytestmark = pytest.mark.slow

DIM, HEADS, SIDE, LABELS = 6, 2, 5, 7
PLACES = 9  # 5 x 5 places in groups of 2 x 2, the last ones smaller


@pytest.fixture
def network() -> PredictionForExport:
    torch.manual_seed(0)
    made = PredictionForExport.__new__(PredictionForExport)
    torch.nn.Module.__init__(made)
    made.attention = CrossAttention(DIM, HEADS, 0.0)
    return made.eval()


def expected_values(network: PredictionForExport, tokens: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Compute the values ``(K, D)`` of one image step by step."""
    grid = tokens.reshape(SIDE, SIDE, DIM)
    blocks = [grid[y : y + 2, x : x + 2].reshape(-1, DIM).mean(0) for y in (0, 2, 4) for x in (0, 2, 4)]
    state = {name: value.detach().double().numpy() for name, value in network.attention.state_dict().items()}
    keys, values = (np.stack(blocks) @ state[f"{n}.weight"].T + state[f"{n}.bias"] for n in ("k", "v"))
    rows = []
    for query in queries:
        parts = []
        for head in range(HEADS):
            some = slice(head * DIM // HEADS, (head + 1) * DIM // HEADS)
            weights = np.exp(keys[:, some] @ query[some] / np.sqrt(DIM // HEADS))
            parts.append(weights / weights.sum() @ values[:, some])
        rows.append(np.concatenate(parts))
    return np.array(rows)


def test_the_network(network: PredictionForExport, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    tokens = random.normal(size=(3, SIDE * SIDE, DIM)).astype(np.float32)
    queries, slopes = random.normal(size=(2, LABELS, DIM)).astype(np.float32)
    write_prediction(network, tmp_path / PREFILTER_NETWORK, places=SIDE * SIDE)
    session = onnxruntime.InferenceSession(tmp_path / PREFILTER_NETWORK)
    (found,) = session.run(["logits"], {"tokens": tokens, "projected": queries, "slopes": slopes})
    expected = [(expected_values(network, one, queries) * slopes).sum(1) for one in tokens.astype(np.float64)]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_regressions_are_those_of_scikit_learn(
    network: PredictionForExport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With more weight on photos near the threshold, and a part of labels at a time."""
    monkeypatch.setattr(prefilter, "LABELS_AT_ONCE", 3)
    monkeypatch.setattr(prefilter, "PHOTOS_AT_ONCE", 4)
    monkeypatch.setattr(prefilter, "RIDGE", 0.1)
    torch.manual_seed(2)
    photos = 31
    sample = Sample(
        tokens=torch.randn(photos, PLACES, DIM),
        logits=torch.randn(photos, LABELS),
        scales=torch.ones(photos, LABELS),
        above=torch.randn(photos, LABELS) * 3 - 2,
    )
    projected = torch.randn(LABELS, DIM)
    with torch.inference_mode():
        slopes, offsets = prefilter._fit(network, sample, projected)
        values = network.values(sample.tokens, projected).double().numpy()  # (N, K, D)
    for label in range(LABELS):
        above = sample.above[:, label].double().numpy()
        weights = 0.05 + 1 / (1 + np.exp(-above - 2))
        weights /= weights.sum()
        x = values[:, label]
        variance = weights @ (x - weights @ x) ** 2
        ridge = Ridge(alpha=0.1 * variance.mean()).fit(x, sample.logits[:, label].numpy(), sample_weight=weights)
        np.testing.assert_allclose(slopes[label], ridge.coef_, atol=1e-4)
        assert offsets[label].item() == pytest.approx(cast("float", ridge.intercept_), abs=1e-4)


def test_too_few_photos(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^error: expected at least 10 photos to fit the prefilter to, got 0$"):
        prefilter.main(tmp_path, PACKAGED)


def test_a_head_that_cannot_be_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is not changed."""
    monkeypatch.setattr(prefilter, "load_model", lambda _: SimpleNamespace(head=torch.nn.Linear(1, 1)))
    with pytest.raises(UserError, match=r"cannot have a prefilter: expected an MLDecoder with word queries"):
        prefilter.write_prefilter(PACKAGED, [tmp_path] * 10)


def test_a_model_folder_gets_a_prefilter(
    tmp_path: Path, examples: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(PACKAGED, tmp_path / "model")
    for name in (PREFILTER_FILE, PREFILTER_NETWORK):
        (folder / name).unlink()
    labels = [label for label in json.loads((folder / "labels.json").read_text()) if label.get("default", True)]
    (folder / "labels.json").write_text(json.dumps([label for label in labels if label["name"] != "cat"][:600]))
    monkeypatch.setattr(prefilter, "FITTED", 18)
    monkeypatch.setattr(prefilter, "CHECKED", 6)
    (tmp_path / "photos" / "scenes").mkdir(parents=True)
    write_crops(tmp_path / "photos" / "scenes", examples)
    assert len(photos_in(tmp_path / "photos")) == 40
    prefilter.main(tmp_path / "photos", folder)
    assert " tags lost on 6 photos; " in capsys.readouterr().out
    tagger = Tagger(folder)
    assert tagger.vocabulary.slopes(tagger._prefilter) is not None  # type: ignore[arg-type]
    assert tagger.tag(examples / "cat.jpg") == tagger.tag(examples / "cat.jpg", exact=True)

"""docs/schemas: the JSON Schemas are those of the dataclasses, and what commands write is valid."""

from __future__ import annotations

import json
import runpy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from paths import ROOT
from PIL import Image

from data_prep.folders import Folders
from data_prep.pipeline import Options, prepare
from data_prep.report import report_on
from data_prep.wordvecs import prepare_wordvecs
from zsl_tagger.evaluation.run import EvaluateRun, evaluate
from zsl_tagger.system.json_record import JsonRecord

SCHEMAS = ROOT / "docs" / "schemas"


def check(path: Path, schema: str | None = None) -> dict[str, Any]:
    """Return the JSON file at ``path``, which must be valid and have snake_case keys where the schema names keys."""
    content = json.loads(path.read_text(encoding="utf-8"))
    rules = json.loads((SCHEMAS / (schema or path.name)).read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(rules).validate(content)
    for one in (rules, *rules.get("$defs", {}).values()):
        assert [key for key in one["properties"] if not (key.isidentifier() and key.islower())] == []
    return content


def test_the_schemas_in_docs_are_those_of_the_dataclasses() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_schemas.py"))["schemas"]()
    assert {path.name: path.read_bytes() for path in SCHEMAS.iterdir()} == made, "run: python docs/make_schemas.py"


@pytest.mark.parametrize("resamples", [0, 20])
def test_the_report_of_evaluate(tmp_path: Path, resamples: int) -> None:
    random = np.random.default_rng(0)
    targets = random.random((12, 6)) < 0.4
    targets[:, 4] = False
    names: dict[str, Any] = {"images": [f"{row}.jpg" for row in range(12)], "labels": list("abcdef")}
    np.savez(tmp_path / "t.npz", targets=targets.astype(int), **names)
    biases = np.array([1, 1, 0, 0, 0, 0], np.float32)
    scores = random.normal(size=targets.shape).astype(np.float32)
    np.savez(tmp_path / "s.npz", scores=scores, kind="logits", biases=biases, **names)
    (tmp_path / "unseen.txt").write_text("a\nb")
    run = EvaluateRun(
        scores=tmp_path / "s.npz", targets=tmp_path / "t.npz", unseen=tmp_path / "unseen.txt",
        against=tmp_path / "s.npz", resamples=resamples, output=tmp_path / "out",
    )  # fmt: skip
    result = evaluate(run)
    content = check(tmp_path / "out" / "report.json")
    assert content == json.loads(json.dumps(result.report.to_json()))
    assert content["tasks"]["zsl"]["map"] == result.report.tasks["zsl"].map
    assert content["seen_and_unseen"]["with_model_bias"]["at_k"]["3"]["f1"] > 0
    assert set(content["against"]["tasks"]) == ({"zsl", "seen", "gzsl"} if resamples else set())


def test_the_files_of_prepare(tmp_path: Path) -> None:
    for number in range(20):
        path = tmp_path / "in" / ("dog", "dogs", "cat")[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number // 2).integers(0, 255, (32, 32, 3), np.uint8)).save(path)
    out = tmp_path / "out"
    info = prepare(Folders(source=tmp_path / "in", unseen="dogs"), out, Options(released_splits=True))
    content = check(out / "dataset.json")
    assert content == json.loads(json.dumps(info.to_json()))
    assert content["word_vectors"]["unseen_same_as_seen"] == {"dogs": "dog"}
    report = report_on(out)
    assert report.near_duplicates is not None
    assert check(out / "split_report.json") == json.loads(json.dumps(report.to_json()))
    (tmp_path / "labels.txt").write_text("hair drier\ncat\n")
    prepare_wordvecs(tmp_path / "labels.txt", "packaged", tmp_path / "v.pth")
    assert check(tmp_path / "v.json", "wordvecs.json")["labels"] == ["cat", "hair drier"]


def test_json_has_no_nan_and_no_array() -> None:
    @dataclass(frozen=True)
    class Made(JsonRecord):
        value: Any

    assert Made((float("nan"), {3: Made(1.5)})).to_json() == {"value": [None, {"3": {"value": 1.5}}]}
    with pytest.raises(TypeError, match="expected a JSON value, got ndarray"):
        Made(np.zeros(2)).to_json()

"""``zsl-tagger evaluate`` and ``calibrate`` as a person types them."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_data import run_command
from paths import ROOT
from sklearn.metrics import average_precision_score
from small_runs import small_run

from zsl_tagger.datasets.read import load_dataset
from zsl_tagger.evaluation.scoring import PARTIAL_FILES
from zsl_tagger.tagging.model_folder import ModelFolderError, read_config
from zsl_tagger.tagging.tagger import Tagger
from zsl_tagger.training.run import train

pytestmark = [pytest.mark.usefixtures("one_torch_thread"), pytest.mark.slow]


@pytest.fixture(scope="module")
def data(tagged: Path) -> Path:
    return tagged


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "model"
    train(small_run(data, out, "holdout_labels=0.2", "epochs=2"))
    return out


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "model"))


@pytest.fixture(scope="module")
def report(data: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "out"
    status, text = run("--model", trained, "--data", data, "--output", out, "--resamples", 50)
    assert status == 0, text
    return out


def run(*arguments: object, command: str = "evaluate") -> tuple[int, str]:
    """Exit status, and everything printed."""
    status, stdout, stderr = run_command(command, *arguments)
    return status, stdout + stderr


def figures(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def test_the_report_says_what_scikit_learn_says(data: Path, report: Path) -> None:
    dataset, stored = load_dataset(data), np.load(report / "scores.npz")
    rows = dataset.rows("test")
    targets, scores = dataset.targets(rows), stored["scores"]
    assert stored["images"].tolist() == [dataset.paths[row] for row in rows]
    tasks = figures(report)["tasks"]
    for task, columns in (("zsl", ~dataset.seen), ("gzsl", np.ones(len(dataset.seen), bool))):
        shown = [k for k in np.flatnonzero(columns) if targets[:, k].any()]
        expected = np.mean([average_precision_score(targets[:, k], scores[:, k]) for k in shown])
        assert tasks[task]["map"] == pytest.approx(expected, rel=1e-6)
    with (report / "per_label.csv").open(encoding="utf-8") as file:
        rows_read = list(csv.DictReader(file))
    assert [row["label"] for row in rows_read] == list(dataset.labels)


def test_the_scores_are_those_of_tagging(data: Path, trained: Path, report: Path) -> None:
    dataset, stored = load_dataset(data), np.load(report / "scores.npz")
    tagger = Tagger(trained)
    labels = tagger.label_set(list(dataset.labels))
    for image, row in list(zip(stored["images"], stored["scores"], strict=True))[:3]:
        encoded = tagger.encode(f"{dataset.image_root}/{image}")
        np.testing.assert_allclose(row, tagger.log_odds(encoded, labels)[0], atol=1e-5)


def test_the_page_needs_no_other_file(report: Path) -> None:
    page = (report / "report.html").read_text(encoding="utf-8")
    assert 'src="http' not in page
    assert "href=" not in page.replace("xlink:href", "")
    for text in ("lion", "boat", "data:image/jpeg;base64,", "<svg", "AUSUC", "Protocol strict", "What each unseen"):
        assert text in page
    assert not any((report / name).exists() for name in PARTIAL_FILES)


def test_stored_scores_give_the_same_figures_and_no_difference(data: Path, report: Path, tmp_path: Path) -> None:
    stored = report / "scores.npz"
    status, text = run("--scores", stored, "--data", data, "--resamples", 50, "--against", stored, "-o", tmp_path / "o")
    assert status == 0
    assert re.search(r"mAP .* \+0\.0 \(\+0\.0 to \+0\.0\) +1\n", text)
    ours, theirs = figures(tmp_path / "o")["tasks"], figures(report)["tasks"]
    for task in theirs:
        assert ours[task]["map"] == theirs[task]["map"]
        assert ours[task]["at_k"].get("3") == theirs[task]["at_k"].get("3")


@pytest.mark.parametrize("labels", ["seen", "unseen", "all"])
@pytest.mark.parametrize("protocol", ["strict", "mld", "lesa", "biam"])
def test_tasks_and_protocols(data: Path, report: Path, labels: str, protocol: str) -> None:
    arguments = ("--classes", labels, "--protocol", protocol, "--k", 1, "--k", 2, "--resamples", 0)
    status, text = run("--scores", report / "scores.npz", "--data", data, *arguments)
    assert status == 0, text
    shown = [title in text for title in ("ZSL: unseen labels", "GZSL: all labels", "F1@2")]
    assert shown == [labels != "seen", labels == "all", True]


def test_targets_and_an_unreadable_image(trained: Path, data: Path, tmp_path: Path) -> None:
    dataset = load_dataset(data)
    rows = dataset.rows("test")
    names = [dataset.paths[row] for row in rows]
    (tmp_path / "images" / "photos").mkdir(parents=True)
    for name in names[1:]:
        shutil.copy(f"{dataset.image_root}/{name}", tmp_path / "images" / name)
    lines = [",".join(["image", *dataset.labels])]
    lines += [
        ",".join([name, *map(str, row.astype(int))]) for name, row in zip(names, dataset.targets(rows), strict=True)
    ]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    (tmp_path / "unseen.txt").write_text("boat\nlion\n")
    arguments = ("--targets", tmp_path / "t.csv", "--unseen-file", tmp_path / "unseen.txt", "--resamples", 0)
    status, text = run("--model", trained, *arguments, "--images", tmp_path / "images", "-o", tmp_path / "out")
    assert status == 0, text
    assert f"1 images cannot be read and are skipped, e.g. {names[0]}" in text
    assert figures(tmp_path / "out")["images"]["evaluated"] == len(names) - 1


def test_what_is_refused(trained: Path, data: Path, report: Path, tmp_path: Path) -> None:
    stored = report / "scores.npz"
    (tmp_path / "file").write_text("")
    cases: list[tuple[tuple[object, ...], str]] = [
        (("--data", data), "give either --model DIR or --scores FILE to evaluate"),
        (
            ("--data", data, "--model", trained, "--scores", stored),
            "give either --model DIR or --scores FILE to evaluate",
        ),
        (("--model", trained), "give either --data DIR or --targets FILE"),
        (("--scores", stored, "--data", data, "--unseen-file", "x"), "--unseen-file goes with --targets"),
        (("--scores", stored, "--data", data, "--split", "val"), "has no scores of"),
        (("--scores", stored, "--data", data, "--resamples", 1), "expected --resamples of 2 or more"),
        (("--scores", stored, "--data", data, "--kind", "probabilities"), "should contain probabilities"),
        (("--scores", stored, "--data", data, "--output", tmp_path / "file"), "File exists"),
        (("--scores", tmp_path / "no.npz", "--data", data), "no file of scores at"),
        (("--model", tmp_path / "no", "--data", data), "no model folder at"),
        (("--model", trained, "--data", tmp_path / "no"), "no such folder"),
    ]
    for arguments, message in cases:
        status, text = run(*arguments)
        assert (status, text.count("error: ")) == (2, 1), text
        assert message in text


def test_a_split_that_is_not_there(trained: Path, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    lines = (folder / "data.csv").read_text(encoding="utf-8").splitlines()
    (folder / "data.csv").write_text("\n".join(line for line in lines if not line.endswith(",test")) + "\n")
    (folder / "dataset.json").unlink()
    status, text = run("--model", trained, "--data", folder)
    assert status == 2
    assert "has no images in the split test; its images: train" in text


def test_a_model_trained_on_unseen_labels(trained: Path, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    (folder / "dataset.json").unlink()
    benchmark = next(path for path in folder.glob("*.json") if path.name != "split_report.json")
    seen = [label.name for label in Tagger(trained)._folder.labels() if label.seen]
    unseen = sorted([seen[0], "lion", "boat"])
    rest = [name for name in load_dataset(data).labels if name not in unseen]
    benchmark.write_text(json.dumps({"train class": rest, "test class": unseen}))
    images = ("--images", load_dataset(data).image_root, "--resamples", 0)
    status, text = run("--model", trained, "--data", folder, *images)
    assert status == 2
    assert f"was trained on 1 of the 3 unseen labels of data: {seen[0]!r}" in text
    status, text = run("--model", trained, "--data", folder, *images, "--force", "-o", tmp_path / "out")
    assert status == 0, text
    assert "NOT ZERO-SHOT" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_a_model_trained_on_the_plural_of_an_unseen_label(trained: Path, data: Path, tmp_path: Path) -> None:
    """It was asked the same query; where the data set itself has both names, that is its protocol's, and is said."""
    names, image = load_dataset(data).labels, "photos/009.jpg"
    seen = next(label.name for label in Tagger(trained)._folder.labels() if label.seen)
    plural, others = f"{seen}s", [name for name in names if name not in ("lion", "boat", seen)]
    assert Tagger(trained).key(plural) == Tagger(trained).key(seen)
    (tmp_path / "unseen.txt").write_text(plural)
    arguments = ["--unseen-file", tmp_path / "unseen.txt", "--resamples", 0]
    arguments += ["--images", load_dataset(data).image_root, "--k", 1]

    def of_labels(labels: list[str]) -> tuple[int, str]:
        (tmp_path / "t.csv").write_text(f"image,{','.join(labels)}\n{image},{','.join('1' for _ in labels)}\n")
        return run("--model", trained, "--targets", tmp_path / "t.csv", *arguments)

    status, text = of_labels([*others, plural])
    assert status == 2
    assert f"was trained on 1 of the 1 unseen labels of t: {plural!r}" in text
    status, text = of_labels([*others, seen, plural])
    assert status == 0, text
    assert f"t has 1 unseen labels with the same query to {trained} as a seen one" in text
    assert f"'{plural} ({seen})'" in text


DRIVER = """
import sys, time
from zsl_tagger.evaluation import processes, scoring
scoring.SAVE_EVERY = 2
encode, log, pause = processes.Tagger.encode, sys.argv[1], float(sys.argv[2])
def slow(self, image):
    print(image, file=open(log, "a"))
    time.sleep(pause)
    return encode(self, image)
processes.Tagger.encode = slow
import cli
sys.argv = ["zsl-tagger", *sys.argv[3:]]
cli.app()
"""


def test_a_killed_run_goes_on(data: Path, trained: Path, report: Path, tmp_path: Path) -> None:
    def start(pause: float) -> subprocess.Popen[bytes]:
        arguments = ["evaluate", "--model", trained, "--data", data, "-o", tmp_path / "out", "--workers", 1]
        command = [sys.executable, "-c", DRIVER, tmp_path / "seen.txt", pause, *arguments, "--resamples", 0]
        return subprocess.Popen([str(word) for word in command], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})

    process = start(0.3)
    state = tmp_path / "out" / PARTIAL_FILES[1]
    deadline = time.monotonic() + 300  # of a busy machine
    while time.monotonic() < deadline and not (state.exists() and json.loads(state.read_text())["done"] >= 4):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = len((tmp_path / "seen.txt").read_text().splitlines())
    assert start(0).wait() == 0
    total = len(np.load(report / "scores.npz")["images"])
    assert 4 <= before < total
    assert len((tmp_path / "seen.txt").read_text().splitlines()) - before <= total - 4
    np.testing.assert_array_equal(
        np.load(tmp_path / "out" / "scores.npz")["scores"], np.load(report / "scores.npz")["scores"]
    )
    assert not state.exists()


# --- calibrate ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", [(), ("--precision", 0.9)])
def test_calibrate_stores_what_tagging_uses(model: Path, data: Path, precision: tuple[object, ...]) -> None:
    before = {label.name: label for label in Tagger(model)._folder.labels()}
    status, text = run("--model", model, "--data", data, *precision, command="calibrate")
    assert status == 0, text
    config = read_config(model)
    assert config.provenance["calibration"]["split"] == "val"
    tagger = Tagger(model)
    after = {label.name: label for label in tagger._folder.labels()}
    assert [label.seen for label in after.values()] == [label.seen for label in before.values()]
    labels = tagger.label_set(["lion", "sky"])
    assert labels.thresholds[0] == pytest.approx(config.default_threshold)
    assert labels.thresholds[1] == pytest.approx(after["sky"].threshold)
    assert labels.biases.tolist() == pytest.approx(
        [config.unseen_bias, 0.0 if after["sky"].seen else config.unseen_bias]
    )


def test_the_bias_is_added_to_labels_never_trained_only(model: Path, examples: Path) -> None:
    seen = next(label.name for label in Tagger(model)._folder.labels() if label.seen)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "unseen_bias": 2.0}))
    tagger = Tagger(model)
    encoded = tagger.encode(examples / "cat.jpg")
    both = tagger.label_set([seen, "lion"])
    logits = tagger.log_odds(encoded, both)[0]
    expected = 1 / (1 + np.exp(-(logits + np.array([0, 2]))))
    np.testing.assert_allclose(tagger.scores(encoded, both)[0], expected, rtol=1e-5)
    np.testing.assert_allclose(tagger.scores(encoded, ["lion"])[0], expected[1:], rtol=1e-5)


@pytest.mark.parametrize("bias", ["NaN", '"much"'])
def test_a_bias_that_is_no_number(model: Path, bias: str) -> None:
    text = (model / "config.json").read_text()
    config = json.loads(text)
    config.pop("unseen_bias")
    (model / "config.json").write_text(json.dumps(config)[:-1] + f', "unseen_bias": {bias}}}')
    with pytest.raises(ModelFolderError, match="expected unseen_bias to be a number of logits"):
        read_config(model)


def test_what_calibrate_refuses(model: Path, data: Path) -> None:
    cases: list[tuple[tuple[object, ...], str]] = [
        (("--model", model, "--data", data, "--precision", 0), "expected --precision above 0"),
        (("--model", ROOT / "zsl_tagger/assets/packaged", "--data", data), "is part of the installation"),
        (("--model", "packaged", "--data", data), "is not changed: --output DIR writes a calibrated copy"),
        (("--model", model, "--data", data, "--output", model), "already exists: give a new or empty folder"),
    ]
    for arguments, message in cases:
        status, text = run(*arguments, command="calibrate")
        assert status == 2
        assert message in text


def test_calibrating_on_test_is_said(model: Path, data: Path) -> None:
    status, text = run("--model", model, "--data", data, "--split", "test", command="calibrate")
    assert status == 0
    assert "chosen on test images" in text

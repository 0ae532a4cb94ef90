"""``zsl-tagger evaluate``: other people's scores in any order, paired comparison, partial scores, and bad input."""

from __future__ import annotations

import base64
import csv
import html.parser
import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from made_data import run_command
from PIL import Image
from pyarrow import parquet
from sklearn.metrics import average_precision_score
from small_runs import UNSEEN

from zsl_tagger.datasets.read import load_dataset
from zsl_tagger.evaluation import scoring
from zsl_tagger.evaluation.report import _csv
from zsl_tagger.evaluation.results import LabelFigures
from zsl_tagger.evaluation.scoring import PARTIAL_FILES
from zsl_tagger.tagging.encoded import Encoded
from zsl_tagger.tagging.tagger import Tagger

REPORT = {"report.json", "per_label.csv", "report.html", "scores.npz"}


pytestmark = [pytest.mark.usefixtures("one_torch_thread"), pytest.mark.slow]


@pytest.fixture(scope="module")
def data(tagged: Path) -> Path:
    return tagged


@pytest.fixture(scope="module")
def model(tagged_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(tagged_model, tmp_path_factory.mktemp("trained") / "model"))


@pytest.fixture(scope="module")
def report(data: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "out"
    told(run("--model", model, "--data", data, "-o", out, "--resamples", 50, "--workers", 1))
    return out


@pytest.fixture
def arrays(report: Path) -> dict[str, np.ndarray]:
    """``scores.npz`` of the model, to be spoiled."""
    return dict(np.load(report / "scores.npz"))


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The images that a model looked at, as it does."""
    seen: list[str] = []
    encode = Tagger.encode

    def counted(self: Tagger, image: Any) -> Encoded:
        seen.append(str(image))
        return encode(self, image)

    monkeypatch.setattr(Tagger, "encode", counted)
    return seen


def run(*arguments: object) -> tuple[int, str, str]:
    """Exit status, stdout, stderr."""
    return run_command("evaluate", *arguments)


def told(done: tuple[int, str, str]) -> str:
    """What a run that went well printed; notes are on stderr."""
    status, stdout, stderr = done
    assert status == 0, stderr
    assert "error" not in stderr
    return stdout


def refused(*arguments: object) -> str:
    """The one line that says why; notes may stand before it."""
    status, stdout, stderr = run(*arguments)
    assert (status, stdout) == (2, ""), stderr
    *notes, error = stderr.splitlines()
    assert all(line.startswith(("note: ", "warning: ")) for line in notes)
    assert error.startswith("error: ")
    return error.removeprefix("error: ")


def figures(folder: Path) -> dict[str, Any]:
    """``report.json``, which must be JSON to strict readers too."""

    def no_number(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads((folder / "report.json").read_text(encoding="utf-8"), parse_constant=no_number)


def measured(folder: Path) -> dict[str, Any]:
    """The figures, without where they came from."""
    return {name: value for name, value in figures(folder).items() if name not in ("evaluated", "notes", "against")}


def save(path: Path, arrays: dict[str, Any]) -> Path:
    np.savez(path, **arrays)
    return path


def truth(data: Path) -> np.ndarray:
    """Targets of the test images, bool ``(N, K)``."""
    dataset = load_dataset(data)
    return dataset.targets(dataset.rows("test"))


def write_table(path: Path, names: list[str], labels: list[str], values: np.ndarray) -> Path:
    columns: dict[str, Any] = {"image": names, **{label: values[:, k] for k, label in enumerate(labels)}}
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.table(columns), path)
        return path
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*(list(column) for column in columns.values()), strict=True))
    return path


# --- what comes out ----------------------------------------------------------------------------------------------


def test_the_folder_of_a_report_holds_four_files(report: Path) -> None:
    assert {path.name for path in report.iterdir()} == REPORT
    assert figures(report)["kind"] == "logits"


def test_every_logit_is_that_of_the_tagger_for_the_image_alone(
    data: Path, model: Path, arrays: dict[str, np.ndarray]
) -> None:
    tagger, root = Tagger(model), load_dataset(data).image_root
    labels = tagger.label_set(arrays["labels"].tolist())
    expected = np.concatenate([tagger.log_odds(tagger.encode(f"{root}/{name}"), labels) for name in arrays["images"]])
    np.testing.assert_allclose(arrays["scores"], expected, atol=1e-5)


def test_scores_of_a_file_give_the_very_same_report_as_the_model(data: Path, report: Path, tmp_path: Path) -> None:
    """The thresholds and the biases of the model are in the file."""
    told(run("--scores", report / "scores.npz", "--data", data, "-o", tmp_path / "a", "--resamples", 50))
    assert measured(tmp_path / "a") == measured(report)
    assert (tmp_path / "a" / "per_label.csv").read_bytes() == (report / "per_label.csv").read_bytes()


def test_the_same_threshold_gives_the_same_report_from_the_model_and_its_scores(
    data: Path, model: Path, report: Path, tmp_path: Path
) -> None:
    common = ("--data", data, "--resamples", 20, "--threshold", 0.4, "--seed", 3)
    told(run("--model", model, *common, "-o", tmp_path / "model"))
    told(run("--scores", report / "scores.npz", *common, "-o", tmp_path / "scores"))
    assert measured(tmp_path / "model") == measured(tmp_path / "scores")
    assert (tmp_path / "model" / "per_label.csv").read_bytes() == (tmp_path / "scores" / "per_label.csv").read_bytes()


def test_the_table_of_labels_holds_no_formula() -> None:
    row = LabelFigures(
        label="=1+1", seen=True, positives=0, unknown=0, average_precision=np.nan, average_precision_interval=None,
        tied_images=0, threshold=-0.5, precision=0.0, recall=0.0, f1=0.0,
    )  # fmt: skip
    header = "label,seen,positives,unknown,average_precision,tied_images,threshold,precision,recall,f1"
    ends = "average_precision_low,average_precision_high"
    assert _csv([row]).decode() == f"{header},{ends}\n'=1+1,True,0,0,,0,-0.5,0.0,0.0,0.0,,\n"


def test_average_precision_and_f1_of_each_label_are_scikit_learns(
    data: Path, model: Path, report: Path, arrays: dict[str, np.ndarray]
) -> None:
    targets, scores = truth(data), arrays["scores"]
    thresholds = Tagger(model).label_set(arrays["labels"].tolist())
    said = 1 / (1 + np.exp(-(scores + thresholds.biases))) >= thresholds.thresholds
    with (report / "per_label.csv").open(encoding="utf-8", newline="") as file:
        for column, row in enumerate(csv.DictReader(file)):
            assert row["seen"] == str(row["label"] not in UNSEEN)
            assert int(row["positives"]) == targets[:, column].sum()
            if not targets[:, column].any():
                assert row["average_precision"] == ""
                continue
            expected = average_precision_score(targets[:, column], scores[:, column])
            assert float(row["average_precision"]) == pytest.approx(expected, abs=1e-5)
            low, high = float(row["average_precision_low"]), float(row["average_precision_high"])
            assert low <= high
            hits = (said[:, column] & targets[:, column]).sum()
            f1 = 2 * hits / (said[:, column].sum() + targets[:, column].sum())
            assert float(row["f1"]) == pytest.approx(f1, abs=1e-5)


class _Page(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset")]
        assert tag not in ("script", "link", "iframe")

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_needs_no_other_file_and_its_thumbnails_are_images(data: Path, report: Path) -> None:
    page = _Page()
    page.feed((report / "report.html").read_text(encoding="utf-8"))
    outside = [link for link in page.links if not link.startswith(("data:image/jpeg;base64,", "#"))]
    assert outside == []
    pictures = [link.partition(",")[2] for link in page.links if link.startswith("data:")]
    assert len(pictures) > len(UNSEEN)
    for picture in pictures[:3]:
        with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
            assert image.format == "JPEG"
    for label in load_dataset(data).labels:
        assert label in page.text


def test_names_that_look_like_html_are_text(tmp_path: Path) -> None:
    label, image = "<script>alert(1)</script>", '"><img src=http://x>.jpg'
    values = np.array([[1, 0], [0, 1], [1, 1]], float)
    names = [image, "b&b.jpg", "c.jpg"]
    targets = write_table(tmp_path / "t.csv", names, [label, "a&b"], values)
    scores = write_table(tmp_path / "s.csv", names, [label, "a&b"], values * 3 - 1)
    told(run("--scores", scores, "--targets", targets, "-o", tmp_path / "out", "--resamples", 0))
    page = _Page()
    page.feed((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert label in page.text
    assert image in page.text
    assert [link for link in page.links if not link.startswith("#")] == []


# --- options -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "tasks"), [("seen", ["seen"]), ("unseen", ["zsl"]), ("all", ["zsl", "seen", "gzsl"])]
)
def test_labels_asked(data: Path, report: Path, tmp_path: Path, labels: str, tasks: list[str]) -> None:
    stored = report / "scores.npz"
    told(run("--scores", stored, "--data", data, "--classes", labels, "--resamples", 0, "-o", tmp_path / "out"))
    got = figures(tmp_path / "out")
    assert list(got["tasks"]) == tasks
    assert (got["seen_and_unseen"] is not None) == (labels == "all")
    assert got["tasks"][tasks[0]]["map"] == figures(report)["tasks"][tasks[0]]["map"]


def test_k_above_the_number_of_labels_is_left_out_and_others_are_right(
    data: Path, report: Path, tmp_path: Path, arrays: dict[str, np.ndarray]
) -> None:
    ks = ("--k", 1, "--k", 2, "--k", 7, "--k", 2, "--k", 99)
    told(run("--scores", report / "scores.npz", "--data", data, *ks, "-o", tmp_path / "out", "--resamples", 0))
    tasks = figures(tmp_path / "out")["tasks"]
    for name, expected in (("zsl", {"1", "2"}), ("gzsl", {"1", "2", "7"})):
        assert set(tasks[name]["at_k"]) == expected
    targets, scores = truth(data), arrays["scores"]
    best = np.argsort(-scores, axis=1)[:, :2]
    hits = np.take_along_axis(targets, best, axis=1).sum()
    assert tasks["gzsl"]["at_k"]["2"]["precision"] == pytest.approx(hits / (2 * len(targets)))
    assert tasks["gzsl"]["at_k"]["2"]["recall"] == pytest.approx(hits / targets.sum())


@pytest.mark.parametrize("threshold", [0.0, 0.45, 1.0])
def test_threshold(data: Path, report: Path, tmp_path: Path, arrays: dict[str, np.ndarray], threshold: float) -> None:
    stored, out = report / "scores.npz", tmp_path / "out"
    told(run("--scores", stored, "--data", data, "--threshold", threshold, "-o", out, "--resamples", 0))
    said, targets = 1 / (1 + np.exp(-arrays["scores"].astype(float))) >= threshold, truth(data)
    hits = (said & targets).sum()
    got = figures(out)["tasks"]["gzsl"]["at_threshold"]
    assert got["f1"] == pytest.approx(2 * hits / (said.sum() + targets.sum()))
    assert got["recall"] == pytest.approx(hits / targets.sum())


def test_protocols_treat_labels_without_positives_as_they_say(data: Path, report: Path, tmp_path: Path) -> None:
    means = {}
    for protocol in ("strict", "mld", "lesa", "biam"):
        out = tmp_path / protocol
        told(run("--scores", report / "scores.npz", "--data", data, "--protocol", protocol, "-o", out))
        got = figures(out)
        assert got["protocol"] == protocol
        means[protocol] = got["tasks"]["seen"]["map"]
        assert f"Protocol {protocol}" in (out / "report.html").read_text(encoding="utf-8")
    empty = int((truth(data)[:, load_dataset(data).seen].sum(axis=0) == 0).sum())
    seen = len(load_dataset(data).labels) - len(UNSEEN)
    assert empty > 0
    for protocol in ("mld", "lesa", "biam"):
        assert means[protocol] == pytest.approx(means["strict"] * (seen - empty) / seen)


def test_another_split_where_no_unseen_label_shows(data: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    stdout = told(run("--model", model, "--data", data, "--split", "val", "-o", out, "--resamples", 20))
    got = figures(out)
    assert got["split"] == "val"
    assert got["images"]["evaluated"] == len(load_dataset(data).rows("val"))
    assert got["tasks"]["zsl"]["map"] is None
    assert "nan" not in stdout.lower()
    told_why = refused("--model", model, "--data", data, "--split", "val", "--protocol", "mld", "--resamples", 0)
    assert "mld evaluates unseen labels on images that show one, but" in told_why
    assert "split val, has none: --classes seen leaves them out" in told_why
    told(run("--model", model, "--data", data, "--split", "val", "--protocol", "mld", "--classes", "seen"))


@pytest.mark.parametrize("suffix", [".npz", ".csv", ".parquet"])
def test_the_order_of_rows_and_columns_of_a_file_does_not_matter(
    data: Path, report: Path, arrays: dict[str, np.ndarray], tmp_path: Path, suffix: str
) -> None:
    random = np.random.default_rng(5)
    rows, columns = (random.permutation(count) for count in arrays["scores"].shape)
    values = arrays["scores"][rows][:, columns]
    images, labels = arrays["images"][rows], arrays["labels"][columns]
    path = tmp_path / f"other{suffix}"
    if suffix == ".npz":
        save(path, {"scores": np.asfortranarray(values), "images": images, "labels": labels, "kind": "logits"})
    else:
        write_table(path, images.tolist(), labels.tolist(), values)
    common = ("--data", data, "--kind", "logits", "--threshold", 0.5, "--resamples", 30)
    told(run("--scores", report / "scores.npz", *common, "-o", tmp_path / "a"))
    status, _, stderr = run("--scores", path, *common, "-o", tmp_path / "b")
    assert status == 0
    assert "matched by name" in stderr
    assert measured(tmp_path / "a") == measured(tmp_path / "b")


def test_more_images_and_labels_than_asked_are_left_out_and_said(
    data: Path, report: Path, arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    values = np.pad(arrays["scores"], ((0, 2), (0, 1)), constant_values=9)
    images, labels = [*arrays["images"], "x.jpg", "y.jpg"], [*arrays["labels"], "zebra"]
    path = save(tmp_path / "more.npz", {"scores": values, "images": images, "labels": labels, "kind": "logits"})
    status, _, stderr = run("--scores", path, "--data", data, "--resamples", 0, "-o", tmp_path / "out")
    assert status == 0
    assert "1 other labels are not evaluated: 'zebra'" in stderr
    assert "2 other images are not evaluated" in stderr
    assert figures(tmp_path / "out")["tasks"]["gzsl"]["map"] == figures(report)["tasks"]["gzsl"]["map"]


def test_probabilities_without_a_word_are_taken_as_such(
    data: Path, report: Path, arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    del arrays["kind"]
    arrays["scores"] = 1 / (1 + np.exp(-arrays["scores"].astype(float)))
    path = save(tmp_path / "p.npz", arrays)
    status, _, stderr = run("--scores", path, "--data", data, "--resamples", 0, "-o", tmp_path / "out")
    assert status == 0
    assert "are read as probabilities (override with --kind)" in stderr
    got = figures(tmp_path / "out")
    assert got["kind"] == "probabilities"
    assert got["tasks"]["gzsl"]["map"] == pytest.approx(figures(report)["tasks"]["gzsl"]["map"])


def test_against_itself_there_is_no_difference_and_against_noise_there_is(
    data: Path, model: Path, arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    noise = random.standard_normal(arrays["scores"].shape)
    better = save(tmp_path / "better.npz", {**arrays, "scores": noise + 8 * truth(data)})
    worse = save(tmp_path / "worse.npz", {**arrays, "scores": noise})
    common = ("--data", data, "--resamples", 200)
    told(run("--model", model, *common, "--against", model, "-o", tmp_path / "same"))
    for task in ("zsl", "seen", "gzsl"):
        for one in figures(tmp_path / "same")["against"]["tasks"][task].values():
            assert (one["difference"], one["interval"], one["p"]) == (0, [0, 0], 1)
    for ours, other, sign in ((better, worse, 1), (worse, better, -1)):
        out = tmp_path / f"sign{sign}"
        stdout = told(run("--scores", ours, *common, "--against", other, "-o", out))
        one = figures(out)["against"]["tasks"]["gzsl"]["map"]
        assert one["difference"] == pytest.approx(one["ours"] - one["other"])
        assert sign * one["difference"] > 0.3
        assert min(sign * edge for edge in one["interval"]) > 0
        assert one["p"] < 0.02
        assert f"against {other}" in stdout
    told(run("--model", model, *common, "--against", worse, "-o", tmp_path / "mixed"))
    assert figures(tmp_path / "mixed")["against"]["evaluated"] == str(worse)


def test_targets_with_unknown_entries(data: Path, report: Path, arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    targets = truth(data).astype(float)
    common = {"images": arrays["images"], "labels": arrays["labels"]}
    (tmp_path / "unseen.txt").write_text("\n".join(UNSEEN))
    unseen = ("--unseen-file", tmp_path / "unseen.txt", "--resamples", 30)
    stored = report / "scores.npz"
    told(run("--scores", stored, "--data", data, "--resamples", 30, "-o", tmp_path / "data"))
    path = save(tmp_path / "whole.npz", {"targets": targets, **common})
    told(run("--scores", stored, "--targets", path, *unseen, "-o", tmp_path / "whole"))
    assert measured(tmp_path / "whole")["tasks"] == measured(tmp_path / "data")["tasks"]
    hidden = targets.copy()
    hidden[::3, ::2] = np.nan
    for name, unknown in (("nan", np.nan), ("minus", -1)):
        path = save(tmp_path / f"{name}.npz", {"targets": np.nan_to_num(hidden, nan=unknown), **common})
        told(run("--scores", stored, "--targets", path, *unseen, "-o", tmp_path / name))
    assert measured(tmp_path / "nan")["tasks"] == measured(tmp_path / "minus")["tasks"]
    with (tmp_path / "nan" / "per_label.csv").open(newline="") as file:
        for column, row in enumerate(csv.DictReader(file)):
            known = ~np.isnan(hidden[:, column])
            assert int(row["unknown"]) == (~known).sum()
            if row["average_precision"]:
                expected = average_precision_score(targets[known, column], arrays["scores"][known, column])
                assert float(row["average_precision"]) == pytest.approx(expected, abs=1e-5)


def test_an_unreadable_image_is_left_out_and_the_others_are_as_they_were(
    data: Path, model: Path, arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    root, names = load_dataset(data).image_root, arrays["images"].tolist()
    for name in names:
        target = tmp_path / "images" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(f"{root}/{name}", target)
    (tmp_path / "images" / names[4]).write_bytes(b"no photo")
    (tmp_path / "images" / names[7]).write_bytes(b"")
    arguments = ("--data", data, "--images", tmp_path / "images", "--resamples", 0, "-o", tmp_path / "out")
    status, _, stderr = run("--model", model, *arguments)
    assert status == 0
    assert f"warning: 2 images cannot be read and are skipped, e.g. {names[4]}: " in stderr
    got = figures(tmp_path / "out")
    assert (got["unreadable_images"], got["images"]["evaluated"]) == (2, len(names) - 2)
    stored = np.load(tmp_path / "out" / "scores.npz")
    kept = [row for row in range(len(names)) if row not in (4, 7)]
    assert stored["images"].tolist() == [names[row] for row in kept]
    np.testing.assert_allclose(stored["scores"], arrays["scores"][kept], atol=1e-5)
    for name in names:
        (tmp_path / "images" / name).write_bytes(b"no photo")
    assert f"none of the {len(names)} images can be read, the first: {names[0]}" in refused(
        "--model", model, *arguments
    )


def test_a_closed_set(animals: Path, animal_model: Path, tmp_path: Path) -> None:
    told(run("--model", animal_model, "--data", animals, "-o", tmp_path / "out", "--resamples", 20, "--k", 1))
    got = figures(tmp_path / "out")
    assert list(got["tasks"]) == ["seen"]
    stored, dataset = np.load(tmp_path / "out" / "scores.npz"), load_dataset(animals)
    targets = dataset.targets(dataset.rows("test"))
    top1 = targets[np.arange(len(targets)), stored["scores"].argmax(axis=1)].mean()
    assert got["tasks"]["seen"]["at_k"]["1"]["precision"] == pytest.approx(top1)


# --- partial scores ----------------------------------------------------------------------------------------------


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int, *arguments: object) -> None:
    """A run that stops as it looks at an image, as SIGINT does."""
    monkeypatch.setattr(scoring, "SAVE_EVERY", 2)
    encode, seen = Tagger.encode, []

    def stopped(self: Tagger, image: Any) -> Encoded:
        seen.append(image)
        if len(seen) > after:
            raise KeyboardInterrupt
        return encode(self, image)

    with monkeypatch.context() as patched:
        patched.setattr(Tagger, "encode", stopped)
        status, _, stderr = run(*arguments)
    assert status == 130
    assert "run the same command again to continue where it stopped" in stderr


def test_an_interrupted_run_goes_on(
    data: Path, model: Path, report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoded: list[str]
) -> None:
    out = tmp_path / "out"
    arguments = ("--model", model, "--data", data, "-o", out, "--resamples", 50, "--workers", 1)
    interrupt(monkeypatch, 7, *arguments)
    assert {path.name for path in out.iterdir()} == set(PARTIAL_FILES)
    encoded.clear()
    told(run(*arguments))
    assert len(encoded) == len(truth(data)) - 6
    assert {path.name for path in out.iterdir()} == REPORT
    np.testing.assert_array_equal(np.load(out / "scores.npz")["scores"], np.load(report / "scores.npz")["scores"])
    assert measured(out) == measured(report)


def change_config(folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "unseen_bias": 1.0}))


def touch(name: str) -> Callable[[Path], None]:
    return lambda folder: os.utime(folder / name, (1, 1))


@pytest.mark.parametrize(
    "change",
    [change_config, touch("encoder.onnx"), touch("decoder.onnx"), touch("words.txt"), touch("word_vectors.npy")],
)
def test_partial_scores_of_another_model_are_not_used(
    change: Callable[[Path], None],
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoded: list[str],
) -> None:  # fmt: skip
    folder, out = Path(shutil.copytree(model, tmp_path / "model")), tmp_path / "out"
    arguments = ("--model", folder, "--data", data, "-o", out, "--resamples", 0, "--workers", 1)
    interrupt(monkeypatch, 7, *arguments)
    change(folder)
    encoded.clear()
    told(run(*arguments))
    assert len(encoded) == len(truth(data))


@pytest.mark.parametrize("more", [("--split", "val"), ("--classes", "unseen")])
def test_partial_scores_of_other_data_are_not_used(
    more: tuple[str, ...],
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoded: list[str],
) -> None:  # fmt: skip
    arguments = ("--model", model, "--data", data, "-o", tmp_path / "out", "--resamples", 0, "--workers", 1)
    interrupt(monkeypatch, 7, *arguments)
    encoded.clear()
    told(run(*arguments, *more))
    dataset = load_dataset(data)
    assert len(encoded) == len(dataset.rows("val" if "val" in more else "test"))
    stored = np.load(tmp_path / "out" / "scores.npz")
    tagger = Tagger(model)
    labels = tagger.label_set(stored["labels"].tolist())
    for image, row in zip(stored["images"], stored["scores"], strict=True):
        expected = tagger.log_odds(tagger.encode(f"{dataset.image_root}/{image}"), labels)[0]
        np.testing.assert_allclose(row, expected, atol=1e-5)


def test_partial_scores_of_other_photos_are_not_used(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoded: list[str]
) -> None:
    root = Path(shutil.copytree(str(load_dataset(data).image_root), tmp_path / "images"))
    arguments = ("--model", model, "--data", data, "--images", root, "-o", tmp_path / "out", "--resamples", 0)
    interrupt(monkeypatch, 7, *arguments, "--workers", 1)
    image = np.load(tmp_path / "out" / PARTIAL_FILES[0], mmap_mode="r")
    assert image.any()
    dataset = load_dataset(data)
    os.utime(root / dataset.paths[dataset.rows("test")[0]], (1, 1))
    encoded.clear()
    told(run(*arguments, "--workers", 1))
    assert len(encoded) == len(truth(data))


@pytest.mark.parametrize("spoilt", ["", "{", "[]", "null", "{}", "gone", "cut", "other"])
def test_spoilt_partial_scores_are_not_used(
    spoilt: str, data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoded: list[str]
) -> None:
    out = tmp_path / "out"
    arguments = ("--model", model, "--data", data, "-o", out, "--resamples", 0, "--workers", 1)
    interrupt(monkeypatch, 7, *arguments)
    values = out / PARTIAL_FILES[0]
    if spoilt == "gone":
        values.unlink()
    elif spoilt == "cut":
        values.write_bytes(values.read_bytes()[:-40])
    elif spoilt == "other":
        np.save(values, np.zeros((3, 2), np.float32))
    else:
        (out / PARTIAL_FILES[1]).write_text(spoilt)
    encoded.clear()
    told(run(*arguments))
    assert len(encoded) == len(truth(data))


def test_a_matrix_made_anew_has_no_state_of_the_old_one(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoded: list[str]
) -> None:
    """Killed between the two files, as another run in the folder begins."""

    def killed(_: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    arguments = ("--model", model, "--data", data, "-o", out, "--resamples", 0, "--workers", 1)
    interrupt(monkeypatch, 7, *arguments)
    with monkeypatch.context() as patched:
        patched.setattr(scoring._Store, "save", killed)
        assert run(*arguments, "--split", "val")[0] == 130
    encoded.clear()
    told(run(*arguments))
    assert len(encoded) == len(truth(data))


# --- bad input ---------------------------------------------------------------------------------------------------

Spoil = Callable[[dict[str, Any]], object]


def _nan(a: dict[str, Any]) -> None:
    a["scores"][3, 1] = np.nan


def _infinite(a: dict[str, Any]) -> None:
    a["scores"][0, 0] = np.inf


def _shape(a: dict[str, Any]) -> None:
    a["scores"] = a["scores"].T


def _few_labels(a: dict[str, Any]) -> None:
    a["labels"], a["scores"] = a["labels"][1:], a["scores"][:, 1:]


def _few_images(a: dict[str, Any]) -> None:
    a["images"], a["scores"] = a["images"][2:], a["scores"][2:]


def _probabilities(a: dict[str, Any]) -> None:
    a["scores"] = 1 / (1 + np.exp(-a["scores"]))


def _odd_kind(a: dict[str, Any]) -> None:
    a["kind"] = "odds"


def _no_names(a: dict[str, Any]) -> None:
    del a["images"], a["labels"]


def _numbers_for_names(a: dict[str, Any]) -> None:
    a["images"] = np.arange(len(a["images"]))


def _text_scores(a: dict[str, Any]) -> None:
    a["scores"] = a["scores"].astype(str)


def _labels_twice(a: dict[str, Any]) -> None:
    a["labels"][0] = a["labels"][1]


def _images_twice(a: dict[str, Any]) -> None:
    a["images"] = np.append(a["images"], a["images"][:1])
    a["scores"] = np.append(a["scores"], a["scores"][:1], axis=0)


def _pickled(a: dict[str, Any]) -> None:
    a["labels"] = a["labels"].astype(object)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_nan, "1 scores are not finite numbers, the first is nan of "),
        (_infinite, "1 scores are not finite numbers, the first is inf of "),
        (_shape, "expected scores of shape (images, labels) = (10, 8), got (8, 10)"),
        (_few_labels, "has no scores of 1 of the 8 labels: 'boat'"),
        (_few_images, "has no scores of 2 of the 10 images: 'photos/008.jpg', 'photos/009.jpg'"),
        (_probabilities, "should contain logits, but all its scores are in 0..1 like probabilities"),
        (_odd_kind, "expected scores of the kind logits or probabilities, got 'odds'"),
        (_no_names, "missing: images, labels: without names, rows and columns cannot be matched"),
        (_numbers_for_names, "expected images and labels as arrays of text, got int64"),
        (_text_scores, "expected scores as numbers, got an array of <U"),
        (_labels_twice, "duplicate labels: 'car'"),
        (_images_twice, "duplicate images: 'photos/008.jpg'"),
        (_pickled, "labels is an array of Python objects, which is not opened since it could run code"),
    ],
)
def test_bad_scores(spoil: Spoil, message: str, data: Path, arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    spoil(arrays)
    path = save(tmp_path / "bad.npz", arrays)
    assert message in refused("--scores", path, "--data", data, "--resamples", 0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npz", b"no zip at all", "a.npz cannot be read: "),
        ("a.npz", b"", "a.npz cannot be read: "),
        ("a.txt", b"image,sky", "a.txt: expected a file of scores that ends in .npz, .csv, .parquet"),
        ("a.csv", b"", "a.csv"),
        ("a.csv", b"image\nx.jpg\n", "a.csv: expected one column per label, found none"),
        ("a.csv", b"image,sky\nx.jpg,much\n", "a.csv cannot be read: "),
        ("a.csv", b"image,sky\nx.jpg,1,2\n", "a.csv cannot be read: "),
        ("a.csv", b"\xff\xfe\x00\x01", "a.csv"),
        ("a.parquet", b"PAR1 not really", "a.parquet cannot be read: "),
    ],
)
def test_files_that_are_no_scores(name: str, content: bytes, message: str, data: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert message in refused("--scores", tmp_path / name, "--data", data, "--resamples", 0)


def test_a_damaged_scores_file(data: Path, report: Path, tmp_path: Path) -> None:
    content = (report / "scores.npz").read_bytes()
    (tmp_path / "short.npz").write_bytes(content[: len(content) // 2])
    assert "short.npz cannot be read: " in refused("--scores", tmp_path / "short.npz", "--data", data)
    with zipfile.ZipFile(report / "scores.npz") as archive:
        offset = archive.getinfo("scores.npy").header_offset
    spoilt = bytearray(content)
    spoilt[offset + 200] ^= 0xFF  # the checksum no longer fits
    (tmp_path / "flipped.npz").write_bytes(spoilt)
    assert "flipped.npz cannot be read: " in refused("--scores", tmp_path / "flipped.npz", "--data", data)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "image,sky\na.jpg,0.5\n",
            "expected targets 1 (true), 0 (false) or empty (unknown), got 0.5 for 'sky' on a.jpg",
        ),
        ("image,sky\na.jpg,1\na.jpg,0\n", "duplicate images: 'a.jpg'"),
        ("image,sky,sky\na.jpg,1,0\n", "duplicate labels: 'sky'"),
        ("image,sky\n", "has no image"),
    ],
)
def test_bad_targets(content: str, message: str, report: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(content)
    assert message in refused("--scores", report / "scores.npz", "--targets", tmp_path / "t.csv")


def test_options_that_do_not_fit(data: Path, model: Path, report: Path, tmp_path: Path) -> None:
    stored, targets = report / "scores.npz", tmp_path / "t.csv"
    targets.write_text("image,sky\na.jpg,1\nb.jpg,0\n")
    (tmp_path / "unseen.txt").write_text("zebra\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "half").mkdir()
    shutil.copy(model / "config.json", tmp_path / "half")
    scores = ("--scores", stored, "--data", data)
    cases: list[tuple[tuple[object, ...], str]] = [
        ((), "give either --model DIR or --scores FILE"),
        (("--scores", stored, "--data", data, "--targets", targets), "give either --data DIR or --targets FILE"),
        (("--scores", stored, "--targets", tmp_path / "no.csv"), f"no file of targets at {tmp_path / 'no.csv'}"),
        (("--model", model, "--targets", targets), "does not record the folder of its images: give --images DIR"),
        (("--scores", stored, "--targets", targets, "--unseen-file", tmp_path / "no"), f"{tmp_path / 'no'}"),
        (
            ("--scores", stored, "--targets", targets, "--unseen-file", tmp_path / "unseen.txt"),
            "has names that are not labels of",
        ),
        (("--scores", stored, "--targets", targets, "--classes", "unseen"), "t has no unseen labels"),
        ((*scores, "--against", tmp_path / "no.npz"), "no file of scores at"),
        ((*scores, "--against", tmp_path / "empty"), "is incomplete; missing files: config.json"),
        (("--model", stored, "--data", data), f"no model folder at {stored}"),
        (("--model", tmp_path / "v1.2", "--data", data), f"no model folder at {tmp_path / 'v1.2'}"),
        ((*scores, "--against", tmp_path / "v1.2"), f"no model folder at {tmp_path / 'v1.2'}"),
        (("--scores", model, "--data", data), "expected a file of scores that ends in .npz, .csv, .parquet"),
        (("--model", tmp_path / "empty", "--data", data), "is incomplete; missing files: config.json"),
        (("--model", tmp_path / "half", "--data", data), "is incomplete; missing files: labels.json"),
        (("--model", model, "--data", tmp_path / "empty"), "is not a valid data set folder"),
        (("--model", model, "--data", data, "--images", tmp_path / "no"), "no folder of images at"),
    ]
    for arguments, message in cases:
        assert message in refused(*arguments), arguments
    assert refused(*scores, "-o", targets).startswith(f"{targets}: ")
    assert targets.read_text().startswith("image,sky")

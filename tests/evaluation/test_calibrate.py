"""``zsl-tagger calibrate``: what it stores, what tagging makes of it, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from made_data import run_command
from small_runs import UNSEEN, small_run
from typer.testing import CliRunner

import cli
from zsl_tagger.assets import PACKAGED
from zsl_tagger.datasets.read import load_dataset
from zsl_tagger.errors import UserError
from zsl_tagger.evaluation.calibrate import BACKUPS
from zsl_tagger.system.files import write_whole
from zsl_tagger.tagging import model_folder
from zsl_tagger.tagging.model_folder import ModelFolder, ModelFolderError, read_config
from zsl_tagger.tagging.tagger import Tagger
from zsl_tagger.training.run import train

pytestmark = [pytest.mark.usefixtures("one_torch_thread"), pytest.mark.slow]


@pytest.fixture(scope="module")
def data(tagged: Path) -> Path:
    return tagged


@pytest.fixture(scope="module")
def plain(tagged_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained on every seen label, whose thresholds were all made 0.5."""
    out = Path(shutil.copytree(tagged_model, tmp_path_factory.mktemp("plain") / "model"))
    edit(out, default_threshold=0.5)
    return out


@pytest.fixture(scope="module")
def held_out(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with two seen labels kept out of training."""
    out = tmp_path_factory.mktemp("held") / "model"
    train(small_run(data, out, "holdout_labels=0.34"))
    edit(out, default_threshold=0.5, unseen_bias=0.0)
    return out


@pytest.fixture
def model(plain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "model"))


@pytest.fixture
def held(held_out: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(held_out, tmp_path / "held"))


def edit(folder: Path, **changes: object) -> None:
    """Change ``config.json``; with a default threshold every label gets it."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    if "default_threshold" in changes:
        labels = json.loads((folder / "labels.json").read_text())
        changed = [{**label, "threshold": changes["default_threshold"]} for label in labels]
        (folder / "labels.json").write_text(json.dumps(changed))


def run(*arguments: object) -> tuple[int, str, str]:
    """Exit status, stdout, stderr."""
    return run_command("calibrate", *arguments)


def calibrated(folder: Path, data: Path, *more: object) -> str:
    status, stdout, stderr = run("--model", folder, "--data", data, "--workers", 1, *more)
    assert status == 0, stderr
    return stdout


def refused(*arguments: object) -> str:
    status, stdout, stderr = run(*arguments)
    assert (status, stdout) == (2, "")
    *notes, error = stderr.splitlines()
    assert all(line.startswith(("note: ", "warning: ")) for line in notes)
    assert error.startswith("error: ")
    return error.removeprefix("error: ")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def trained(folder: Path) -> list[str]:
    return [label.name for label in ModelFolder(folder).labels() if label.seen]


def scores_of(folder: Path, data: Path, labels: list[str], split: str = "val") -> tuple[np.ndarray, np.ndarray]:
    """(scores ``(N, K)`` as tagging gives them, targets bool ``(N, K)``) of a split."""
    dataset, tagger = load_dataset(data), Tagger(folder)
    rows, label_set = dataset.rows(split), tagger.label_set(labels)
    images = [f"{dataset.image_root}/{dataset.paths[row]}" for row in rows]
    scores = np.concatenate([tagger.scores(tagger.encode(image), label_set) for image in images])
    columns = [list(dataset.labels).index(label) for label in labels]
    return scores, dataset.targets(rows)[:, columns]


def f1(said: np.ndarray, targets: np.ndarray) -> float:
    return float(2 * (said & targets).sum() / max(1, said.sum() + targets.sum()))


def test_thresholds_are_stored_and_tagging_uses_them(model: Path, data: Path) -> None:
    before = contents(model)
    stdout = calibrated(model, data)
    after = contents(model)
    assert {name for name in after if after[name] != before.get(name)} == {"config.json", "labels.json"}
    assert before.keys() == after.keys()
    config, dataset = read_config(model), load_dataset(data)
    assert config.provenance["calibration"] == {
        "data": dataset.info["name"], "split": "val", "images": len(dataset.rows("val")), "precision": None,
    }  # fmt: skip
    assert config.provenance["recipe"] == "nus-wide-zsl"
    assert config.unseen_bias == 0
    labels = {label.name: label for label in ModelFolder(model).labels()}
    assert {label.threshold for label in labels.values()} != {0.5}
    assert {labels[name].threshold for name in UNSEEN} == {config.default_threshold}
    tagger = Tagger(model)
    assert tagger.label_set(["lion", "zebra"]).thresholds == pytest.approx([config.default_threshold] * 2)
    image = f"{dataset.image_root}/{dataset.paths[0]}"
    scores = dict(tagger.tag(image, list(labels), threshold=0))
    expected = {name for name, score in scores.items() if score >= np.float32(labels[name].threshold)}
    assert {tag.label for tag in tagger.tag(image)} == expected
    assert stdout.startswith(f"{model}: thresholds for the best F1, on {len(dataset.rows('val'))} images of ")
    assert "no label of the split was held out of training (train --set holdout_labels=0.1)" in stdout


def test_f1_is_no_worse_than_at_the_old_common_threshold(model: Path, data: Path) -> None:
    scores, targets = scores_of(model, data, trained(model))
    before = f1(scores >= 0.5, targets)
    calibrated(model, data)
    thresholds = Tagger(model).label_set(trained(model)).thresholds
    assert f1(scores >= thresholds, targets) >= before
    assert f1(scores >= read_config(model).default_threshold, targets) >= before


def test_calibrating_twice_changes_nothing_more(held: Path, data: Path) -> None:
    calibrated(held, data)
    once = contents(held)
    calibrated(held, data)
    assert contents(held) == once


def test_higher_precision_means_higher_thresholds(model: Path, data: Path) -> None:
    thresholds = []
    for precision in (0.2, 0.9):
        stdout = calibrated(model, data, "--precision", precision)
        assert f"thresholds for a precision of {precision:.0%}, on " in stdout
        assert read_config(model).provenance["calibration"]["precision"] == precision
        thresholds.append(Tagger(model).label_set(trained(model)).thresholds)
    assert (thresholds[1] >= thresholds[0]).all()
    assert thresholds[1].sum() > thresholds[0].sum()


def test_labels_kept_out_of_training_give_the_bias_of_all_never_trained(held: Path, data: Path) -> None:
    names = trained(held)
    assert len(names) < 6
    stdout = calibrated(held, data)
    config = read_config(held)
    kept_out = config.provenance["held_out_labels"]
    assert kept_out
    assert (
        f"  labels never trained: bias {config.unseen_bias:+.2f} and threshold "
        f"{config.default_threshold:.2f}, chosen on " in stdout
    )
    label_set = Tagger(held).label_set([*names, *kept_out, *UNSEEN, "zebra"])
    others = len(kept_out) + len(UNSEEN) + 1
    assert label_set.biases.tolist() == pytest.approx([0.0] * len(names) + [config.unseen_bias] * others)
    assert label_set.thresholds[len(names) :] == pytest.approx([config.default_threshold] * others)


def test_the_bias_gives_a_better_harmonic_mean_of_recall(held: Path, data: Path) -> None:
    names = trained(held)
    kept_out = list(read_config(held).provenance["held_out_labels"])

    def quality() -> float:
        scores, targets = scores_of(held, data, names + kept_out)
        top = np.argsort(-scores, axis=1, kind="stable")[:, :3]
        hits = np.zeros_like(targets)
        np.put_along_axis(hits, top, True, axis=1)
        hits &= targets
        recalls = [
            hits[:, part].sum() / targets[:, part].sum() for part in (slice(len(names)), slice(len(names), None))
        ]
        return 2 * recalls[0] * recalls[1] / max(sum(recalls), 1e-9)

    before = quality()
    calibrated(held, data)
    assert quality() >= before
    edit(held, unseen_bias=-30.0)
    assert quality() < before or before == 0


def test_a_bias_is_added_to_the_logits_of_labels_never_trained_only(model: Path, data: Path) -> None:
    dataset, asked = load_dataset(data), [*trained(model), *UNSEEN, "zebra"]
    image = f"{dataset.image_root}/{dataset.paths[0]}"
    plain = Tagger(model).label_set(asked)
    assert plain.biases.tolist() == [0.0] * len(asked)
    edit(model, unseen_bias=2)
    tagger = Tagger(model)
    label_set, encoded = tagger.label_set(asked), tagger.encode(image)
    shift = np.array([0.0 if label in trained(model) else 2.0 for label in asked])
    expected = 1 / (1 + np.exp(-(tagger.log_odds(encoded, label_set)[0] + shift)))
    scores = tagger.scores(encoded, label_set)[0]
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    for label, score in zip(asked, scores, strict=True):
        assert tagger.scores(encoded, [label])[0, 0] == pytest.approx(score, abs=1e-5)
        assert dict(tagger.tag(image, [label, "car"], threshold=0))[label] == pytest.approx(score, abs=1e-5)
    again = tagger.label_set(asked).without([tagger.key("zebra")])
    assert again.biases.tolist() == shift[:-1].tolist()
    np.testing.assert_allclose(tagger.scores(encoded, again)[0], scores[:-1], atol=1e-5)


def test_evaluate_counts_with_the_bias_at_the_threshold_but_not_in_the_ranking(
    model: Path, data: Path, tmp_path: Path
) -> None:
    def evaluated(name: str) -> dict:
        arguments = ["--model", model, "--data", data, "-o", tmp_path / name, "--resamples", 0, "--workers", 1]
        result = CliRunner().invoke(cli.app, ["evaluate", *map(str, arguments)])
        assert result.exit_code == 0, result.output
        return json.loads((tmp_path / name / "report.json").read_text())

    before = evaluated("before")
    edit(model, unseen_bias=30.0)
    after = evaluated("after")
    assert after["tasks"]["gzsl"]["map"] == before["tasks"]["gzsl"]["map"]
    assert after["tasks"]["gzsl"]["at_k"]["3"] == before["tasks"]["gzsl"]["at_k"]["3"]
    assert after["tasks"]["zsl"]["at_threshold"]["recall"] == 1
    assert before["seen_and_unseen"]["with_model_bias"] is None
    biased = after["seen_and_unseen"]["with_model_bias"]["recall_at_k"]["3"]
    assert biased["unseen"] == 1  # both unseen labels stand among any three best


def test_a_closed_set(animals: Path, animal_model: Path, tmp_path: Path) -> None:
    shutil.copytree(animal_model, tmp_path / "model")
    edit(tmp_path / "model", default_threshold=0.99)
    calibrated(tmp_path / "model", animals)
    scores, targets = scores_of(tmp_path / "model", animals, trained(tmp_path / "model"))
    thresholds = Tagger(tmp_path / "model").label_set(trained(tmp_path / "model")).thresholds
    assert (thresholds < 0.99).all()
    assert f1(scores >= thresholds, targets) >= f1(scores >= 0.99, targets)


# --- notes and refusals ------------------------------------------------------------------------------------------


def test_labels_the_model_does_not_know_are_left_out_and_said(plain: Path, data: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(plain, tmp_path / "closed"))
    words = (other / "words.txt").read_text().splitlines()
    place = words.index("street")
    vectors = np.load(other / "word_vectors.npy")
    (other / "words.txt").write_text("\n".join(words[:place] + words[place + 1 :]) + "\n")
    np.save(other / "word_vectors.npy", np.delete(vectors, place, axis=0))
    labels = json.loads((other / "labels.json").read_text())
    (other / "labels.json").write_text(json.dumps([label for label in labels if label["name"] != "street"]))
    status, _, stderr = run("--model", other, "--data", data)
    assert status == 0, stderr
    assert "1 labels are unknown to the model and are skipped: 'street'" in stderr


def test_no_trained_label_in_the_split(model: Path, data: Path) -> None:
    labels = json.loads((model / "labels.json").read_text())
    (model / "labels.json").write_text(json.dumps([{**label, "seen": False} for label in labels]))
    before = contents(model)
    told = refused("--model", model, "--data", data)
    assert told.startswith("no image of the split val of ")
    assert f"shows a label that {model} was trained on: there is nothing to choose thresholds on" in told
    assert contents(model) == before


def test_test_images_are_taken_with_a_note(model: Path, data: Path) -> None:
    status, _, stderr = run("--model", model, "--data", data, "--split", "test")
    assert status == 0
    assert "warning: thresholds are chosen on test images: results on these images will be too optimistic" in stderr
    assert read_config(model).provenance["calibration"]["split"] == "test"
    status, _, stderr = run("--model", model, "--data", data)
    assert (status, stderr.count("test images")) == (0, 0)


def test_unreadable_images_are_left_out_and_said(model: Path, data: Path, tmp_path: Path) -> None:
    dataset = load_dataset(data)
    for row in dataset.rows("val"):
        target = tmp_path / "images" / dataset.paths[row]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(f"{dataset.image_root}/{dataset.paths[row]}", target)
    target.write_bytes(b"")
    status, stdout, stderr = run("--model", model, "--data", data, "--images", tmp_path / "images")
    assert status == 0
    assert "warning: 1 images cannot be read and are skipped" in stderr
    assert f"on {len(dataset.rows('val')) - 1} images of " in stdout


def test_what_does_not_fit_changes_nothing(model: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    before = contents(model)
    cases: list[tuple[tuple[object, ...], str]] = [
        (("--model", model, "--data", tmp_path / "empty"), "is not a valid data set folder"),
        (("--model", model, "--data", data, "--images", tmp_path / "no"), "no folder of images at"),
        (("--model", model, "--data", data, "--images", tmp_path / "empty"), "images can be read, the first: "),
        (("--model", tmp_path / "no", "--data", data), "no model folder at"),
        (("--model", tmp_path / "empty", "--data", data), "is incomplete; missing files: "),
    ]
    for arguments, message in cases:
        assert message in refused(*arguments), arguments
    assert contents(model) == before


def test_the_packaged_model_is_calibrated_into_a_copy(data: Path, tmp_path: Path) -> None:
    before, out = contents(PACKAGED), tmp_path / "mine"
    stdout = calibrated(Path("packaged"), data, "--output", out)
    assert contents(PACKAGED) == before
    assert stdout.startswith(f"{out}: thresholds for the best F1, on ")
    assert "tag --precision no longer works" in stdout
    after = contents(out)
    assert {name for name in before if after[name] != before[name]} == {"config.json", "labels.json"}
    old, new = ({label.name: label for label in ModelFolder(folder).labels()} for folder in (PACKAGED, out))
    assert {name for name in new if new[name].seen and new[name].threshold != old[name].threshold} == {
        name for name in load_dataset(data).labels if old[name].seen
    }
    assert [replace(one, threshold=0.5) for one in new.values()] == [
        replace(one, threshold=0.5) for one in old.values()
    ]
    dataset = load_dataset(data)
    assert Tagger(out).tag(f"{dataset.image_root}/{dataset.paths[0]}", threshold=0)


def test_an_output_leaves_the_model_as_it_was(model: Path, data: Path, tmp_path: Path) -> None:
    before = contents(model)
    assert (model / "run").is_dir()
    calibrated(model, data, "--output", tmp_path / "out")
    assert contents(model) == before
    calibrated(model, data)
    assert contents(tmp_path / "out") == contents(model)
    assert not (tmp_path / "out" / "run").exists()


def test_the_thresholds_before_are_kept_and_few_images_are_a_warning(model: Path, data: Path) -> None:
    """The first run keeps the files of the training, the second those of the first; a third finds them kept."""
    states = [contents(model)]
    for number in (1, 2, 2):
        status, stdout, stderr = run("--model", model, "--data", data)
        assert status == 0
        kept = model / BACKUPS / str(number)
        assert stdout.splitlines()[-1] == f"  the previous thresholds are kept in {kept}"
        assert contents(kept) == {name: states[number - 1][name] for name in ("config.json", "labels.json")}
        assert re.fullmatch(
            r"warning: only \d+ images of the split val can be read: with fewer than 50, thresholds depend .*\n", stderr
        )
        states.append(contents(model))
    assert sorted(path.name for path in (model / BACKUPS).iterdir()) == ["1", "2"]


def test_enough_images_are_no_warning(model: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsl_tagger.evaluation.calibrate.FEW_IMAGES", 2)
    assert run("--model", model, "--data", data)[2] == ""


def test_a_backup_that_cannot_be_written_leaves_the_model_as_it_was(model: Path, data: Path, tmp_path: Path) -> None:
    before = contents(model)
    (tmp_path / "elsewhere").mkdir()
    (model / BACKUPS).symlink_to(tmp_path / "elsewhere")
    status, _, stderr = run("--model", model, "--data", data)
    assert status == 2
    assert re.search(rf"error: cannot write .*{BACKUPS}: a symbolic link leads out of .*: delete it", stderr)
    assert contents(model) == before
    assert not list((tmp_path / "elsewhere").iterdir())


def test_thresholds_are_of_the_scores_with_the_biases_of_labels(model: Path, data: Path) -> None:
    """Give labels biases of their own, which tagging adds to their log-odds, as the packaged model has them."""
    calibrated(model, data)
    scores, targets = scores_of(model, data, trained(model))
    expected = f1(scores >= Tagger(model).label_set(trained(model)).thresholds, targets)
    labels = json.loads((model / "labels.json").read_text())
    changed = [{**label, "bias": -5.0, "implies": ["thing"]} for label in labels]
    (model / "labels.json").write_text(json.dumps(changed))
    calibrated(model, data)
    scores, targets = scores_of(model, data, trained(model))
    assert scores.max() < 0.3
    assert f1(scores >= Tagger(model).label_set(trained(model)).thresholds, targets) == pytest.approx(
        expected, abs=0.05
    )
    assert {(label.bias, label.implies) for label in ModelFolder(model).labels()} == {(-5.0, ("thing",))}


# --- writes that fail, and configurations that are no such ---------------------------------------------------------


@pytest.mark.parametrize("fault", ["labels.json", "config.json"])
def test_a_killed_write_leaves_a_folder_that_can_be_read(
    fault: str, model: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(model)

    def stopped(path: Path, content: bytes | Callable[[BinaryIO], object], to_disk: bool = True) -> None:
        if path.name != fault:
            write_whole(path, content, to_disk)
            return

        def half(file: BinaryIO) -> None:
            assert isinstance(content, bytes)
            file.write(content[: len(content) // 2])
            raise OSError(28, "No space left on device")

        write_whole(path, half, to_disk)

    with monkeypatch.context() as patched:
        patched.setattr(model_folder, "write_whole", stopped)
        assert f"cannot write {model / fault}: No space left on device" in refused("--model", model, "--data", data)
    assert contents(model).keys() == before.keys()
    assert contents(model)["config.json"] == before["config.json"]
    assert Tagger(model).vocabulary
    calibrated(model, data)
    assert "calibration" in read_config(model).provenance


@pytest.mark.parametrize("bias", ["NaN", "Infinity", "-Infinity", '"2"', "null", "[1]"])
def test_a_bias_that_is_no_number_is_told_with_its_file(bias: str, model: Path) -> None:
    edit(model, unseen_bias=12345)
    text = (model / "config.json").read_text()
    (model / "config.json").write_text(text.replace("12345", bias))
    with pytest.raises(ModelFolderError, match=r"config\.json: expected unseen_bias to be a number of logits, got "):
        Tagger(model)


def test_a_folder_of_an_older_version_has_no_bias(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    del config["unseen_bias"]
    (model / "config.json").write_text(json.dumps(config))
    assert read_config(model).unseen_bias == 0
    assert issubclass(ModelFolderError, UserError)

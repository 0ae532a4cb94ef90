"""Check which of the labels are said: ``tag --precision``, ``--all-levels``, and surer tags in sidecars."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_data import run_command, write_photo

from zsl_tagger.bulk.engine import TagRequest
from zsl_tagger.bulk.settings import settings_of
from zsl_tagger.tagging.model_folder import ModelFolder, read_config, write_config, write_labels
from zsl_tagger.tagging.tagger import Tagger

pytestmark = [pytest.mark.usefixtures("one_torch_thread"), pytest.mark.slow]

SHIFTS = ((0.5, -0.7), (0.75, 0.0), (0.9, 0.6), (0.95, 1.4))

#: "dog" and "cat" are animals, "beach" and "boat" one thing.
IMPLIES = {"dog": ("sky",), "cat": ("sky",), "beach": ("boat",), "boat": ("beach",)}

Margins = dict[str, dict[str, float]]

SURER = "note: sidecars get only the tags of --precision 0.9; the screen shows less certain ones too"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(11):
        write_photo(folder / f"{seed:02d}.jpg", seed)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, evidence_folder: Path, photos: Path) -> Path:
    """Its thresholds part the scores of ``photos``, so that what moves them shows."""
    folder = Path(shutil.copytree(evidence_folder, tmp_path_factory.mktemp("precise") / "model"))
    tagger = Tagger(folder)
    scores = np.concatenate([tagger.scores(tagger.encode(path), tagger.vocabulary) for path in photos.iterdir()])
    middle = np.sort(scores, axis=0)[4:6].mean(axis=0)  # (K,), the score of no photo
    labels = [
        replace(label, threshold=float(threshold), implies=IMPLIES.get(label.name, ()))
        for label, threshold in zip(ModelFolder(folder).labels(), middle, strict=True)
    ]
    write_labels(folder, labels)
    write_config(folder, replace(read_config(folder), precision_shifts=SHIFTS))
    return folder


@pytest.fixture
def simple(model: Path, tmp_path: Path) -> Path:
    """Return the same model without what ``--precision`` needs."""
    folder = Path(shutil.copytree(model, tmp_path / "simple"))
    write_config(folder, replace(read_config(folder), precision_shifts=()))
    return folder


def tags_of(*arguments: object) -> dict[str, set[str]]:
    """The labels of each photo, by its name."""
    status, out, err = run_command("tag", *arguments, "--format", "jsonl")
    assert status == 0, err
    records = [json.loads(line) for line in out.splitlines()]
    return {Path(record["path"]).name: {tag["label"] for tag in record["tags"]} for record in records}


@pytest.fixture(scope="module")
def margins(model: Path, photos: Path) -> Margins:
    """By how much the log-odds of each label, asked alone, are above its threshold's, by the photo's name."""
    tagger, found = Tagger(model), {}
    for path in photos.iterdir():
        encoded = tagger.encode(path)
        scores = {label.name: float(tagger.scores(encoded, [label.name])[0, 0]) for label in tagger.folder.labels()}
        found[path.name] = {
            label.name: log_odds(scores[label.name]) - log_odds(label.threshold) for label in tagger.folder.labels()
        }
    return found


def log_odds(p: float) -> float:
    return float(np.log(p / (1 - p)))


def above(margins: Margins, shift: float) -> dict[str, set[str]]:
    """The labels that reach their thresholds, moved by ``shift``: parents and synonyms too."""
    return {
        photo: {label for label, margin in of_labels.items() if margin >= shift} for photo, of_labels in margins.items()
    }


# --- thresholds


@pytest.mark.parametrize(("precision", "shift"), [(0.5, -0.7), (0.75, 0.0), (0.8, 0.2), (0.875, 0.5), (0.95, 1.4)])
def test_precision_moves_all_thresholds(
    model: Path, photos: Path, margins: Margins, precision: float, shift: float
) -> None:
    expected = above(margins, shift)
    assert tags_of(photos, "--model", model, "--all-levels", "--precision", precision) == expected
    assert (expected == above(margins, 0.0)) == (shift == 0.0)


def test_precision_moves_the_thresholds_of_any_words(model: Path) -> None:
    tagger = Tagger(model)
    labels = tagger.label_set(["lion", "dog", "theorem"])
    odds = labels.thresholds / (1 - labels.thresholds)
    moved = tagger.for_precision(labels, 0.9)
    np.testing.assert_allclose(moved.thresholds / (1 - moved.thresholds), odds * np.exp(0.6), rtol=1e-5)
    assert moved.labels == labels.labels


def refused(*arguments: object) -> str:
    status, out, err = run_command("tag", *arguments)
    assert (status, out) == (2, ""), err
    return err


def test_precision_and_threshold_do_not_go_together(model: Path, photos: Path) -> None:
    message = "error: give --precision or --threshold, not both\n"
    assert refused(photos, "--model", model, "--precision", 0.9, "--threshold", 0.5) == message
    assert refused(photos, "--model", "no folder", "--precision", 0.9, "--threshold", 0) == message


@pytest.mark.parametrize("precision", ["0.49", "0.96", "1", "0"])
def test_a_precision_that_the_model_does_not_know(model: Path, photos: Path, precision: str) -> None:
    told = refused(photos, "--model", model, "--precision", precision)
    assert told.startswith("error: expected a precision from 0.5 to 0.95, the range of this model, got ")
    assert told.endswith(f" got {float(precision)}\n")


def test_a_model_that_knows_no_precision(simple: Path, photos: Path) -> None:
    assert refused(photos, "--model", simple, "--precision", 0.9) == (
        "error: this model stores no thresholds for a given precision: give a threshold instead\n"
    )


# --- parents and synonyms


def test_parents_and_synonyms_are_said_only_where_that_is_asked(model: Path, photos: Path) -> None:
    """Dog and cat imply sky, which goes where one of them is nearly as sure; beach and boat are synonyms.

    A cat that scores less than 0.65 gives way to sky; a dog does not, since it names a class.
    """
    everything = {"dog", "cat", "beach", "sky", "boat"}
    all_levels = tags_of(photos, "--model", model, "--threshold", 0, "--all-levels")
    assert set(map(frozenset, all_levels.values())) == {frozenset(everything)}
    tagger, cases = Tagger(model), set()
    for name, said in tags_of(photos, "--model", model, "--threshold", 0).items():
        labels = ["beach", "boat", "dog", "cat", "sky"]
        beach, boat, dog, cat, sky = tagger.scores(tagger.encode(photos / name), labels)[0]
        children = {"dog": dog} | ({"cat": cat} if cat >= 0.65 else {})
        parent = {"sky"} if max(children.values()) < 0.75 * sky else set()
        assert said == {*children, "beach" if beach > boat else "boat"} | parent
        cases.add((len(children), bool(parent)))
    asked = tags_of(photos, "--model", model, "--threshold", 0, "--labels", "dog,sky,beach,boat")
    assert set(map(frozenset, asked.values())) == {frozenset(everything - {"cat"})}
    assert (1, True) in cases


def test_a_parent_that_is_excluded_hides_nothing(model: Path, photos: Path) -> None:
    for labels in tags_of(photos, "--model", model, "--threshold", 0, "--exclude", "dog,cat,beach").values():
        assert labels == {"sky", "boat"}


def test_settings_tell_whether_parents_are_said(model: Path) -> None:
    tagger = Tagger(model)
    folded, unfolded = (
        settings_of(tagger, TagRequest(labels=labels)) for labels in (tagger.vocabulary, tagger.vocabulary.unfolded())
    )
    assert {name for name in folded if folded[name] != unfolded[name]} == {"parents and synonyms"}
    surer = settings_of(tagger, TagRequest(labels=tagger.for_precision(tagger.vocabulary, 0.9)))
    assert {name for name in folded if folded[name] != surer[name]} == {"threshold"}


@pytest.mark.parametrize(
    ("option", "told"),
    [("--all-levels", "parents and synonyms: 'said once', requested 'said too'"), ("--precision=0.9", "threshold: ")],
)
def test_another_way_of_saying_tags_does_not_resume(
    model: Path, photos: Path, tmp_path: Path, option: str, told: str
) -> None:
    arguments = ["tag", photos, "--model", model, "-o", tmp_path / "tags.jsonl"]
    assert run_command(*arguments)[0] == 0
    status, _, err = run_command(*arguments, "--resume", option)
    assert status == 2
    assert f"tags.jsonl was written with other settings ({told}" in err
    assert run_command(*arguments, "--resume")[0] == 0


# --- sidecars


@pytest.fixture
def own_photos(photos: Path, tmp_path: Path) -> Path:
    """A copy, to write beside."""
    return Path(shutil.copytree(photos, tmp_path / "photos"))


def beside(photos: Path, *arguments: object) -> tuple[dict[str, set[str]], list[str]]:
    """The labels that a run writes to sidecars, by the photo's name, and the notes on stricter tags."""
    status, _, err = run_command("tag", photos, "--sidecar", "json", *arguments)
    assert status == 0, err
    found = {}
    for path in photos.glob("*.tags.json"):
        tags = json.loads(path.read_text())["zsl-tagger"]["tags"]
        found[path.name.removesuffix(".tags.json")] = {tag["label"] for tag in tags}
    return found, [line for line in err.splitlines() if "sidecars get only" in line]


def test_sidecars_get_surer_tags(model: Path, own_photos: Path, margins: Margins) -> None:
    found, notes = beside(own_photos, "--model", model, "--all-levels")
    expected = above(margins, 0.6)
    assert notes == [SURER]
    assert found == {name: labels for name, labels in expected.items() if labels}
    assert expected != above(margins, 0.0)


@pytest.mark.parametrize(
    ("options", "shift"),
    [(["--precision", "0.75"], 0.0), (["--precision", "0.95"], 1.4), (["--threshold", "0"], -99.0)],
)
def test_sidecars_get_what_was_asked(
    model: Path, own_photos: Path, margins: Margins, options: list[str], shift: float
) -> None:
    found, notes = beside(own_photos, "--model", model, "--all-levels", *options)
    assert notes == []
    assert found == {name: labels for name, labels in above(margins, shift).items() if labels}


@pytest.mark.parametrize("shifts", [(), SHIFTS[:2]])
def test_sidecars_of_a_model_that_knows_no_such_precision(
    simple: Path, own_photos: Path, margins: Margins, shifts: tuple[tuple[float, float], ...]
) -> None:
    write_config(simple, replace(read_config(simple), precision_shifts=shifts))
    found, notes = beside(own_photos, "--model", simple, "--all-levels")
    assert notes == []
    assert found == {name: labels for name, labels in above(margins, 0.0).items() if labels}

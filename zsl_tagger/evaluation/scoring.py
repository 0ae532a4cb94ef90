"""A model's scores of a data set, by the very networks that ``tag`` runs; a killed run goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zsl_tagger.errors import UserError
from zsl_tagger.evaluation.data import EvaluationData
from zsl_tagger.evaluation.score_files import scratch
from zsl_tagger.files import json_bytes, write_whole
from zsl_tagger.model_folder import ENCODER_FILE, ModelFolder
from zsl_tagger.preprocessing import ImageError
from zsl_tagger.queries import UnknownLabelError, normalize_label
from zsl_tagger.tag import LabelSet, Tagger
from zsl_tagger.threads import available_cores, map_in_order

SAVE_EVERY = 256  # images: what a killed run may lose

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ModelScores:
    """Logits float32 ``(N, K)`` without any bias, the labels as the model knows them, and unreadable images."""

    logits: np.ndarray
    labels: LabelSet
    faults: dict[int, str]


def score_with_model(
    folder: Path, data: EvaluationData, work: Path | None, workers: int | None, progress: Progress
) -> ModelScores:
    """Every image, every label of ``data``.

    Args:
        work: a folder that keeps what is done, until all is.

    Raises:
        UserError: labels the model does not know, or nowhere to find the images.
    """
    if data.root is None:
        raise UserError(f"{data.name} does not say where its images are: give --images DIR")
    workers = workers or available_cores()
    tagger = Tagger(folder, workers=workers)
    try:
        labels = tagger.label_set(data.labels)
    except UnknownLabelError as error:
        raise UserError(f"{folder} cannot be asked every label of {data.name}: {error}") from None
    store = _Store(work, _key(folder, data), len(data.images), len(data.labels))
    todo = [row for row in range(len(data.images)) if row >= store.done]

    def work_on(row: int) -> np.ndarray | str:
        try:
            return tagger.logits(tagger.encode(f"{data.root}/{data.images[row]}"), labels)[0]
        except ImageError as error:
            return str(error)

    for row, found in zip(todo, map_in_order(work_on, todo, workers), strict=True):
        store.add(row, found)
        progress(row + 1, len(data.images))
    store.save()
    if len(store.faults) == len(data.images):
        raise UserError(
            f"none of the {len(data.images)} images can be read, the first: {data.images[0]} "
            f"({store.faults[0]}): is --images right?"
        )
    return ModelScores(store.logits, labels, store.faults)


def trained_labels(folder: Path, names: list[str]) -> list[str]:
    """Those of some names that the model was trained on."""
    trained = {normalize_label(label.name) for label in ModelFolder(folder).labels() if label.seen}
    return [name for name in names if normalize_label(name) in trained]


def _key(folder: Path, data: EvaluationData) -> str:
    """Of a model and what it is asked: partial scores of another are not gone on with."""
    digest = hashlib.sha256()
    for name in ("config.json", "labels.json"):
        digest.update((folder / name).read_bytes())
    sizes = [(folder / ENCODER_FILE).stat().st_size, (folder / ENCODER_FILE).stat().st_mtime_ns]
    digest.update(json.dumps([sizes, str(data.root), data.images, data.labels]).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


class _Store:
    """Scores as they come: in ``partial_scores.npy`` of a folder, with how many are done beside it."""

    def __init__(self, work: Path | None, key: str, images: int, labels: int):
        self.faults: dict[int, str] = {}
        self.done = 0
        self._key, self._work = key, work
        if work is None:
            self.logits = scratch(images, labels)
            return
        self._values, self._state = work / PARTIAL_FILES[0], work / PARTIAL_FILES[1]
        if self._read():
            self.logits = np.load(self._values, mmap_mode="r+")
        else:
            self.logits = np.lib.format.open_memmap(self._values, "w+", np.float32, (images, labels))
            self.save()

    def _read(self) -> bool:
        try:
            state = json.loads(self._state.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        if state.get("key") != self._key or not self._values.is_file():
            return False
        self.done, self.faults = state["done"], {int(row): why for row, why in state["faults"].items()}
        return True

    def add(self, row: int, found: np.ndarray | str) -> None:
        if isinstance(found, str):
            self.faults[row] = found
            self.logits[row] = 0
        else:
            self.logits[row] = found
        self.done = row + 1
        if self.done % SAVE_EVERY == 0:
            self.save()

    def save(self) -> None:
        if self._work is None:
            return
        if isinstance(self.logits, np.memmap):
            self.logits.flush()
        state = {"key": self._key, "done": self.done, "faults": {str(row): why for row, why in self.faults.items()}}
        write_whole(self._state, json_bytes(state))


PARTIAL_FILES = ("partial_scores.npy", "partial_scores.json")


def remove_partial(work: Path) -> None:
    for name in PARTIAL_FILES:
        (work / name).unlink(missing_ok=True)

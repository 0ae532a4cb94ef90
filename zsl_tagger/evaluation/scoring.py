"""Score a data set with the networks that ``tag`` uses; a killed run can be resumed."""

from __future__ import annotations

import hashlib
import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from zsl_tagger.errors import UserError
from zsl_tagger.evaluation.data import EvaluationData
from zsl_tagger.evaluation.processes import Compute, Scorer, score_images
from zsl_tagger.evaluation.score_files import scratch
from zsl_tagger.system.files import json_bytes, parse_json, write_whole
from zsl_tagger.system.progress import Progress
from zsl_tagger.tagging.label_set import LabelSet
from zsl_tagger.tagging.model_folder import ModelFolder
from zsl_tagger.words.table import UnknownLabelError

SAVE_EVERY = 256  # images, at most lost by a killed run


@dataclass(frozen=True)
class ModelScores:
    """Logits float32 ``(N, K)`` without bias, the labels as known to the model, and unreadable images."""

    logits: np.ndarray
    labels: LabelSet
    faults: dict[int, str]


def score_with_model(folder: Path, data: EvaluationData, work: Path | None, compute: Compute) -> ModelScores:
    """Score every label of ``data`` on every image.

    Args:
        work: folder for partial scores until all are done.

    Raises:
        UserError: the model does not know a label, or the images cannot be found.
    """
    if data.root is None:
        raise UserError(f"{data.name} does not record the folder of its images: give --images DIR")
    tagger = compute.tagger(folder)
    try:
        scorer = Scorer(tagger, data.labels)
    except UnknownLabelError as error:
        raise UserError(f"{folder} does not know every label of {data.name}: {error}") from None
    store = _Store(work, _key(folder, data, tagger.device), len(data.images), len(data.labels))
    paths = [f"{data.root}/{image}" for image in data.images[store.done :]]
    progress = Progress("scoring", len(data.images), done=store.done)
    with progress, closing(score_images(scorer, paths, compute)) as found:
        for row, one in enumerate(progress.over(found), start=store.done):
            store.add(row, one)
    store.save()
    if len(store.faults) == len(data.images):
        raise UserError(
            f"none of the {len(data.images)} images can be read, the first: {data.images[0]} "
            f"({store.faults[0]}): is --images right?"
        )
    return ModelScores(store.logits, scorer.labels, store.faults)


def trained_labels(folder: Path, names: list[str]) -> dict[str, str]:
    """Return which names the model was trained on, mapped to the trained label with the same query."""
    model = ModelFolder(folder)
    words = model.words()
    trained = {words.key(label.name): label.name for label in model.labels() if label.seen}
    return {name: trained[key] for name in names if (key := words.key(name)) in trained}


def _key(folder: Path, data: EvaluationData, device: str) -> str:
    """Return a fingerprint of the model, device, images and labels; partial scores are resumed only if it matches."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    states = [_state(str(path)) for path in files] + [_state(f"{data.root}/{image}") for image in data.images]
    content = json.dumps([states, data.images, data.labels, device])
    return hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()


def _state(path: str) -> tuple[str, int, int]:
    """Return a fingerprint that changes when the file does."""
    try:
        found = Path(path).stat()
    except OSError:
        return path, -1, -1
    return path, found.st_size, found.st_mtime_ns


class _Store:
    """Partial scores in ``partial_scores.npy`` of a folder, with a file that counts the finished ones."""

    def __init__(self, work: Path | None, key: str, images: int, labels: int):
        self.faults: dict[int, str] = {}
        self.done = 0
        self._key, self._work = key, work
        if work is None:
            self.logits = scratch(images, labels)
            return
        self._values, self._state = work / PARTIAL_FILES[0], work / PARTIAL_FILES[1]
        if self._read((images, labels)):
            self.logits = np.load(self._values, mmap_mode="r+")
        else:
            self._state.unlink(missing_ok=True)  # first, since it must not describe a matrix that is being replaced
            write_whole(self._values, lambda file: _write_zeros(file, (images, labels)))
            self.logits = np.load(self._values, mmap_mode="r+")
            self.save()

    def _read(self, shape: tuple[int, int]) -> bool:
        """Load existing scores if they are complete and of the same model, images and labels; return success."""
        if self._values.is_symlink():  # it would be written to
            return False
        try:
            state = parse_json(self._state.read_text(encoding="utf-8"))
            done, faults = int(state["done"]), {int(row): str(why) for row, why in state["faults"].items()}
            values = np.load(self._values, mmap_mode="r")  # not "r+", which pads a truncated file with zeros
            whole = values.shape == shape and values.dtype == np.float32 and 0 <= done <= shape[0]
            same = state["key"] == self._key
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False
        if whole and same:
            self.done, self.faults = done, faults
        return whole and same

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


def _write_zeros(file: BinaryIO, shape: tuple[int, int]) -> None:
    """Write a float32 matrix of zeros as a sparse file."""
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    file.truncate(file.tell() + 4 * shape[0] * shape[1])


PARTIAL_FILES = ("partial_scores.npy", "partial_scores.json")


def remove_partial(work: Path) -> None:
    """Delete the partial scores of a finished run."""
    for name in PARTIAL_FILES:
        (work / name).unlink(missing_ok=True)

"""Read, check and write model folders.

=====================  ======================================================================================
``config.json``        format version, preprocessing, word source, default threshold, architecture, provenance
``labels.json``        the known labels: ``[{"name", "threshold", "seen", "bias", "default", "implies",
                       "probe"}, ...]``
``encoder.onnx``       image uint8 (B, S, S, 3) -> tokens float32 (B, L, D); with class evidence, also classes (B, N)
``queries.onnx``       queries (K, word_dim) -> states, projected (K, D) each: the image-independent part of the decoder
``decoder.onnx``       tokens (B, L, D), states, projected -> logits (B, K), attention (B, K, L); for a closed set it
                       takes class numbers, ``queries`` int64 (K,), without ``queries.onnx``. Older folders have no
                       ``queries.onnx`` either: their decoder takes ``queries`` (K, word_dim). With groups of words,
                       ``groups`` (K, G) replaces ``projected`` in both
``class_words.json``   words for the backbone's classes (:mod:`zsl_tagger.tagging.class_evidence`); optional
``objects.onnx``       image uint8 (B, S, S, 3) -> objects float32 (B, M): probabilities of a detector, for an encoder
                       with classes; optional, with ``object_words.json``, words for its objects
``probes.npy``         individual weights of trained words (:mod:`zsl_tagger.tagging.probes`); optional
``class_vectors.npy``  word vectors of the classes and objects (:mod:`zsl_tagger.tagging.near_classes`); optional
``background.npz``     encoder output for arbitrary photos (:mod:`zsl_tagger.tagging.background`); optional
``prefilter.npz``      tells which labels need not be scored (:mod:`zsl_tagger.tagging.prefilter`); optional, with
                       ``prefilter.onnx``: tokens, projected, slopes (K, D) -> logits (B, K)
``words.txt``          words of the table, one per line; ``word_vectors.npy``: their vectors, int8 or float
``README.md``          the model card
``model.safetensors``  trained weights for torch, written by training; not used for tagging
``train_config.json``  settings of the training run (``zsl-tagger train --config``)
=====================  ======================================================================================

Nothing is pickled. This module needs neither torch nor onnxruntime.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from zsl_tagger.assets import PACKAGED
from zsl_tagger.errors import UserError
from zsl_tagger.images.preprocessing import Preprocessing
from zsl_tagger.system.files import FileIdentity, is_half_moved, json_bytes, parse_json, sha256_of, write_whole
from zsl_tagger.tagging.background import BACKGROUND_FILE, Background
from zsl_tagger.tagging.class_evidence import (
    CLASS_WORDS_FILE,
    OBJECT_KINDS,
    OBJECT_WORDS_FILE,
    UNCHANGED,
    ClassWord,
    EvidenceWords,
    Scoring,
    read_class_words,
    read_object_words,
)
from zsl_tagger.tagging.near_classes import CLASS_VECTORS_FILE, read_class_vectors
from zsl_tagger.tagging.prefilter import PREFILTER_FILE, PREFILTER_NETWORK, Prefilter
from zsl_tagger.tagging.probes import PROBES_FILE, LabelProbes, Probes
from zsl_tagger.words.table import VECTORS_FILE, WORDS_FILE, ClassTable, WordTable

#: Version that is written. Version 1, without preprocessing and word_source, and version 2, without scoring, can be
#: read too.
FORMAT_VERSION = 3
READ_VERSIONS = (1, 2, FORMAT_VERSION)
CONFIG_FILE = "config.json"
LABELS_FILE = "labels.json"
ENCODER_FILE = "encoder.onnx"
DECODER_FILE = "decoder.onnx"
QUERIES_FILE = "queries.onnx"
NETWORK_FILES = (ENCODER_FILE, QUERIES_FILE, DECODER_FILE)
OBJECTS_FILE = "objects.onnx"
CARD_FILE = "README.md"
TRAIN_CONFIG_FILE = "train_config.json"
#: Files besides the networks, the weights, the configuration and the labels.
OTHER_FILES = (
    CLASS_WORDS_FILE,
    OBJECTS_FILE,
    OBJECT_WORDS_FILE,
    CLASS_VECTORS_FILE,
    BACKGROUND_FILE,
    PREFILTER_FILE,
    PREFILTER_NETWORK,
    PROBES_FILE,
    WORDS_FILE,
    VECTORS_FILE,
    CARD_FILE,
    TRAIN_CONFIG_FILE,
)
SCORINGS = ("scoring", "probed_scoring")  # fields of ModelConfig
#: Prefix of models on the Hugging Face Hub, ``hf:user/model[@revision]`` (:mod:`zsl_tagger.tagging.hub`).
HUB_PREFIX = "hf:"

Content = TypeVar("Content")


class ModelFolderError(UserError):
    """A model folder is missing, incomplete or inconsistent; the message names the file."""


def _check_version(version: object) -> None:
    if type(version) is not int or version not in READ_VERSIONS:
        raise ModelFolderError(
            f"expected format_version {' or '.join(map(str, READ_VERSIONS))}, got {version!r}: "
            "the model was written by another version of zsl-tagger"
        )


@dataclass(frozen=True)
class ModelConfig:
    """Content of ``config.json``.

    Attributes:
        preprocessing: conversion of images to encoder input.
        word_dim: dimension of the word vectors used as queries; 0 for a closed set.
        default_threshold: minimum score (0..1) of a tag for labels without their own threshold.
        word_source: source of the word vectors, in the notation of ``--word-vectors``: "packaged", "gensim:FILE" etc.;
            None if unknown, and for a closed set.
        templates: prompts for the text encoder of ``word_source``, with ``{}`` for the label; empty: the label alone,
            or a source of words.
        architecture, provenance: for information and for rebuilding the model in torch.
        unseen_bias: added to the logits of every label that was never trained, to balance it against trained ones
            (``zsl-tagger calibrate``).
        precision_shifts: pairs (precision, shift of the log-odds of all thresholds that achieves it), ascending;
            measured on photos held out from training.
        scoring: combination of logits and class evidence; None: the score is the sigmoid of the logit.
        probed_scoring: the same for labels with a probe, whose logits are larger; None: as for others.
        unit_queries: word vectors are L2-normalised; False if the model was trained with the vectors' own lengths.
        closed_set: the model has a fixed set of classes, in the order of ``labels.json``, and no word queries.
    """

    preprocessing: Preprocessing
    word_dim: int
    default_threshold: float
    architecture: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    word_source: str | None = None
    closed_set: bool = False
    unseen_bias: float = 0.0
    unit_queries: bool = True
    scoring: Scoring | None = None
    probed_scoring: Scoring | None = None
    precision_shifts: Sequence[tuple[float, float]] = ()
    templates: Sequence[str] = ()

    @property
    def image_size(self) -> int:
        """Return the side S of the encoder's square input, in pixels."""
        return self.preprocessing.image_size

    def __post_init__(self) -> None:
        if not self.closed_set and (type(self.word_dim) is not int or self.word_dim < 1):
            raise ModelFolderError(f"expected word_dim to be a positive whole number, got {self.word_dim!r}")
        if not isinstance(self.default_threshold, (int, float)) or not 0 <= self.default_threshold <= 1:
            raise ModelFolderError(f"expected default_threshold in 0..1, got {self.default_threshold!r}")
        if not isinstance(self.unseen_bias, (int, float)) or not math.isfinite(self.unseen_bias):
            raise ModelFolderError(f"expected unseen_bias to be a number of logits, got {self.unseen_bias!r}")
        pairs = self.precision_shifts
        if not isinstance(pairs, (list, tuple)) or not all(
            isinstance(pair, (list, tuple)) and len(pair) == 2 and all(isinstance(part, (int, float)) for part in pair)
            for pair in pairs
        ):
            raise ModelFolderError(f"expected precision_shifts to be pairs of numbers, got {pairs!r}")
        object.__setattr__(self, "precision_shifts", tuple((float(share), float(shift)) for share, shift in pairs))
        for name in SCORINGS:
            if not isinstance(getattr(self, name), Scoring | None):
                raise ModelFolderError(f"expected {name} to be an object, got {getattr(self, name)!r}")
        if not isinstance(self.word_source, str | None):
            raise ModelFolderError(f"expected word_source to be text, got {self.word_source!r}")
        self._check_templates()

    def _check_templates(self) -> None:
        templates = self.templates
        if not isinstance(templates, (list, tuple)) or not all(
            isinstance(one, str) and "{}" in one for one in templates
        ):
            raise ModelFolderError(f"expected templates to be strings with {{}} for the label, got {templates!r}")
        object.__setattr__(self, "templates", tuple(templates))

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``config.json``."""
        content = {"format_version": FORMAT_VERSION, **asdict(self)}
        if self.preprocessing.crop_pct is None:  # keep the folder readable for versions without crop
            del content["preprocessing"]["crop_pct"]
        if not self.templates:  # those versions do not know templates either
            del content["templates"]
        if self.probed_scoring is None:  # nor probes
            del content["probed_scoring"]
        for name in SCORINGS:
            scoring = getattr(self, name)
            for kind in () if scoring is None else OBJECT_KINDS:  # nor objects
                if getattr(scoring, kind) == UNCHANGED:
                    del content[name][kind]
        return content

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> ModelConfig:
        """Parse a ``config.json`` of any readable version.

        Raises:
            UserError: an unknown version or an invalid value.
            TypeError: missing or unknown fields.
        """
        version = content.get("format_version", 1)
        _check_version(version)  # check first, since it explains other errors
        values = {name: value for name, value in content.items() if name != "format_version"}
        for name in SCORINGS:
            if isinstance(values.get(name), dict):
                values[name] = Scoring(**values[name])
        if version == 1:
            size = {name: values.pop(name) for name in ("image_size",) if name in values}
            provenance = values.get("provenance")
            source = provenance.get("word_vectors") if isinstance(provenance, dict) else None
            source = None if values.get("closed_set") else source
            return cls(preprocessing=Preprocessing(**size, version=1), word_source=source, **values)
        stated = values.pop("preprocessing", None)
        if not isinstance(stated, dict):
            raise ModelFolderError(f"expected preprocessing to be an object, got {stated!r}")
        return cls(preprocessing=Preprocessing(**stated), **values)


@dataclass(frozen=True)
class VocabularyLabel:
    """Entry of one label in ``labels.json``.

    Attributes:
        threshold: minimum score (0..1) of a tag.
        seen: training had positive examples of it.
        bias: added to its log-odds, so that the score is a calibrated probability.
        default: it belongs to the default vocabulary, used if no labels are given.
        implies: labels that hold whenever this one does: its parents and synonyms.
        probe: number of its probe in ``probes.npy``; None: it has none.
    """

    name: str
    threshold: float
    seen: bool = True
    bias: float = 0.0
    default: bool = True
    implies: Sequence[str] = ()
    probe: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise ModelFolderError(f"expected the name of a label to be text, got {self.name!r}")
        if not isinstance(self.threshold, (int, float)) or not 0 <= self.threshold <= 1:
            raise ModelFolderError(f"label {self.name!r} has threshold {self.threshold!r}, expected a value in 0..1")
        if not isinstance(self.bias, (int, float)) or not math.isfinite(self.bias):
            raise ModelFolderError(f"label {self.name!r} has bias {self.bias!r}, expected a number")
        if self.probe is not None and (type(self.probe) is not int or self.probe < 0):
            raise ModelFolderError(f"label {self.name!r} has probe {self.probe!r}, expected the number of a probe")
        if self.implies == ():  # the case for most of the thousands of labels
            return
        if not isinstance(self.implies, (list, tuple)) or not all(isinstance(word, str) for word in self.implies):
            raise ModelFolderError(f"label {self.name!r} implies {self.implies!r}, expected a list of labels")
        object.__setattr__(self, "implies", tuple(self.implies))


class ModelFolder:
    """A model folder opened for reading; each part is read on first use.

    Args:
        path: None or "packaged" for the packaged model; ``hf:user/model[@revision]`` for a model on the hub.
        networks: require the ONNX networks, which tagging needs.

    Raises:
        ModelFolderError: the folder is missing or incomplete.
    """

    def __init__(self, path: str | Path | None = None, networks: bool = True):
        self.path = PACKAGED if path is None else named_folder(Path(path))
        always, words = [CONFIG_FILE, LABELS_FILE], [WORDS_FILE, VECTORS_FILE]
        always += [ENCODER_FILE, DECODER_FILE] if networks else []
        if self.path.is_dir() and not all((self.path / name).is_file() for name in always):
            _check_complete(self.path, [*always, *words])  # so that the message lists everything at once
        self.config = read_config(self.path)
        if not self.config.closed_set:
            _check_complete(self.path, words)

    def networks_sha256(self) -> str:
        """Return the SHA-256 of the ONNX networks, 64 hexadecimal digits, which identifies the model."""
        import hashlib

        names = (*NETWORK_FILES, CLASS_WORDS_FILE, OBJECTS_FILE, OBJECT_WORDS_FILE, CLASS_VECTORS_FILE, PROBES_FILE)
        files = [self.path / name for name in names if (self.path / name).is_file()]
        hashes = [f"{file.name} {sha256_of(file)}" for file in files]
        return hashlib.sha256("\n".join(hashes).encode()).hexdigest()

    def files_identity(self) -> str:
        """Return a text that changes whenever a file of the folder is changed or replaced.

        It takes much less time than :meth:`networks_sha256`, but differs between copies of a model.
        """
        files = sorted(file for file in self.path.iterdir() if file.is_file())
        return "\n".join(f"{file.name} {tuple(FileIdentity.of(file))}" for file in files)

    def labels(self) -> list[VocabularyLabel]:
        content = _read_json(self.path / LABELS_FILE)
        try:
            labels = [VocabularyLabel(**entry) for entry in content]
        except TypeError as error:
            raise ModelFolderError(f"{self.path / LABELS_FILE}: {_field_message(error)}") from None
        except ModelFolderError as error:
            raise ModelFolderError(f"{self.path / LABELS_FILE}: {error}") from None
        return labels

    def background(self, width: int, classes: int | None) -> Background | None:
        """Read the background, the encoder output for arbitrary photos; None if the folder has none.

        Args:
            width, classes: token dimension and number of class probabilities of the encoder.

        Raises:
            ModelFolderError: the file cannot be read or does not fit the encoder.
        """
        path = self.path / BACKGROUND_FILE
        background = _optional(path, Background.load)
        if background is None:
            return None
        encoded = background.encoded
        found = encoded.tokens.shape[2], None if encoded.classes is None else encoded.classes.shape[1]
        if found != (width, classes):
            raise ModelFolderError(
                f"{path} belongs to another model: expected tokens of {width} dimensions, {classes or 'no'} classes, "
                f"got {found[0]} and {found[1] or 'none'}"
            )
        return background

    def prefilter(self, width: int) -> Prefilter | None:
        """Read the prefilter; None if the folder has none.

        Args:
            width: token dimension of the encoder.

        Raises:
            ModelFolderError: the file cannot be read or does not fit the encoder.
        """
        path = self.path / PREFILTER_FILE
        prefilter = _optional(path, Prefilter.load)
        if prefilter is not None and prefilter.slopes.shape[1] != width:
            raise ModelFolderError(
                f"{path} belongs to another model: expected slopes of {width} dimensions, got "
                f"{prefilter.slopes.shape[1]}"
            )
        return prefilter

    def probes(self, numbers: Sequence[int | None]) -> LabelProbes | None:
        """Read the probes of labels; None if all have none.

        Args:
            numbers: :attr:`VocabularyLabel.probe` of each label.

        Raises:
            ModelFolderError: the file is missing, cannot be read or has too few probes.
        """
        largest = max((number for number in numbers if number is not None), default=None)
        if largest is None:
            return None
        path = self.path / PROBES_FILE
        probes = _optional(path, Probes.load)
        if probes is None:
            raise ModelFolderError(f"{path} is missing, but {LABELS_FILE} names probes")
        if largest >= len(probes.rows):
            raise ModelFolderError(
                f"{path} belongs to another model: it has {len(probes.rows)} probes, but {LABELS_FILE} names number "
                f"{largest}"
            )
        return probes.of(numbers)

    def class_words(self, classes: int | None) -> dict[str, ClassWord]:
        """Read the words for the backbone's classes; empty if the folder has none.

        Args:
            classes: number of classes; None if the encoder returns no class probabilities.

        Raises:
            ModelFolderError: the file cannot be read, or contains larger class numbers.
        """
        path = self.path / CLASS_WORDS_FILE
        words = None if classes is None else _optional(path, read_class_words)
        if classes is None or words is None:
            return {}
        largest = max((max(word.classes) for word in words.values()), default=-1)
        if largest >= classes:
            raise ModelFolderError(f"{path}: expected classes below {classes}, as in encoder.onnx, got {largest}")
        return words

    def evidence_words(self, classes: int | None) -> EvidenceWords:
        """Read the words for the backbone's classes and for the objects of the detector, if there is one.

        Args:
            classes: number of classes and objects (:attr:`OnnxModel.classes`); None without class evidence.

        Raises:
            ModelFolderError: a file cannot be read, or contains larger numbers.
        """
        if classes is None:
            return EvidenceWords()
        objects, count = object_words(self.path)
        return EvidenceWords.joint(self.class_words(classes - count), objects, classes - count)

    def class_vectors(self, classes: int) -> np.ndarray | None:
        """Read the word vectors of the classes and objects, float32 ``(N + M, word_dim)``; None if there are none.

        Args:
            classes: number N + M of classes and objects.

        Raises:
            ModelFolderError: the file cannot be read or does not fit the networks.
        """
        path = self.path / CLASS_VECTORS_FILE
        vectors = _optional(path, read_class_vectors)
        if vectors is not None and vectors.shape != (classes, self.config.word_dim):
            raise ModelFolderError(
                f"{path} belongs to another model: expected vectors of shape {(classes, self.config.word_dim)}, got "
                f"{vectors.shape}"
            )
        return vectors

    def words(self) -> WordTable:
        """Read the word table, or the classes of a closed set."""
        if self.config.closed_set:
            return ClassTable([label.name for label in self.labels()])
        try:
            table = WordTable.load(self.path, unit=self.config.unit_queries)
        except (ValueError, OSError, EOFError, OverflowError, MemoryError) as error:
            raise ModelFolderError(f"{self.path}: {WORDS_FILE} and {VECTORS_FILE} cannot be read: {error}") from None
        if table.word_dim != self.config.word_dim:
            raise ModelFolderError(
                f"{self.path / VECTORS_FILE}: expected word vectors of width {self.config.word_dim}, "
                f"got {table.word_dim}"
            )
        return table


def named_folder(path: Path) -> Path:
    """Return the folder of a model given on the command line.

    An existing folder takes precedence; otherwise "packaged" is the packaged model, and ``hf:user/model[@revision]`` a
    model on the Hugging Face Hub, which is downloaded once per process.

    Raises:
        ModelFolderError: it cannot be downloaded.
    """
    if is_on_hub(path):
        return _downloaded(path.as_posix())
    return PACKAGED if path == Path("packaged") and not path.exists() else path


def is_on_hub(path: Path) -> bool:
    """Return whether a model given on the command line is on the Hugging Face Hub."""
    return path.as_posix().startswith(HUB_PREFIX) and not path.exists()


def check_own_folder(path: Path) -> None:
    """Raise a UserError if a command would write into the cache of the hub."""
    if is_on_hub(path):
        raise UserError(
            f"{path.as_posix()} is in the cache of the hub and cannot be changed: give another folder to write to"
        )


@cache
def _downloaded(name: str) -> Path:
    from zsl_tagger.tagging.hub import download, parse_name

    return download(parse_name(name))


def read_config(folder: Path) -> ModelConfig:
    """Read ``config.json`` of a model folder.

    Raises:
        ModelFolderError: the folder or file is missing, or its content is invalid.
    """
    if not folder.is_dir():
        raise ModelFolderError(f"no model folder at {folder}: give another one, or none for the packaged model")
    if is_half_moved(folder):
        raise ModelFolderError(
            f"model folder {folder} contains files of two models because an export was killed: "
            f"run `zsl-tagger export --model {folder}` to repair it"
        )
    _check_complete(folder, [CONFIG_FILE])
    path = folder / CONFIG_FILE
    content = _read_json(path)
    if not isinstance(content, dict):
        raise ModelFolderError(f"{path}: expected an object, got {type(content).__name__}")
    try:
        return ModelConfig.from_json(content)
    except TypeError as error:
        raise ModelFolderError(f"{path}: {_field_message(error)}") from None
    except UserError as error:
        raise ModelFolderError(f"{path}: {error}") from None


def _check_complete(folder: Path, needed: list[str]) -> None:
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise ModelFolderError(f"model folder {folder} is incomplete; missing files: {', '.join(missing)}")


def _read_json(path: Path) -> Any:
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelFolderError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ModelFolderError(f"{path} is not valid JSON: {error}") from None


def write_config(folder: Path, config: ModelConfig) -> None:
    """Write ``config.json``."""
    _write_json(folder / CONFIG_FILE, config.to_json())


def has_objects(folder: Path) -> bool:
    """Return whether a model folder has a detector of objects: its network and the words for its objects."""
    return (folder / OBJECTS_FILE).is_file() and (folder / OBJECT_WORDS_FILE).is_file()


def object_words(folder: Path) -> tuple[dict[str, ClassWord], int]:
    """Return the words for a detector's objects, and their number; none if the folder has no detector.

    Raises:
        ModelFolderError: the file cannot be read.
    """
    return (_optional(folder / OBJECT_WORDS_FILE, read_object_words) if has_objects(folder) else None) or ({}, 0)


def _optional(path: Path, load: Callable[[Path], Content]) -> Content | None:
    """Read a file; None if there is none.

    Raises:
        ModelFolderError: it cannot be read.
    """
    if not path.is_file():
        return None
    try:
        return load(path)
    except UserError as error:
        raise ModelFolderError(str(error)) from None


def write_labels(folder: Path, labels: list[VocabularyLabel]) -> None:
    """Write ``labels.json``; fields with their usual value are omitted."""
    usual = {"bias": 0.0, "default": True, "implies": (), "probe": None}
    entries = [
        {name: value for name, value in asdict(label).items() if name not in usual or value != usual[name]}
        for label in labels
    ]
    _write_json(folder / LABELS_FILE, entries)


def _write_json(path: Path, content: Any) -> None:
    write_whole(path, json_bytes(content))


def _field_message(error: TypeError) -> str:
    return str(error).partition(".__init__() ")[2] or str(error)

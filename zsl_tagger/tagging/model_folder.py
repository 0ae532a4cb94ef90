"""Read and write model folders, and check them; a model is a folder that can be read with ``cat``.

=====================  ======================================================================================
``config.json``        format version, preprocessing, word source, default threshold, architecture, provenance
``labels.json``        what is known of labels: ``[{"name", "threshold", "seen", "bias", "default", "implies"}, ...]``
``encoder.onnx``       image uint8 (B, S, S, 3) -> tokens float32 (B, L, D); with class evidence, also classes (B, N)
``queries.onnx``       queries (K, word_dim) -> states, projected (K, D) each: the decoder's part that needs no image
``decoder.onnx``       tokens (B, L, D), states, projected -> logits (B, K), attention (B, K, L); that of a closed set
                       takes class numbers instead, ``queries`` int64 (K,), and has no ``queries.onnx``. Folders of
                       before have none either: their decoder takes ``queries`` (K, word_dim). With groups of words,
                       ``groups`` (K, G) stands for ``projected`` in both
``class_words.json``   which words mean the backbone's classes (:mod:`zsl_tagger.tagging.class_evidence`); optional
``background.npz``     what the encoder made of photos of anything (:mod:`zsl_tagger.tagging.background`); optional
``words.txt``          words of the table, one a line; ``word_vectors.npy``: their vectors, int8 or float
``README.md``          the model card
``model.safetensors``  the trained weights for torch, where training wrote them; tagging does not read it
``train_config.json``  the settings of the run that trained it (``zsl-tagger train --config``)
=====================  ======================================================================================

Nothing in it is pickled. This module needs neither torch nor onnxruntime.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from zsl_tagger.assets import PACKAGED
from zsl_tagger.errors import UserError
from zsl_tagger.images.preprocessing import Preprocessing
from zsl_tagger.system.files import is_half_moved, json_bytes, parse_json, sha256_of, write_whole
from zsl_tagger.tagging.background import BACKGROUND_FILE, Background
from zsl_tagger.tagging.class_evidence import CLASS_WORDS_FILE, ClassWord, Scoring, read_class_words
from zsl_tagger.words.table import VECTORS_FILE, WORDS_FILE, ClassTable, WordTable

#: Written; folders of version 1, without preprocessing and word_source, and of 2, without scoring, are read as they
#: were made.
FORMAT_VERSION = 3
READ_VERSIONS = (1, 2, FORMAT_VERSION)
CONFIG_FILE = "config.json"
LABELS_FILE = "labels.json"
ENCODER_FILE = "encoder.onnx"
DECODER_FILE = "decoder.onnx"
QUERIES_FILE = "queries.onnx"
NETWORK_FILES = (ENCODER_FILE, QUERIES_FILE, DECODER_FILE)
CARD_FILE = "README.md"
TRAIN_CONFIG_FILE = "train_config.json"
#: A model given as ``hf:user/model[@revision]`` is one of the Hugging Face Hub (:mod:`zsl_tagger.tagging.hub`).
HUB_PREFIX = "hf:"


class ModelFolderError(UserError):
    """A model folder that is missing, incomplete or inconsistent; the message names the file."""


def _check_version(version: object) -> None:
    if type(version) is not int or version not in READ_VERSIONS:
        raise ModelFolderError(
            f"expected format_version {' or '.join(map(str, READ_VERSIONS))}, got {version!r}: "
            "the model was written by another version of zsl-tagger"
        )


@dataclass(frozen=True)
class ModelConfig:
    """``config.json``.

    Attributes:
        preprocessing: how an image becomes what the encoder reads.
        word_dim: width of the word vectors that are its queries; 0 for a closed set.
        default_threshold: score (0..1) at which a label without a threshold of its own counts as a tag.
        word_source: where the word vectors come from, as ``--word-vectors`` names it: "packaged", "gensim:FILE" and so
            on; None where that is not known, and for a closed set.
        templates: prompts in which labels were put for the text encoder of ``word_source``, with ``{}`` for the label;
            none: the label alone, and for sources of words.
        architecture, provenance: for people and for rebuilding the model in torch.
        unseen_bias: logits added to every label that was never trained, so that it stands a fair chance beside the
            trained ones (``zsl-tagger calibrate``).
        precision_shifts: (share of the tags that are right, what to add to the log-odds of all thresholds for it),
            ascending; measured on photos held out from training.
        scoring: how logits and class evidence make a score; None: the sigmoid of a logit is the score.
        unit_queries: its word vectors are asked at length 1; False where it was trained on them as the table has them.
        closed_set: it has a fixed set of classes, those of ``labels.json`` in its order, and no word queries.
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
    precision_shifts: Sequence[tuple[float, float]] = ()
    templates: Sequence[str] = ()

    @property
    def image_size(self) -> int:
        """Return the side S of the square image that the encoder reads, in pixels."""
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
        if not isinstance(self.scoring, Scoring | None):
            raise ModelFolderError(f"expected scoring to be an object, got {self.scoring!r}")
        if not isinstance(self.word_source, str | None):
            raise ModelFolderError(f"expected word_source to be text, got {self.word_source!r}")
        self._check_templates()

    def _check_templates(self) -> None:
        templates = self.templates
        if not isinstance(templates, (list, tuple)) or not all(
            isinstance(one, str) and "{}" in one for one in templates
        ):
            raise ModelFolderError(f"expected templates to be texts with {{}} where the label goes, got {templates!r}")
        object.__setattr__(self, "templates", tuple(templates))

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``config.json``."""
        content = {"format_version": FORMAT_VERSION, **asdict(self)}
        if self.preprocessing.crop_pct is None:  # earlier versions, which know no crop, read the folder too
            del content["preprocessing"]["crop_pct"]
        if not self.templates:  # neither do they know these
            del content["templates"]
        return content

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> ModelConfig:
        """Return the configuration that a ``config.json`` of any readable version holds.

        Raises:
            UserError: another version, or a value that does not fit.
            TypeError: fields that are missing or not known.
        """
        version = content.get("format_version", 1)
        _check_version(version)  # first: it explains other surprises
        values = {name: value for name, value in content.items() if name != "format_version"}
        if isinstance(values.get("scoring"), dict):
            values["scoring"] = Scoring(**values["scoring"])
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
    """What is known of one label.

    Attributes:
        threshold: score (0..1) from which it is a tag.
        seen: training had positives for it.
        bias: added to its log-odds, so that the score is the share of photos that it is true of.
        default: it is of the default vocabulary, which is asked where nobody says what to ask.
        implies: labels that are true where this one is, its parents and synonyms.
    """

    name: str
    threshold: float
    seen: bool = True
    bias: float = 0.0
    default: bool = True
    implies: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise ModelFolderError(f"expected the name of a label to be text, got {self.name!r}")
        if not isinstance(self.threshold, (int, float)) or not 0 <= self.threshold <= 1:
            raise ModelFolderError(f"label {self.name!r} has threshold {self.threshold!r}, expected a value in 0..1")
        if not isinstance(self.bias, (int, float)) or not math.isfinite(self.bias):
            raise ModelFolderError(f"label {self.name!r} has bias {self.bias!r}, expected a number")
        if self.implies == ():  # of most labels: a folder has thousands
            return
        if not isinstance(self.implies, (list, tuple)) or not all(isinstance(word, str) for word in self.implies):
            raise ModelFolderError(f"label {self.name!r} implies {self.implies!r}, expected a list of labels")
        object.__setattr__(self, "implies", tuple(self.implies))


class ModelFolder:
    """A folder opened for reading; each part is read when it is first asked for.

    Args:
        path: None or "packaged" for the packaged model; ``hf:user/model[@revision]`` for one of the hub.
        networks: it must have the two ONNX networks, which tagging needs.

    Raises:
        ModelFolderError: the folder is missing or incomplete.
    """

    def __init__(self, path: str | Path | None = None, networks: bool = True):
        self.path = PACKAGED if path is None else named_folder(Path(path))
        always, words = [CONFIG_FILE, LABELS_FILE], [WORDS_FILE, VECTORS_FILE]
        always += [ENCODER_FILE, DECODER_FILE] if networks else []
        if self.path.is_dir() and not all((self.path / name).is_file() for name in always):
            _check_complete(self.path, [*always, *words])  # names everything at once
        self.config = read_config(self.path)
        if not self.config.closed_set:
            _check_complete(self.path, words)

    def networks_sha256(self) -> str:
        """Return the SHA-256 over its ONNX networks, 64 hexadecimal digits, which identifies the model."""
        import hashlib

        names = (*NETWORK_FILES, CLASS_WORDS_FILE)
        files = [self.path / name for name in names if (self.path / name).is_file()]
        hashes = [f"{file.name} {sha256_of(file)}" for file in files]
        return hashlib.sha256("\n".join(hashes).encode()).hexdigest()

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
        """Read what the encoder made of photos of anything; None where the folder does not have it.

        Args:
            width, classes: of the encoder's tokens, and how many classes it gives probabilities of.

        Raises:
            ModelFolderError: the file cannot be read, or does not fit.
        """
        path = self.path / BACKGROUND_FILE
        if not path.is_file():
            return None
        try:
            background = Background.load(path)
        except UserError as error:
            raise ModelFolderError(str(error)) from None
        encoded = background.encoded
        found = encoded.tokens.shape[2], None if encoded.classes is None else encoded.classes.shape[1]
        if found != (width, classes):
            raise ModelFolderError(
                f"{path} is of another model: expected tokens {width} wide and {classes or 'no'} classes, "
                f"got {found[0]} and {found[1] or 'none'}"
            )
        return background

    def class_words(self, classes: int | None) -> dict[str, ClassWord]:
        """Read which words mean the backbone's classes; empty where the folder does not say.

        Args:
            classes: how many there are; None: the encoder does not give them, so no word hears them.

        Raises:
            ModelFolderError: the file cannot be read, or names more classes.
        """
        path = self.path / CLASS_WORDS_FILE
        if classes is None or not path.is_file():
            return {}
        try:
            words = read_class_words(path)
        except UserError as error:
            raise ModelFolderError(str(error)) from None
        largest = max((max(word.classes) for word in words.values()), default=-1)
        if largest >= classes:
            raise ModelFolderError(f"{path}: expected classes below {classes}, as encoder.onnx has them, got {largest}")
        return words

    def words(self) -> WordTable:
        """Read the word table, or of a closed set its classes."""
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
    """Return the model folder that a command is given.

    A name stands for a folder where it is one; else "packaged" is the packaged model, and ``hf:user/model[@revision]``
    one of the Hugging Face Hub, which is downloaded once a process.

    Raises:
        ModelFolderError: it cannot be downloaded.
    """
    if is_on_hub(path):
        return _downloaded(path.as_posix())
    return PACKAGED if path == Path("packaged") and not path.exists() else path


def is_on_hub(path: Path) -> bool:
    """Return whether what a command is given as a model is a name of the Hugging Face Hub."""
    return path.as_posix().startswith(HUB_PREFIX) and not path.exists()


def check_own_folder(path: Path) -> None:
    """Raise a UserError where a command would write into the cache of models of the hub."""
    if is_on_hub(path):
        raise UserError(
            f"{path.as_posix()} belongs to the hub and is not changed here: give another folder to write to"
        )


@cache
def _downloaded(name: str) -> Path:
    from zsl_tagger.tagging.hub import download, parse_name

    return download(parse_name(name))


def read_config(folder: Path) -> ModelConfig:
    """Read ``config.json`` of a model folder.

    Raises:
        ModelFolderError: no folder, no such file, or its content is not what it should be.
    """
    if not folder.is_dir():
        raise ModelFolderError(f"no model folder at {folder}: give another, or none for the packaged model")
    if is_half_moved(folder):
        raise ModelFolderError(
            f"model folder {folder} holds files of two models, since an export was killed: "
            f"`zsl-tagger export --model {folder}` puts that right"
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
        raise ModelFolderError(f"model folder {folder} is incomplete, it lacks: {', '.join(missing)}")


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


def write_labels(folder: Path, labels: list[VocabularyLabel]) -> None:
    """Write ``labels.json``; what is as of most labels is left out."""
    usual = {"bias": 0.0, "default": True, "implies": ()}
    entries = [
        {name: value for name, value in asdict(label).items() if name not in usual or value != usual[name]}
        for label in labels
    ]
    _write_json(folder / LABELS_FILE, entries)


def _write_json(path: Path, content: Any) -> None:
    write_whole(path, json_bytes(content))


def _field_message(error: TypeError) -> str:
    return str(error).partition(".__init__() ")[2] or str(error)

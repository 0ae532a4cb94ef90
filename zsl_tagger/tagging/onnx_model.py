"""Run the encoder and decoder in ONNX Runtime, without torch."""

from __future__ import annotations

import logging
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from zsl_tagger.errors import UserError, first_line
from zsl_tagger.tagging.devices import create_session, device_of
from zsl_tagger.tagging.encoded import Encoded
from zsl_tagger.tagging.model_folder import (
    DECODER_FILE,
    ENCODER_FILE,
    OBJECTS_FILE,
    QUERIES_FILE,
    ModelConfig,
    ModelFolderError,
    has_objects,
    object_words,
)
from zsl_tagger.tagging.prefilter import PREFILTER_NETWORK, Slopes

logger = logging.getLogger(__name__)

#: Labels scored per decoder call; bounds memory at any vocabulary size (about 60 MB of attention per call).
LABELS_PER_CALL = 4096


Shape = tuple[int | None, ...]

DecoderInputs = dict[str, np.ndarray]  # decoder inputs of K labels: arrays with one row per label


class OnnxModel:
    """The networks of a model folder.

    Args:
        folder: folder with ``encoder.onnx``, ``decoder.onnx`` and ``queries.onnx``, and perhaps ``objects.onnx``.
        config: configuration of the model.
        threads: CPU threads per image.
        device: one of :data:`zsl_tagger.tagging.devices.DEVICES`.
        keep: cache the optimised encoder and detector for the next start; for folders that persist.

    Raises:
        ModelFolderError: they cannot be loaded or do not match ``config``.
        UserError: the device is not available.
    """

    def __init__(self, folder: Path, config: ModelConfig, threads: int, device: str = "cpu", keep: bool = False):
        self.preprocessing = config.preprocessing
        self.query_shape: Shape = (None,) if config.closed_set else (None, config.word_dim)
        self._encoder = open_session(folder / ENCODER_FILE, threads, device, keep)
        self._decoder = open_session(folder / DECODER_FILE, threads, device)
        takes = {node.name for node in self._decoder.get_inputs()}
        self._queries = open_session(folder / QUERIES_FILE, threads, device) if "states" in takes else None
        self._folder, self._threads, self._device = folder, threads, device
        self._prepared = ("states", "groups" if "groups" in takes else "projected")  # outputs of queries.onnx
        self._gives_classes = any(node.name == "classes" for node in self._encoder.get_outputs())
        with_objects = self._gives_classes and has_objects(folder)
        self._detector = open_session(folder / OBJECTS_FILE, threads, device, keep) if with_objects else None
        self._check(folder)
        logger.debug("networks of %s run on %s, threads per image: %d", folder, self.device, threads)

    @cached_property
    def _prefilter(self) -> onnxruntime.InferenceSession:
        """Return the network of the prefilter, which only long label sets need."""
        session, width = open_session(self._folder / PREFILTER_NETWORK, self._threads, self._device), self.token_width
        rows: dict[str, Shape] = {"tokens": (None, None, width), "projected": (None, width), "slopes": (None, width)}
        _expect(self._folder / PREFILTER_NETWORK, session.get_inputs(), rows)
        _expect(self._folder / PREFILTER_NETWORK, session.get_outputs(), {"logits": (None, None)})
        return session

    def _check(self, folder: Path) -> None:
        size, encoder, decoder = self.preprocessing.image_size, self._encoder, self._decoder
        _expect(folder / ENCODER_FILE, encoder.get_inputs(), {"images": (None, size, size, 3)})
        _expect(folder / ENCODER_FILE, encoder.get_outputs(), {"tokens": (None, None, None)})
        if self._gives_classes:
            _expect(folder / ENCODER_FILE, encoder.get_outputs(), {"classes": (None, None)})
        if self._detector is not None:
            _expect(folder / OBJECTS_FILE, self._detector.get_inputs(), {"images": (None, size, size, 3)})
            objects = self._detector.get_outputs()
            _expect(folder / OBJECTS_FILE, objects, {"objects": (None, object_words(folder)[1])})
        width = encoder.get_outputs()[0].shape[2]
        inputs: dict[str, Shape] = {"tokens": (None, None, width), "queries": self.query_shape}
        if self._queries is not None:
            groups = next((node.shape[1] for node in decoder.get_inputs() if node.name == "groups"), None)
            rows: dict[str, Shape] = dict(zip(self._prepared, ((None, width), (None, groups or width)), strict=True))
            _expect(folder / QUERIES_FILE, self._queries.get_inputs(), {"queries": inputs.pop("queries")})
            _expect(folder / QUERIES_FILE, self._queries.get_outputs(), rows)
            inputs |= rows
        _expect(folder / DECODER_FILE, decoder.get_inputs(), inputs)
        outputs: dict[str, Shape] = {"logits": (None, None), "attention": (None, None, None)}
        _expect(folder / DECODER_FILE, decoder.get_outputs(), outputs)

    @property
    def device(self) -> str:
        """Return the device of the encoder: "cuda" or "cpu"."""
        return device_of(self._encoder)

    @property
    def token_width(self) -> int:
        """Return the token dimension D."""
        return int(self._encoder.get_outputs()[0].shape[2])

    def fits(self, encoded: Encoded) -> bool:
        """Return whether tokens have the shape of this encoder's output, ``(B, L, D)``."""
        width = self._encoder.get_outputs()[0].shape[2]
        return encoded.tokens.ndim == 3 and (encoded.tokens.shape[2] == width or not isinstance(width, int))

    @property
    def classes(self) -> int | None:
        """Return the number of class probabilities, with those of the objects; None if the encoder has none."""
        if not self._gives_classes:
            return None
        classes = next(int(node.shape[1]) for node in self._encoder.get_outputs() if node.name == "classes")
        return classes + self.objects

    @property
    def objects(self) -> int:
        """Return the number of objects of the detector; 0 without a detector."""
        return 0 if self._detector is None else int(self._detector.get_outputs()[0].shape[1])

    def encode(self, images: np.ndarray) -> Encoded:
        """Encode images, uint8 ``(B, S, S, 3)``."""
        names = ["tokens", "classes"] if self._gives_classes else ["tokens"]
        tokens, *classes = _run(self._encoder, names, {"images": images})
        if self._detector is not None:
            classes += _run(self._detector, ["objects"], {"images": images})
        return Encoded(tokens, np.concatenate(classes, axis=1) if classes else None)  # (B, L, D), (B, N + M)

    def prepare(self, queries: np.ndarray) -> DecoderInputs:
        """Compute the image-independent part of the labels.

        Args:
            queries: word vectors ``(K, word_dim)``, or the class numbers ``(K,)`` of a closed set.
        """
        if self._queries is None:
            return {"queries": queries}
        names = list(self._prepared)
        chunks = [_run(self._queries, names, {"queries": part}) for part in _parts(queries)]
        return {name: np.concatenate(parts) for name, parts in zip(names, zip(*chunks, strict=True), strict=True)}

    def logits(self, encoded: Encoded, labels: DecoderInputs | np.ndarray) -> np.ndarray:
        """Return the logits of B images, float32 ``(B, K)``.

        Args:
            labels: output of :meth:`prepare`, or its argument.
        """
        if isinstance(labels, np.ndarray):
            labels = self.prepare(labels)
        return _finite(self._decode("logits", encoded.tokens, labels))

    def predicted_logits(self, encoded: Encoded, labels: DecoderInputs, slopes: Slopes) -> np.ndarray:
        """Return logits as predicted from what the attention returns, float32 ``(B, k)``.

        Args:
            labels: output of :meth:`prepare` for K labels, k of which have ``slopes``.
        """
        rows = labels["projected"]
        rows = rows if len(slopes.places) == len(rows) else rows[slopes.places]
        inputs = {"tokens": encoded.tokens, "projected": rows, "slopes": slopes.slopes}
        return _finite(_run(self._prefilter, ["logits"], inputs)[0] + slopes.offsets)

    def attention(self, encoded: Encoded, labels: DecoderInputs) -> np.ndarray:
        """Return the decoder's attention for each label: float32 ``(B, K, L)``, mean over heads, sums to 1 over L."""
        return self._decode("attention", encoded.tokens, labels)

    def _decode(self, output: str, tokens: np.ndarray, labels: DecoderInputs) -> np.ndarray:
        parts = zip(*(_parts(rows) for rows in labels.values()), strict=True)
        chunks = [
            _run(self._decoder, [output], {"tokens": tokens, **dict(zip(labels, part, strict=True))})[0]
            for part in parts
        ]
        return np.concatenate(chunks, axis=1)


def _finite(logits: np.ndarray) -> np.ndarray:
    if not np.isfinite(logits).all():
        raise ModelFolderError("the model returns scores that are not numbers: its files are damaged")
    return logits


def _parts(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[start : start + LABELS_PER_CALL] for start in range(0, len(rows), LABELS_PER_CALL)]


def open_session(path: Path, threads: int, device: str = "cpu", keep: bool = False) -> onnxruntime.InferenceSession:
    """Open an ONNX network on a device of :data:`zsl_tagger.tagging.devices.DEVICES`.

    Args:
        threads: CPU threads per run.
        keep: cache the optimised network for the next start.

    Raises:
        ModelFolderError: it cannot be loaded.
        UserError: the device is not available.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors are raised and reported by us
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # leave the cores to image decoding
    try:
        return create_session(path, options, device, keep)
    except UserError:
        raise
    except Exception as error:  # onnxruntime's own exception classes share no public base
        raise ModelFolderError(f"{path} cannot be loaded: {first_line(error)}") from None


def _run(session: onnxruntime.InferenceSession, outputs: list[str], inputs: dict[str, np.ndarray]) -> Any:
    """Run a network.

    Raises:
        ModelFolderError: it cannot be run, e.g. for lack of memory.
    """
    try:
        return session.run(outputs, inputs)
    except Exception as error:  # onnxruntime's own exception classes share no public base
        raise ModelFolderError(f"the model cannot be run: {first_line(error)}") from None


def _expect(path: Path, nodes: list[Any], expected: dict[str, Shape]) -> None:
    """Check the names and shapes of a network's inputs or outputs; None matches any size."""
    found = {node.name: tuple(node.shape) for node in nodes}
    for name, shape in expected.items():
        got = found.get(name)
        if got is None:
            raise ModelFolderError(f"{path}: expected a tensor {name!r}, found only {', '.join(sorted(found))}")
        fits = len(got) == len(shape) and all(
            want is None or want == have for want, have in zip(shape, got, strict=True)
        )
        if not fits:
            raise ModelFolderError(f"{path}: expected {name!r} of shape {_show(shape)}, got {_show(got)}")


def _show(shape: tuple[Any, ...]) -> str:
    return "(" + ", ".join("any" if side is None else str(side) for side in shape) + ")"

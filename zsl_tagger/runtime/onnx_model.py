"""Encoder and decoder in ONNX Runtime: what tagging needs, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from zsl_tagger.model_folder import DECODER_FILE, ENCODER_FILE, ModelConfig, ModelFolderError

#: Labels scored per decoder call: bounds memory at any vocabulary size (about 60 MB of attention a call).
LABELS_PER_CALL = 4096


Shape = tuple[int | None, ...]


class OnnxModel:
    """The two networks of a model folder.

    Args:
        folder: where ``encoder.onnx`` and ``decoder.onnx`` lie.
        config: of the model that they are.
        threads: processor threads for one image.

    Raises:
        ModelFolderError: they cannot be loaded, or are not those of ``config``.
    """

    def __init__(self, folder: Path, config: ModelConfig, threads: int):
        self.image_size = config.image_size
        self.query_shape: Shape = (None,) if config.closed_set else (None, config.word_dim)
        self._encoder = _session(folder / ENCODER_FILE, threads)
        self._decoder = _session(folder / DECODER_FILE, threads)
        self._check(folder)

    def _check(self, folder: Path) -> None:
        size, encoder, decoder = self.image_size, self._encoder, self._decoder
        _expect(folder / ENCODER_FILE, encoder.get_inputs(), {"images": (None, size, size, 3)})
        _expect(folder / ENCODER_FILE, encoder.get_outputs(), {"tokens": (None, None, None)})
        width = encoder.get_outputs()[0].shape[2]
        inputs: dict[str, Shape] = {"tokens": (None, None, width), "queries": self.query_shape}
        _expect(folder / DECODER_FILE, decoder.get_inputs(), inputs)
        outputs: dict[str, Shape] = {"logits": (None, None), "attention": (None, None, None)}
        _expect(folder / DECODER_FILE, decoder.get_outputs(), outputs)

    def encode(self, images: np.ndarray) -> np.ndarray:
        """uint8 ``(B, S, S, 3)`` -> tokens float32 ``(B, L, D)``."""
        return self._encoder.run(["tokens"], {"images": images})[0]

    def logits(self, tokens: np.ndarray, queries: np.ndarray) -> np.ndarray:
        """Logits float32 ``(B, K)``.

        Args:
            tokens: ``(B, L, D)``.
            queries: unit word vectors ``(K, word_dim)``, or the class numbers ``(K,)`` of a closed set.
        """
        chunks = [
            self._decoder.run(["logits"], {"tokens": tokens, "queries": queries[start : start + LABELS_PER_CALL]})[0]
            for start in range(0, len(queries), LABELS_PER_CALL)
        ]
        logits = np.concatenate(chunks, axis=1)
        if not np.isfinite(logits).all():
            raise ModelFolderError("the model gives scores that are not numbers: its files are damaged")
        return logits


def _session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what goes wrong is raised, and reported by us
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # leave the cores to decoding
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exception classes share no public base
        raise ModelFolderError(f"{path} cannot be loaded: {str(error).splitlines()[0]}") from None


def _expect(path: Path, nodes: list[Any], expected: dict[str, Shape]) -> None:
    """Names and shapes of a network's ends; None stands for any size."""
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

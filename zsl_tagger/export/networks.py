"""A trained model -> ``encoder.onnx`` and ``decoder.onnx``, with a proof that they compute the same."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from zsl_tagger.model.tagger_model import DecoderForExport, EncoderForExport, TaggerModel
from zsl_tagger.model_folder import DECODER_FILE, ENCODER_FILE

#: Largest difference between torch and ONNX Runtime that counts as the same, on logits.
TOLERANCE = 1e-3


def export_onnx(model: TaggerModel, folder: Path, image_size: int, softmax: bool = False) -> float:
    """Write both networks with dynamic batch and label count.

    Args:
        softmax: see :class:`DecoderForExport`.

    Returns:
        the largest difference of a logit between torch and ONNX Runtime on random images and queries.

    Raises:
        RuntimeError: they differ by more than ``TOLERANCE``.
    """
    model = model.eval()
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, image_size, image_size, 3), np.uint8))
    decoder = DecoderForExport(model, softmax).eval()
    queries = _example_queries(model)
    with torch.inference_mode():
        tokens = model.encode(images)
        expected = decoder(tokens, queries)[0].numpy()
    _export(
        EncoderForExport(model),
        (images,),
        folder / ENCODER_FILE,
        inputs={"images": {0: "batch"}},
        outputs={"tokens": {0: "batch"}},
    )
    _export(
        decoder,
        (tokens.clone(), queries),
        folder / DECODER_FILE,
        inputs={"tokens": {0: "batch", 1: "places"}, "queries": {0: "labels"}},
        outputs={"logits": {0: "batch", 1: "labels"}, "attention": {0: "batch", 1: "labels", 2: "places"}},
    )
    difference = float(np.abs(_run_onnx(folder, images.numpy(), queries.numpy()) - expected).max())
    if difference > TOLERANCE:
        raise RuntimeError(f"ONNX Runtime and torch differ by {difference:.1e} in a logit, more than {TOLERANCE:.0e}")
    return difference


def _example_queries(model: TaggerModel) -> Tensor:
    """Five word vectors, or the first classes of a closed set."""
    if model.head.num_classes is not None:
        return torch.arange(min(5, model.head.num_classes))
    shape = (5, model.head.word_dim or 0)
    return torch.nn.functional.normalize(torch.randn(shape, generator=torch.Generator().manual_seed(0)))


Axes = dict[str, dict[int, str]]  # which axes of which tensor may have any size


def _export(network: nn.Module, example: tuple[Tensor, ...], path: Path, *, inputs: Axes, outputs: Axes) -> None:
    with warnings.catch_warnings():
        # Shape checks are traced with the example's shapes, which is meant; the exporter is the stable one.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            network.eval(),  # the exporter gives each module back the mode its wrapper had
            example,
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={**inputs, **outputs},
            dynamo=False,
        )


def _run_onnx(folder: Path, images: np.ndarray, queries: np.ndarray) -> np.ndarray:
    encoder = onnxruntime.InferenceSession(str(folder / ENCODER_FILE), providers=["CPUExecutionProvider"])
    decoder = onnxruntime.InferenceSession(str(folder / DECODER_FILE), providers=["CPUExecutionProvider"])
    tokens = encoder.run(["tokens"], {"images": images})[0]
    return decoder.run(["logits"], {"tokens": tokens, "queries": queries})[0]

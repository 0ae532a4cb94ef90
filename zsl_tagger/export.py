"""A trained model -> ``encoder.onnx`` and ``decoder.onnx``, with a proof that they compute the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import torch

from zsl_tagger.model.tagger_model import DecoderForExport, EncoderForExport, TaggerModel
from zsl_tagger.model_folder import DECODER_FILE, ENCODER_FILE

#: Largest difference between torch and ONNX Runtime that counts as the same, on logits.
TOLERANCE = 1e-3


def export_onnx(model: TaggerModel, folder: Path, image_size: int) -> float:
    """Write both networks with dynamic batch and label count.

    Returns:
        the largest difference of a logit between torch and ONNX Runtime on random images and queries.

    Raises:
        RuntimeError: they differ by more than ``TOLERANCE``.
    """
    model = model.eval()
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, image_size, image_size, 3), np.uint8))
    word_dim = model.head.word_dim
    if word_dim is None:
        raise ValueError("expected a head with word queries, got a closed set of classes")
    queries = torch.nn.functional.normalize(torch.randn(5, word_dim, generator=torch.Generator().manual_seed(0)))
    with torch.inference_mode():
        tokens = model.encode(images)
        expected = model.score(tokens, queries).numpy()
    torch.onnx.export(
        EncoderForExport(model),
        (images,),
        str(folder / ENCODER_FILE),
        input_names=["images"],
        output_names=["tokens"],
        dynamic_axes={"images": {0: "batch"}, "tokens": {0: "batch"}},
        dynamo=False,
    )
    torch.onnx.export(
        DecoderForExport(model),
        (tokens.clone(), queries),
        str(folder / DECODER_FILE),
        input_names=["tokens", "queries"],
        output_names=["logits", "attention"],
        dynamic_axes={
            "tokens": {0: "batch", 1: "places"},
            "queries": {0: "labels"},
            "logits": {0: "batch", 1: "labels"},
            "attention": {0: "batch", 1: "labels", 2: "places"},
        },
        dynamo=False,
    )
    difference = float(np.abs(_run_onnx(folder, images.numpy(), queries.numpy()) - expected).max())
    if difference > TOLERANCE:
        raise RuntimeError(f"ONNX Runtime and torch differ by {difference:.1e} in a logit, more than {TOLERANCE:.0e}")
    return difference


def _run_onnx(folder: Path, images: np.ndarray, queries: np.ndarray) -> np.ndarray:
    encoder = onnxruntime.InferenceSession(str(folder / ENCODER_FILE), providers=["CPUExecutionProvider"])
    decoder = onnxruntime.InferenceSession(str(folder / DECODER_FILE), providers=["CPUExecutionProvider"])
    tokens = encoder.run(["tokens"], {"images": images})[0]
    return decoder.run(["logits"], {"tokens": tokens, "queries": queries})[0]

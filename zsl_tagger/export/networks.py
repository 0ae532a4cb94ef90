"""Export a torch model to ``encoder.onnx``, ``decoder.onnx`` and ``queries.onnx``, with dynamic sizes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from zsl_tagger.errors import UserError, first_line
from zsl_tagger.model.grouped_words import GroupedWords
from zsl_tagger.model.local_global import LocalGlobalHead
from zsl_tagger.model.tagger_model import (
    BackboneForExport,
    DecoderForExport,
    EncoderForExport,
    PredictionForExport,
    PreparedDecoderForExport,
    QueriesForExport,
    TaggerModel,
)
from zsl_tagger.tagging.model_folder import DECODER_FILE, ENCODER_FILE, QUERIES_FILE

Axes = dict[str, dict[int, str]]  # dynamic axes of each tensor

TOKEN_AXES = {0: "batch", 1: "places"}
OUTPUT_AXES: Axes = {"logits": {0: "batch", 1: "labels"}, "attention": {0: "batch", 1: "labels", 2: "places"}}


class ExportError(UserError):
    """A network cannot be exported, or its export computes something else."""


def write_networks(model: TaggerModel, folder: Path, image_size: int, softmax: bool = False) -> None:
    """Write the files into ``folder``, in float32.

    Args:
        softmax: see :class:`DecoderForExport`.

    Raises:
        ExportError: the exporter does not support an operation of the network.
        OSError: a full disk.
    """
    images, tokens, queries = examples(model, image_size)
    with _export_errors(model):
        _write(
            EncoderForExport(model),
            (images,),
            folder / ENCODER_FILE,
            inputs={"images": {0: "batch"}},
            outputs={name: {0: "batch"} for name in encoder_outputs(model)},
        )
        if model.head.num_classes is None:
            _write_prepared(model, tokens, queries, folder)
            return
        _write(
            DecoderForExport(model, softmax),
            (tokens, queries),
            folder / DECODER_FILE,
            inputs={"tokens": TOKEN_AXES, "queries": {0: "labels"}},
            outputs=_decoder_outputs(model),
        )


def _decoder_outputs(model: TaggerModel) -> Axes:
    """Return the dynamic axes of the decoder's outputs."""
    if not isinstance(model.head, LocalGlobalHead):
        return OUTPUT_AXES
    # ONNX Runtime assumes that axes of the same name have the same size, but the first token is not a position.
    return {**OUTPUT_AXES, "attention": {**OUTPUT_AXES["attention"], 2: "patches"}}


def encoder_outputs(model: TaggerModel) -> tuple[str, ...]:
    """Return the output names of :class:`EncoderForExport`."""
    return ("tokens", "classes") if model.class_evidence else ("tokens",)


def prepared_names(model: TaggerModel) -> tuple[str, str]:
    """Return the output names of :class:`QueriesForExport`."""
    return ("states", "groups") if isinstance(model.head, GroupedWords) else ("states", "projected")


@contextmanager
def _export_errors(model: TaggerModel) -> Iterator[None]:
    """Convert exceptions of the exporter to an ExportError."""
    try:
        yield
    except OSError:  # a full disk is not a problem of the network
        raise
    except Exception as error:  # the exporter raises arbitrary exceptions
        raise ExportError(f"{model.backbone.name} cannot be exported to ONNX: {first_line(error)}") from None


def write_backbone(model: TaggerModel, path: Path, image_size: int) -> None:
    """Write normalisation and backbone only: images of any size ``(B, S, S, 3)`` -> tokens ``(B, L, C)``.

    Raises:
        ExportError: the exporter does not support an operation of the network.
        OSError: a full disk.
    """
    images = torch.zeros(2, image_size, image_size, 3, dtype=torch.uint8)
    axes: Axes = {"images": {0: "batch", 1: "height", 2: "width"}}
    with _export_errors(model):
        _write(BackboneForExport(model), (images,), path, inputs=axes, outputs={"tokens": {0: "batch", 1: "places"}})


def write_prediction(network: PredictionForExport, path: Path, places: int) -> None:
    """Write the network of a prefilter.

    Args:
        places: number of tokens of an image.

    Raises:
        OSError: a full disk.
    """
    dim = network.attention.k.in_features
    example = torch.zeros(2, places, dim), torch.zeros(5, dim), torch.zeros(5, dim)
    rows: Axes = {"projected": {0: "labels"}, "slopes": {0: "labels"}}
    outputs: Axes = {"logits": {0: "batch", 1: "labels"}}
    _write(network, example, path, inputs={"tokens": {0: "batch"}, **rows}, outputs=outputs)


def _write_prepared(model: TaggerModel, tokens: Tensor, queries: Tensor, folder: Path) -> None:
    """Write word queries as a separate network, so that they are computed once per label set."""
    rows = {name: {0: "labels"} for name in prepared_names(model)}
    network = QueriesForExport(model)
    _write(network, (queries,), folder / QUERIES_FILE, inputs={"queries": {0: "labels"}}, outputs=rows)
    with torch.no_grad():
        prepared = network(queries)
    _write(
        PreparedDecoderForExport(model),
        (tokens, *prepared),
        folder / DECODER_FILE,
        inputs={"tokens": TOKEN_AXES, **rows},
        outputs=_decoder_outputs(model),
    )


def examples(model: TaggerModel, image_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return example inputs for tracing: images uint8 ``(2, S, S, 3)``, tokens, five queries or classes."""
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, image_size, image_size, 3), np.uint8))
    with torch.no_grad():
        tokens = model.eval().encode(images)
    if model.head.num_classes is not None:
        return images, tokens, torch.arange(5) % model.head.num_classes
    queries = torch.randn((5, model.head.word_dim or 0), generator=torch.Generator().manual_seed(0))
    return images, tokens, nn.functional.normalize(queries)


def _write(network: nn.Module, example: tuple[Tensor, ...], path: Path, *, inputs: Axes, outputs: Axes) -> None:
    with warnings.catch_warnings():
        # Shape checks are traced with the example's shapes, as intended; this is the stable exporter.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", "Constant folding")  # ONNX Runtime does the rest
        torch.onnx.export(
            network.eval(),  # the exporter restores the mode of the wrapper for each module
            example,
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={**inputs, **outputs},
            dynamo=False,
        )

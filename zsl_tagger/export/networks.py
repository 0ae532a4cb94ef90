"""A model in torch -> ``encoder.onnx``, ``decoder.onnx``, ``queries.onnx``, with dynamic batch and label count."""

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
    PreparedDecoderForExport,
    QueriesForExport,
    TaggerModel,
)
from zsl_tagger.tagging.model_folder import DECODER_FILE, ENCODER_FILE, QUERIES_FILE

Axes = dict[str, dict[int, str]]  # which axes of which tensor may have any size

TOKEN_AXES = {0: "batch", 1: "places"}
OUTPUT_AXES: Axes = {"logits": {0: "batch", 1: "labels"}, "attention": {0: "batch", 1: "labels", 2: "places"}}


class ExportError(UserError):
    """A network that cannot be exported, or whose export computes something else."""


def write_networks(model: TaggerModel, folder: Path, image_size: int, softmax: bool = False) -> None:
    """Write the files into ``folder``, in float32.

    Args:
        softmax: see :class:`DecoderForExport`.

    Raises:
        ExportError: the exporter does not know an operation of the network.
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
    """Return the axes of what a decoder gives."""
    if not isinstance(model.head, LocalGlobalHead):
        return OUTPUT_AXES
    # ONNX Runtime takes axes of one name to be of one size, and the first of these tokens is no place.
    return {**OUTPUT_AXES, "attention": {**OUTPUT_AXES["attention"], 2: "patches"}}


def encoder_outputs(model: TaggerModel) -> tuple[str, ...]:
    """Return the names of what :class:`EncoderForExport` gives."""
    return ("tokens", "classes") if model.class_evidence else ("tokens",)


def prepared_names(model: TaggerModel) -> tuple[str, str]:
    """Return the names of what :class:`QueriesForExport` gives."""
    return ("states", "groups") if isinstance(model.head, GroupedWords) else ("states", "projected")


@contextmanager
def _export_errors(model: TaggerModel) -> Iterator[None]:
    """Turn what the exporter raises on networks that it does not know into an ExportError."""
    try:
        yield
    except OSError:  # a full disk is no fault of the network
        raise
    except Exception as error:  # the exporter raises what it likes
        raise ExportError(f"{model.backbone.name} cannot be exported to ONNX: {first_line(error)}") from None


def write_backbone(model: TaggerModel, path: Path, image_size: int) -> None:
    """Write the normalisation and the backbone alone: images of any size ``(B, S, S, 3)`` -> tokens ``(B, L, C)``.

    Raises:
        ExportError: the exporter does not know an operation of the network.
        OSError: a full disk.
    """
    images = torch.zeros(2, image_size, image_size, 3, dtype=torch.uint8)
    axes: Axes = {"images": {0: "batch", 1: "height", 2: "width"}}
    with _export_errors(model):
        _write(BackboneForExport(model), (images,), path, inputs=axes, outputs={"tokens": {0: "batch", 1: "places"}})


def _write_prepared(model: TaggerModel, tokens: Tensor, queries: Tensor, folder: Path) -> None:
    """Word queries in a network of their own, so that they are computed once for a label set."""
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
    """Return what the networks are traced with: images uint8 ``(2, S, S, 3)``, tokens, five queries or classes."""
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, image_size, image_size, 3), np.uint8))
    with torch.no_grad():
        tokens = model.eval().encode(images)
    if model.head.num_classes is not None:
        return images, tokens, torch.arange(5) % model.head.num_classes
    queries = torch.randn((5, model.head.word_dim or 0), generator=torch.Generator().manual_seed(0))
    return images, tokens, nn.functional.normalize(queries)


def _write(network: nn.Module, example: tuple[Tensor, ...], path: Path, *, inputs: Axes, outputs: Axes) -> None:
    with warnings.catch_warnings():
        # Shape checks are traced with the example's shapes, which is meant; the exporter is the stable one.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", "Constant folding")  # some of it is left to ONNX Runtime
        torch.onnx.export(
            network.eval(),  # the exporter gives each module back the mode its wrapper had
            example,
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={**inputs, **outputs},
            dynamo=False,
        )

"""Export the networks with torch.export to ``encoder.pt2`` and ``decoder.pt2``, for servers and compilers."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from zsl_tagger.errors import first_line
from zsl_tagger.export.networks import ExportError, examples
from zsl_tagger.model.tagger_model import DecoderForExport, EncoderForExport, TaggerModel
from zsl_tagger.system.files import write_whole
from zsl_tagger.tagging.encoded import Encoded
from zsl_tagger.tagging.model_folder import ModelConfig

ENCODER_PROGRAM, DECODER_PROGRAM = "encoder.pt2", "decoder.pt2"

Shapes = tuple[dict[int, Dim], ...]  # dynamic axes of each input


def write_programs(model: TaggerModel, folder: Path, config: ModelConfig) -> None:
    """Write both programs, with dynamic batch and label count.

    Raises:
        ExportError: torch.export does not support the network.
        UserError: the disk is full.
    """
    images, tokens, queries = examples(model, config.image_size)
    decoder = DecoderForExport(model, bool(config.architecture.get("softmax"))).eval()
    batch = Dim("batch")
    _write(EncoderForExport(model).eval(), (images,), ({0: batch},), folder / ENCODER_PROGRAM)
    _write(decoder, (tokens, queries), ({0: batch}, {0: Dim("labels")}), folder / DECODER_PROGRAM)


def _write(network: nn.Module, example: tuple[Tensor, ...], shapes: Shapes, path: Path) -> None:
    content = io.BytesIO()
    try:
        with torch.no_grad():
            torch.export.save(torch.export.export(network, example, dynamic_shapes=shapes), content)
    except Exception as error:  # it raises arbitrary exceptions on unsupported networks
        raise ExportError(f"torch.export cannot write {path.name}: {first_line(error)}") from None
    write_whole(path, content.getvalue())


class Programs:
    """The two programs, loaded again."""

    def __init__(self, folder: Path):
        self._encoder = torch.export.load(folder / ENCODER_PROGRAM).module()
        self._decoder = torch.export.load(folder / DECODER_PROGRAM).module()

    @torch.inference_mode()
    def encode(self, images: np.ndarray) -> Encoded:
        """Encode images, uint8 ``(B, S, S, 3)``."""
        outputs = self._encoder(torch.from_numpy(images.copy()))
        return Encoded(*(output.numpy() for output in (outputs if isinstance(outputs, tuple) else (outputs,))))

    @torch.inference_mode()
    def logits(self, encoded: Encoded, queries: np.ndarray) -> np.ndarray:
        """Return logits, float32 ``(B, K)``, of all labels in one call."""
        return self._decoder(torch.from_numpy(encoded.tokens), torch.from_numpy(queries))[0].numpy()

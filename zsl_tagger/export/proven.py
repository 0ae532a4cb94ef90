"""Write ONNX networks and verify them against torch."""

from __future__ import annotations

from pathlib import Path

from zsl_tagger.choices import Precision
from zsl_tagger.errors import first_line
from zsl_tagger.export.metadata import write_metadata
from zsl_tagger.export.networks import ExportError, write_networks
from zsl_tagger.export.precision import CONVERSIONS
from zsl_tagger.export.proof import Proof
from zsl_tagger.model.tagger_model import TaggerModel
from zsl_tagger.system.progress import phase
from zsl_tagger.system.threads import available_cores
from zsl_tagger.tagging.model_folder import NETWORK_FILES, ModelConfig, ModelFolderError
from zsl_tagger.tagging.onnx_model import OnnxModel


def write_proven(model: TaggerModel, folder: Path, config: ModelConfig, proof: Proof) -> OnnxModel:
    """Write the networks in float32 to ``folder`` and verify them against ``model``.

    Raises:
        ExportError: they cannot be exported, or differ from torch.
        OSError: a full disk.
    """
    with phase("exporting to ONNX"):
        write_networks(model, folder, config.image_size, bool(config.architecture.get("softmax")))
        write_metadata(folder, config)
    try:
        with phase("comparing ONNX Runtime with torch"):
            networks = opened(folder, config)
            proof.check(networks, "ONNX Runtime")
    except ModelFolderError as error:  # a fixed size instead of a dynamic one, or logits that are not numbers
        raise ExportError(f"{model.backbone.name} has no valid export to ONNX: {error}") from None
    return networks


def convert(source: Path, target: Path, config: ModelConfig, precision: Precision) -> OnnxModel:
    """Convert the float32 networks in ``source`` to another precision in ``target``.

    Raises:
        ExportError: onnx or ONNX Runtime cannot convert them.
        OSError: a full disk.
    """
    for name in NETWORK_FILES:
        if not (source / name).is_file():  # a closed set has no queries
            continue
        try:
            with phase(f"converting {name} to {precision}"):
                CONVERSIONS[precision](source / name, target / name)
        except OSError:
            raise
        except Exception as error:  # they raise arbitrary exceptions
            raise ExportError(f"{name} cannot be converted to {precision}: {first_line(error)}") from None
    return opened(target, config)


def opened(folder: Path, config: ModelConfig) -> OnnxModel:
    """Open the networks like ``tag`` with one worker."""
    return OnnxModel(folder, config, threads=available_cores())

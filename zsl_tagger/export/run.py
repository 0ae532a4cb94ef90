"""Export a model folder's weights to ONNX and verify them against torch: ``zsl-tagger export``."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from zsl_tagger.assets import PACKAGED
from zsl_tagger.choices import Precision
from zsl_tagger.errors import UserError
from zsl_tagger.export.proof import Proof
from zsl_tagger.export.proven import convert, write_proven
from zsl_tagger.export.results import AgainstTorch, ExportRecord, Row
from zsl_tagger.export.text import summary
from zsl_tagger.export.words import baked_table
from zsl_tagger.images.finding import find_images
from zsl_tagger.images.preprocessing import ImageError, Preprocessing, load_array
from zsl_tagger.model.pretrained import WEIGHTS_FILE, load_model
from zsl_tagger.system.files import TEMPORARY, finish_move, locked, move_whole, scratch_inside, write_errors
from zsl_tagger.system.progress import phase
from zsl_tagger.system.version import installed_version
from zsl_tagger.tagging.class_evidence import EvidenceWords
from zsl_tagger.tagging.label_set import vocabulary_of
from zsl_tagger.tagging.model_folder import (
    CONFIG_FILE,
    ENCODER_FILE,
    LABELS_FILE,
    NETWORK_FILES,
    OTHER_FILES,
    ModelConfig,
    ModelFolder,
    check_own_folder,
    named_folder,
    read_config,
    write_config,
)

#: Files of a folder besides its networks, weights and configuration.
COPIED = (LABELS_FILE, *OTHER_FILES)


@dataclass(frozen=True, kw_only=True)
class ExportRun:
    """Options of one run.

    Attributes:
        model: a model folder with ``model.safetensors``, or "packaged" for the packaged model.
        output: model folder to write; None: replace the networks of ``model``.
        photos: photos or folders of photos to compare torch and the export on, in addition to synthetic images.
        precision: precision of the weights.
        bake_words: a file of words, one per line, or "packaged" for the packaged 100,000; None: keep the words.
        torch_export: also write encoder.pt2 and decoder.pt2.
    """

    model: Path
    output: Path | None = None
    photos: Sequence[Path] | None = None
    precision: Precision = "fp32"
    bake_words: str | None = None
    torch_export: bool = False


def export(run: ExportRun) -> list[str]:
    """Export, verify, then replace the files; return lines to print.

    Everything is written to a temporary folder first, so that the model folder is unchanged on any failure.

    Raises:
        UserError: something is missing, does not fit or cannot be written; ExportError if the comparison fails.
    """
    if run.output is None:
        check_own_folder(run.model)
    source = ModelFolder(_model_folder(run.model), networks=False)
    target = _checked_target(run, source)
    photos = _photos(run.photos or (), source.config.preprocessing)
    with _new_folder(target), locked(target), scratch_inside(target) as scratch:
        words = None if run.bake_words is None else baked_table(run.bake_words, source)
        with write_errors(target):
            if target != source.path:
                _copy(source.path, scratch)
            if words is not None:
                words.save(scratch)
            rows = _networks(run, source, photos, scratch)
            write_config(scratch, _with_record(source.config, rows[-1], len(photos)))
        move_whole(scratch, target)
    return summary(target, rows, len(photos), run.torch_export, None if words is None else len(words.words))


def _networks(run: ExportRun, source: ModelFolder, photos: list[np.ndarray], scratch: Path) -> list[Row]:
    """Write the networks to ``scratch``; return measurements in float32 and, if different, in the target precision."""
    model, config = load_model(source.path), source.config
    classes = model.backbone.network.get_classifier().out_features if model.class_evidence else None
    default = [label for label in source.labels() if label.default]
    labels = vocabulary_of(default, source.words(), config, EvidenceWords(source.class_words(classes)))
    proof = Proof(model, config, labels, photos)
    if run.torch_export:
        from zsl_tagger.export.torch_programs import Programs, write_programs

        with phase("writing and comparing programs of torch.export"):
            write_programs(model, scratch, config)
            proof.check(Programs(scratch), "torch.export")
    exported = {"fp32": write_proven(model, scratch, config, proof)}
    sizes = [_sizes(scratch)]
    if run.precision != "fp32":
        smaller = scratch / run.precision
        smaller.mkdir()
        exported[run.precision] = convert(scratch, smaller, config, run.precision)
        sizes.append(_sizes(smaller))
        move_whole(smaller, scratch)
    with phase("measuring the speed"):
        times = proof.milliseconds(list(exported.values()))
    return [
        Row(
            precision=precision,
            bytes=size,
            milliseconds=time,
            agreement=proof.compare(networks),
            labels=len(proof.vocabulary),
        )
        for (precision, networks), size, time in zip(exported.items(), sizes, times, strict=True)
    ]


def _sizes(folder: Path) -> tuple[int, int]:
    """Return the sizes in bytes of the encoder, and of the decoder including its query network."""
    sizes = {name: (folder / name).stat().st_size for name in NETWORK_FILES if (folder / name).is_file()}
    return sizes.pop(ENCODER_FILE), sum(sizes.values())


def _with_record(config: ModelConfig, row: Row, photos: int) -> ModelConfig:
    measured = {name: float(f"{value:.6g}") for name, value in asdict(row.agreement).items()}
    record = ExportRecord(
        by=f"zsl-tagger {installed_version()}",
        precision=row.precision,
        against_torch=AgainstTorch(**measured, photos=photos, labels=row.labels),
    )
    return replace(config, provenance={**config.provenance, "export": record.to_json()})


def _finish_killed(folder: Path) -> None:
    with write_errors(folder):
        finish_move(folder)


def _model_folder(path: Path) -> Path:
    folder = named_folder(path)
    _finish_killed(folder)
    read_config(folder)  # raises if it is invalid
    if not (folder / WEIGHTS_FILE).is_file():
        raise UserError(
            f"{folder} has no {WEIGHTS_FILE}, which the export needs: it was made for tagging only. "
            "Give the folder that zsl-tagger train wrote"
            + (" (of the packaged model: a clone of the repository has it)" if folder == PACKAGED else "")
        )
    return folder


def _checked_target(run: ExportRun, source: ModelFolder) -> Path:
    """Return the output folder, which must be empty or contain an earlier export."""
    target = source.path if run.output is None else run.output
    if target.resolve() == PACKAGED.resolve():
        raise UserError("the packaged model is part of the installation: give another folder as --output")
    if target.resolve() == source.path.resolve():
        return source.path
    if target.exists() and not target.is_dir():
        raise UserError(f"{target} is a file: give a folder as --output")
    _finish_killed(target)
    files = [path.name for path in target.iterdir() if path.name != TEMPORARY] if target.exists() else []
    if files and (WEIGHTS_FILE in files or CONFIG_FILE not in files or "export" not in read_config(target).provenance):
        raise UserError(
            f"{target} contains something other than an earlier export: give a new or empty folder as --output"
        )
    return target


@contextmanager
def _new_folder(target: Path) -> Iterator[None]:
    """Create the folder, and delete it again if the block fails."""
    is_new = not target.exists()
    with write_errors(target):
        target.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        if is_new and not any(target.iterdir()):
            target.rmdir()


def _photos(paths: Sequence[Path], preprocessing: Preprocessing) -> list[np.ndarray]:
    """Load each image as model input, uint8 ``(S, S, 3)``."""
    photos = []
    for found in find_images(map(str, paths)):
        if not isinstance(found, str):
            raise UserError(f"--photos {found.path}: {found.error}")
        try:
            photos.append(load_array(found, preprocessing))
        except ImageError as error:
            raise UserError(f"--photos {found}: {error}") from None
    if paths and not photos:
        raise UserError(f"--photos {', '.join(map(str, paths))}: no images found")
    return photos


def _copy(source: Path, scratch: Path) -> None:
    for name in COPIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, scratch / name)

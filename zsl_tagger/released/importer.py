"""Convert a released ML-Decoder checkpoint, or one with timm's names, to a model folder for ``tag``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from zsl_tagger.assets import PACKAGED
from zsl_tagger.choices import Interpolation
from zsl_tagger.errors import UserError, some
from zsl_tagger.export.model_writer import THRESHOLD, architecture_of, preprocessing_of, write_model_folder
from zsl_tagger.images.preprocessing import Preprocessing
from zsl_tagger.model.backbone import Backbone
from zsl_tagger.model.pretrained import build_model, classifier_prefix, read_checkpoint
from zsl_tagger.model.tagger_model import TaggerModel
from zsl_tagger.released.names import Released, Report, compare, guess_backbone, read_released
from zsl_tagger.system.files import check_free, sha256_of, whole_folder, write_whole
from zsl_tagger.system.version import installed_version
from zsl_tagger.tagging.model_folder import ModelConfig, VocabularyLabel
from zsl_tagger.words.baking import bake_words, table_with_labels
from zsl_tagger.words.label_lists import read_class_list
from zsl_tagger.words.prompts import templates_of
from zsl_tagger.words.sources import open_word_source
from zsl_tagger.words.table import UnknownLabelError, WordTable

REPORT_FILE = "import_report.txt"

#: Default image side in pixels of ML-Decoder's TResNets.
TRESNET_SIZE = 448

#: Number of packaged words to add to the word table, as far as the word source knows them.
MORE_WORDS = 20_000

Show = Callable[[list[str]], None]


@dataclass(frozen=True, kw_only=True)
class ImportRun:
    """Options of ``zsl-tagger import-checkpoint``; None: use the value from the checkpoint or timm.

    Attributes:
        labels_file: label names: the K classes in order, or the default words of a model with word queries.
        word_vectors: word source, for a head with word queries.
        crop_pct, interpolation: see ``Preprocessing``; None: the whole image, squashed.
    """

    checkpoint: Path
    output: Path
    backbone: str | None = None
    labels_file: Path | None = None
    word_vectors: str | None = None
    image_size: int | None = None
    crop_pct: float | None = None
    interpolation: Interpolation = "bicubic"


def import_checkpoint(run: ImportRun, show: Show) -> list[str]:
    """Write the model folder.

    Args:
        show: called with lines of the report as soon as they are known.

    Returns:
        lines to print.

    Raises:
        UserError: tensors, names or vectors do not fit; nothing was written.
    """
    check_free(run.output)
    state, others = read_checkpoint(run.checkpoint)
    released = read_released(state)
    model, size, report = _load(run, released, show)
    model.backbone.check_size(size)
    names, words, templates = _vocabulary(
        run, released, read_class_list(run.labels_file) if run.labels_file else _class_names(others)
    )
    config = _config(run, model, size, words, templates)
    labels = [VocabularyLabel(name, THRESHOLD) for name in names]
    card = _card(config, model, names, report.counts())
    with whole_folder(run.output) as folder:
        if reason := write_model_folder(model, folder, config, labels, words, card):
            raise UserError(f"nothing was written, since tag needs the networks in ONNX: {reason}")
        write_whole(folder / REPORT_FILE, "".join(f"{line}\n" for line in report.text()).encode())
    return _summary(run, config, model)


# --- tensors ----------------------------------------------------------------------------------------------


def _load(run: ImportRun, released: Released, show: Show) -> tuple[TaggerModel, int, Report]:
    """Return the model with every tensor of the checkpoint, and the side of its images."""
    name = run.backbone or guess_backbone(released)
    if name is None:
        raise UserError(
            "cannot recognise the backbone from its tensors (known: ML-Decoder's TResNet-M and -L, ResNet-18 to -152): "
            "give the timm model as --backbone NAME"
        )
    size = run.image_size or (TRESNET_SIZE if name.startswith("tresnet") else None)
    backbone = Backbone(name, image_size=size)
    model = build_model(backbone, released.architecture, released.word_dim)
    classifier = classifier_prefix(backbone.network)
    own = f"backbone.network.{classifier}" if classifier else ""
    ours = model.state_dict()
    report = compare(released, {place: tuple(value.shape) for place, value in ours.items()}, own)
    show([f"{run.checkpoint}: {report.counts()}"])
    if report.faults:
        _refuse(run, released, report, name, show)
    broken = [one.source for one in released.tensors if not one.tensor.isfinite().all()]
    if broken:
        raise UserError(f"{run.checkpoint} has values that are not numbers (nan or inf) in {some(broken)}")
    given = {one.target: one.tensor for one in released.tensors if one.target in ours}
    model.load_state_dict({place: given.get(place, torch.zeros_like(value)) for place, value in ours.items()})
    return model.eval(), size or backbone.network.pretrained_cfg["input_size"][-1], report


def _refuse(run: ImportRun, released: Released, report: Report, name: str, show: Show) -> NoReturn:
    faults = report.text()[: len(report.faults)]
    show(faults)
    guess = guess_backbone(released)
    hint = f"; its tensors look like timm's {guess}" if guess and guess != name else ""
    raise UserError(
        f"{run.checkpoint} does not fit ML-Decoder on {name}: {len(faults)} tensors do not match, first "
        f"{' '.join(faults[0].split())}{hint}. Nothing was written"
    )


# --- labels and words -------------------------------------------------------------------------------------


def _class_names(others: dict[str, Any]) -> list[str]:
    """Return ``idx_to_class`` of the container: by index if it covers 0..K-1, otherwise in stored order."""
    content = others.get("idx_to_class")
    if isinstance(content, (list, tuple)):
        content = dict(enumerate(content))
    if not isinstance(content, dict):
        return []
    numbered = {int(key): str(name) for key, name in content.items() if str(key).isdecimal()}
    if numbered.keys() == set(range(len(content))):
        return [numbered[index] for index in range(len(content))]
    return [str(name) for name in content.values()]


def _vocabulary(
    run: ImportRun, released: Released, names: list[str]
) -> tuple[list[str], WordTable | None, tuple[str, ...]]:
    """Return the names of the default vocabulary, the table of all words (None of a closed set), and its templates."""
    where = run.labels_file or f"idx_to_class of {run.checkpoint}"
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"{where} has duplicate names: {some(twice)}; give --labels-file FILE without duplicates")
    if released.word_dim is not None:
        return _words(run, released.word_dim, names)
    classes = released.architecture["classes"]
    if run.word_vectors:
        raise UserError(f"the checkpoint has a closed set of {classes} classes: leave --word-vectors out")
    if not names:
        raise UserError(
            f"the checkpoint has {classes} classes and no names for them (idx_to_class): "
            f"give --labels-file FILE with {classes} names, one per line, in the order of its outputs"
        )
    if len(names) != classes:
        raise UserError(f"{where}: expected {classes} names, one for each class of the checkpoint, got {len(names)}")
    return names, None, ()


def _words(run: ImportRun, word_dim: int, names: list[str]) -> tuple[list[str], WordTable, tuple[str, ...]]:
    spec = run.word_vectors
    if not spec:
        raise UserError(
            f"the checkpoint has word queries of {word_dim} dimensions: give the vectors it was trained with, "
            "--word-vectors gensim:NAME or FILE, st:NAME or FOLDER, open_clip:NAME:PRETRAINED, or "
            "file:wordvec_array.pth"
        )
    source = open_word_source(spec, names)
    if source.word_dim != word_dim:
        raise UserError(
            f"the checkpoint has word queries of {word_dim} dimensions, but the vectors of {spec} have "
            f"{source.word_dim}"
        )
    own = source if isinstance(source, WordTable) and spec.startswith("file:") else None
    names = names or list(own.words if own else ())
    if not names:
        raise UserError("give --labels-file FILE: the words that tag uses by default, one per line")
    found = {name: source.resolve(name) for name in names}
    unknown = [name for name, one in found.items() if one is None]
    if unknown:
        raise UnknownLabelError({name: source.suggest(name) for name in unknown})
    if own:  # the released code uses the columns of such a file without normalisation
        return names, WordTable(own.words, own.raw_vectors, unit=_are_unit(own.raw_vectors)), ()
    packaged = WordTable.load(PACKAGED)
    others = packaged if spec == "packaged" else bake_words(source, [*names, *packaged.words[:MORE_WORDS]])
    table = table_with_labels(names, source.vectors_of([one for one in found.values() if one]), others)
    return names, table, templates_of(source)


def _are_unit(vectors: np.ndarray) -> bool:
    return bool(np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3))


# --- the folder -------------------------------------------------------------------------------------------


def _config(
    run: ImportRun, model: TaggerModel, size: int, words: WordTable | None, templates: tuple[str, ...]
) -> ModelConfig:
    resize = "squash" if run.crop_pct is None else "center_crop"
    pixels = Preprocessing(size, resize, run.interpolation, crop_pct=run.crop_pct)
    return ModelConfig(
        preprocessing=preprocessing_of(model, pixels),
        word_dim=model.head.word_dim or 0,
        default_threshold=THRESHOLD,
        architecture=architecture_of(model),
        provenance={
            "imported_by": f"zsl-tagger {installed_version()}",
            "checkpoint": {"file": run.checkpoint.name, "sha256": sha256_of(run.checkpoint)},
        },
        word_source=None if words is None else run.word_vectors,
        templates=templates,
        closed_set=words is None,
        unit_queries=words is None or words.unit,
    )


CARD = """# {name}

An image tagger: ML-Decoder (arXiv 2111.12933) on {backbone} at {size} px, imported by zsl-tagger {version}.
Labels: {ask}.

```
zsl-tagger tag photos --model .
```

| | |
|---|---|
| checkpoint | `{file}`, sha256 `{sha256}` |
| tensors | {counts}; every one is in `{report}` |
| labels | {labels} |
| word vectors | {vectors} |
| pixels | {size} x {size}, {pixels} |

## Limits
Nothing was trained or measured here. All thresholds are {threshold}: choose better ones with
`zsl-tagger calibrate --model . --data DATA`, and measure with `zsl-tagger evaluate`. A checkpoint does not record which
labels it was trained on: all count as trained. Nor does it record how its pixels were scaled: the line above is the
scaling of timm's weights for this network, or of ML-Decoder's TResNets.
The licences of the checkpoint and of its training data apply; read them before you distribute the model.
"""


def _card(config: ModelConfig, model: TaggerModel, names: list[str], counts: str) -> str:
    """Return the model card, Markdown."""
    source = config.provenance["checkpoint"]
    return CARD.format(
        name=Path(source["file"]).stem,
        backbone=config.architecture["backbone"],
        size=config.image_size,
        version=installed_version(),
        ask=_describe_queries(config),
        file=source["file"],
        sha256=source["sha256"],
        counts=counts,
        report=REPORT_FILE,
        labels=f"{len(names):,}",
        vectors="none, a closed set" if config.closed_set else config.word_source,
        pixels=_pixels(config, model),
        threshold=THRESHOLD,
    )


def _describe_queries(config: ModelConfig) -> str:
    shape = config.architecture
    if config.closed_set:
        return f"a closed set of {shape['classes']:,} classes, scored by {shape['groups']:,} queries"
    length = "" if config.unit_queries else ", not normalised"
    return f"word queries of {config.word_dim} dimensions{length}: it also accepts words it was not trained on"


def _pixels(config: ModelConfig, model: TaggerModel) -> str:
    mean, std = (tuple(round(value / 255, 3) for value in part.tolist()) for part in (model.mean, model.std))
    scale = "" if (mean, std) == ((0,) * 3, (1,) * 3) else f", less {mean}, over {std}"
    changes = config.preprocessing.other_than_usual()
    return f"RGB in 0..1{scale}" + (f", {changes}" if changes else "")


def _summary(run: ImportRun, config: ModelConfig, model: TaggerModel) -> list[str]:
    return [
        f"{run.output}: ML-Decoder on {config.architecture['backbone']} at {config.image_size} px",
        f"  {_describe_queries(config)}",
        f"  pixels: {_pixels(config, model)}",
        f"  report on every tensor: {run.output / REPORT_FILE}",
        f"  every threshold is {THRESHOLD}: zsl-tagger calibrate --model {run.output} --data DATA chooses them",
        f"  tag with it: zsl-tagger tag photos --model {run.output}",
    ]

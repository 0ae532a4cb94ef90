"""Build a model folder from the two towers of a CLIP model, without training."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zsl_tagger.choices import Pool
from zsl_tagger.errors import UserError
from zsl_tagger.export.model_writer import THRESHOLD, architecture_of, preprocessing_of, write_model_folder
from zsl_tagger.images.preprocessing import Preprocessing
from zsl_tagger.model.backbone import Backbone, Projection, own_size
from zsl_tagger.model.cosine import CLIP_COSINE, CLIP_SCALE, CosineHead
from zsl_tagger.model.local_global import LOCAL_TOP, LocalGlobalHead
from zsl_tagger.model.pretrained import load_backbone_file, pretrained_backbone
from zsl_tagger.model.tagger_model import TaggerModel
from zsl_tagger.system.files import check_free, whole_folder
from zsl_tagger.system.version import installed_version
from zsl_tagger.tagging.model_folder import ModelConfig, VocabularyLabel
from zsl_tagger.words.baking import table_with_labels
from zsl_tagger.words.label_lists import read_class_list
from zsl_tagger.words.phrases import vectors_by_phrases
from zsl_tagger.words.prompts import TextEncoderSource, read_templates, templates_of
from zsl_tagger.words.sources import open_word_source
from zsl_tagger.words.table import WordTable
from zsl_tagger.words.text_towers import OpenClipSource

logger = logging.getLogger(__name__)

#: Projection of the image tower for each ``pool``, and its name in the model card.
POOLS: dict[Pool, tuple[Projection, str]] = {
    "global": ("pooled", "the image's vector"),
    "tokens": ("tokens", "the mean of the image's projected tokens"),
    "local-global": ("both", f"(half each) the image's vector and the {LOCAL_TOP} patches most like the label,"),
}


@dataclass(frozen=True, kw_only=True)
class ZeroShotRun:
    """Options of one run.

    Attributes:
        backbone: a CLIP or SigLIP image tower in timm.
        word_vectors: the text tower, ``open_clip:...`` or ``st:...``.
        labels_file: file of the words that tag looks for by default, one per line.
        init: "timm", or a weights file of the image tower, such as an open_clip checkpoint with both towers.
        templates: a file of prompts; None: "a photo of a {}."
        phrases: a file of other names and sentences for labels, see :mod:`zsl_tagger.words.phrases`.
        pool: "global": the tower's image vector; "tokens": the mean of its projected tokens;
            "local-global": the mean of two cosines, see :mod:`zsl_tagger.model.local_global`.
        scale, bias: convert cosines to logits; None: values of the text tower's checkpoint, or CLIP's.
        crop_pct: centre crop as a share of the shorter side; None: the whole photo.
    """

    backbone: str
    word_vectors: str
    labels_file: Path
    output: Path
    init: str = "timm"
    templates: Path | None = None
    phrases: Path | None = None
    pool: Pool = "global"
    scale: float | None = None
    bias: float | None = None
    crop_pct: float | None = None


def build_zero_shot(run: ZeroShotRun) -> list[str]:
    """Write the model folder.

    Returns:
        lines to print.

    Raises:
        UserError: a tower cannot be loaded or has no projection, the towers do not share a space, or the labels cannot
            be read; nothing was written.
    """
    check_free(run.output)
    labels = _labels(run.labels_file)
    source = _text_tower(run, labels)
    backbone = _image_tower(run)
    _check_same_space(run, backbone, source)
    scale, bias = _scale_and_bias(run, source)
    words = _words(labels, source, run)
    head = LocalGlobalHead if run.pool == "local-global" else CosineHead
    model = TaggerModel(backbone, head(backbone.channels, scale, bias)).eval()
    config = _config(run, model, source)
    listed = [VocabularyLabel(label, THRESHOLD, seen=False) for label in labels]
    with whole_folder(run.output) as folder:
        card = _card(config, run, scale, bias)
        if reason := write_model_folder(model, folder, config, listed, words, card):
            raise UserError(f"nothing was written, since tag needs the networks in ONNX: {reason}")
    return _summary(run, config, scale, bias)


def _labels(file: Path) -> list[str]:
    labels = list(dict.fromkeys(read_class_list(file)))
    if not labels:
        raise UserError(f"the labels file {file} is empty: expected one label per line")
    return labels


def _text_tower(run: ZeroShotRun, labels: list[str]) -> TextEncoderSource:
    templates = read_templates(run.templates) if run.templates else None
    source = open_word_source(run.word_vectors, labels, templates)
    if not isinstance(source, TextEncoderSource):
        raise UserError(
            "expected --word-vectors of the image tower's text tower, open_clip:... or st:..., got "
            f"{run.word_vectors!r}"
        )
    return source


def _image_tower(run: ZeroShotRun) -> Backbone:
    projection = POOLS[run.pool][0]
    if run.init == "timm":
        backbone, where = pretrained_backbone(run.backbone, projection=projection)
        logger.info("%s", f"backbone {run.backbone}: all of its weights from {where}")
        return backbone
    if not Path(run.init).is_file():
        raise UserError(f"expected --init timm or a file of the image tower's weights, got {run.init!r}")
    backbone = Backbone(run.backbone, projection=projection)
    for line in load_backbone_file(backbone, Path(run.init)):
        logger.info("%s", line)
    return backbone


def _check_same_space(run: ZeroShotRun, backbone: Backbone, source: TextEncoderSource) -> None:
    if backbone.channels != source.word_dim:
        raise UserError(
            f"the two towers do not share a space: {run.backbone} has {backbone.channels} dimensions, "
            f"{run.word_vectors} has {source.word_dim}: give the image tower and the text tower of the same model"
        )
    theirs = source.hub if isinstance(source, OpenClipSource) else ""
    ours = str(backbone.network.pretrained_cfg.get("hf_hub_id") or "")
    if run.init == "timm" and theirs.startswith("timm/") and ours.startswith("timm/") and ours != theirs:
        logger.info("%s", f"the towers are of different checkpoints, {ours} and {theirs}: were they trained together?")


def _scale_and_bias(run: ZeroShotRun, source: TextEncoderSource) -> tuple[float, float]:
    scale, bias = run.scale, run.bias
    if isinstance(source, OpenClipSource):
        scale = source.logit_scale if scale is None else scale
        bias = source.logit_bias if bias is None and run.scale is None else bias
    scale = CLIP_SCALE if scale is None else scale
    if scale <= 0:
        raise UserError(f"expected --scale above 0, got {scale}")
    return scale, -scale * CLIP_COSINE if bias is None else bias


def _words(labels: list[str], source: TextEncoderSource, run: ZeroShotRun) -> WordTable:
    found = {label: source.resolve(label) for label in labels}
    vectors = source.vectors_of([one for one in found.values() if one])  # (K, word_dim)
    if run.phrases is not None:
        means, _ = vectors_by_phrases(run.phrases, found, source, run.word_vectors, find=source.resolve)
        vectors = np.stack([means.get(label, row) for label, row in zip(labels, vectors, strict=True)])
    return table_with_labels(labels, vectors, None)


def _config(run: ZeroShotRun, model: TaggerModel, source: TextEncoderSource) -> ModelConfig:
    size = own_size(run.backbone) or 0
    resize = "squash" if run.crop_pct is None else "center_crop"
    return ModelConfig(
        preprocessing=preprocessing_of(model, Preprocessing(size, resize, crop_pct=run.crop_pct)),
        word_dim=model.head.word_dim,
        default_threshold=THRESHOLD,
        architecture=architecture_of(model),
        provenance={"built_by": f"zsl-tagger {installed_version()}", "trained": "nothing: two towers alone"},
        word_source=run.word_vectors,
        templates=templates_of(source),
    )


CARD = """# {backbone} with {text}

An image tagger from the two towers of CLIP, built by zsl-tagger {version} without training: a label's score is
sigmoid({scale:.4g} x cosine {bias:+.4g}) of {vector} and the label's text vector.

```
zsl-tagger tag photos --model .
```

| | |
|---|---|
| image tower | {backbone} at {size} px, weights: {init} |
| text tower | {text} |
| prompts | {prompts} |

## Limits
Nothing was trained or measured here. Every threshold is {threshold}: `zsl-tagger calibrate --model . --data DATA`
chooses them, `zsl-tagger evaluate` measures, `zsl-tagger export --model . --bake-words FILE` makes more words known.
The licences of both towers' weights apply; read them before you distribute the model.
"""


def _card(config: ModelConfig, run: ZeroShotRun, scale: float, bias: float) -> str:
    """Return the model card, Markdown."""
    return CARD.format(
        backbone=run.backbone,
        text=run.word_vectors,
        version=installed_version(),
        scale=scale,
        bias=bias,
        vector=POOLS[run.pool][1],
        size=config.image_size,
        init="timm's hub" if run.init == "timm" else Path(run.init).name,
        prompts=("; ".join(config.templates) or "the label alone")
        + (f"; and the phrases of {run.phrases.name}" if run.phrases else ""),
        threshold=THRESHOLD,
    )


def _summary(run: ZeroShotRun, config: ModelConfig, scale: float, bias: float) -> list[str]:
    return [
        f"{run.output}: {run.backbone} at {config.image_size} px with {run.word_vectors}, nothing trained",
        f"  score: sigmoid({scale:.4g} x cosine {bias:+.4g}); every threshold is {THRESHOLD}: "
        f"zsl-tagger calibrate --model {run.output} --data DATA chooses them",
        f"  tag with it: zsl-tagger tag photos --model {run.output}",
    ]

"""Write a trained model as a model folder: weights, ONNX, labels with thresholds, word table and model card."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zsl_tagger.assets import PACKAGED
from zsl_tagger.datasets.dataset import PreparedDataset
from zsl_tagger.errors import UserError
from zsl_tagger.evaluation.thresholds import calibrate_unseen, choose_thresholds, sigmoid
from zsl_tagger.export.model_writer import THRESHOLD, architecture_of, preprocessing_of, write_model_folder
from zsl_tagger.model.tagger_model import TaggerModel
from zsl_tagger.system.files import json_bytes, write_whole
from zsl_tagger.system.progress import duration, phase
from zsl_tagger.system.version import installed_version
from zsl_tagger.tagging.class_evidence import CLASS_WORDS_FILE, Scoring
from zsl_tagger.tagging.model_folder import CONFIG_FILE, TRAIN_CONFIG_FILE, ModelConfig, VocabularyLabel
from zsl_tagger.training.config import TrainConfig
from zsl_tagger.training.data import Split
from zsl_tagger.training.figures import ValidationFigures
from zsl_tagger.training.validation import Scores
from zsl_tagger.words.baking import bake_words, open_source_of_other_words, table_with_labels
from zsl_tagger.words.table import WordTable

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Result of a run, for the model card and the printed summary.

    Attributes:
        validation: figures of the saved weights.
        best_step: the step of these weights; None: the last one, because there was nothing to measure on validation.
        steps: number of steps of the run.
        seconds: duration, including the time before interruptions.
        initial: lines about the initial weights.
        unreadable: reason by path of each unreadable image.
        own_head, own_loss: names of the custom head and loss; "" without one.
    """

    validation: ValidationFigures
    best_step: int | None
    steps: int
    seconds: float
    initial: list[str]
    unreadable: dict[str, str]
    own_head: str = ""
    own_loss: str = ""

    @property
    def own(self) -> dict[str, str]:
        """Return the names of the custom head and loss, which the settings do not record."""
        return {name: value for name, value in (("head", self.own_head), ("loss", self.own_loss)) if value}


def write_model(
    model: TaggerModel,
    folder: Path,
    dataset: PreparedDataset,
    split: Split,
    scores: Scores,
    config: TrainConfig,
    outcome: Outcome,
) -> None:
    """Write the model folder; ``config.json`` comes last, so a folder with it is complete.

    Args:
        scores: scores on validation, of the trained labels followed by the held-out ones.
    """
    labels, default, bias = _thresholds(dataset, split, scores, config)
    words = word_table(dataset, config) if not config.closed else None
    step = {} if outcome.best_step is None else {"step": outcome.best_step}
    written = ModelConfig(
        preprocessing=preprocessing_of(model, config.preprocessing),
        word_dim=model.head.word_dim or 0,
        default_threshold=default,
        architecture=architecture_of(model, softmax=config.softmax),
        provenance={
            "trained_by": f"zsl-tagger {installed_version()}",
            "recipe": config.recipe,
            "seed": config.seed,
            "data": {name: dataset.info.get(name) for name in ("name", "task", "images", "sha256")},
            "trained_labels": len(split.labels),
            "held_out_labels": list(split.held_out),
            "validation": {**outcome.validation.measured(), **step},
            "initial_weights": outcome.initial,
            **({"own": outcome.own} if outcome.own else {}),
        },
        word_source=None if config.closed else (dataset.info.get("word_vectors") or {}).get("source"),
        templates=() if config.closed else _templates(dataset),
        closed_set=config.closed,
        unseen_bias=bias,
        scoring=Scoring() if model.class_evidence else None,
    )
    (folder / CONFIG_FILE).unlink(missing_ok=True)
    write_whole(folder / TRAIN_CONFIG_FILE, json_bytes(config.as_dict()))
    if model.class_evidence:
        write_whole(folder / CLASS_WORDS_FILE, (PACKAGED / CLASS_WORDS_FILE).read_bytes())
    text = card(written, config, dataset, split, outcome)
    if reason := write_model_folder(model, folder, written, labels, words, text):
        logger.warning("the weights are saved, but the ONNX networks that tag needs are missing: %s", reason)


def _thresholds(
    dataset: PreparedDataset, split: Split, scores: Scores, config: TrainConfig
) -> tuple[list[VocabularyLabel], float, float]:
    """Return the labels with their thresholds, the default threshold, and the bias (in logits) of untrained words."""
    count = len(split.labels)
    targets, unknown = dataset.targets(scores.rows), dataset.unknown(scores.rows)
    trained, held = targets[:, split.columns], targets[:, split.held_out_columns]
    columns = np.concatenate([split.columns, split.held_out_columns])
    open_ = None if unknown is None else unknown[:, columns]
    own, default, bias = np.full(count, THRESHOLD), THRESHOLD, 0.0
    if trained.any():
        open_trained = None if open_ is None else open_[:, :count]
        own, default = choose_thresholds(
            sigmoid(scores.logits[:, :count]), trained.astype(np.int64), unknown=open_trained
        )
    else:
        logger.warning("no validation image has a trained label: all thresholds are %g", THRESHOLD)
    if held.any() and trained.any():
        bias = calibrate_unseen(scores.logits[:, :count], scores.logits[:, count:], targets[:, columns], open_)
    own_threshold = dict(zip(split.labels, own, strict=True))
    if config.closed:
        return [VocabularyLabel(name, float(own_threshold[name])) for name in split.labels], default, bias
    labels = [
        VocabularyLabel(name, float(own_threshold.get(name, default)), seen=name in own_threshold)
        for name in dataset.labels
    ]
    return labels, default, bias


def word_table(dataset: PreparedDataset, config: TrainConfig) -> WordTable:
    """Return the words that the model knows: the data set's labels and more words from the same vector source."""
    return table_with_labels(dataset.labels, dataset.word_vectors, _words_of_source(dataset, config))


def _words_of_source(dataset: PreparedDataset, config: TrainConfig) -> WordTable | None:
    spec = (dataset.info.get("word_vectors") or {}).get("source")
    packaged = WordTable.load(PACKAGED)
    if spec == "packaged":
        return packaged
    try:
        source, words = open_source_of_other_words(spec, _templates(dataset)), packaged.words[: config.bake_words]
        with phase(f"looking up {len(words):,} words in {spec}"):
            return bake_words(source, words)
    except UserError as error:
        logger.warning("the model will only know its own labels: %s", error)
        return None


def _templates(dataset: PreparedDataset) -> tuple[str, ...]:
    """Return the prompt templates of the data set's word vectors; none if labels were embedded as they are."""
    return tuple((dataset.info.get("word_vectors") or {}).get("templates") or ())


def remove_scratch(run_folder: Path, names: tuple[str, ...]) -> None:
    """Delete files that were only needed to resume the run."""
    for name in names:
        path = run_folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


CARD = """# {name}

An image tagger trained with zsl-tagger {version}: {head} on {backbone} at {size} px.
{ask}

```
zsl-tagger tag photos --model .
```

| | |
|---|---|
| data | {data}: {train:,} training and {val:,} validation images |
| labels | {labels:,} trained{held} |
| word vectors | {vectors} |
| started from | {initial} |
| training | recipe {recipe}{own}, {steps:,} steps of {batch} images, seed {seed}, {time} |
| kept | {kept} |

## Validation
{figures}
`run/curves.png` and `run/metrics.csv` show the course of the training; `train_config.json` has all settings
({repeats}).

## Limits
The model only knows what its training images showed. {limits}
The licences of the training images and of the initial weights apply; check them before you share the model.
{unreadable}"""

_OPTIMISTIC = """
The best step and the thresholds were chosen on the same validation images: expect slightly lower figures on other
images.
"""

_FIGURES = {
    "val_map": "mAP over the trained labels with validation images",
    "val_top1": "top-1 among the trained labels",
    "val_f1_at_3": "F1@3 (micro)",
    "heldout_map": "mAP over labels held out of training (zero-shot)",
    "harmonic_mean": "harmonic mean of the two mAPs",
}


_HEADS = {
    **dict.fromkeys(("words", "closed"), "ML-Decoder (arXiv 2111.12933)"),
    "linear": "average pooling and a linear layer",
    "csra": "CSRA (arXiv 2108.02456)",
    "local-global": "global and local cosine similarity (MKT, arXiv 2207.01887)",
    "query2label": "Query2Label (arXiv 2107.10834)",
}


def card(written: ModelConfig, config: TrainConfig, dataset: PreparedDataset, split: Split, outcome: Outcome) -> str:
    """Return the model card, Markdown."""
    figures = outcome.validation.measured()
    measured = [(text, figures[name]) for name, text in _FIGURES.items() if name in figures]
    table = "".join(f"| {text} | {100 * value:.1f} % |\n" for text, value in measured)
    closed = config.closed
    return CARD.format(
        name=dataset.info.get("name") or dataset.folder.name,
        version=installed_version(),
        head=outcome.own_head or _HEADS[config.head],
        backbone=written.architecture["backbone"],
        size=config.image_size,
        ask=f"A closed set of {len(split.labels)} classes." if closed
        else "Labels are word queries: it can also score words it was not trained on.",
        data=dataset.info.get("name") or dataset.folder.name,
        train=len(split.train),
        val=len(split.val),
        labels=len(split.labels),
        held=(f", {len(split.held_out)} more held out to measure zero-shot" if split.held_out else "")
        + (f"; partial, with unknown_labels={config.unknown_labels}" if dataset.partial else ""),
        vectors="none, a closed set" if closed else written.word_source or "unknown",
        initial="; ".join(outcome.initial),
        recipe=config.recipe,
        own="".join(f", {name} {value}" for name, value in outcome.own.items()),
        repeats="repeat the run in Python with them and the same custom head or loss" if outcome.own
        else "`zsl-tagger train --data DATA --config train_config.json --output DIR` repeats the run",
        steps=outcome.steps,
        batch=config.batch_size,
        seed=config.seed,
        time=duration(outcome.seconds),
        kept="the last step" if outcome.best_step is None else f"step {outcome.best_step:,}, best on validation",
        figures=f"| | |\n|---|---|\n{table}{_OPTIMISTIC}" if table else
        "No validation image has a trained label: the last weights were kept, and all thresholds are 0.5.\n",
        limits="" if closed else "Words it was not trained on are scored from their vectors alone: less reliably, and "
        f"with the trained labels' threshold{', after a bias chosen on held-out labels' if split.held_out else ''}.",
        unreadable=f"\n{len(outcome.unreadable)} images could not be read: `run/unreadable.csv`.\n"
        if outcome.unreadable else "",
    )  # fmt: skip

"""Read and look up the labels of a run, without the excluded ones."""

from __future__ import annotations

import logging

from zsl_tagger.bulk.options import TagRun
from zsl_tagger.errors import UserError
from zsl_tagger.tagging.label_set import LabelSet
from zsl_tagger.tagging.tagger import Tagger
from zsl_tagger.words.label_lists import read_labels_file, split_labels
from zsl_tagger.words.spelling import normalize_label
from zsl_tagger.words.table import UnknownLabelError

logger = logging.getLogger(__name__)

#: Default precision of tags in sidecars, which are permanent.
SIDECAR_PRECISION = 0.9


def requested_labels(tagger: Tagger, run: TagRun) -> list[str] | None:
    """Return the labels given by the options; None for the model's own vocabulary."""
    if run.labels_file is not None:
        names = read_labels_file(run.labels_file, tagger.words.names_with_marks)
        source = f"--labels-file {run.labels_file}"
    elif run.labels is not None:
        names, source = split_labels(run.labels, tagger.words.names_with_marks), "--labels"
    else:
        return None
    if not names:
        raise UserError(f'the label list of {source} is empty: give at least one label, e.g. --labels "dog,beach"')
    return _without_duplicates(names)


def _without_duplicates(names: list[str]) -> list[str]:
    unique: dict[str, str] = {}
    for name in names:
        key = normalize_label(name)
        if key in unique:
            logger.info("label %r is given more than once (first as %r); it is used once", name, unique[key])
        else:
            unique[key] = name
    return list(unique.values())


def label_set(tagger: Tagger, names: list[str] | None, run: TagRun) -> LabelSet:
    """Return the labels of a run: the given ones or the vocabulary, without the excluded ones."""
    labels = tagger.vocabulary if names is None else _known_labels(tagger, names, run.skip_unknown)
    excluded = split_labels(run.exclude, tagger.words.names_with_marks) if run.exclude else []
    left_out = {tagger.key(name): name for name in excluded}
    for key, name in left_out.items():
        if key not in labels.keys:
            logger.warning("--exclude %r is not among the labels", name)
    labels = labels.without(left_out)
    if not len(labels):
        raise UserError("no label is left after --exclude")
    if run.all_levels:
        labels = labels.unfolded()
    return _at_precision(tagger, labels, run)


def _at_precision(tagger: Tagger, labels: LabelSet, run: TagRun) -> LabelSet:
    """Return labels with the thresholds for ``--precision``; tags for sidecars only must be more certain."""
    if run.precision is not None:
        return tagger.for_precision(labels, run.precision)
    knows = [precision for precision, shift in tagger.folder.config.precision_shifts if shift > 0]
    given = run.threshold is not None or run.output is not None  # the output must match the sidecars
    if run.sidecar is None or given or not knows or not knows[0] <= SIDECAR_PRECISION <= knows[-1]:
        return labels
    logger.info(
        "sidecars get only the tags of --precision %g; the screen shows less certain ones too", SIDECAR_PRECISION
    )
    return tagger.for_precision(labels, SIDECAR_PRECISION)


def _known_labels(tagger: Tagger, names: list[str], skip_unknown: bool) -> LabelSet:
    try:
        return tagger.label_set(names)
    except UnknownLabelError as error:
        if not skip_unknown:
            raise UserError(f"{error} (--skip-unknown skips them)") from None
        logger.info("%s; skipped", error)
        known = [name for name in names if name not in error.suggestions]
    if not known:
        raise UserError("none of the labels is known")
    return tagger.label_set(known)

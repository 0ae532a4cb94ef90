"""Add words to a model folder, from the word source that it was trained with."""

from __future__ import annotations

import logging
from pathlib import Path

from zsl_tagger.assets import PACKAGED
from zsl_tagger.errors import UserError
from zsl_tagger.system.progress import phase
from zsl_tagger.tagging.model_folder import ModelFolder, read_config
from zsl_tagger.words.baking import bake_words, has_same_vectors, joined, open_source_of_other_words
from zsl_tagger.words.label_lists import read_labels_file
from zsl_tagger.words.sources import WordSource
from zsl_tagger.words.table import WordTable

logger = logging.getLogger(__name__)


def baked_table(listing: str, folder: ModelFolder) -> WordTable:
    """Return the model's words, plus the words of a list that its word source knows.

    Args:
        listing: a file of words, one per line, or "packaged" for the packaged 100,000.

    Raises:
        UserError: a closed set, no words, or a source that cannot be opened or has changed since training.
    """
    if folder.config.closed_set:
        raise UserError(f"--bake-words: {folder.path} has a closed set of classes, so no words can be added")
    words = _listed(listing)
    spec = _source_of(folder)
    try:
        source = open_source_of_other_words(spec, folder.config.templates)
        _check_same(source, folder)
        with phase(f"looking up {len(words):,} words in {spec}"):
            baked = bake_words(source, words)
    except UserError as error:
        raise UserError(f"--bake-words, from {spec or 'no source'}: {error}") from None
    if len(baked.words) < len(words):
        logger.info("%s of the words are unknown to it or duplicates", f"{len(words) - len(baked.words):,}")
    return joined(folder.words(), baked)


def _listed(listing: str) -> list[str]:
    if listing == "packaged":
        return list(WordTable.load(PACKAGED).words)
    words = read_labels_file(Path(listing))
    if not words:
        raise UserError(f"--bake-words {listing}: no words found; expected one per line")
    return words


def _source_of(folder: ModelFolder) -> str | None:
    spec = folder.config.word_source
    # For the packaged model or a copy, the configuration does not record that its table is the source.
    return "packaged" if spec is None and folder.config == read_config(PACKAGED) else spec


def _check_same(source: WordSource, folder: ModelFolder) -> None:
    """Raise a UserError if the file or model of that name has changed."""
    own = folder.words()
    if source.word_dim != own.word_dim:
        raise UserError(f"expected vectors of width {own.word_dim}, got {source.word_dim}")
    names = [label.name for label in folder.labels()]
    if not has_same_vectors(source, names, own.vectors(names)).any():
        raise UserError("its label vectors differ from the ones the model was trained with: the source has changed")

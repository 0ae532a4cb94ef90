"""Checkpoints of the released ML-Decoder code: their names and their import."""

from zsl_tagger.errors import require

require("torch", "train")

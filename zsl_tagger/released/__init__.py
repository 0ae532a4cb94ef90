"""Import checkpoints of the released ML-Decoder code."""

from zsl_tagger.errors import require

require("torch", "train")

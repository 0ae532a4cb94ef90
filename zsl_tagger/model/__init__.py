"""The networks in torch (needs the [train] extra)."""

from zsl_tagger.errors import require

require("scipy", "train")
require("timm", "train")
require("torch", "train")

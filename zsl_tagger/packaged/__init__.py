"""Build the packaged model: words, annotation, targets, features, training and export."""

from zsl_tagger.errors import require

require("accelerate", "train")
require("torch", "train")

"""How the packaged model is made: words, annotation, targets, features, training, export."""

from zsl_tagger.errors import require

require("accelerate", "train")
require("torch", "train")

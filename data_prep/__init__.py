"""Convert public and private data sets to prepared dataset folders (:mod:`zsl_tagger.datasets.dataset`)."""

from zsl_tagger.errors import require

require("scipy", "train")

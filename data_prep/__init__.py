"""Other people's data sets -> one prepared dataset folder (:mod:`zsl_tagger.datasets.dataset` says what is in it)."""

from zsl_tagger.errors import require

require("scipy", "train")

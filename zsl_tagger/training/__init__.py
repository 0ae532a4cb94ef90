"""Train a model folder from a prepared data set folder (needs the [train] extra).

Reading order: ``config.py`` defines the settings; ``run.py`` performs one run from start to end; ``data.py``,
``augment.py`` and ``features.py`` load the images; ``query_augment.py`` draws the labels; ``trainer.py`` runs the
steps; ``validation.py`` measures the model; ``checkpoint.py`` and ``log.py`` save the run.
"""

from zsl_tagger.errors import require

require("accelerate", "train")
require("matplotlib", "train")
require("tensorboard", "train")
require("timm", "train")
require("torch", "train")

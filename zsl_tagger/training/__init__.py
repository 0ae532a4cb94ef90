"""Training (needs the [train] extra): a prepared data set folder -> a model folder.

Reading order: ``config.py`` what can be set; ``run.py`` one run from start to end; ``data.py``, ``augment.py`` and
``features.py`` what is shown to the model; ``query_augment.py`` what it is asked; ``trainer.py`` the steps;
``validation.py`` how good it is; ``checkpoint.py`` and ``log.py`` what is kept of it.
"""

from zsl_tagger.errors import require

require("accelerate", "train")
require("matplotlib", "train")
require("tensorboard", "train")
require("timm", "train")
require("torch", "train")

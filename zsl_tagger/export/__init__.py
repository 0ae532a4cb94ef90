"""A trained model -> networks for use elsewhere, proven to compute the same (needs the [train] extra).

Reading order: ``networks.py`` torch -> ONNX; ``metadata.py`` what the files say about themselves; ``precision.py``
smaller weights; ``proof.py`` do both say the same, and how fast; ``proven.py`` these together, for training too;
``torch_programs.py`` the same for torch.export; ``words.py`` more words to ask; ``run.py`` and ``text.py`` the command.
"""

from zsl_tagger.errors import require

require("onnx", "train")
require("torch", "train")

"""Export a trained model to networks that are verified against torch (needs the [train] extra).

Reading order: ``networks.py`` torch -> ONNX; ``metadata.py`` what the files say about themselves; ``precision.py``
smaller weights; ``proof.py`` comparison with torch, and speed; ``proven.py`` all of it together, for training too;
``torch_programs.py`` the same for torch.export; ``words.py`` more words; ``run.py`` and ``text.py`` the command.
"""

from zsl_tagger.errors import require

require("onnx", "train")
require("torch", "train")

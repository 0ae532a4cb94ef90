"""The two streams of MKT over CLIP: the cosine of the whole image and that of the patches that are most like a label.

    zsl-tagger prepare nus-wide --source NUS-WIDE --output nus-wide --word-vectors open_clip:ViT-B-16:openai
    zsl-tagger train --data nus-wide --recipe clip-local-global --output model

He et al., AAAI 2023, arXiv 2207.01887, "Open-Vocabulary Multi-Label Classification via Multi-Modal Knowledge Transfer";
``zsl_tagger/model/local_global.py`` has the formula and what differs. The paper trains the tower with a ranking loss,
distillation from CLIP, and tunes prompts in a second stage; here the tower is frozen and the loss is the asymmetric
one. ``--set freeze=false --set cache_views=0 --set backbone_lr_scale=0.01`` trains the tower too. Learning rate, weight
decay, batch and epochs are those of the released code's first stage. Not run with CLIP's weights by this project, which
cannot be had here: neither score nor run time is known.
"""

from dataclasses import replace

from zsl_tagger.training.recipes.clip_zsl import CONFIG as CLIP_ZSL

CONFIG = replace(
    CLIP_ZSL,
    recipe="clip-local-global",
    head="local-global",
    bias_init=0.0,
    query_noise=0.0,
    epochs=20,
    batch_size=64,
    lr=1e-3,
    weight_decay=0.05,
)

"""The two streams of MKT on CLIP: cosine similarity of a label to the whole image and to the most similar patches.

    zsl-tagger prepare nus-wide --source NUS-WIDE --output nus-wide --word-vectors open_clip:ViT-B-16:openai
    zsl-tagger train --data nus-wide --recipe clip-local-global --output model

He et al., AAAI 2023, arXiv 2207.01887, "Open-Vocabulary Multi-Label Classification via Multi-Modal Knowledge Transfer";
``zsl_tagger/model/local_global.py`` has the formula and the differences. The paper trains the tower with a ranking loss
and distillation from CLIP, and tunes prompts in a second stage; here the tower is frozen and the loss is the asymmetric
loss. ``--set freeze=false --set cache_views=0 --set backbone_lr_scale=0.01`` trains the tower too. Learning rate,
weight decay, batch size and epochs are those of the first stage of the released code. Not run with CLIP's weights,
which this project had no access to: score and run time are unknown.
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

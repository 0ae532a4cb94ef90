"""MS-COCO 48/17 (or 65/15) zero-shot: the training of ZS_SDL with the ML-Decoder head.

    zsl-tagger prepare coco --source COCO --output coco --task zsl-48-17 --val-fraction 0
    zsl-tagger train --data coco --recipe coco-zsl --output model

The split is from Bansal et al. 2018; ML-Decoder's paper has no COCO zero-shot figures. Backbone, image size, epochs,
batch size, learning rate, weight decay, schedule and augmentation follow the released command and train.py of Ben-Cohen
et al. 2021, arXiv 2105.05926 (Semantic Diversity Learning), without weight averaging. Differences: the head is
ML-Decoder with word queries instead of SDL's embedding matrix, so the loss is ML-Decoder's asymmetric loss instead of
SDL's. Not run by this project, which had no access to COCO: score and run time are unknown.
"""

from dataclasses import replace

from zsl_tagger.training.recipes.nus_wide_zsl import CONFIG as NUS_WIDE

CONFIG = replace(
    NUS_WIDE,
    recipe="coco-zsl",
    backbone="tresnet_m",
    image_size=608,
    epochs=10,
    batch_size=32,
    lr=2.5e-5,
    weight_decay=3e-4,
    warmup=0.1,
    ema=0.0,
)

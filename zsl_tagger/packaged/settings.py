"""Settings for training the packaged model, chosen on held-out photos and coco100 (benchmarks/README.md).

To use another timm backbone with an ImageNet-1k classifier: ``--set backbone=NAME --set image_size=N``.
"""

from __future__ import annotations

from zsl_tagger.training.config import TrainConfig

CONFIG = TrainConfig(
    recipe="packaged",
    backbone="tf_efficientnet_lite2",
    image_size=384,
    dim=256,
    ffn_dim=512,
    heads=8,
    dropout=0.0,
    bias_init=-3.0,
    freeze=True,
    cache_views=1,
    mosaic4=0.3,
    mosaic9=0.2,
    token_dropout=0.25,
    epochs=1,
    min_epoch_steps=3500,
    batch_size=32,
    optimizer="adamw",
    lr=1e-3,
    weight_decay=1e-2,
    warmup=0.15,
    clip_grad=320.0,  # the loss is a sum over the batch: 10 per image
    ema=0.998,
    precision="fp32",
    gamma_neg=2.0,
    clip=0.0,
    query_noise=0.1,
    labels_per_step=384,
    negative_share=1 / 3,
    negative_weight=3.0,
    checkpoint_every=250,
)

#: Number of the backbone's last blocks that ``--tune`` trains, with all layers after them.
TRAINED_BLOCKS = 2

#: Weight of the loss that preserves the backbone's class probabilities in this training, see :mod:`.tuning`.
CLASS_WEIGHT = 1.0

#: Changes to the settings for this training.
TUNING = ("min_epoch_steps=1200", "lr=3e-4", "backbone_lr_scale=0.5", "warmup=0.05")

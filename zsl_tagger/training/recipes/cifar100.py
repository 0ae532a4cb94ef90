"""CIFAR-100 single-label, fine-tuned from ImageNet weights.

    zsl-tagger prepare folders --source cifar-100-python --output cifar100
    zsl-tagger train --data cifar100 --recipe cifar100 --output model

The released README states 95.1 % top-1 for ML-Decoder (with Swin-L, according to Papers with Code) without a protocol
(usually top-1 on the 10,000 test images) or settings. The settings here are this project's, common ones for
fine-tuning. Not run by this project: score and run time are unknown.
"""

from zsl_tagger.training.config import TrainConfig

CONFIG = TrainConfig(
    recipe="cifar100",
    backbone="tresnet_v2_l",
    image_size=224,
    head="closed",
    epochs=40,
    batch_size=64,
    optimizer="adamw",
    lr=2e-4,
    backbone_lr_scale=0.5,
    weight_decay=1e-2,
    schedule="onecycle",
    warmup=0.2,
    ema=0.999,
    loss="ce",
    reduction="mean",
    smoothing=0.1,
    crop="random",
    crop_scale=0.7,
    cutout=0.5,
    rand_augment="rand-m9-mstd0.5-inc1",
)

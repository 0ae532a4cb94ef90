"""MS-COCO multi-label: the released train.py.

    zsl-tagger prepare coco --source COCO --output coco
    torchrun --nproc-per-node 8 --no-python zsl-tagger train --data coco --recipe coco-multilabel --output model

Ridnik et al. 2021, arXiv 2111.12933, section 4.2: mAP 90.1 in the paper for TResNet-L at 448 px, from
weights pretrained for ML-Decoder, which cannot be had any more; timm's ImageNet-21k weights are the nearest. Not run by
this project (COCO is not at hand): neither score nor run time is known. Validation is a part of the training images,
not the test images as in the released code.
"""

from zsl_tagger.training.config import TrainConfig

CONFIG = TrainConfig(
    recipe="coco-multilabel",
    backbone="tresnet_v2_l",
    image_size=448,
    head="closed",
    epochs=40,
    batch_size=56,
    optimizer="adam",
    lr=1e-4,
    weight_decay=1e-4,
    schedule="onecycle",
    warmup=0.2,
    ema=0.9997,
    ema_warmup=False,
    loss="asl",
    gamma_neg=4.0,
    clip=0.05,
    focal_gradient=False,
    reduction="sum",
    flip=0.0,
    cutout=0.5,
    rand_augment="rand-m9-mstd0.5-inc1",
)

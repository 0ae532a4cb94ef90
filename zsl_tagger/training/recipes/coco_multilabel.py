"""MS-COCO multi-label: the released train.py.

    zsl-tagger prepare coco --source COCO --output coco --val-fraction 0
    zsl-tagger train --data coco --recipe coco-multilabel --output model

Ridnik et al. 2021, arXiv 2111.12933, section 4.2: mAP 90.1 in the paper for TResNet-L at 448 px (protocol ``mld`` on
the 40,137 annotated images of COCO 2014 val, 80 classes), from weights pretrained for ML-Decoder that are no longer
available; timm's ImageNet-21k weights are the closest. Not run by this project, which had no access to COCO: score and
run time are unknown.

The released script trains on the whole train split, like ``--val-fraction 0``, and selects the step on the test images;
this recipe trains all 40 epochs and keeps the last averaged weights. Without ``--val-fraction 0``, part of the training
images is used for validation. The 56 images of a step are for one GPU; several GPUs (``torchrun --nproc-per-node 8
--no-python zsl-tagger train ...``) share them, with batch norm over all of them.
"""

from zsl_tagger.training.config import TrainConfig

CONFIG = TrainConfig(
    recipe="coco-multilabel",
    backbone="tresnet_v2_l",
    image_size=448,
    interpolation="bilinear",
    head="closed",
    epochs=40,
    batch_size=56,
    sync_batch_norm=True,
    drop_last=False,
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
    rand_augment="released",
)

"""MS-COCO multi-label: the released train.py.

    zsl-tagger prepare coco --source COCO --output coco --val-fraction 0
    zsl-tagger train --data coco --recipe coco-multilabel --output model

Ridnik et al. 2021, arXiv 2111.12933, section 4.2: mAP 90.1 in the paper for TResNet-L at 448 px (protocol ``mld`` on
the 40,137 annotated images of COCO 2014 val, 80 classes), from weights pretrained for ML-Decoder, which cannot be had
any more; timm's ImageNet-21k weights are the nearest. Not run by this project (COCO is not at hand): neither score nor
run time is known.

The released script trains on the whole train split, as ``--val-fraction 0`` does, and selects the step on the test
images; here all 40 epochs are trained and the last averaged weights are kept. Without that option, a part of the
training images is for validation. The 56 images of a step are on one GPU; on several (``torchrun --nproc-per-node 8
--no-python zsl-tagger train ...``) they are shared out, and batch norm is over all of them.
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

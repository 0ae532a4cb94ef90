"""NUS-WIDE 925/81 zero-shot: the released train_zsl_nus.py, which has no query augmentation.

    zsl-tagger prepare nus-wide --source NUS-WIDE --output nus-wide \
        --word-vectors gensim:fasttext-wiki-news-subwords-300 --val-fraction 0
    zsl-tagger train --data nus-wide --recipe nus-wide-zsl --output model

Ridnik et al. 2021, arXiv 2111.12933; train_zsl_nus.py of the released code. Paper: ZSL mAP 31.1 (protocol ``mld``:
the 81 unseen labels on the test images with at least one of them; the released code selects the step on these images)
with the query augmentations of section 3.3 (``nus-wide-zsl-augmented``) and TResNet-L weights pretrained for ML-Decoder
that are no longer available. Not run by this project, because the images of NUS-WIDE are not available either: score
and run time are unknown.

The released script trains on one GPU and on the whole train split. With ``--val-fraction 0`` there is no validation
split: the recipe trains all 40 epochs and keeps the last averaged weights. Several GPUs (``torchrun --nproc-per-node 8
--no-python zsl-tagger train ...``) share the 56 images of a step, with batch norm over all of them.

Differences, explained in docs/train.md: the backbone's weights. With a val split, the step is selected on its seen
labels; the released code selects it on the test split.
"""

from zsl_tagger.training.config import TrainConfig

CONFIG = TrainConfig(
    recipe="nus-wide-zsl",
    backbone="tresnet_v2_l",
    image_size=224,
    interpolation="bilinear",
    epochs=40,
    batch_size=56,
    sync_batch_norm=True,
    drop_last=False,
    optimizer="adam",
    lr=1e-4,
    weight_decay=1e-2,
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

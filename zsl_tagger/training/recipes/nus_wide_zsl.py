"""NUS-WIDE 925/81 zero-shot: the released train_zsl_nus.py, which has no query augmentation.

    zsl-tagger prepare nus-wide --source NUS-WIDE --output nus-wide \
        --word-vectors gensim:fasttext-wiki-news-subwords-300 --val-fraction 0
    zsl-tagger train --data nus-wide --recipe nus-wide-zsl --output model

Ridnik et al. 2021, arXiv 2111.12933; train_zsl_nus.py of the released code. Paper: ZSL mAP 31.1 (protocol ``mld``:
the 81 unseen labels on the test images that show one; the released code chooses the step on them) with the query
augmentations of section 3.3 (``nus-wide-zsl-augmented``) and TResNet-L pretrained for ML-Decoder, weights that cannot
be had any more. Not run by this project: the images of NUS-WIDE cannot be had either, so neither score nor run time is
known.

The released script trains on one GPU and on the whole train split. With ``--val-fraction 0`` there is no validation
split: all 40 epochs are trained and the last averaged weights are kept. On several GPUs (``torchrun --nproc-per-node 8
--no-python zsl-tagger train ...``) the 56 images of a step are shared out, and batch norm is over all of them.

Differences, each in docs/train.md: the backbone's weights. With a val split, the step is chosen on its seen labels; the
released code chooses on the test split.
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

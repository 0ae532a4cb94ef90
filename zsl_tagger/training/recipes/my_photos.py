"""Your own small data set: a frozen backbone whose features are computed once; takes minutes on a CPU.

    zsl-tagger prepare folders --source photos --output my-data
    zsl-tagger train --data my-data --recipe my-photos --output my-model

The backbone keeps its ImageNet weights and only the decoder is trained. It has word queries, so the model also scores
words it was not trained on. See README.md for run time and score on Caltech-101 (benchmarks/my_photos.py).
"""

from zsl_tagger.training.config import TrainConfig

CONFIG = TrainConfig(
    recipe="my-photos",
    backbone="tf_efficientnet_lite0",
    image_size=224,
    dim=256,
    ffn_dim=512,
    dropout=0.0,
    bias_init=-3.0,
    freeze=True,
    class_evidence=True,
    cache_views=4,
    epochs=30,
    min_epoch_steps=20,
    batch_size=64,
    optimizer="adamw",
    lr=1e-3,
    weight_decay=1e-2,
    clip_grad=1.0,
    ema=0.998,
    loss="asl",
    gamma_neg=2.0,
    clip=0.0,
    query_noise=0.1,
    labels_per_step=384,
    crop="random",
    crop_scale=0.35,
)

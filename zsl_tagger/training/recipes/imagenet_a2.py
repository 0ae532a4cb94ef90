"""ImageNet-1k single-label, ResNet-50, schedule A2 of "ResNet strikes back" with the ML-Decoder head.

    zsl-tagger prepare folders --source ImageNet --output imagenet
    torchrun --nproc-per-node 8 --no-python zsl-tagger train --data imagenet --recipe imagenet-a2 --output model

Wightman et al. 2021, arXiv 2110.00476, table 2 (A2); Ridnik et al. 2021, arXiv 2111.12933, section 4.4: top-1 80.7
(protocol: ImageNet-1k's 50,000 validation images, centre crop of 224 px as below, ML-Decoder on ResNet-50). The
settings are from the command in the released README (8 GPUs x 256 images), and otherwise the defaults of timm's
training script at that time: initial and minimum learning rate, 10 epochs at the minimum, no incomplete last batch. As
in timm's evaluation, the shorter side of an image is resized to 235 px and the central 224 px are cropped. Not run by
this project: 300 epochs of ImageNet are not feasible on two CPU cores, so score and run time are unknown.
"""

from zsl_tagger.training.config import TrainConfig

CONFIG = TrainConfig(
    recipe="imagenet-a2",
    backbone="resnet50",
    init="scratch",
    image_size=224,
    resize="center_crop",
    crop_pct=0.95,
    drop_path=0.05,
    head="closed",
    epochs=300,
    batch_size=2048,
    optimizer="lamb",
    lr=4e-3,
    weight_decay=0.02,
    schedule="timm_cosine",
    warmup=5 / 300,
    warmup_lr=1e-4,
    min_lr=1e-6,
    cooldown_epochs=10,
    ema=0.0,
    precision="fp16",
    loss="bce",
    reduction="mean",
    target_threshold=0.2,
    crop="random",
    crop_scale=0.08,
    rand_augment="rand-m7-mstd0.5-inc1",
    mixup=0.1,
    cutmix=1.0,
    repeats=3,
)

"""Stanford-Cars single-label (196 models of cars), fine-tuned from ImageNet weights.

    zsl-tagger prepare folders --source stanford-cars --output cars
    zsl-tagger train --data cars --recipe stanford-cars --output model

The released README states 96.41 % top-1 (TResNet-L, 384 px) without a protocol (usually top-1 on the 8,041 test
images) or settings. The settings here are those of the recipe cifar100 at this size. Not run by this project: score and
run time are unknown.
"""

from dataclasses import replace

from zsl_tagger.training.recipes.cifar100 import CONFIG as CIFAR100

CONFIG = replace(CIFAR100, recipe="stanford-cars", image_size=384, batch_size=48, crop="squash")

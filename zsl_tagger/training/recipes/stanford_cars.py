"""Stanford-Cars single-label (196 models of cars), fine-tuned from ImageNet weights.

    zsl-tagger prepare folders --source stanford-cars --output cars
    zsl-tagger train --data cars --recipe stanford-cars --output model

The released README states 96.41 % top-1 (TResNet-L, 384 px), without a protocol (usual is top-1 on the 8,041 test
images) and without settings; these are ours, those of cifar100 at that size. Not run by this project: neither score nor
run time is known.
"""

from dataclasses import replace

from zsl_tagger.training.recipes.cifar100 import CONFIG as CIFAR100

CONFIG = replace(CIFAR100, recipe="stanford-cars", image_size=384, batch_size=48, crop="squash")

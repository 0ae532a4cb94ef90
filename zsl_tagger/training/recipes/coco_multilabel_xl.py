"""MS-COCO multi-label at the paper's largest size: ``coco-multilabel`` with TResNet-XL at 640 px.

    zsl-tagger prepare coco --source COCO --output coco --val-fraction 0
    zsl-tagger train --data coco --recipe coco-multilabel-xl --output model

Ridnik et al. 2021, arXiv 2111.12933, section 4.2: mAP 91.4 (protocol ``mld`` on the 40,137 annotated images of COCO
2014 val, 80 classes; the released code selects the step on them), from weights pretrained on ImageNet-21k for
ML-Decoder that are no longer available; timm only has TResNet-XL with ImageNet-1k weights, so expect a lower score. The
release does not state the settings of this run; these are the ones in its train.py. Not run by this project: score and
run time are unknown.
"""

from dataclasses import replace

from zsl_tagger.training.recipes.coco_multilabel import CONFIG as COCO

CONFIG = replace(COCO, recipe="coco-multilabel-xl", backbone="tresnet_xl", image_size=640)

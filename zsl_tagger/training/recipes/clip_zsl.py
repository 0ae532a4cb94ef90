"""Zero-shot tagging with CLIP: ML-Decoder on projected tokens of the frozen image tower, queried with text vectors.

    zsl-tagger prepare coco --source COCO --output coco --task zsl-48-17 --word-vectors open_clip:ViT-B-16:openai
    zsl-tagger train --data coco --recipe clip-zsl --output model

ADDS (Xu et al. 2022, "A Dual Modality Approach For (Zero-Shot) Multi-Label Classification") and CLIP-Decoder (Ali and
Khan 2023) put a decoder of this kind on CLIP's two towers. Not all of their settings are published. The settings here
are those of ``my-photos`` with less text noise, because CLIP's text vectors are close to each other. The backbone and
``--word-vectors`` must be the two towers of the same model; ``--backbone`` accepts any CLIP tower in timm with a linear
projection, at its training size. Not run with CLIP's weights, which this project had no access to: score and run time
are unknown.
"""

from dataclasses import replace

from zsl_tagger.training.recipes.my_photos import CONFIG as MY_PHOTOS

CONFIG = replace(
    MY_PHOTOS,
    recipe="clip-zsl",
    backbone="vit_base_patch16_clip_quickgelu_224.openai",
    project_tokens=True,
    dim=512,
    ffn_dim=1024,
    class_evidence=False,
    query_noise=0.05,
    bake_words=5000,
)

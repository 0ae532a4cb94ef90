"""Zero-shot tagging over CLIP: ML-Decoder on the frozen image tower's projected tokens, asked the text tower's vectors.

    zsl-tagger prepare coco --source COCO --output coco --task zsl-48-17 --word-vectors open_clip:ViT-B-16:openai
    zsl-tagger train --data coco --recipe clip-zsl --output model

ADDS (Xu et al. 2022, "A Dual Modality Approach For (Zero-Shot) Multi-Label Classification") and CLIP-Decoder (Ali and
Khan 2023) put a decoder of this kind over CLIP's two towers. Their settings are not all published: these are this
project's own, those of ``my-photos``, with smaller text noise, since CLIP's text vectors lie near each other. The
backbone and ``--word-vectors`` must be the two towers of one model; ``--backbone`` takes any other CLIP tower of timm's
with a linear projection, at the size it was trained for. Not run with CLIP's weights by this project, which cannot be
had here: neither score nor run time is known.
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

"""MS-COCO 48/17 (or 65/15) zero-shot: the NUS-WIDE recipe on COCO.

    zsl-tagger prepare coco --source COCO --output coco --task zsl-48-17
    torchrun --nproc-per-node 8 --no-python zsl-tagger train --data coco --recipe coco-zsl --output model

The split is that of Bansal et al. 2018; ML-Decoder's paper has no COCO zero-shot figures, so the settings are those
of its NUS-WIDE run. Not run by this project (COCO is not at hand): neither score nor run time is known.
"""

from dataclasses import replace

from zsl_tagger.training.recipes.nus_wide_zsl import CONFIG as NUS_WIDE

CONFIG = replace(NUS_WIDE, recipe="coco-zsl")

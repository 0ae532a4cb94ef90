"""Compute the backbone's class probabilities, as evidence for words that correspond to its classes.

The decoder sees the classifier's output only as a mean word vector at each position (:mod:`.class_reading`), in which
individual classes are lost. So the encoder also returns its probabilities, which
:mod:`zsl_tagger.tagging.class_evidence` adds to the logits of the corresponding words.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsl_tagger.model.backbone import Backbone


def has_class_evidence(backbone: Backbone, image_size: int, classes: int) -> bool:
    """Return whether the backbone's classifier, applied to the mean of its tokens, reproduces its classification.

    That holds for networks that end with a mean over one square map and a linear layer. It is tested on a noise image,
    since timm's networks differ in the layers before their classifier.

    Args:
        image_size: side of the test image, in pixels.
        classes: required number of classes.
    """
    classifier = backbone.network.get_classifier()
    if not isinstance(classifier, nn.Linear) or classifier.weight.shape != (classes, backbone.channels):
        return False
    device = classifier.weight.device
    images = torch.randn(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(0)).to(device)
    was_training = backbone.training
    with torch.inference_mode():
        tokens = backbone.eval()(images)  # (1, L, C)
        expected = backbone.network(images)  # (1, N)
        is_square = math.isqrt(tokens.shape[1]) ** 2 == tokens.shape[1]
        agrees = torch.allclose(classifier(tokens.mean(dim=1)), expected, rtol=1e-3, atol=1e-3)
    backbone.train(was_training)
    return is_square and agrees


def class_probabilities(tokens: Tensor, classifier: nn.Linear) -> Tensor:
    """Return each class's maximum probability over windows of the image.

    Windows have half the side of the image and a stride of a quarter: 9 windows of 6 x 6 tokens for 12 x 12.

    Args:
        tokens: ``(B, L, C)`` of the backbone, one square map.
        classifier: N classes over C channels.

    Returns:
        float ``(B, N)`` in 0..1; since they come from several windows, they need not sum to 1.
    """
    side = math.isqrt(tokens.shape[1])
    maps = tokens.transpose(1, 2).unflatten(2, (side, side))  # (B, C, side, side)
    windows = F.avg_pool2d(maps, max(1, side // 2), max(1, side // 4))  # (B, C, h, w)
    logits = classifier(windows.flatten(2).transpose(1, 2))  # (B, h * w, N)
    return logits.softmax(dim=-1).amax(dim=1)  # (B, N)

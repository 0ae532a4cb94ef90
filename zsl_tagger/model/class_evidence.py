"""What a backbone's own classifier says of an image, for words that mean one of its classes or several of them.

The decoder reads the classifier's opinion only as a mean word vector at each place (:mod:`.class_reading`), in which a
class's own word is lost. So its probabilities leave the encoder too, and :mod:`zsl_tagger.tagging.class_evidence` adds
them to the logits of the words that mean the classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsl_tagger.model.backbone import Backbone


def has_class_evidence(backbone: Backbone, image_size: int, classes: int) -> bool:
    """Return whether the backbone's classifier, over the mean of its tokens, is the backbone's own classification.

    That holds for networks that end in a mean over one square map and a linear layer. It is computed and compared on an
    image of noise, since timm's networks differ in what they do before their classifier.

    Args:
        image_size: side of that image, in pixels.
        classes: classes that it must have.
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
    """Return each class's probability in the window of the image where it is highest.

    Windows have half of the image's side and a quarter of it between them: 9 of 6 x 6 tokens for 12 x 12.

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

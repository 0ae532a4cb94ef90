"""Add the classifier's reading of each position, as a word vector, to the tokens.

ConSE (Norouzi et al. 2014, arXiv 1312.5650) embeds a whole image as the mean of its class names' word
vectors, weighted by class probability. Applied to every token, this tells the decoder in the space of the
queries what is where, so that an untrained label finds similar-looking positions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ClassReading(nn.Module):
    """Append the reading to tokens: ``(B, L, C)`` -> ``(B, L, C + word_dim)``.

    Args:
        classifier: the backbone's linear classifier over C channels, N classes; it stays frozen.
        class_vectors: unit word vectors of the classes, ``(N, word_dim)``.
    """

    #: The reading has norm at most 1 over word_dim channels; this factor matches the scale of the features.
    SCALE = 4.0

    weight: Tensor
    bias: Tensor
    class_vectors: Tensor

    def __init__(self, classifier: nn.Linear, class_vectors: Tensor):
        super().__init__()
        self.register_buffer("weight", classifier.weight.detach().clone())
        bias = torch.zeros(classifier.out_features) if classifier.bias is None else classifier.bias
        self.register_buffer("bias", bias.detach().clone())
        self.register_buffer("class_vectors", class_vectors * self.SCALE)

    def forward(self, tokens: Tensor) -> Tensor:
        probabilities = F.linear(tokens, self.weight, self.bias).softmax(-1)  # (B, L, N)
        reading = probabilities @ self.class_vectors  # (B, L, word_dim)
        return torch.cat([tokens, reading], dim=-1)  # (B, L, C + word_dim)

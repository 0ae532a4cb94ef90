"""Global average pooling and one linear layer: the classifier of most networks (He et al. 2015, arXiv 1512.03385, 3.3).

``y_k = m_k . (1/L) sum_j x_j + b_k`` over the L tokens ``x_j`` of an image.
"""

from __future__ import annotations

from torch import Tensor, nn

from zsl_tagger.model.closed_head import ClosedHead


class LinearHead(ClosedHead):
    """Linear classifier: tokens ``(B, L, C)`` -> logits ``(B, K)``."""

    kind = "linear"

    def __init__(self, in_channels: int, num_classes: int):
        super().__init__(in_channels, num_classes)
        self.classifier = nn.Linear(in_channels, num_classes, bias=False)

    def _score(self, embedded: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.classifier(embedded.mean(dim=1)) + self.bias  # (B, L, C) -> (B, C) -> (B, K)
        weights = embedded.new_ones(embedded.shape[:2]) / embedded.shape[1]  # (B, L): all positions have equal weight
        return logits, weights.unsqueeze(1).expand(-1, self.num_classes, -1)  # (B, K, L)

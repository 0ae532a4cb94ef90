"""Count the labels that the decoder is asked for."""

from __future__ import annotations

import numpy as np
import pytest

from zsl_tagger import Tagger
from zsl_tagger.tagging.encoded import Encoded


def asked_of(tagger: Tagger, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the number of labels of each call of the decoder, as they come."""
    counts: list[int] = []
    logits = type(tagger._model).logits

    def counted(model: object, encoded: Encoded, asked: dict[str, np.ndarray]) -> np.ndarray:
        counts.append(len(next(iter(asked.values()))))
        return logits(model, encoded, asked)  # type: ignore[arg-type]

    monkeypatch.setattr(type(tagger._model), "logits", counted)
    return counts

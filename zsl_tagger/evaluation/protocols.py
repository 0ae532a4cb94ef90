"""The definitions of "mAP" and "F1@K" that published zero-shot results follow; no two are the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zsl_tagger.errors import UserError
from zsl_tagger.evaluation.metrics import Ties


@dataclass(frozen=True)
class Protocol:
    """One definition. A subclass may change which images count, or how average precisions become a mean.

    Attributes:
        ap_ties, top_ties: how equal scores are treated in average precision and at K
            (:mod:`zsl_tagger.evaluation.metrics`).
        empty_is_zero: a label without positives counts as average precision 0; else it is left out of the mean.
        needs_label: each task leaves out the images that show none of its labels.
        masks_ignored: entries that nobody annotated are left out of average precision; else they count as false.
        ranks_ignored: they may stand among the K best, and are wrong there.
        source: whose code it follows, for the report.
        ks: the K of P/R/F1@K that are published.
        drops_unannotated: a label that nobody annotated on any image is left out of the mean, whatever
            ``empty_is_zero`` says.
    """

    name: str
    ap_ties: Ties
    top_ties: Ties
    empty_is_zero: bool
    needs_label: bool
    masks_ignored: bool
    ranks_ignored: bool
    source: str
    ks: tuple[int, ...] = (3, 5)
    drops_unannotated: bool = False

    def keeps(self, targets: np.ndarray) -> np.ndarray:
        """Return which images a task is evaluated on, bool ``(N,)``.

        Args:
            targets: bool ``(N, k)``, of the task's labels.
        """
        return np.asarray(targets.any(axis=1)) if self.needs_label else np.ones(len(targets), bool)

    def which_images(self) -> str:
        """Return what :meth:`keeps` keeps, in words."""
        if self.needs_label:
            return "ZSL: those with an unseen label; seen: with a seen label; GZSL: with any label"
        return "all images of the split"

    def mean(self, precisions: np.ndarray) -> float:
        """Return the mAP of average precisions ``(K,)``, NaN for labels without positives or if none is left."""
        if self.empty_is_zero:
            return float(np.nan_to_num(precisions).mean()) if len(precisions) else float("nan")
        known = precisions[np.isfinite(precisions)]
        return float(known.mean()) if len(known) else float("nan")

    def sentences(self) -> list[str]:
        """Return the definition in words."""
        ties = {
            "grouped": "equal scores are one step", "first": "of equal scores the earlier image is first",
            "last": "of equal scores the later image is first",
        }  # fmt: skip
        top = {
            "grouped": "equal scores share the last places", "first": "of equal scores the earlier label",
            "last": "of equal scores the later label",
        }  # fmt: skip
        empty = "counts as 0" if self.empty_is_zero else "is left out of the mean"
        empty += ", one that nobody annotated is left out of the mean" if self.drops_unannotated else ""
        ignored = "left out" if self.masks_ignored else "false"
        return [
            f"mAP: mean over labels of average precision; {ties[self.ap_ties]}; a label without positives {empty}",
            f"P/R/F1@K: micro, the K best labels of every image; {top[self.top_ties]}",
            f"CP/CR/CF1: means over labels, one without positives {empty}; OP/OR/OF1: all tags of all images together",
            f"images: {self.which_images()}",
            f"entries that nobody annotated: {ignored}",
            self.source,
        ]


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("strict", "grouped", "grouped", False, False, True, False,
                 "zsl-tagger's own: nothing depends on the order of images or labels"),
        Protocol("mld", "last", "first", True, True, False, True,
                 "the released ML-Decoder code (mAP of ZSL) and ZS_SDL's (ZSL and GZSL: mAP, F1@K)"),
        Protocol("lesa", "grouped", "last", True, False, True, True, "the released LESA code on NUS-WIDE"),
        Protocol("biam", "first", "first", True, False, True, True, "the released BiAM and MKT code on NUS-WIDE"),
        Protocol("lesa-openimages", "grouped", "last", True, False, True, True,
                 "the released LESA code on OpenImages", ks=(10, 20)),
        Protocol("biam-openimages", "first", "first", True, True, True, True,
                 "the released BiAM code on OpenImages", ks=(10, 20), drops_unannotated=True),
    )
}  # fmt: skip


def protocol_named(name: str) -> Protocol:
    """Return a protocol by its name.

    Raises:
        UserError: there is none of that name.
    """
    if name not in PROTOCOLS:
        raise UserError(f"expected --protocol {', '.join(PROTOCOLS)}; got {name!r}")
    return PROTOCOLS[name]

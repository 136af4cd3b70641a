"""Masks that exclude tokens: added to logits, they leave no probability to them."""

from __future__ import annotations

import numpy as np

from .alphabet import END, NEVER_SAMPLED

MASKED_LOGIT = -1e9
"""Added to the logit of a token that must not be sampled."""


def logit_mask(vocabulary_size: int, end: bool = True) -> np.ndarray:
    """Additive mask for logits, (V,) float32: 0 for tokens that may be sampled, `MASKED_LOGIT` for
    others.

    With `end` false END is masked too.
    """
    masked = NEVER_SAMPLED if end else (*NEVER_SAMPLED, END)
    mask = np.zeros(vocabulary_size, np.float32)
    mask[list(masked)] = MASKED_LOGIT
    return mask

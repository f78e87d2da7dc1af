"""Which text tokens judge the visual ones: the raters of SparseVLM and SparseVLM+."""

from __future__ import annotations

from torch import Tensor

from lit_simignore.pruning._features import Features, needed
from lit_simignore.types import UserError


def rater_weights(method: object, features: Features) -> Tensor:
    """``(T,)`` float32, equal weights summing to 1 over the raters, 0 elsewhere.

    From the rows that entered the decoder: softmax over the TEXT of the plain products visual x text, mean over the
    visual tokens; raters lie above the mean. Where none does (a single text token, or all equal), all are raters.

    Raises:
        UserError: no text token, or the rows were not given.
    """
    visual = needed(method, features, "input_visual").detach().float()
    text = needed(method, features, "input_text").detach().float()
    if text.shape[0] == 0:
        raise UserError(f"{type(method).__name__.strip('_')} rates visual tokens by text tokens; the sample has none")
    relevance = (visual @ text.T).softmax(dim=1).mean(dim=0)
    above = relevance > relevance.mean()
    raters = (above | ~above.any()).float()
    return raters / raters.sum()

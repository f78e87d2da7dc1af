from __future__ import annotations

import numpy as np
import pytest

from lit_simignore.metrics.likelihood import most_likely


def test_the_sum_favours_short_answers_and_the_mean_does_not() -> None:
    log_probs, lengths = [-3.0, -4.0], [1, 2]
    assert most_likely(log_probs, lengths, per_token=False) == 0
    assert most_likely(log_probs, lengths, per_token=True) == 1
    assert most_likely([-2.0, -2.0, -5.0], [1, 1, 1], per_token=False) == 0


def test_numpy_agrees() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        values, lengths = -generator.random(5) * 10, generator.integers(1, 9, 5)
        assert most_likely(values.tolist(), lengths.tolist(), per_token=False) == values.argmax()
        assert most_likely(values.tolist(), lengths.tolist(), per_token=True) == (values / lengths).argmax()


def test_every_candidate_has_a_length() -> None:
    with pytest.raises(ValueError, match="argument"):
        most_likely([-1.0, -2.0], [1], per_token=True)

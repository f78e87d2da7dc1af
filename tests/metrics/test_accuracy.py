from __future__ import annotations

from lit_simignore.metrics.accuracy import accuracy, accuracy_by_kind


def test_samples_without_a_score_are_left_out() -> None:
    assert accuracy([1.0, None, 0.0, 1.0, None, 1.0]) == (4, 0.75)
    assert accuracy([None]) == (0, None)
    assert accuracy([]) == (0, None)


def test_the_mean_of_partial_scores_does_not_depend_on_their_order() -> None:
    scores = [0.1, 0.2, 0.3, 1e-17, 0.7, 1.0] * 7
    assert accuracy(scores) == accuracy(sorted(scores, reverse=True))


def test_kinds_are_broken_down_in_alphabetical_order() -> None:
    found = accuracy_by_kind([("b", 1.0), ("a", 0.0), ("", 1.0), ("b", 0.0), ("c", None)])
    assert found == {"a": (1, 0.0), "b": (2, 0.5), "c": (0, None)}
    assert list(found) == ["a", "b", "c"]

"""When a training ends before its budget is spent, because it has not become better for a while."""

from collections.abc import Callable, Mapping, Sequence

# Of the metrics of all evaluations so far: whether the training ends with the last of them.
StoppingRule = Callable[[Sequence[Mapping[str, float]]], bool]


def stopping_rule(patience: int | None, metric: str, direction: str) -> StoppingRule:
    """Ends after `patience` evaluations in a row that are no better than the best before them; None: never."""

    def stops(evaluations: Sequence[Mapping[str, float]]) -> bool:
        if patience is None:
            return False
        scores = [metrics[metric] for metrics in evaluations]
        best = scores.index(min(scores) if direction == "minimize" else max(scores))  # the first of equal ones
        return len(scores) - 1 - best >= patience

    return stops

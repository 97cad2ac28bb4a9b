"""F1, precision and recall of what each example holds several of: labels, or entities."""

from collections.abc import Callable, Sequence

import numpy as np

from hpo.scores import Integers, Reals, Score, Scores, pseudo_values, ratio

Counted = Callable[[Integers, Integers, Integers], Reals]


def counted_scores(hits: Integers, predicted: Integers, true: Integers, names: Sequence[str], micro: str) -> Scores:
    """The scores of counts.

    Args:
        hits: [seeds, examples, names], how many an example has that are predicted and right.
        predicted: likewise, how many are predicted.
        true: [examples, names], how many there are.
        names: of what is counted.
        micro: what is put behind `f1`, `precision` and `recall` of all names together.
    """
    there = np.broadcast_to(true, hits.shape)
    by_name, together = (hits, predicted, there), tuple(counts.sum(axis=2) for counts in (hits, predicted, there))
    wanted, found = float(true.sum()), float(together[1].sum(axis=1).mean())
    # One more wrong one takes one in so many from each.
    yield Score(f"f1{micro}", _contributions(_f1, *together), rows=(wanted + found) / 2)
    yield Score(f"precision{micro}", _contributions(_precision, *together), rows=found)
    yield Score(f"recall{micro}", _contributions(_recall, *together), rows=wanted)
    present = true.sum(axis=0)[true.sum(axis=0) > 0]
    smallest = float(len(names) * present.min()) if len(present) else 0.0
    for name, score in (("f1_macro", _f1), ("precision_macro", _precision), ("recall_macro", _recall)):
        of_each = [_contributions(score, *(counts[:, :, at] for counts in by_name)) for at in range(len(names))]
        yield Score(name, np.mean(of_each, axis=0), rows=smallest)
    for at, name in enumerate(names):
        yield Score(
            f"f1/{name}",
            _contributions(_f1, *(counts[:, :, at] for counts in by_name)),
            rows=2.0 * float(true[:, at].sum()),
        )


def share_score(name: str, part: Reals | Integers, whole: Integers, bounds: tuple[float, float] = (0.0, 1.0)) -> Score:
    """A sum over all examples in shares of another sum.

    Args:
        part: [seeds, examples].
        whole: [examples].
    """
    total, all_parts = whole.sum(), part.sum(axis=1)
    without = ratio((all_parts[:, None] - part).astype(np.float64), (total - whole).astype(np.float64))
    contributions = pseudo_values(all_parts / total, without)
    return Score(name, contributions, bounds, rows=float(total) if bounds == (0.0, 1.0) else None)


def _contributions(score: Counted, hits: Integers, predicted: Integers, true: Integers) -> Reals:
    """[seeds, examples] of counts likewise."""
    sums = [counts.sum(axis=1) for counts in (hits, predicted, true)]
    without = [total[:, None] - counts for total, counts in zip(sums, (hits, predicted, true), strict=True)]
    return pseudo_values(score(*sums), score(*without))


def _f1(hits: Integers, predicted: Integers, true: Integers) -> Reals:
    return ratio(2 * hits, predicted + true)


def _precision(hits: Integers, predicted: Integers, true: Integers) -> Reals:
    return ratio(hits, predicted)


def _recall(hits: Integers, predicted: Integers, true: Integers) -> Reals:
    return ratio(hits, true)

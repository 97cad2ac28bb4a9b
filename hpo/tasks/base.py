"""What a task must say of itself: a head, its labels, a loss and scores. Each member is a file of this folder.

Plain data and functions of arrays: a study file is checked against them before anything heavy is imported.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from hpo.scores import Scores
from hpo.tasks.labels import Labels

Direction = Literal["minimize", "maximize"]
Outputs = NDArray[np.float32]
"""What a head computes: [rows, classes]; of a task that labels words [words, classes], the rows one after another."""


class Rows(Protocol):
    """The rows of a split, as `hpo.data.splits.Split` has them."""

    @property
    def inputs(self) -> Sequence[Any]:
        """What a model reads."""
        ...

    @property
    def texts(self) -> Sequence[str]:
        """The same as a person reads it."""
        ...


@dataclass(frozen=True)
class Decisions:
    """What a model decides, one by one: of which text, between which classes, and what is right."""

    rows: NDArray[np.int64]
    """[decisions] Of which row each is."""
    texts: Sequence[str]
    """By decision."""
    labels: NDArray[np.int64]
    """[decisions]"""
    classes: Sequence[str]
    outputs: tuple[Outputs, ...]
    """Each [seeds, decisions, classes], logits: the winner's, and the default's if there is one."""
    unit: str = "row"
    """What is decided: something of a row, of a word, or of a label."""


@dataclass(frozen=True)
class Task:
    """One kind of thing to learn."""

    auto_model: str
    """The class of transformers that puts the head on."""
    pipeline: str
    """The name of transformers' pipeline that loads what was trained."""
    serves: Literal["label", "labels", "entities"]
    """What a served model says of a text, as `hpo.served_model` has it."""
    problem_type: str | None
    """transformers' own, by which a pipeline knows how to read the head."""
    labels: Labels
    loss: str
    """The name of what is minimized, in `hpo.training.losses`."""
    metrics: Mapping[str, Direction]
    """What a study may name as its metric, and whether more or less of it is better; the first is the default."""
    shown: tuple[str, ...]
    """Metrics that stand beside the study's own, without `eval/`: the two that say most."""
    evaluate: Callable[[Outputs, NDArray[Any], Sequence[str]], dict[str, float]]
    """Of outputs, labels and classes of a split, every metric by its name; its keys are among `metrics`."""
    scores: Callable[[NDArray[np.float32], NDArray[Any], Sequence[str]], Scores]
    """Of outputs [seeds, ...], labels and classes, each score as what every row contributes to it."""
    decisions: Callable[[Rows, NDArray[Any], Sequence[str], tuple[Outputs, ...]], Decisions] | None
    """Of rows, labels, classes and outputs [seeds, ...]; None where there is nothing to be right or wrong about."""
    words: bool = False
    """Its input is words, each with a label, and not a text or two."""
    first_token_only: bool = True
    """The head reads the first token's row and no other, in the architectures that `training.encoder` knows."""
    needs: Callable[[str, Sequence[str]], str | None] = lambda metric, classes: None
    """Why a metric cannot be had with these classes, and what instead; None if it can."""

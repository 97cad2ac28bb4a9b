"""The objectives, each a file of this folder, and what is made of them for one trial."""

from collections.abc import Callable

from hpo.training.objectives.base import Context, Objective
from hpo.training.objectives.distillation import distillation
from hpo.training.objectives.mixup import mixup
from hpo.training.objectives.r_drop import r_drop
from hpo.training.objectives.supervised import Supervised

# By the setting that asks for each, innermost first. What is not asked for gives back what it was given. Mixup mixes
# what is learned from teachers too, so it stands around that.
OBJECTIVES: dict[str, Callable[[Objective, Context], Objective]] = {
    "distillation_alpha": distillation,
    "augment_method": mixup,
    "r_drop_alpha": r_drop,
}


def build_objective(context: Context) -> Objective:
    """What a trial minimizes, as its settings ask for it.

    Raises:
        DataError: a setting does not fit the task or the model.
    """
    objective: Objective = Supervised(context.loss)
    for wrap in OBJECTIVES.values():
        objective = wrap(objective, context)
    return objective

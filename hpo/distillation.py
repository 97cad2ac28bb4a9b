"""What a distillation came to: teachers, their ensemble, and both students, held against the test split.

Of the students it is what their finalists predicted. Nothing is chosen by it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray

from hpo.conclusion import logits_of
from hpo.data.splits import Splits, load_splits
from hpo.errors import DataError
from hpo.finalists import model_path
from hpo.output import study_folder
from hpo.results import Contender, Distillation, Finals
from hpo.score_estimates import score_differences, score_estimates
from hpo.storage import open_storage
from hpo.students import DISTILLED, PLAIN
from hpo.study import best_first, finalists_study, load_study, stored_finals, stored_spec
from hpo.tasks import TASKS
from hpo.training.device import choose_device
from hpo.training.teachers import Cost, Teacher, cost_of, fused_outputs, read_teacher, teacher_outputs


def why_none(name: str, output: Path, storage: str | None) -> str | None:
    """Why there is nothing to compare; None if there is."""
    opened = open_storage(output, storage)
    for student in (f"{name}{PLAIN}", f"{name}{DISTILLED}"):
        finals = stored_finals(load_study(opened, student).user_attrs)
        if finals is None or finals.reading is None:
            return f"`{student}` has not read the test split, so there is nothing to compare: its report says why."
        if not model_path(study_folder(output, student)).is_dir():
            return f"The model of `{student}` is not on this machine, so its speed is not known."
    return None


def compare_students(name: str, teachers: Sequence[str], output: Path, storage: str | None) -> Distillation:
    """Computes what teachers say of the test split, holds it and what the students said against its labels, and
    measures how fast each is. Call it if nothing is in the way (`why_none`)."""
    opened, cache = open_storage(output, storage), output / "cache"
    students = {each: load_study(opened, f"{name}{each}") for each in (PLAIN, DISTILLED)}
    spec = stored_spec(students[DISTILLED])
    splits = _same_splits(students)
    task, labels = TASKS[spec.task], splits.test.labels
    read = [read_teacher(each) for each in teachers]
    costs = [cost_of(each, splits, cache) for each in read]
    said = [_of_one(teacher_outputs(each, splits, splits.test, "test", cache)) for each in read]
    contenders = [
        _contender(f"Teacher {at}" if len(read) > 1 else "Teacher", each.name, outputs, splits, cost)
        for at, (each, outputs, cost) in enumerate(zip(read, said, costs, strict=True), start=1)
    ]
    ensemble_less_first = {}
    if len(read) > 1:
        fused = _of_one(fused_outputs(read, splits, splits.test, "test", cache))
        of_all = f"all {len(read)} together"
        contenders.append(_contender(f"Ensemble of {len(read)}", of_all, fused, splits, _together(costs)))
        ensemble_less_first = score_differences(task.scores, fused, said[0], labels, splits.labels)
    outputs, finals = {}, {}
    for which, words in ((PLAIN, "Student, plainly tuned"), (DISTILLED, "Student, distilled")):
        study = students[which]
        finals[which] = _finals(study)
        outputs[which] = logits_of(finalists_study(study), finals[which].chosen, "test")
        cost = cost_of(_student(study, output), splits, cache)
        found = _contender(words, study.study_name, outputs[which], splits, cost)
        contenders.append(found.model_copy(update=_effort(study, finals[which])))
    seeds = [seed for seed in finals[DISTILLED].test_seeds if seed in finals[PLAIN].test_seeds]
    distilled, plain = (
        outputs[which][[finals[which].test_seeds.index(seed) for seed in seeds]] for which in (DISTILLED, PLAIN)
    )
    return Distillation(
        metric=spec.metric.removeprefix("eval/"),
        rows=len(labels),
        device=choose_device("auto").name,
        contenders=contenders,
        distilled_less_plain=score_differences(task.scores, distilled, plain, labels, splits.labels),
        distilled_less_plain_seeds=len(seeds),
        ensemble_less_first=ensemble_less_first,
    )


def _same_splits(students: Mapping[str, optuna.Study]) -> Splits:
    """Those of the distilled student. Raises `DataError` if they are not what both were measured by."""
    read = {}
    for which, study in students.items():
        spec = stored_spec(study)
        read[which] = load_splits(spec.task, spec.data, spec.seed)
        if study.user_attrs["data"]["fingerprint"] != read[which].fingerprint:
            raise DataError(
                f"the data of `{study.study_name}` must be as it was, but has changed. Restore the files, or begin "
                "anew with --fresh."
            )
    one, other = read[PLAIN], read[DISTILLED]
    same = all(getattr(one, each).inputs == getattr(other, each).inputs for each in ("validation", "test"))
    if not same or one.labels != other.labels:  # beside the same train split there may be texts without labels
        raise DataError(
            "both students must be measured by the same rows, but their data differ. Give both the same with --set."
        )
    return other


def _finals(study: optuna.Study) -> Finals:
    finals = stored_finals(study.user_attrs)
    assert finals and finals.reading, "why_none says so"
    return finals


def _effort(study: optuna.Study, finals: Finals) -> dict[str, Any]:
    """What was spent on a student."""
    complete = best_first(study.direction, study.get_trials(deepcopy=False))
    run = finalists_study(study).get_trials(deepcopy=False)[finals.chosen.test_runs[0]]
    return {"complete_trials": len(complete), "training_steps": run.user_attrs["result"]["total_steps"]}


def _student(study: optuna.Study, output: Path) -> Teacher:
    return read_teacher(str(model_path(study_folder(output, study.study_name)).resolve()))


def _of_one(outputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """[1, ...] As of one seed. A word that nobody has read is of the first class by a hair, as in any evaluation."""
    return np.nan_to_num(outputs, nan=0.0)[None]


def _contender(name: str, model: str, outputs: NDArray[np.float32], splits: Splits, cost: Cost) -> Contender:
    scores = score_estimates(TASKS[splits.task].scores, outputs, splits.test.labels, splits.labels)
    return Contender(
        name=name,
        model=model,
        seeds=len(outputs),
        scores=scores,
        num_parameters=cost.num_parameters,
        weights_mib=cost.weights_mib,
        examples_per_second=cost.examples_per_second,
    )


def _together(costs: Sequence[Cost]) -> Cost:
    """One after another on the same machine."""
    return Cost(
        sum(cost.num_parameters for cost in costs),
        sum(cost.weights_mib for cost in costs),
        1 / sum(1 / cost.examples_per_second for cost in costs),
    )

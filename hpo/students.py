"""The two studies of a distillation as study files: a student with its teachers, and the same student without them.

Both have the same data, splits, seed, budget and space, so that what the teachers bring is all that differs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hpo.effect_checks import APPLIES_WHEN
from hpo.output import write_atomically
from hpo.search_spec import GridSampler
from hpo.spec import StudySpec, TrialConfig
from hpo.tasks import DEFAULT_TASK, TASKS
from hpo.training_spec import TrainingSpec

DISTILLED, PLAIN = "-distilled", "-student"
STUDY_FILE = "distill.yaml"
"""In the folder of each of both."""
OF_TEACHING = ("teachers", "data.unlabelled", "training.distillation_", "search_space.distillation_")
"""How the settings begin that a student without teachers has not."""
# How a teacher was tuned says nothing of how its student shall be.
OF_METHOD = ("method", "num_trained_layers", "layer_lr_decay", *(n for n in TrainingSpec.model_fields if "lora" in n))


@dataclass(frozen=True)
class Basis:
    """What a student's studies take over from that of its teacher."""

    name: str
    sections: dict[str, Any]
    """Of a study file."""
    training: TrainingSpec


def basis_of_study(spec: StudySpec) -> Basis:
    """All but model and space."""
    kept = ["task", "metric", "seed", "n_trials", "timeout", "trial_timeout", "checkpoint_every", "data", "pruner"]
    kept += [] if isinstance(spec.sampler, GridSampler) else ["sampler"]
    kept += ["finalists"] if spec.finalists else []
    stored = spec.model_dump(mode="json", exclude_defaults=True)
    sections = {name: stored[name] for name in kept if name in stored} | {"metric": spec.metric}
    sections["data"].pop("unlabelled", None)
    for tagged in ("sampler", "pruner"):  # their names are defaults of their own
        if tagged in sections:
            sections[tagged] = {"name": getattr(spec, tagged).name, **sections[tagged]}
    return Basis(spec.name, sections, spec.training)


def basis_of_config(name: str, config: TrialConfig) -> Basis:
    """Of a model folder alone: the data and the settings that it was trained with."""
    stored = config.model_dump(mode="json", exclude_defaults=True)
    sections = {"task": config.task, "metric": config.metric, "seed": config.data_seed, "data": stored["data"]}
    sections["data"].pop("unlabelled", None)
    return Basis(name, sections, config.training)


def student_studies(
    basis: Basis,
    name: str,
    student: str,
    layers: int | None,
    teachers: Sequence[str],
    unlabelled: str | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The study files of the plainly tuned and of the distilled student, as plain data.

    Args:
        unlabelled: where further texts are that the teachers tell the distilled one of.
    """
    given = basis.training.model_dump(mode="json", exclude_defaults=True)
    left_out = [*OF_METHOD, "distillation_alpha", "distillation_temperature"]
    usual = basis.training.method == TrainingSpec.model_fields["method"].default
    left_out += [] if usual else ["learning_rate"]  # adapters and heads alone need a much higher one than a model
    idle = [key for key, (parent, fits) in APPLIES_WHEN.items() if getattr(basis.training, parent) not in fits]
    training = {key: value for key, value in given.items() if key not in (*left_out, *idle)}
    rate = training.get("learning_rate", TrainingSpec.model_fields["learning_rate"].default)
    batch, epochs = basis.training.train_batch_size, basis.training.num_train_epochs
    space: dict[str, Any] = {
        "learning_rate": {"low": rate / 4, "high": rate * 8, "log": True},
        "train_batch_size": {"choices": sorted({max(1, batch // 2), batch, batch * 2})},
        "num_train_epochs": {"choices": [epochs, 2 * epochs]},
    }
    model = {"name": student, **({"num_hidden_layers": layers} if layers is not None else {})}
    plain = {
        "name": f"{name}{PLAIN}",
        "description": f"The student of {basis.name}, plainly tuned: what it learns from the labels alone.",
        **basis.sections,
        "model": model,
        "training": training,
        "search_space": space,
    }
    numeric = TASKS[plain.get("task", DEFAULT_TASK)].labels.numeric
    taught_space: dict[str, Any] = {"distillation_alpha": {"low": 0.2, "high": 1.0}}
    if not numeric:
        taught_space["distillation_temperature"] = {"low": 1.0, "high": 8.0, "log": True}
    distilled = {
        **plain,
        "name": f"{name}{DISTILLED}",
        "description": f"The student of {basis.name}, distilled: it learns from its teachers beside the labels.",
        "data": plain["data"] | ({"unlabelled": unlabelled} if unlabelled else {}),
        "teachers": list(teachers),
        "training": training | {"distillation_alpha": 0.5},
        "search_space": space | taught_space,
    }
    return plain, distilled


def write_study(study: dict[str, Any], output: Path) -> Path:
    """Writes a study file into the folder of its study, to be run and to be copied."""
    path = output / str(study["name"]) / STUDY_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(study, sort_keys=False, allow_unicode=True, width=110)
    write_atomically(path, f"# {study['description']} Written by hpo.distill.\n{text}".encode())
    return path

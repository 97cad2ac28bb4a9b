"""The study of `study.yaml` as a user writes it with `Trainer.hyperparameter_search`, for `study.py` to time.

python -m benchmarks.trainer_study JSON

It draws the same points as we do, as long as it sees the same scores: by our sampler, given as an argument.
"""

import json
import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState
from transformers import PreTrainedModel, Trainer

from benchmarks import peer
from benchmarks.contestants import num_training_steps
from benchmarks.rows import Rows
from benchmarks.study import Searched
from hpo.search import build_sampler
from hpo.search_spec import MedianPruner
from hpo.space import default_params
from hpo.spec import StudySpec
from hpo.study_file import read_study


class SamplerByPosition(BaseSampler):
    """Our sampler of each trial's position, as `hpo.trial` builds it anew for each."""

    def __init__(self, spec: StudySpec) -> None:
        self.spec = spec
        self.samplers: dict[int, BaseSampler] = {}

    def _of(self, trial: FrozenTrial) -> BaseSampler:
        if trial.number not in self.samplers:
            self.samplers = {trial.number: build_sampler(self.spec, trial.number)}
        return self.samplers[trial.number]

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._of(trial).before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._of(trial).after_trial(study, trial, state, values)


def suggest_dropout(trial: optuna.Trial) -> float:
    return trial.suggest_float("dropout", 0.0, 0.3, step=0.05)


def hp_space(trial: optuna.Trial) -> dict[str, Any]:
    """By the names of `TrainingArguments`; the draws have ours, by which a sampler tells them apart."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 5e-6, 5e-4, log=True),
        "per_device_train_batch_size": trial.suggest_categorical("train_batch_size", [16, 32, 64]),
        "max_grad_norm": trial.suggest_categorical("max_grad_norm", [0.5, 1.0, 5.0]),
        "lr_scheduler_type": trial.suggest_categorical(
            "lr_scheduler_type", ["linear", "cosine", "constant_with_warmup"]
        ),
        "warmup_steps": trial.suggest_float("warmup_ratio", 0.0, 0.2),
        "weight_decay": trial.suggest_float("weight_decay", 0.0, 0.1),
    }


def pruner(spec: StudySpec, num_rows: int) -> optuna.pruners.BasePruner:
    """Our pruner in the Trainer's steps, which are optimizer steps: as many of the default's as ours waits."""
    chosen, training = spec.pruner, spec.training
    assert isinstance(chosen, MedianPruner)
    steps = num_training_steps(training.num_train_epochs, num_rows, training.train_batch_size)
    share = math.ceil(steps / training.num_evaluations)
    return optuna.pruners.MedianPruner(
        n_startup_trials=chosen.n_startup_trials, n_warmup_steps=chosen.n_warmup_steps * share + 1
    )


def search(spec: StudySpec, rows: Rows, expertise: peer.Expertise) -> optuna.Study:
    """All trials, reported to MLflow where the environment says."""
    training = spec.training
    folder = peer.model_folder(spec.model.name)
    tokenizer = peer.load_tokenizer(folder)
    train, validation = (
        peer.read_rows(Path(rows.folder) / f"{name}.json", tokenizer, training.max_length)
        for name in ("train", "validation")
    )

    def model_init(trial: optuna.Trial | None) -> PreTrainedModel:
        dropout = training.dropout if trial is None else suggest_dropout(trial)
        return peer.load_model(folder, rows.num_labels, dropout)

    with tempfile.TemporaryDirectory() as output_dir:
        trainer = Trainer(
            model_init=model_init,
            args=peer.training_arguments(
                training,
                expertise,
                output_dir=Path(output_dir),
                seed=spec.seed,
                num_train_epochs=training.num_train_epochs,
                eval_strategy="steps",
                eval_steps=1 / training.num_evaluations,
                report_to="mlflow",
            ),
            train_dataset=train,
            eval_dataset=validation,
            processing_class=tokenizer,
            compute_metrics=peer.compute_metrics,
        )
        # The untuned default first, as with us: it waits in the study, which hyperparameter_search then goes on with.
        storage = optuna.storages.InMemoryStorage()
        study = optuna.create_study(storage=storage, study_name=spec.name, direction=spec.direction)
        study.enqueue_trial(default_params(spec))
        trainer.hyperparameter_search(
            hp_space=hp_space,
            compute_objective=lambda metrics: metrics["eval_accuracy"],
            n_trials=spec.n_trials,
            direction=spec.direction,
            backend="optuna",
            # From here on these are arguments of optuna.create_study.
            sampler=SamplerByPosition(spec),
            pruner=pruner(spec, len(train)),
            storage=storage,
            study_name=spec.name,
            load_if_exists=True,
        )
    return study


def searched(study: optuna.Study) -> Searched:
    trials = study.get_trials(deepcopy=False)
    states = [trial.state.name for trial in trials]
    return Searched(
        states={state: states.count(state) for state in sorted(set(states))},
        examples=sum((trial.last_step or 0) * trial.params["train_batch_size"] for trial in trials),
        best=study.best_value,
    )


def main(text: str) -> None:
    raw = json.loads(text)
    spec = read_study(Path(raw["study"]), raw["overrides"])
    study = search(spec, Rows(**raw["rows"]), peer.Expertise(**raw["expertise"]))
    print(json.dumps(asdict(searched(study))))


if __name__ == "__main__":
    main(sys.argv[1])

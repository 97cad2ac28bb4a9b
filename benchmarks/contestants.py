"""One training by one contestant in a process of its own: `python -m benchmarks.contestants JSON` prints a result."""

import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import Finished, run_module
from benchmarks.rows import Rows
from hpo.spec import StudySpec
from hpo.study_file import read_study


@dataclass(frozen=True)
class Job:
    """One training, the same for every contestant but for what an expert sets."""

    contestant: str
    """A key of CONTESTANTS."""
    study: str
    overrides: tuple[str, ...]
    rows: Rows
    seed: int
    warmup_steps: int = 0
    """First steps that the clock leaves out."""
    precision: str = "fp32"
    """Of ours and of the expert's; the Trainer as it comes is fp32."""
    workers: int = 0
    """Of the expert's data loader."""


@dataclass(frozen=True)
class Result:
    """What a training gave."""

    examples_per_second: float
    """Of training alone, after the first steps."""
    accuracy: float
    """On the validation rows, at the end."""
    num_training_steps: int


@dataclass(frozen=True)
class Measured:
    """A result, with what the process took as its parent saw it."""

    result: Result
    process: Finished


def run_job(job: Job) -> Measured:
    """Trains in a fresh process, so that memory and warm caches are its own."""
    process = run_module("benchmarks.contestants", json.dumps(asdict(job)))
    return Measured(Result(**json.loads(process.stdout.splitlines()[-1])), process)


class Clock:
    """Reads the time after each step; the first ones, which allocate and warm up, do not count."""

    def __init__(self, warmup_steps: int) -> None:
        self.warmup_steps, self.step = warmup_steps, warmup_steps
        self.since = self.now = time.perf_counter()

    def __call__(self, step: int) -> None:
        self.step, self.now = step, time.perf_counter()
        if step <= self.warmup_steps:
            self.since = self.now

    def examples_per_second(self, batch_size: int) -> float:
        return (self.step - self.warmup_steps) * batch_size / (self.now - self.since)


def ours(job: Job, spec: StudySpec) -> Result:
    """As a trial trains, without its study around it."""
    from hpo.space import trial_config
    from hpo.training.finetune import finetune
    from hpo.training.setup import set_up

    clock = Clock(job.warmup_steps)
    with tempfile.TemporaryDirectory() as cache:
        setup = set_up(trial_config(spec, {}, job.seed), Path(cache))
        for evaluation in finetune(setup, clock):
            accuracy = evaluation.metrics["eval/accuracy"]
    return Result(clock.examples_per_second(spec.training.train_batch_size), accuracy, clock.step)


def trainer(job: Job, spec: StudySpec) -> Result:
    """`transformers.Trainer` as it comes: fp32, random order, dynamic padding."""
    from benchmarks.peer import Expertise

    return _train(job, spec, Expertise())


def expert(job: Job, spec: StudySpec) -> Result:
    """`transformers.Trainer` as an expert sets it."""
    from benchmarks.peer import Expertise

    return _train(job, spec, Expertise(bf16=job.precision == "bf16", group_by_length=True, workers=job.workers))


CONTESTANTS: dict[str, Callable[[Job, StudySpec], Result]] = {"ours": ours, "trainer": trainer, "expert": expert}


def _train(job: Job, spec: StudySpec, expertise: Any) -> Result:
    from transformers import Trainer, TrainerCallback, set_seed

    from benchmarks import peer

    class OnStep(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            clock(state.global_step)

    training, clock = spec.training, Clock(job.warmup_steps)
    folder = peer.model_folder(spec.model.name)
    tokenizer = peer.load_tokenizer(folder)
    train, validation = (
        peer.read_rows(Path(job.rows.folder) / f"{name}.json", tokenizer, training.max_length)
        for name in ("train", "validation")
    )
    set_seed(job.seed)  # the head's weights
    model = peer.load_model(folder, job.rows.num_labels, training.dropout)
    with tempfile.TemporaryDirectory() as output_dir:
        arguments = peer.training_arguments(
            training,
            expertise,
            output_dir=Path(output_dir),
            seed=job.seed,
            max_steps=num_training_steps(training.num_train_epochs, len(train), training.train_batch_size),
            report_to="none",
        )
        contestant = Trainer(
            model=model,
            args=arguments,
            train_dataset=train,
            eval_dataset=validation,
            processing_class=tokenizer,
            compute_metrics=peer.compute_metrics,
            callbacks=[OnStep()],
        )
        contestant.train()
        scores = contestant.evaluate()
    return Result(clock.examples_per_second(training.train_batch_size), scores["eval_accuracy"], clock.step)


def num_training_steps(num_train_epochs: float, num_rows: int, batch_size: int) -> int:
    """As we count them; the Trainer would round a part of an epoch up."""
    return max(1, round(num_train_epochs * math.ceil(num_rows / batch_size)))


def main(text: str) -> None:
    raw = json.loads(text)
    job = Job(**{**raw, "rows": Rows(**raw["rows"]), "overrides": tuple(raw["overrides"])})
    spec = read_study(Path(job.study), [*job.overrides, f"training.precision={job.precision}"])
    print(json.dumps(asdict(CONTESTANTS[job.contestant](job, spec))))


if __name__ == "__main__":
    main(sys.argv[1])

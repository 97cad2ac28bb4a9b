"""Studies of any size without training: trials as `hpo.trial` stores them, and finals as they come out in the end."""

import math
import random
from datetime import datetime, timedelta
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.results import Difference, Disagreement, Errors, Estimate, Finalist, Finals, Group, Mistake, Reading
from hpo.spec import StudySpec

START = datetime(2026, 11, 26, 9, 0, 0)
EVALUATIONS = 10
SPACE: dict[str, BaseDistribution] = {
    "learning_rate": FloatDistribution(5e-6, 5e-4, log=True),
    "train_batch_size": CategoricalDistribution([16, 32, 64]),
    "weight_decay": FloatDistribution(0.0, 0.1),
    "warmup_ratio": FloatDistribution(0.0, 0.3),
    "dropout": FloatDistribution(0.0, 0.3),
    "freeze_layers": IntDistribution(0, 4),
    "lr_scheduler_type": CategoricalDistribution(["linear", "cosine", "constant_with_warmup"]),
    "max_grad_norm": CategoricalDistribution([None, 0.5, 1.0]),
    "label_smoothing": FloatDistribution(0.0, 0.2),
}
DEFAULT: dict[str, Any] = {
    "learning_rate": 5e-5,
    "train_batch_size": 32,
    "weight_decay": 0.01,
    "warmup_ratio": 0.06,
    "dropout": 0.1,
    "freeze_layers": 0,
    "lr_scheduler_type": "linear",
    "max_grad_norm": 1.0,
    "label_smoothing": 0.0,
}
TEXTS = (
    "a gorgeous, witty, seductive movie.",
    "the film is strictly routine, though its last half hour nearly redeems it.",
    "it takes a strange kind of laziness to waste the talents of robert forster, anne meara and eugene levy.",
    "you'll probably love it.",
    "not a film to rival to live, but a fine little amuse-bouche to keep your appetite whetted.",
    "corny, schmaltzy and predictable, but still manages to be kind of heart warming, nonetheless.",
)


def settings(n: int, **sections: Any) -> dict[str, Any]:
    """The study file."""
    choices = {name: list(kind.choices) for name, kind in SPACE.items() if isinstance(kind, CategoricalDistribution)}
    ranges = {
        name: {"low": kind.low, "high": kind.high} | ({"log": True} if kind.log else {})
        for name, kind in SPACE.items()
        if isinstance(kind, FloatDistribution | IntDistribution)
    }
    return {
        "name": "films",
        "description": "Which settings of MiniLM-L6 read film reviews best?",
        "data": {"train": "cornell-movie-review-data/rotten_tomatoes"},
        "model": {"name": "nreimers/MiniLM-L6-H384-uncased"},
        "training": {"num_evaluations": EVALUATIONS},
        "search_space": ranges | {name: {"choices": each} for name, each in choices.items()},
        "n_trials": max(1, n),
    } | sections


def synthetic_study(
    n: int, *, workers: int = 4, finals: Finals | None = None, storage: str | None = None, **sections: Any
) -> optuna.Study:
    """`n` trials of `workers` processes, most of them pruned, some failed; trial 0 is the default."""
    spec = StudySpec.model_validate(settings(n, **sections))
    study = optuna.create_study(study_name=spec.name, direction="maximize", storage=storage)
    facts = {
        "spec": spec.model_dump(mode="json"),
        "data": {
            "rows": {"train": 8528, "validation": 1066, "test": 1066},
            "labels": ["negative", "positive"],
            "fingerprint": "3f9a" * 16,
            "notes": ["12 rows of train that stand in validation or test were removed."],
        },
        "model": {
            "name": spec.model.name,
            "num_parameters": 22_713_728,
            "new_weights": ["classifier"],
            "fingerprint": "b01d" * 16,
        },
        "models": {spec.model.name: "b01d" * 16},
        "machine": {
            "device": "NVIDIA H100 80GB HBM3",
            "precision": "bf16",
            "versions": {"python": "3.12.3", "torch": "2.13.0", "transformers": "5.23.0", "optuna": "5.0.0"},
        },
        "mlflow_parent_run_id": "a" * 32,
    }
    if finals:
        facts["finals"] = finals.model_dump(mode="json")
    for name, value in facts.items():
        study.set_user_attr(name, value)
    draw = random.Random(7)
    free = [START + timedelta(seconds=2 * worker) for worker in range(workers)]
    trials = []
    for number in range(n):
        worker = min(range(workers), key=lambda each: free[each])
        trial, free[worker] = _trial(number, worker, free[worker], draw)
        trials.append(trial)
    study.add_trials(trials)
    return study


def add_finalists(study: optuna.Study, *kinds: str, pause: float = 1800.0, seconds: float = 60.0) -> None:
    """Trainings of the finalists of a stored study, one after the other, the first one so long after its last trial.

    Args:
        kinds: the states of trainings of trial 17. One of `RETRIED` is tried again as the next of `AGAIN`, which goes
            on from its checkpoint.
    """
    finalists = optuna.create_study(study_name=f"{study.study_name}.finalists", storage=study._storage)
    start = max((trial.datetime_complete or START for trial in study.trials), default=START) + timedelta(seconds=pause)
    for number, kind in enumerate(kinds):
        state = {"RETRIED": "FAIL", "AGAIN": "COMPLETE"}.get(kind, kind)
        result = {
            "state": state,
            "reason": {"FAIL": "out_of_memory", "RETRIED": "interrupted"}.get(kind),
            "retried": kind == "RETRIED",
            "seconds": seconds,
            "cpu_seconds": 2 * seconds,
            "gpu_seconds": 0.0,
            "optimizer_steps": 80,
            "total_steps": 100,
            "peak_memory_mib": 5000.0,
        }
        attributes: dict[str, Any] = {
            "finalist": {"trial": 17, "index": 1 + number, "seed": 11 + number, "is_default": False, "refit": False}
        }
        attributes |= {} if state == "RUNNING" else {"result": result}
        attributes |= {"retry_of": kinds.index("RETRIED"), "resumed_step": 40} if kind == "AGAIN" else {}
        complete = state == "COMPLETE"
        trial = create_trial(state=TrialState[state], value=0.8 if complete else None, user_attrs=attributes)
        trial.datetime_start, end = start, start + timedelta(seconds=seconds)
        trial.datetime_complete = None if state == "RUNNING" else end
        finalists.add_trial(trial)
        start = end


def synthetic_loss_study(n: int, *, finals: Finals | None = None, name: str = "films") -> optuna.Study:
    """The same trials, of which the one with the least loss is the best."""
    scored = synthetic_study(n, finals=finals, metric="eval/loss", name=name)
    study = optuna.create_study(study_name=name, direction="minimize")
    for key, value in scored.user_attrs.items():
        study.set_user_attr(key, value)
    for trial in scored.get_trials(deepcopy=True):
        if trial.value is not None:
            trial.value = 1.2 - trial.value
        trial.intermediate_values = {step: 1.2 - score for step, score in trial.intermediate_values.items()}
        study.add_trial(trial)
    return study


def _trial(number: int, worker: int, start: datetime, draw: random.Random) -> tuple[FrozenTrial, datetime]:
    params = dict(DEFAULT) if number == 0 else {name: _drawn(kind, draw) for name, kind in SPACE.items()}
    end = _quality(params) + draw.gauss(0, 0.006)
    speed = draw.uniform(0.7, 1.4)
    kind = "COMPLETE" if number == 0 or end > 0.80 or draw.random() < 0.1 else "PRUNED"
    kind = "FAIL" if number and draw.random() < 0.012 else kind
    made = EVALUATIONS if kind == "COMPLETE" else draw.randint(1, 4)
    scores = {
        step: round(0.5 + (end - 0.5) * (1 - math.exp(-4 * speed * step / EVALUATIONS)) + draw.gauss(0, 0.004), 6)
        for step in range(1, made + 1)
    }
    last = scores[made]
    total = 2 * 8528 // params["train_batch_size"]
    seconds = 4 + 42 * made / EVALUATIONS * draw.uniform(0.95, 1.1)
    metrics = {"accuracy": last, "f1_macro": last - 0.002, "mcc": 2 * last - 1, "loss": 1.2 - last}
    result = {
        "state": kind,
        "reason": {"PRUNED": "fell behind", "FAIL": "out_of_memory"}.get(kind),
        "message": "CUDA out of memory. Tried to allocate 1.2 GiB" if kind == "FAIL" else None,
        "step": made if kind == "PRUNED" else None,
        "retried": False,
        "metrics": {f"eval/{name}": round(value, 6) for name, value in metrics.items()},
        "seconds": round(seconds, 3),
        "cpu_seconds": round(1.25 * seconds, 3),
        "gpu_seconds": round(seconds, 3),
        "optimizer_steps": total * made // EVALUATIONS,
        "total_steps": total,
        "examples_per_second": round(8528 * 2 / 42 * draw.uniform(0.9, 1.05), 2),
        "peak_memory_mib": 900.0 + 12 * params["train_batch_size"],
    }
    complete = start + timedelta(seconds=seconds + 1.4)
    trial = create_trial(
        state=TrialState[kind],
        value=last if kind == "COMPLETE" else None,
        params=params,
        distributions=SPACE,
        intermediate_values=scores,
        user_attrs={
            "result": result,
            "config": {"seed": 1000 + number},
            "machine": {"device": "NVIDIA H100 80GB HBM3", "precision": "bf16"},
            "owner": {"host": f"node{worker // 4 + 1} 9f2c", "pid": 4100 + worker, "started": "1"},
            "mlflow_run_id": f"{number:032x}",
            "git_commit": "0123456789abcdef",
        },
    )
    trial.datetime_start, trial.datetime_complete = start, complete
    return trial, complete + timedelta(seconds=0.6)


def _drawn(kind: BaseDistribution, draw: random.Random) -> Any:
    if isinstance(kind, CategoricalDistribution):
        return draw.choice(kind.choices)
    if isinstance(kind, IntDistribution):
        return draw.randint(kind.low, kind.high)
    assert isinstance(kind, FloatDistribution)
    if kind.log:
        return float(f"{math.exp(draw.uniform(math.log(kind.low), math.log(kind.high))):.6g}")
    return round(draw.uniform(kind.low, kind.high), 6)


def _quality(params: dict[str, Any]) -> float:
    """What a training with these would come to."""
    rate = math.log10(params["learning_rate"] / 1.6e-4)
    quality: float = 0.84 - 0.09 * rate**2 - 0.012 * params["freeze_layers"] - 0.3 * (params["dropout"] - 0.08) ** 2
    return quality


def synthetic_finals(*, difference: float = 0.021, winner: int = 17, texts: tuple[str, ...] = TEXTS) -> Finals:
    """Finalists on five seeds, one reading of the test split, and errors with these texts."""
    labels = ["negative", "positive"]
    half = 0.014
    p = 0.004 if abs(difference) > half else 0.34
    values = {"accuracy": 0.8234, "f1_macro": 0.8231, "f1/negative": 0.8202, "f1/positive": 0.8260}
    values |= {"precision_macro": 0.8240, "recall_macro": 0.8234, "mcc": 0.6474}
    losses = {"loss": 0.4123, "calibration_error": 0.0411}
    winners = {name: _estimate(value, 0.0215) for name, value in (values | losses).items()}
    change = dict.fromkeys(values, difference) | dict.fromkeys(losses, -difference)
    reading = Reading(
        at="2026-11-26T11:42:10+00:00",
        winner=winner,
        default=0,
        seeds=[11, 12, 13, 14, 15],
        rows=1066,
        method="Paired bootstrap over seeds and examples, 10,000 resamples (Efron and Tibshirani 1993).",
        winner_scores=winners,
        default_scores={
            name: _estimate(each.value - change[name] * (winner != 0), 0.0224) for name, each in winners.items()
        },
        differences={
            name: Difference(value=value, low=value - half, high=value + half, p_value=p)
            for name, value in change.items()
        }
        if winner
        else {},
        confusion=[[431.2, 101.8], [86.4, 446.6]],
    )
    mistakes = [
        Mistake(
            row=31 * at + 7,
            text=text,
            label=labels[at % 2],
            predicted=labels[1 - at % 2],
            probability=0.99 - 0.01 * at,
            wrong=5 - at % 2,
        )
        for at, text in enumerate(texts)
    ]
    errors = Errors(
        labels=labels,
        confusion=[[436.4, 96.6], [84.0, 449.0]],
        mistakes=mistakes,
        by_class=[
            Group(name="negative", rows=533, winner=0.819, default=0.797),
            Group(name="positive", rows=533, winner=0.842, default=0.823),
        ],
        by_length=[
            Group(name=name, rows=rows, winner=winner_score, default=default)
            for name, rows, winner_score, default in (
                ("1 to 12 words", 268, 0.862, 0.851),
                ("13 to 20 words", 271, 0.838, 0.812),
                ("21 to 27 words", 262, 0.822, 0.801),
                ("28 to 51 words", 265, 0.801, 0.776),
            )
        ],
        disagreements=[
            Disagreement(row=17 * at + 3, text=text, label=labels[at % 2], winner=0.93 - 0.04 * at, default=0.11)
            for at, text in enumerate(reversed(texts))
        ],
        winner_only=71,
        default_only=48,
    )
    finalists = [
        Finalist(
            trial=winner,
            is_default=winner == 0,
            searched=0.8471,
            scores=[0.8312, 0.8293, 0.8319],
            mean=0.8308,
            runs=[0, 1, 2],
            test_scores=[0.8302, 0.8274, 0.8358, 0.8264, 0.8283],
            test_runs=[12, 13, 14, 15, 16],
        ),
        Finalist(
            trial=3,
            is_default=False,
            searched=0.8443,
            scores=[0.8283, 0.8255, 0.8284],
            mean=0.8274,
            runs=[3, 4, 5],
        ),
        Finalist(
            trial=9,
            is_default=False,
            searched=0.8405,
            scores=[0.8255, 0.8302, 0.8214],
            mean=0.8257,
            runs=[6, 7, 8],
        ),
    ]
    if winner:
        finalists.append(
            Finalist(
                trial=0,
                is_default=True,
                searched=0.8105,
                scores=[0.8086, 0.8134, 0.8068],
                mean=0.8096,
                runs=[9, 10, 11],
                test_scores=[0.8105, 0.8096, 0.8124, 0.8077, 0.8068],
                test_runs=[17, 18, 19, 20, 21],
            )
        )
    return Finals(
        asked_trials=3,
        asked_seeds=3,
        asked_test_seeds=5,
        search_best=0.8471,
        seeds=[21, 22, 23],
        test_seeds=[11, 12, 13, 14, 15],
        finalists=finalists,
        ended_trials=1000,
        winner=winner,
        exported=0,
        readings=[reading],
        errors=errors,
    )


def _estimate(value: float, half: float) -> Estimate:
    return Estimate(value=round(value, 4), low=round(value - half, 4), high=round(value + half, 4))

"""What a study ran on, how to run it again, and what it cost."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import yaml
from optuna.trial import FrozenTrial

from hpo.attempts import RESUMED_STEP
from hpo.output import output_option
from hpo.plain_text import printable, shell_word
from hpo.report import formats, tables, worktime
from hpo.report.tables import View
from hpo.spec import DataSpec

# Data


def source(data: DataSpec) -> str:
    """Where the training rows come from, in a line."""
    train = data.train
    parts = [train.subset or "", *(f"{column} = {value}" for column, value in train.where.items())]
    chosen = ", ".join(filter(None, parts))
    return f"{train.source} ({chosen})" if chosen else train.source


def facts(view: View) -> Iterator[tuple[str, str]]:
    """What the study ran on, known before its first trial."""
    data, model, machine = (view.attributes.get(name, {}) for name in ("data", "model", "machine"))
    if view.spec:
        yield "Source", source(view.spec.data)
    if data:
        yield "Rows", ", ".join(f"{split} {rows:,}" for split, rows in data["rows"].items())
        yield "Labels", ", ".join(data["labels"])
        yield from (("Note", note) for note in data["notes"])
    if model:
        new = f", new weights: {', '.join(model['new_weights'])}" if model["new_weights"] else ""
        trained = model.get("num_trained_parameters") or model["num_parameters"]
        part = f", of which {trained:,} are trained" if trained != model["num_parameters"] else ""
        yield "Model", f"{model['name']}, {model['num_parameters']:,} parameters{part}{new}"
    elif view.spec:
        yield "Model", view.spec.model.name
    if machine:
        yield "Machine", f"{machine['device']}, {machine['precision']}"


# How to reproduce


def commands(view: View, folder: Path) -> list[tuple[str, str]]:
    """What to call, quoted for a shell."""
    if view.spec is None:
        return []
    stands_in_for = view.spec.fallback_for
    call = view.attributes.get("call") or ["--study", stands_in_for or view.name]
    if stands_in_for and "--fallback" not in call:  # or it would be the other study, once the Hub is there again
        call = [*call, "--fallback", "always"]
    output, best = output_option(folder.parent), shell_word((folder / "best.yaml").as_posix())
    return [
        ("goes on until the study's trials are done", f"python -m hpo.run {' '.join(map(shell_word, call))}{output}"),
        ("trains the best configuration again", f"python -m hpo.train --config {best}"),
        ("opens every trial in MLflow", f"python -m hpo.ui{output}"),
    ]


def configuration(view: View, number: int | None) -> str:
    """What a trial was trained with, as YAML; empty where there is no such trial."""
    row = next((trial for trial in view.trials if trial.number == number), None)
    if row is None:
        return ""
    given = row.user_attrs.get("config") if view.spec else None
    shown = given or dict(row.params)
    text = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=100)
    # What a terminal or a page would obey is spelt out, in YAML's own way.
    return text if printable(text) == text else yaml.safe_dump(shown, sort_keys=False, width=100)


def provenance(view: View, number: int | None) -> Iterator[tuple[str, str]]:
    """Seeds, fingerprints, versions."""
    data, model, machine = (view.attributes.get(name, {}) for name in ("data", "model", "machine"))
    trial = next((trial for trial in view.trials if trial.number == number), None)
    attributes = trial.user_attrs if trial and view.spec else {}
    if view.spec:
        yield "Seed of the study", str(view.spec.seed)
    if seed := attributes.get("config", {}).get("seed"):
        yield f"Seed of trial {number}", str(seed)
    if view.finals:
        yield "Seeds of the finalists", ", ".join(map(str, view.finals.seeds))
    if view.finals and view.finals.test_seeds:
        yield "Seeds of the test reading", ", ".join(map(str, view.finals.test_seeds))
    if data:
        yield "Fingerprint of the data", data["fingerprint"][:20]
    if model:
        yield "Fingerprint of the model", model["fingerprint"][:20]
    others = {name: mark for name, mark in view.attributes.get("models", {}).items() if name != model.get("name")}
    for name, mark in others.items():
        yield f"Fingerprint of {name}", mark[:20]
    if commit := attributes.get("git_commit"):
        yield "Commit of the code", str(commit)
    if machine:
        yield "Versions", ", ".join(f"{name} {version}" for name, version in machine["versions"].items())


# Cost


def savings(view: View) -> Iterator[str]:
    """What pruning saved, in sentences."""
    saved = tables.pruning_savings(view.table)
    if not saved.steps_planned:
        yield "Nothing to tell before a trial is complete or pruned."
        return
    pruned = int((view.table["state"] == "PRUNED").sum())
    yield (
        f"{formats.count(pruned, 'trial')} pruned: {saved.steps_done:,} of {saved.steps_planned:,} planned "
        f"optimizer steps were made, {saved.steps_saved:,} ({saved.share_saved:.0%}) were saved."
    )
    if saved.seconds_saved:
        yield (
            f"That is about {formats.duration(saved.seconds_saved)}, estimated from the mean time of a complete trial."
        )


def cost(view: View) -> Iterator[tuple[str, str]]:
    """What the trials and the finalists took, and what of it was in vain."""
    table, finalists = view.table, view.finalist_table
    for device, seconds in worktime.seconds_by_device(view).items():
        yield f"Time in trials on {device}", _time(seconds)
    if len(finalists):
        seconds = float(finalists["seconds"].sum())
        yield "Time in the finalists", f"{formats.duration(seconds)} in {formats.count(len(finalists), 'training')}"
    for name, column in (("CPU time", "cpu_seconds"), ("GPU time", "gpu_seconds")):
        if told := _of_both(view, column):
            yield name, told
    if (span := worktime.span(view)) >= 1:
        yield "Search, from its first start to its last end", formats.duration(span)
    if len(finalists):
        whole = formats.duration(worktime.span_with_finalists(view))
        yield "The same to the last end of the finalists", f"{whole}, with whatever pause was in between"
    peak = pd.concat([table["peak_memory_mib"], finalists["peak_memory_mib"]]).max()
    if pd.notna(peak) and peak > 0:
        yield "Peak memory of a trial", f"{peak:,.0f} MiB"
    speed = table.loc[table["examples_per_second"] > 0, "examples_per_second"]
    if len(speed):
        low, middle, high = (f"{speed.quantile(q):,.0f}" for q in (0.1, 0.5, 0.9))
        spread = f" (10th to 90th percentile: {low} to {high})" if len(speed) > 4 else ""
        yield "Examples per second", f"{middle} in the median trial{spread}"
    saved = tables.pruning_savings(table)
    if saved.seconds_saved:
        yield (
            "Saved by pruning",
            f"about {formats.duration(saved.seconds_saved)}, {saved.share_saved:.0%} of the steps",
        )
    lost = [*_lost(table, view.trials, "trial"), *_lost(finalists, view.finalist_trials, "training of a finalist")]
    if lost:
        yield "Lost to failures", "; ".join(lost)
    if (overhead := worktime.overhead(view)) is not None:
        seconds, of = overhead
        yield (
            "Overhead between trials",
            f"{formats.duration(seconds)}, {seconds / of:.1%} of the workers' time from their first start to their "
            "last end. Not in it: what a worker did before and after that, and the finalists",
        )


def _time(seconds: float) -> str:
    return f"{formats.duration(seconds)} ({seconds:,.0f} s)"


def _of_both(view: View, column: str) -> str:
    """What was measured of the search, and of the finalists where there are any; nothing where there is nothing."""
    parts = {"the search": float(view.table[column].sum()), "the finalists": float(view.finalist_table[column].sum())}
    return ", ".join(f"{_time(seconds)} in {part}" for part, seconds in parts.items() if seconds > 0)


def _lost(table: pd.DataFrame, trials: Sequence[FrozenTrial], noun: str) -> Iterator[str]:
    """What failed and interrupted ones took, which is not all lost where the next attempt had a checkpoint."""
    failed = table[table["state"] == "FAIL"]
    if failed.empty:
        return
    numbers = set(failed["number"])
    resumed = {trial.user_attrs.get("retry_of") for trial in trials if trial.user_attrs.get(RESUMED_STEP)} & numbers
    what, _, of = noun.partition(" ")
    told = formats.count(len(failed), f"failed or interrupted {what}") + (f" {of}" if of else "")
    unknown = int(failed["seconds"].isna().sum())
    known = "a time that is not known" if unknown == len(failed) else formats.duration(float(failed["seconds"].sum()))
    notes = [f"that of {unknown:,} is not known"] if 0 < unknown < len(failed) else []
    notes += [f"{len(resumed):,} went on from a checkpoint later, and lost less"] if resumed else []
    yield f"{known} in {told}" + (f" ({', '.join(notes)})" if notes else "")

"""What the terminal shows of a study: a header, a live bar, a line a trial, the leaderboard. Plain lines in a pipe."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import optuna
import pandas as pd
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from hpo.events import Evaluated, Event, Note, OnEvent, StepDone, TrialEnded, TrialStarted, Waits
from hpo.facts import StudyFacts
from hpo.output import output_option
from hpo.plain_text import markup, shell_word
from hpo.report import best_trial, leaderboard, pruning_savings
from hpo.report.page import against_default, count
from hpo.report.tables import RETRIED, state_counts, view_of
from hpo.spec import StudySpec
from hpo.study import remaining_trials, total_trials
from hpo.tune import Outcome

WORDS = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", RETRIED: "stopped"}
COLOURS = {"COMPLETE": "green", "PRUNED": "yellow", "FAIL": "red", RETRIED: "dim"}


@dataclass
class _Running:
    """What the bar knows of a running trial."""

    step: int = 0
    num_training_steps: int = 1
    now: float | None = None
    """Its last score."""
    waits: bool = False
    """It has been told that it waits for memory."""

    @property
    def share(self) -> float:
        return self.step / self.num_training_steps


class StudyConsole:
    """Shows one call of `tune`."""

    def __init__(
        self, spec: StudySpec, output: Path, notice: str | None, console: Console | None = None, *, workers: int = 1
    ) -> None:
        self.console = console or Console(highlight=False, soft_wrap=False)
        self.workers = workers
        self.spec, self.output, self.notice = spec, output, notice
        self.total = self.done = 0
        self.running_trials: dict[int, _Running] = {}
        self.best: float | None = None
        self.seconds: list[float] = []
        self.width = len("trial 10 step 100/100 now 0.0000 best 0.0000")

    def header(self, study: optuna.Study, facts: StudyFacts, notes: list[str]) -> None:
        """Study, data, model, device, budget, and where to look."""
        spec, best = self.spec, best_trial(study)
        self.total = total_trials(spec)
        self.done = self.total - remaining_trials(study, spec)
        self.best = best.value if best else None
        rows, labels = facts.data.rows, ", ".join(facts.data.labels)
        limit = f", at most {format_seconds(spec.timeout)}" if spec.timeout else ""
        resumed = f" ({self.done} done)" if self.done else ""
        at_once = f", {self.workers} at once" if self.workers > 1 else ""
        lines = [
            ("study", f"[bold]{markup(spec.name)}[/]  {markup(spec.description)}"),
            (
                "data",
                f"{markup(spec.data.train.source)}\n{rows['train']:,} train, {rows['validation']:,} validation, "
                f"{rows['test']:,} test rows (held back)\nlabels: {markup(labels)}",
            ),
            (
                "model",
                f"{markup(facts.model.name)}, {parameters(facts.model.num_parameters)} parameters"
                + (f"\nnew weights: {markup(', '.join(facts.model.new_weights))}" if facts.model.new_weights else ""),
            ),
            ("device", f"{markup(facts.machine.device)}, {facts.machine.precision}"),
            (
                "search",
                f"{', '.join(spec.search_space)}\n"
                f"{spec.sampler.name} sampler, {spec.pruner.name} pruner, by {spec.metric}",
            ),
            (
                "budget",
                f"{count(self.total, 'trial')}{resumed} of {count(spec.training.num_train_epochs, 'epoch')}"
                f"{at_once}{limit}",
            ),
            ("output", f"{markup(str(self.output / spec.name))}  (MLflow: {markup(ui_command(self.output))})"),
        ]
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim")
        grid.add_column()
        for name, text in lines:
            grid.add_row(name, text)
        self._notice()
        self.console.print(grid)
        for note in [*facts.data.notes, *notes]:
            self.console.print(f"[dim]note[/]    {markup(note)}")
        self.console.print()

    @contextmanager
    def running(self, title: str, total: int, done: int) -> Iterator[OnEvent]:
        """The live bar, on a terminal; one line a trial everywhere."""
        progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        with progress:
            self.total, self.done, self.best = total, done, None if title == "finalists" else self.best
            bar = progress.add_task("", total=max(1, total), completed=done, left="")
            yield lambda event: self._on_event(event, progress, bar)

    def summary(self, outcome: Outcome) -> None:
        """The top five, what to open next, and the caveat."""
        view = view_of(outcome.study)
        table = view.table
        self.console.print()
        self.console.print(leaderboard_table(table, self.spec))
        counts = state_counts(table)
        ended = [f"{counts[state]} {word}" for state, word in WORDS.items() if state in counts]
        saved = pruning_savings(table).share_saved
        self.console.print(f"{', '.join(ended)}; pruning saved {saved:.0%} of the planned training steps.")
        if outcome.timed_out and self.done < self.total:
            self.console.print(
                f"The timeout of {format_seconds(self.spec.timeout or 0)} ended the search; the same command goes on."
            )
        if outcome.interrupted:
            self.console.print("Interrupted. The same command goes on from here.")
        best = outcome.best_yaml
        if best:
            self.console.print(against_default(view))
            self.console.print(
                "[dim]The best of several trials on the split that chose it is an optimistic number; "
                "the test split has not been read.[/]"
            )
        for note in outcome.notes:
            self.console.print(markup(note))
        self._notice()
        pointers = {
            "report": outcome.report.markdown,
            "best": best,
            "model": outcome.model,
            "train": f"python -m hpo.train --config {shell_word(str(best))}" if best else None,
            "compare": ui_command(self.output),
        }
        for name, text in pointers.items():
            if text is not None:
                self.console.print(f"[dim]{name:8}[/]{markup(str(text))}", soft_wrap=True)

    def _notice(self) -> None:
        if self.notice:
            self.console.print(f"[bold yellow]{markup(self.notice)}[/]")

    def _on_event(self, event: Event, progress: Progress, bar: TaskID) -> None:
        match event:
            case TrialStarted(number=number):
                self.running_trials[number] = _Running()
            case Waits():
                self._waits(event)
            case StepDone(number=number, step=step, num_training_steps=steps):
                trial = self.running_trials[number]
                trial.step, trial.num_training_steps = step, steps
            case Evaluated(number=number, score=score):
                self.running_trials[number].now = score
            case TrialEnded():
                self.running_trials.pop(event.number, None)
                self._trial_ended(event)
            case Note(text=text):
                self.console.print(f"[dim]note[/]    {markup(text)}")
        share = sum(trial.share for trial in self.running_trials.values())
        told = self._told()
        self.width = max(self.width, len(told))  # or the bar would jump whenever a number gets longer
        progress.update(
            bar, completed=self.done + share, description=told.ljust(self.width), left=self._time_left(share)
        )

    def _told(self) -> str:
        """What runs, how far it is, and its score beside the best one."""
        running = self.running_trials
        if len(running) == 1:
            ((number, trial),) = running.items()
            told = f"trial {number}" + (f" step {trial.step}/{trial.num_training_steps}" if trial.step else "")
        elif running:
            told = f"trials {', '.join(map(str, running))}"
        else:
            told = ""
        now = [trial.now for trial in running.values() if trial.now is not None]
        scores = {"now": (max if self.spec.direction == "maximize" else min)(now) if now else None, "best": self.best}
        return told + "".join(f" {name} {score:.4f}" for name, score in scores.items() if score is not None)

    def _trial_ended(self, event: TrialEnded) -> None:
        if not event.retried:
            self.done += 1
            self.seconds.append(event.seconds)
        better = event.state == "COMPLETE" and self._is_better(event.score)
        if better:
            self.best = event.score
        scores = {self.spec.metric: event.score, "eval/f1_macro": event.metrics.get("eval/f1_macro")}
        told = "  ".join(f"{name.removeprefix('eval/')} {score_text(score):>6}" for name, score in scores.items())
        why = f"{event.reason} at {event.share:.0%}" if event.reason else ""
        parts = f"{event.micro_batch_size} at once" if event.micro_batch_size else ""
        marks = [why, parts, "[bold]default[/]" if event.is_default else "", "[bold green]best[/]" if better else ""]
        kind = RETRIED if event.retried else event.state
        state = f"[{COLOURS[kind]}]{WORDS[kind]:8}[/]"
        took = format_seconds(event.seconds)
        name = event.label or f"trial {event.number:<3}"
        self.console.print(f"{name} {state}  {told}  {took:>5}  {' '.join(filter(None, marks))}")

    def _waits(self, event: Waits) -> None:
        """Once a trial, for one that waits for long is nothing to worry about."""
        trial = self.running_trials[event.number]
        if not trial.waits:
            trial.waits = True
            need, available = event.need_mib, event.available_mib
            why = "until the trials before it have taken their memory"
            if need is not None and need > available:
                why = f"for memory: it takes {need:,.0f} MiB, {available:,.0f} are free"
            self.console.print(f"[dim]trial {event.number:<3} waits     {why}[/]")

    def _is_better(self, score: float | None) -> bool:
        if score is None or self.best is None:
            return score is not None
        return score > self.best if self.spec.direction == "maximize" else score < self.best

    def _time_left(self, share: float = 0.0) -> str:
        """Of what is still to run, of which the running trials did their share, at the mean time of those before."""
        if not self.seconds:
            return ""
        left = (self.total - self.done - share) * sum(self.seconds) / len(self.seconds)
        left /= max(1, len(self.running_trials))
        return f"{format_seconds(left)} left"


def leaderboard_table(trials: pd.DataFrame, spec: StudySpec) -> Table:
    """The top five side by side, a line a parameter, so that they compare and fit into 80 columns."""
    top = leaderboard(trials, spec.metric, spec.direction, 5).to_dict("records")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("")
    for row in top:
        name = "default" if row["is_default"] else f"trial {row['number']}"
        table.add_column(name, justify="right", style="" if row["state"] == "COMPLETE" else "dim")
    for metric in dict.fromkeys([spec.metric.removeprefix("eval/"), "accuracy", "f1_macro"]):
        table.add_row(metric, *(f"[bold]{score_text(row[metric])}[/]" for row in top))
    for name in spec.search_space:
        values = [row[f"params.{name}"] for row in top]
        table.add_row(name, *("" if pd.isna(value) else markup(fold(short(value))) for value in values))
    if any(row["state"] != "COMPLETE" for row in top):
        table.add_row("state", *(WORDS.get(row["state"], "running") for row in top))
    return table


def fold(name: str, width: int = 11) -> str:
    """A long name in lines of at most `width` characters where its underscores allow it."""
    lines = [""]
    for part in re.findall(r"[^_]*_|[^_]+$", name):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def score_text(score: float | None) -> str:
    """Four digits, or a dash where there is no score."""
    return "-" if score is None or pd.isna(score) else f"{score:.4f}"


def short(value: object) -> str:
    """Three digits are enough to read: 2.35e-05, 0.15."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def ui_command(output: Path) -> str:
    """The command that opens MLflow over this output folder."""
    return f"python -m hpo.ui{output_option(output)}"


def parameters(count: int) -> str:
    """`22.7 M`, or `18,530` below a million."""
    return f"{count / 1e6:.1f} M" if count >= 1_000_000 else f"{count:,}"


def format_seconds(seconds: float) -> str:
    """`48s`, `3:05`, `1:02:03`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

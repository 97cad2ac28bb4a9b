"""What the terminal shows of a study: a header, a live bar, a line a trial, the leaderboard. Plain lines in a pipe."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from hpo.events import Evaluated, Event, OnEvent, StepDone, TrialEnded, TrialStarted
from hpo.report import leaderboard, pruning_savings, trials_table
from hpo.spec import StudySpec
from hpo.study import INTERRUPTED
from hpo.tune import Outcome, StudyFacts

WORDS = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
COLOURS = {"COMPLETE": "green", "PRUNED": "yellow", "FAIL": "red"}


class StudyConsole:
    """Shows one call of `tune`."""

    def __init__(self, spec: StudySpec, output: Path, notice: str | None, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=False)
        self.spec, self.output, self.notice = spec, output, notice
        self.total = self.done = 0
        self.now: float | None = None
        self.best: float | None = None
        self.seconds: list[float] = []

    def header(self, spec: StudySpec, facts: StudyFacts, done: int, total: int, notes: list[str]) -> None:
        """Study, data, model, device, budget, and where to look."""
        self.done, self.total = done, total
        rows, labels = facts.data.rows, ", ".join(facts.data.labels)
        limit = f", at most {format_seconds(spec.timeout)}" if spec.timeout else ""
        resumed = f" ({done} done)" if done else ""
        lines = [
            ("study", f"[bold]{escape(spec.name)}[/]  {escape(spec.description)}"),
            (
                "data",
                f"{escape(spec.data.train.source)}\n{rows['train']:,} train, {rows['validation']:,} validation, "
                f"{rows['test']:,} test rows (held back); labels: {escape(labels)}",
            ),
            ("model", f"{escape(facts.model.name)}, {facts.model.num_parameters / 1e6:.1f} M parameters"),
            ("device", f"{escape(facts.machine.device)}, {facts.machine.precision}"),
            (
                "search",
                f"{', '.join(spec.search_space)}\n"
                f"{spec.sampler.name} sampler, {spec.pruner.name} pruner, by {spec.metric}",
            ),
            ("budget", f"{total} trials{resumed} of {spec.training.num_train_epochs:g} epochs{limit}"),
            ("output", f"{escape(str(self.output / spec.name))}  (MLflow: {escape(ui_command(self.output))})"),
        ]
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim")
        grid.add_column()
        for name, text in lines:
            grid.add_row(name, text)
        self._notice()
        self.console.print(grid)
        truncated = [f"{count:,} of {name}" for name, count in facts.data.truncated.items() if count]
        if truncated:
            length = spec.training.max_length
            notes = [*notes, f"Truncated to {length} tokens: {' and '.join(truncated)}."]
        for note in [*facts.data.notes, *notes]:
            self.console.print(f"[dim]note[/]    {escape(note)}")
        self.console.print()

    @contextmanager
    def running(self) -> Iterator[OnEvent]:
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
            bar = progress.add_task("", total=max(1, self.total), completed=self.done, left="")
            yield lambda event: self._on_event(event, progress, bar)

    def summary(self, outcome: Outcome) -> None:
        """The top five, what to open next, and the caveat."""
        table = trials_table(outcome.study)
        self.console.print()
        self.console.print(leaderboard_table(table, self.spec))
        counts = table["state"].value_counts()
        ended = [f"{counts[state]} {word}" for state, word in WORDS.items() if state in counts]
        saved = pruning_savings(table).share_saved
        self.console.print(f"{', '.join(ended)}; pruning saved {saved:.0%} of the planned training steps.")
        if outcome.timed_out and self.done < self.total:
            self.console.print(
                f"The timeout of {format_seconds(self.spec.timeout or 0)} ended the search; the same command goes on."
            )
        self.console.print(
            "[dim]The best of several trials on the split that chose it is an optimistic number; "
            "the test split has not been read.[/]"
        )
        self._notice()
        best = outcome.best_yaml
        pointers = {
            "report": outcome.report.markdown,
            "best": best,
            "train": f"python -m hpo.train --config {shlex.quote(str(best))}" if best else None,
            "compare": ui_command(self.output),
        }
        for name, text in pointers.items():
            if text is not None:
                self.console.print(f"[dim]{name:8}[/]{escape(str(text))}", soft_wrap=True)

    def _notice(self) -> None:
        if self.notice:
            self.console.print(f"[bold yellow]{escape(self.notice)}[/]")

    def _on_event(self, event: Event, progress: Progress, bar: TaskID) -> None:
        match event:
            case TrialStarted(number=number):
                self.now = None
                progress.update(bar, description=f"trial {number}", left=self._time_left())
            case StepDone(number=number, step=step, num_training_steps=steps):
                scores = {"now": self.now, "best": self.best}
                told = "".join(f" {name} {score:.4f}" for name, score in scores.items() if score is not None)
                progress.update(
                    bar, completed=self.done + step / steps, description=f"trial {number} step {step}/{steps}{told}"
                )
            case Evaluated(score=score):
                self.now = score
            case TrialEnded():
                self._trial_ended(event)
                progress.update(bar, completed=self.done, left=self._time_left())

    def _trial_ended(self, event: TrialEnded) -> None:
        if event.reason != INTERRUPTED:
            self.done += 1
            self.seconds.append(event.seconds)
        better = event.state == "COMPLETE" and self._is_better(event.score)
        if better:
            self.best = event.score
        scores = {self.spec.metric: event.score, "eval/f1_macro": event.metrics.get("eval/f1_macro")}
        told = "  ".join(
            f"{name.removeprefix('eval/')} {'   -  ' if score is None else f'{score:.4f}'}"
            for name, score in scores.items()
        )
        why = f"{event.reason} at {event.share:.0%}" if event.reason else ""
        marks = [why, "[bold]default[/]" if event.is_default else "", "[bold green]best[/]" if better else ""]
        state = f"[{COLOURS[event.state]}]{WORDS[event.state]:8}[/]"
        took = format_seconds(event.seconds)
        self.console.print(f"trial {event.number:<3} {state}  {told}  {took:>5}  {' '.join(filter(None, marks))}")

    def _is_better(self, score: float | None) -> bool:
        if score is None or self.best is None:
            return score is not None
        return score > self.best if self.spec.direction == "maximize" else score < self.best

    def _time_left(self) -> str:
        if not self.seconds:
            return ""
        left = (self.total - self.done) * sum(self.seconds) / len(self.seconds)
        return f"{format_seconds(left)} left"


def leaderboard_table(trials: pd.DataFrame, spec: StudySpec) -> Table:
    """The top five; what each drew stands in one column, so that it fits into 80."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=False)
    metric = spec.metric.removeprefix("eval/")
    scores = list(dict.fromkeys([metric, "accuracy", "f1_macro"]))
    for name in ("trial", *scores):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("drawn")
    for row in leaderboard(trials, spec.metric, spec.direction, 5).to_dict("records"):
        number = f"{row['number']} [dim]default[/]" if row["is_default"] else str(row["number"])
        drawn = [
            f"{name} [bold]{escape(short(row[f'params.{name}']))}[/]"
            for name in spec.search_space
            if pd.notna(row[f"params.{name}"])
        ]
        style = "" if row["state"] == "COMPLETE" else "dim"
        table.add_row(number, *(f"{row[name]:.4f}" for name in scores), ", ".join(drawn), style=style)
    return table


def short(value: object) -> str:
    """Three digits are enough to read: 2.35e-05, 0.15."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def ui_command(output: Path) -> str:
    """The command that opens MLflow over this output folder."""
    return "python -m hpo.ui" + ("" if output == Path("mlruns") else f" --output {shlex.quote(str(output))}")


def format_seconds(seconds: float) -> str:
    """`48s`, `3:05`, `1:02:03`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

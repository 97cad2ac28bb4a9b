"""What the terminal shows of a study: a header, a live view, a line a trial, the leaderboard. Plain lines in a pipe."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import optuna
import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from hpo.events import Event, Note, OnEvent, TrialEnded, TrialStarted, Waits, name_of
from hpo.facts import StudyFacts
from hpo.live import Ongoing, Status, format_seconds, score_text, standard_output
from hpo.output import output_option
from hpo.plain_text import markup, shell_word
from hpo.progress import StudyProgress, pruning_of
from hpo.report import leaderboard, parts, pruning_savings
from hpo.report.answers import answer
from hpo.report.formats import count
from hpo.report.tables import RETRIED, state_counts, view_of
from hpo.search_view import NAME_WIDTH, STOPPED, WORDS, colour, drawn, told, why
from hpo.spec import StudySpec
from hpo.study import remaining_trials, total_trials
from hpo.tasks import TASKS
from hpo.tune import Outcome


class StudyConsole:
    """Shows one call of `tune`."""

    def __init__(
        self,
        spec: StudySpec,
        output: Path,
        notice: str | None,
        console: Console | None = None,
        *,
        workers: int = 1,
        status: Status | None = None,
    ) -> None:
        """
        Args:
            status: what has been shown so far, on the same console, and ends when there is more to show.
        """
        self.console = console or standard_output()
        self.workers = workers
        self.spec, self.output, self.notice = spec, output, notice
        self._status = status or Status(self.console)
        self._waiting: set[int] = set()
        """Trials that have said that they wait for memory."""
        self.search = StudyProgress(
            total_trials(spec), spec.direction, workers=workers, timeout=spec.timeout, pruning=pruning_of(spec)
        )

    def status(self, text: str) -> None:
        """Says what is being done, such as `reading data and models`, until something else is shown."""
        self._status.tell(text)

    def header(self, study: optuna.Study, facts: StudyFacts, notes: list[str]) -> None:
        """Study, data, model, device, budget, and where to look."""
        self._status.close()
        spec, search = self.spec, self.search
        search.done = search.total - remaining_trials(study, spec)
        search.know(study)
        rows, labels = facts.data.rows, ", ".join(facts.data.labels)
        trained = facts.model.num_trained_parameters
        limit = f", at most {format_seconds(spec.timeout)}" if spec.timeout else ""
        resumed = f" ({search.done} done)" if search.done else ""
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
                + (f", {parameters(trained)} trained" if trained and trained != facts.model.num_parameters else "")
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
                f"{count(search.total, 'trial')}{resumed} of {count(spec.training.num_train_epochs, 'epoch')}"
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
    def running(
        self, title: str = "search", total: int | None = None, done: int = 0, timeout: float | None = None
    ) -> Iterator[OnEvent]:
        """The live view, on a terminal; one line a trial everywhere, and in a log how far it is now and then.

        Args:
            total: of trials in a series of its own, such as the finalists, whose numbers and scores have nothing to do
                with those of the search; default: the search.
            done: those of them that have ended before.
            timeout: seconds after which no further one of them starts.
        """
        self._status.close()
        progress = self.search if total is None else self._series(title, total, done, timeout)
        progress.begin()
        ongoing = Ongoing(self.console, lambda: drawn(progress), lambda: told(progress, self.console.width))
        with ongoing:
            yield lambda event: self._on_event(event, progress, ongoing)

    def _series(self, title: str, total: int, done: int, timeout: float | None) -> StudyProgress:
        self._waiting.clear()
        whole = [cost for cost in self.search.costs if cost.share == 1]
        return StudyProgress(
            total,
            self.spec.direction,
            title=title,
            workers=self.workers,
            done=done,
            timeout=timeout,
            earlier=whole,
        )

    def summary(self, outcome: Outcome) -> None:
        """The top five, what to open next, and the caveat."""
        self._status.close()
        view = view_of(outcome.study)
        table = view.table
        self.console.print()
        self.console.print(leaderboard_table(table, self.spec))
        counts = state_counts(table)
        words = {**WORDS, RETRIED: STOPPED}
        ended = [f"{counts[state]} {word}" for state, word in words.items() if state in counts]
        saved = pruning_savings(table).share_saved
        self.console.print(f"{', '.join(ended)}; pruning saved {saved:.0%} of the planned training steps.")
        if outcome.timed_out and self.search.done < self.search.total:
            self.console.print(
                f"The timeout of {format_seconds(self.spec.timeout or 0)} ended the search; the same command goes on."
            )
            if outcome.finals and outcome.finals.reading:
                self.console.print(
                    "The test split has been read: for another winner it is read again with --read-test-again only."
                )
        if outcome.interrupted:
            self.console.print("Interrupted. The same command goes on from here.")
        for note in outcome.notes:
            self.console.print(f"[dim]note[/]    {markup(note)}")
        best, found = outcome.best_yaml, answer(view)
        self.console.print()
        self.console.print(f"[bold]{markup(' '.join(found.headline))}[/]")
        for sentence in found.beside:
            self.console.print(f"[dim]{markup(sentence)}[/]")
        self.console.print()
        self._notice()
        pointers = {
            "report": outcome.report.page,
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

    def _on_event(self, event: Event, progress: StudyProgress, ongoing: Ongoing) -> None:
        best = progress.take(event)  # and prints later: who draws holds the console, and waits for what is taken here
        match event:
            case TrialStarted():
                self._waiting.discard(event.number)
            case Waits():
                self._waits(event, progress, ongoing)
            case TrialEnded():
                ongoing.print(self._trial_ended(event, best))
            case Note(text=text):
                ongoing.print(f"[dim]note[/]    {markup(text)}")

    def _trial_ended(self, event: TrialEnded, best: bool) -> str:
        scores = {self.spec.metric: event.score}
        if event.label is None:  # which takes the room
            beside = f"eval/{TASKS[self.spec.task].shown[1]}"
            scores |= {beside: event.metrics.get(beside)}
        told = "  ".join(f"{name.removeprefix('eval/')} {score_text(score):>6}" for name, score in scores.items())
        parts = f"{event.micro_batch_size} at once" if event.micro_batch_size else ""
        default = "[bold]default[/]" if event.is_default else ""
        marks = [why(event), parts, default, "[bold green]best[/]" if best else ""]
        state = f"[{colour(event)}]{STOPPED if event.retried else WORDS[event.state]:8}[/]"
        took = format_seconds(event.seconds)
        line = f"{markup(name_of(event)):<{NAME_WIDTH}} {state}  {told}  {took:>5}  {' '.join(filter(None, marks))}"
        return line.rstrip()

    def _waits(self, event: Waits, progress: StudyProgress, ongoing: Ongoing) -> None:
        """Once a trial, for one that waits for long is nothing to worry about."""
        trial = progress.running.get(event.number)
        if trial and event.number not in self._waiting:
            self._waiting.add(event.number)
            need, available = event.need_mib, event.available_mib
            why = "until the trials before it have taken their memory"
            if need is not None and need > available:
                why = f"for memory: it takes {need:,.0f} MiB, {available:,.0f} are free"
            ongoing.print(f"{markup(trial.name):<{NAME_WIDTH}} waits     [dim]{why}[/]")


def leaderboard_table(trials: pd.DataFrame, spec: StudySpec) -> Table:
    """The top five side by side, a line a parameter, so that they compare and fit into 80 columns."""
    top = leaderboard(trials, spec.metric, spec.direction, 5).to_dict("records")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("")
    for row in top:
        name = "default" if row["is_default"] else f"trial {row['number']}"
        table.add_column(name, justify="right", style="" if row["state"] == "COMPLETE" else "dim")
    for metric in dict.fromkeys([spec.metric.removeprefix("eval/"), *TASKS[spec.task].shown]):
        table.add_row(metric, *(f"[bold]{score_text(row[metric])}[/]" for row in top))
    for name in spec.search_space:
        values = [row[f"params.{name}"] for row in top]
        table.add_row(name, *("" if pd.isna(value) else markup(fold(short(value))) for value in values))
    if any(row["state"] != "COMPLETE" for row in top):
        table.add_row("state", *(STOPPED if row["retried"] else WORDS.get(row["state"], "running") for row in top))
    return table


def printed(table: parts.Table, columns: Sequence[int] | None = None) -> Table:
    """A table of a report for the terminal.

    Args:
        columns: those to show; None shows all.
    """
    kept = range(len(table.header)) if columns is None else columns
    found = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for at in kept:
        found.add_column(markup(table.header[at]), justify="left" if at < table.words else "right")
    for row in table.rows:
        found.add_row(*(markup(row[at]) for at in kept))
    return found


def fold(name: str, width: int = 11) -> str:
    """A long name in lines of at most `width` characters where its underscores allow it."""
    lines = [""]
    for part in re.findall(r"[^_]*_|[^_]+$", name):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def short(value: object) -> str:
    """Three digits are enough to read: 2.35e-05, 0.15."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def ui_command(output: Path) -> str:
    """The command that opens MLflow over this output folder."""
    return f"python -m hpo.ui{output_option(output)}"


def parameters(count: int) -> str:
    """`22.7 M`, or `18,530` below a million."""
    return f"{count / 1e6:.1f} M" if count >= 1_000_000 else f"{count:,}"

"""The live view of a search: how far it is, a row a running trial, the best and the last. Lines of it for a log."""

from typing import Literal

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hpo.events import TrialEnded, name_of
from hpo.live import format_seconds, score_text
from hpo.plain_text import markup, printable
from hpo.progress import Running, Standing, StudyProgress

# As wide as `trial 123`.
NAME_WIDTH = 9
# Rows of running trials; a terminal has some twenty lines, and the trials that ended are above.
MOST_ROWS = 8
WORDS = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
COLOURS = {"COMPLETE": "green", "PRUNED": "yellow", "FAIL": "red"}
STOPPED = "stopped"
LEFT: Literal["left"] = "left"
RIGHT: Literal["right"] = "right"


def drawn(progress: StudyProgress) -> RenderableType:
    """For a terminal of at least 80 columns: no colour says what no word does."""
    with progress.lock:
        parts: list[RenderableType] = [Text(), _rows(progress)]
        if (more := len(progress.running) - MOST_ROWS) > 0:
            parts.append(Text(f"and {more} more running", style="dim"))
        if not progress.running and progress.done < progress.total:
            parts.append(Text("no trial runs yet" if progress.last is None else "between two trials", style="dim"))
        parts += _best_and_last(progress)
    return Group(*parts)


def _rows(progress: StudyProgress) -> Table:
    """The search as a whole, and below it its running trials."""
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(no_wrap=True, min_width=NAME_WIDTH)
    grid.add_column(ratio=1, min_width=4)
    for justify in RIGHT, RIGHT, LEFT:
        grid.add_column(no_wrap=True, justify=justify)
    times = [f"{format_seconds(progress.elapsed)} so far", _left(progress)]
    grid.add_row(
        Text(printable(progress.title), style="bold"),
        ProgressBar(total=1.0, completed=progress.share, complete_style="cyan", finished_style="cyan"),
        Text(f"{progress.done}/{progress.total}"),
        Text(f"{progress.share:.0%}"),
        Text(", ".join(filter(None, times))),
    )
    for trial in list(progress.running.values())[:MOST_ROWS]:
        trains = trial.num_training_steps > 0
        grid.add_row(
            Text(printable(trial.name)),
            ProgressBar(total=1.0, completed=trial.share, complete_style="blue", finished_style="blue"),
            Text(_steps(trial) if trains else ""),
            Text(f"{trial.share:.0%}" if trains else ""),
            _score(progress.standing(trial), trial),
        )
    return grid


def _left(progress: StudyProgress) -> str:
    left = progress.seconds_left()
    return "" if left is None else f"about {format_seconds(left)} left"


def _steps(trial: Running) -> str:
    return f"{trial.step}/{trial.num_training_steps}"


def _score(standing: Standing | None, trial: Running) -> Text:
    if not trial.num_training_steps:
        return Text("waits for memory" if trial.waits else "loads", style="dim")
    if standing is None:
        return Text("not scored yet", style="dim")
    return Text(
        standing_text(standing), style="" if standing.median is None else "green" if standing.better else "yellow"
    )


def standing_text(standing: Standing) -> str:
    """`0.8120 (median 0.8050, above)`."""
    if standing.median is None:
        return score_text(standing.score)
    return f"{score_text(standing.score)} (median {score_text(standing.median)}, {standing.place})"


def _best_and_last(progress: StudyProgress) -> list[RenderableType]:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=NAME_WIDTH)
    if progress.best:
        name, score = progress.best
        grid.add_row(Text("best", style="dim"), Text(f"{name}  {score_text(score)}"))
    if progress.last:
        last = progress.last
        word = STOPPED if last.retried else WORDS[last.state]
        told = Text.assemble(
            f"{printable(name_of(last))}  ", (word, colour(last)), f"  {score_text(last.score)}  {why(last)}"
        )
        grid.add_row(Text("last", style="dim"), told)
    return [grid] if grid.row_count else []


def colour(event: TrialEnded) -> str:
    """Of the word for how a trial ended."""
    return "dim" if event.retried else COLOURS[event.state]


def why(event: TrialEnded) -> str:
    """`fell behind at 25%`; nothing of a complete trial."""
    return f"{event.reason} at {event.share:.0%}" if event.reason else ""


def told(progress: StudyProgress, width: int) -> str:
    """Two lines for a log, in rich's markup: how far the search is, and what runs."""
    with progress.lock:
        best = f"best {score_text(progress.best[1])}" if progress.best else ""
        ended = f"{progress.done} of {progress.total} trials, {progress.share:.0%}"
        parts = [ended, f"{format_seconds(progress.elapsed)} so far", _left(progress), best]
        lines = [f"{progress.title:<{NAME_WIDTH}} {', '.join(filter(None, parts))}"]
        running = list(progress.running.values())
        if len(running) == 1:
            lines.append(f"{'running':<{NAME_WIDTH}} {_alone(progress, running[0])}")
        elif running:
            texts = [_beside_others(progress, trial) for trial in running]
            lines.append(f"{'running':<{NAME_WIDTH}} {_as_many_as_fit(texts, width - NAME_WIDTH - 1)}")
    return "\n".join(f"[dim]{markup(line)}[/]" for line in lines)


def _alone(progress: StudyProgress, trial: Running) -> str:
    steps = f" step {_steps(trial)}," if trial.num_training_steps else ""
    return f"{trial.name}{steps} {_score(progress.standing(trial), trial).plain}"


def _beside_others(progress: StudyProgress, trial: Running) -> str:
    standing = progress.standing(trial)
    if not trial.num_training_steps or standing is None:
        return f"{trial.name} {trial.share:.0%}"
    return f"{trial.name} {trial.share:.0%} {score_text(standing.score)} {standing.place}".rstrip()


def _as_many_as_fit(texts: list[str], width: int) -> str:
    """All of them, or the first ones and how many more there are."""
    for shown in range(len(texts), 0, -1):
        more = [f"{len(texts) - shown} more"] if shown < len(texts) else []
        if len(line := ", ".join([*texts[:shown], *more])) <= width:
            return line
    return f"{len(texts)} trials"

"""Which study runs: the one asked for, or its declared stand-in when the Hub is out of reach."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from hpo.errors import DataError
from hpo.hub import endpoint, go_offline, hub_references, is_cached, is_reachable
from hpo.spec import StudySpec
from hpo.study_file import read_study

FallbackMode = Literal["auto", "always", "never"]
FALLBACK_MODES: tuple[FallbackMode, ...] = ("auto", "always", "never")


def choose_study(
    path: Path, overrides: Sequence[str] = (), fallback: FallbackMode = "auto"
) -> tuple[StudySpec, str | None]:
    """The study to run, and what the user must be told about it.

    Raises:
        SpecError: the study file has mistakes.
        DataError: the Hub is needed, cannot be reached and has nothing cached, and no fallback may stand in.
    """
    spec = read_study(path, overrides)
    if fallback == "always":
        stand_in = read_study(path, overrides, fallback=True)
        return stand_in, f"FALLBACK: `{stand_in.name}` runs instead of `{spec.name}`, as asked."
    references = hub_references(spec)
    if not references or is_reachable():
        return spec, None
    go_offline()
    missing = [reference.name for reference in references if not is_cached(reference)]
    if not missing:
        return spec, f"The Hub ({endpoint()}) cannot be reached; its cached files serve."
    unreachable = f"the Hub ({endpoint()}) cannot be reached and {', '.join(missing)} is not cached"
    if spec.fallback is None or fallback == "never":
        why = "it has no `fallback:`" if spec.fallback is None else "--fallback never forbids its stand-in"
        raise DataError(
            f"the study `{spec.name}` needs the Hub, but {unreachable}, and {why}. Connect, or set "
            "data.train and model.name to files with --set."
        )
    stand_in = read_study(path, overrides, fallback=True)
    return stand_in, f"FALLBACK: `{stand_in.name}` runs instead of `{spec.name}`: {unreachable}."

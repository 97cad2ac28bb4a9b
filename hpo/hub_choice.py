"""Which study runs: the one asked for, or its declared stand-in when the Hub is out of reach."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from hpo.errors import DataError
from hpo.hub import hub_references, require_local, settle
from hpo.spec import StudySpec
from hpo.study_file import OWN_SECTIONS, read_study, section_of

FallbackMode = Literal["auto", "always", "never"]
FALLBACK_MODES: tuple[FallbackMode, ...] = ("auto", "always", "never")


def choose_study(
    path: Path, overrides: Sequence[str] = (), fallback: FallbackMode = "auto"
) -> tuple[StudySpec, str | None]:
    """The study to run, and what the user must be told about it.

    Raises:
        SpecError: the study file has mistakes.
        DataError: a file, folder or package is not there; or the Hub is needed, cannot be reached and has nothing
            cached, and no fallback may stand in.
    """
    spec = read_study(path, overrides)
    if fallback == "always":
        stand_in = _stand_in(path, overrides)
        settle(hub_references(stand_in))
        return stand_in, f"FALLBACK: `{stand_in.name}` runs instead of `{spec.name}`, as asked."
    require_local(spec)
    hub = settle(hub_references(spec))
    if not hub.missing:
        return spec, hub.notice
    if spec.fallback is None or fallback == "never":
        why = "it has no `fallback:`" if spec.fallback is None else "--fallback never forbids its stand-in"
        raise DataError(
            f"the study `{spec.name}` needs the Hub, but {hub.notice}, and {why}. Connect, or set what is not cached "
            "(data.train, data.test, model.name) to files with --set."
        )
    stand_in = _stand_in(path, overrides)
    return stand_in, f"FALLBACK: `{stand_in.name}` runs instead of `{spec.name}`: {hub.notice}."


def _stand_in(path: Path, overrides: Sequence[str]) -> StudySpec:
    """The fallback study, unless the user chose data or a model that it would put others in the place of."""
    chosen = [text for text in overrides if section_of(text) in OWN_SECTIONS]
    if chosen:
        raise DataError(
            f"a fallback brings its own data and model, but got --set {' '.join(chosen)}. Set all that the study takes "
            "from the Hub (data.train, data.test, model.name) to files, leave those --set out, or set the stand-in's "
            f"own: --set fallback.{chosen[0]}."
        )
    stand_in = read_study(path, overrides, fallback=True)
    require_local(stand_in)
    return stand_in

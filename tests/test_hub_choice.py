"""Which study runs: every combination of what is asked for, what is declared, and what can be had."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from hpo.errors import DataError, SpecError
from hpo.hub import HubReference
from hpo.hub_choice import choose_study

DATA, MODEL = "acme/reviews", "acme/tiny-bert"
FALLBACK = {"data": {"train": "./local.csv"}, "model": {"name": "./model"}, "n_trials": 2}
World = Callable[..., list[str]]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """Sets whether the Hub is there and what is cached; the list it returns fills with what was done about it."""

    def make(*, reachable: bool, cached: tuple[str, ...] = (), switched_off: bool = False) -> list[str]:
        done: list[str] = []

        def is_reachable() -> bool:
            done.append("asked")
            return reachable

        def is_cached(reference: HubReference) -> bool:
            assert "offline" in done, "is_cached must follow go_offline"
            return reference.name in cached

        monkeypatch.setenv("HF_ENDPOINT", "http://hub.example")
        monkeypatch.setattr("hpo.hub.is_reachable", is_reachable)
        monkeypatch.setattr("hpo.hub.is_switched_off", lambda: switched_off)
        monkeypatch.setattr("hpo.hub.go_offline", lambda: done.append("offline"))
        monkeypatch.setattr("hpo.hub.is_cached", is_cached)
        return done

    return make


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the studies here name is there."""
    monkeypatch.chdir(tmp_path)
    for name in ("local.csv", "a.csv"):
        Path(name).touch()
    Path("model").mkdir()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def make(**sections: Any) -> Path:
        study = {
            "name": "reviews",
            "data": {"train": DATA},
            "model": {"name": MODEL},
            "search_space": {"learning_rate": {"low": 1e-5, "high": 1e-3}},
            "fallback": FALLBACK,
        }
        path = tmp_path / "reviews.yaml"
        path.write_text(yaml.safe_dump(study | sections), encoding="utf-8")
        return path

    return make


def test_a_study_on_files_asks_nothing(world: World, write: Callable[..., Path]) -> None:
    done = world(reachable=False)
    spec, notice = choose_study(write(data={"train": "./a.csv"}, model={"name": "./model"}))
    assert (spec.name, notice, done) == ("reviews", None, [])


@pytest.mark.parametrize("mode", ["auto", "never"])
def test_with_the_hub_the_study_itself_runs(world: World, write: Callable[..., Path], mode: Any) -> None:
    done = world(reachable=True)
    spec, notice = choose_study(write(), fallback=mode)
    assert (spec.name, spec.fallback_for, notice, done) == ("reviews", None, None, ["asked"])


@pytest.mark.parametrize("mode", ["auto", "never"])
def test_without_the_hub_the_cache_serves(world: World, write: Callable[..., Path], mode: Any) -> None:
    world(reachable=False, cached=(DATA, MODEL))
    spec, notice = choose_study(write(), fallback=mode)
    assert spec.name == "reviews"
    assert notice == "The Hub (http://hub.example) cannot be reached; its cached files serve."


def test_a_hub_that_the_user_switched_off_is_called_that(world: World, write: Callable[..., Path]) -> None:
    world(reachable=False, cached=(DATA, MODEL), switched_off=True)
    _, notice = choose_study(write())
    assert notice == "The Hub (http://hub.example) is switched off (HF_HUB_OFFLINE); its cached files serve."


@pytest.mark.parametrize(("cached", "missing"), [((), f"{MODEL}, {DATA}"), ((MODEL,), DATA), ((DATA,), MODEL)])
def test_an_incomplete_cache_runs_the_fallback(
    world: World, write: Callable[..., Path], cached: tuple[str, ...], missing: str
) -> None:
    world(reachable=False, cached=cached)
    spec, notice = choose_study(write(), ["seed=7"])
    assert (spec.name, spec.fallback_for, spec.n_trials, spec.seed) == ("reviews-fallback", "reviews", 2, 7)
    assert notice == (
        "FALLBACK: `reviews-fallback` runs instead of `reviews`: the Hub (http://hub.example) cannot be reached "
        f"and {missing} {'are' if ',' in missing else 'is'} not cached."
    )


@pytest.mark.parametrize(
    ("sections", "mode", "why"),
    [({}, "never", "--fallback never forbids"), ({"fallback": None}, "auto", "it has no `fallback:`")],
)
def test_without_hub_cache_and_fallback_nothing_runs(
    world: World, write: Callable[..., Path], sections: dict[str, Any], mode: Any, why: str
) -> None:
    world(reachable=False, cached=(MODEL,))
    with pytest.raises(DataError, match=f"needs the Hub.*{DATA} is not cached, and {why}.*Connect, or set"):
        choose_study(write(**sections), fallback=mode)


def test_a_fallback_can_be_forced(world: World, write: Callable[..., Path]) -> None:
    done = world(reachable=True)
    spec, notice = choose_study(write(), ["name=mine"], "always")
    assert (spec.name, spec.fallback_for, done) == ("mine-fallback", "mine", [])
    assert notice == "FALLBACK: `mine-fallback` runs instead of `mine`, as asked."


def test_a_forced_fallback_that_needs_the_hub_does_not_wait_for_it(world: World, write: Callable[..., Path]) -> None:
    done = world(reachable=False)
    choose_study(write(), [f"fallback.model.name={MODEL}"], "always")
    assert done == ["asked", "offline"]


def test_no_stand_in_for_data_or_a_model_that_the_user_chose(world: World, write: Callable[..., Path]) -> None:
    world(reachable=False, cached=())
    with pytest.raises(DataError, match=r"--set fallback\.data\.max_rows=9"):
        choose_study(write(), ["data.max_rows=9"])


def test_a_fallback_that_is_not_declared_cannot_be_forced(world: World, write: Callable[..., Path]) -> None:
    world(reachable=True)
    with pytest.raises(SpecError, match="needs a study with a `fallback:` section"):
        choose_study(write(fallback=None), fallback="always")


def test_a_mistake_in_the_fallback_shows_while_the_hub_is_there(world: World, write: Callable[..., Path]) -> None:
    done = world(reachable=True)
    with pytest.raises(SpecError, match="n_trials"):
        choose_study(write(fallback={**FALLBACK, "n_trials": 0}))
    assert done == []


def test_a_reference_that_is_none_is_told_before_the_hub_is_asked(world: World, write: Callable[..., Path]) -> None:
    done = world(reachable=True)
    with pytest.raises(DataError, match="must be a Hub id, a path or package"):
        choose_study(write(model={"name": "not a name"}))
    assert done == []

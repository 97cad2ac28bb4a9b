"""Is the Hub there? Found out once, in at most three seconds, before any library retries for half a minute."""

import http.client
import json
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hpo.errors import DataError
from hpo.model_folder import teacher_folder
from hpo.references import local_path, parse_reference
from hpo.spec import StudySpec, TrialConfig

DEFAULT_ENDPOINT = "https://huggingface.co"
# Either one takes the Hub's libraries offline, in the words that `huggingface_hub` takes for a yes.
OFFLINE_SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
PROBE_SECONDS = 2.5
# A model is cached when one file of each line is.
MODEL_FILES = (
    ("config.json",),
    ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"),
    ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model"),
)


@dataclass(frozen=True)
class HubReference:
    """Something of the Hub that a study needs."""

    kind: Literal["model", "dataset"]
    name: str
    revision: str | None = None
    subset: str | None = None


@dataclass(frozen=True)
class HubState:
    """Whether the Hub serves, and if not, what of it is there all the same."""

    notice: str | None
    """What the user must be told; None where the Hub answers or is not needed."""
    missing: tuple[str, ...] = ()
    """What is needed, and in no cache."""


def require_local(spec: StudySpec) -> None:
    """Raises `DataError` with every file, folder and package that a study names and that is not there."""
    named = [(f"data.{name}", source.source) for name, source in spec.data.all_sources.items()]
    named += [("model.name", model.name) for model in spec.models]
    missing = []
    for text in dict.fromkeys(spec.teachers):
        try:
            teacher_folder(text)
        except DataError as error:
            missing.append(f"teachers: {error}")
    for key, text in dict.fromkeys(named):
        try:
            local_path(text)
        except DataError as error:
            missing.append(f"{key}: {error}")
    if missing:
        raise DataError("\n".join(missing))


def hub_references(spec: StudySpec | TrialConfig) -> list[HubReference]:
    """Everything that a study, or one trial, takes from the Hub."""
    references = [
        *(HubReference("model", model.name, model.revision) for model in spec.models),
        *(
            HubReference("dataset", source.source, source.revision, source.subset)
            for source in spec.data.all_sources.values()
        ),
    ]
    return [reference for reference in dict.fromkeys(references) if parse_reference(reference.name).kind == "hub"]


def settle(references: Sequence[HubReference]) -> HubState:
    """Finds out whether what is needed can be had, and goes offline if it must come from the cache."""
    if not references or is_reachable():
        return HubState(None)
    state = "is switched off (HF_HUB_OFFLINE)" if is_switched_off() else "cannot be reached"
    go_offline()
    missing = tuple(reference.name for reference in references if not is_cached(reference))
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        return HubState(f"the Hub ({shown_endpoint()}) {state} and {', '.join(missing)} {verb} not cached", missing)
    return HubState(f"The Hub ({shown_endpoint()}) {state}; its cached files serve.")


def endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", DEFAULT_ENDPOINT).rstrip("/")


def shown_endpoint() -> str:
    """The address without a name and password in it, to be told."""
    scheme, separator, rest = endpoint().rpartition("://")
    host, *path = rest.split("/")
    return scheme + separator + "/".join([host.rpartition("@")[2], *path])


def is_switched_off() -> bool:
    """Whether the user's environment forbids to ask the Hub."""
    return any(os.environ.get(name, "").lower() in {"1", "true", "yes", "on"} for name in OFFLINE_SWITCHES)


def is_reachable() -> bool:
    """Whether the Hub answers within `PROBE_SECONDS`; no when it is switched off."""
    if is_switched_off():
        return False
    answers: list[int] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(endpoint(), method="HEAD")
            with _opener().open(request, timeout=PROBE_SECONDS) as response:
                answers.append(response.status)
        except urllib.error.HTTPError as error:
            with error:
                answers.append(error.code)
        except (OSError, ValueError, http.client.HTTPException):  # no answer, no address, no HTTP
            pass

    # A thread, for the system's name look-up knows no timeout.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS + 0.3)
    # A proxy that refuses answers 403 or 407; a Hub in trouble 5xx.
    return bool(answers) and answers[0] < 500 and answers[0] not in (403, 407)


def _opener() -> urllib.request.OpenerDirector:
    """With the user's proxies as the Hub's libraries take them: urllib itself knows nothing of ALL_PROXY."""
    proxies = urllib.request.getproxies()
    default = {scheme: proxies["all"] for scheme in ("http", "https") if "all" in proxies}
    return urllib.request.build_opener(urllib.request.ProxyHandler(default | proxies))


def go_offline() -> None:
    """From here on the Hub's libraries use their cache only. They read this when they are first imported."""
    # `datasets` would rather listen to a switch of its own.
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


def is_cached(reference: HubReference) -> bool:
    """Whether an earlier download serves without the Hub. Call after `go_offline`."""
    if reference.kind == "dataset":
        from datasets import load_dataset_builder

        try:
            load_dataset_builder(reference.name, reference.subset, revision=reference.revision)
        except (OSError, ValueError):  # the first with a ConnectionError among its kinds; the second: no such subset
            return False
        return True
    from huggingface_hub import try_to_load_from_cache

    def cached(name: str) -> str | None:
        path = try_to_load_from_cache(reference.name, name, revision=reference.revision)
        return path if isinstance(path, str) else None

    # Offline, a tokenizer without its vocabulary loads as one that knows no word, so each part is looked for.
    found = [next(filter(None, map(cached, names)), None) for names in MODEL_FILES]
    index = next((path for path in found if path and path.endswith(".index.json")), None)
    shards = set(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values()) if index else set()
    return all(found) and all(map(cached, shards))

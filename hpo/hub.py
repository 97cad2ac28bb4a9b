"""Is the Hub there? Found out once, in at most three seconds, before any library retries for half a minute."""

import os
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Literal

from hpo.references import parse_reference
from hpo.spec import ChoiceParameter, StudySpec

DEFAULT_ENDPOINT = "https://huggingface.co"
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


def hub_references(spec: StudySpec) -> list[HubReference]:
    """Everything that a study takes from the Hub."""
    searched = spec.search_space.get("model.name")
    models = searched.choices if isinstance(searched, ChoiceParameter) else [spec.model.name]
    sources = [source for source in (spec.data.train, spec.data.validation, spec.data.test) if source]
    references = [
        *(HubReference("model", str(name), spec.model.revision) for name in models),
        *(HubReference("dataset", source.source, subset=source.subset) for source in sources),
    ]
    return [reference for reference in dict.fromkeys(references) if parse_reference(reference.name).kind == "hub"]


def endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", DEFAULT_ENDPOINT).rstrip("/")


def is_reachable() -> bool:
    """Whether the Hub answers within `PROBE_SECONDS`; no when the user has set `HF_HUB_OFFLINE`."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}:
        return False
    answers: list[int] = []

    def ask() -> None:
        request = urllib.request.Request(endpoint(), method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=PROBE_SECONDS) as response:
                answers.append(response.status)
        except urllib.error.HTTPError as error:
            answers.append(error.code)
        except (TimeoutError, OSError, ValueError):
            pass

    # A thread, for the system's name look-up knows no timeout.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS + 0.3)
    # A proxy that refuses answers 403 or 407; a Hub in trouble 5xx.
    return bool(answers) and answers[0] < 500 and answers[0] not in (403, 407)


def go_offline() -> None:
    """From here on the Hub's libraries use their cache only. They read this when they are first imported."""
    os.environ["HF_HUB_OFFLINE"] = "1"


def is_cached(reference: HubReference) -> bool:
    """Whether an earlier download serves without the Hub. Call after `go_offline`."""
    if reference.kind == "dataset":
        from datasets import load_dataset_builder

        try:
            load_dataset_builder(reference.name, reference.subset)
        except (OSError, ValueError):  # the first with a ConnectionError among its kinds; the second: no such subset
            return False
        return True
    from huggingface_hub import try_to_load_from_cache

    # Offline, a tokenizer without its vocabulary loads as one that knows no word, so each part is looked for.
    return all(
        any(
            isinstance(try_to_load_from_cache(reference.name, name, revision=reference.revision), str)
            for name in alternatives
        )
        for alternatives in MODEL_FILES
    )

"""What all commands share: which storage is meant, and that no password is shown, whatever ends the program."""

import subprocess
import sys
from pathlib import Path

import pytest

from hpo.command_line import storage_address

ROOT = Path(__file__).parent.parent
URL = "postgresql://me:s3cret@127.0.0.1/hpo"
MASKED = "postgresql://me:***@127.0.0.1/hpo"


@pytest.mark.parametrize(
    ("given", "variable", "meant"),
    [
        (None, None, None),
        (None, "", None),
        (None, URL, URL),
        (URL, None, URL),
        ("postgresql://db/other", URL, "postgresql://db/other"),
        (MASKED, URL, URL),  # as a report repeats it
        (MASKED, None, MASKED),
        ("", URL, ""),  # told as a mistake, not taken for none
    ],
)
def test_the_storage_that_is_meant(
    given: str | None, variable: str | None, meant: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable is not None:
        monkeypatch.setenv("OPTUNA_STORAGE", variable)
    assert storage_address(given) == meant


@pytest.mark.parametrize(
    "arguments", [["--storage", URL], [f"--storage={URL}"], ["--storage", f"{URL}?password=s3cret"]]
)
def test_no_password_in_the_list_of_processes(arguments: list[str]) -> None:
    code = (
        "import sys; from hpo.command_line import hide_arguments; hide_arguments(); print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, "--study", "my study", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout and process.stdout.readline()
        shown = Path(f"/proc/{process.pid}/cmdline").read_text()
    finally:
        process.communicate(b"\n")
    assert MASKED in shown and "--study 'my study'" in shown
    assert "s3cret" not in shown


@pytest.mark.parametrize(
    ("raised", "code", "told"),
    [
        (f"StorageError('{URL} is no good')", 2, f"{MASKED} is no good"),
        (f"OSError(28, 'No space left on {URL}')", 2, MASKED),
        (f"ValueError('called with {URL}?sslpassword=s3cret')", 1, f"ValueError: called with {MASKED}?sslpassword=***"),
    ],
)
def test_no_password_in_what_ends_a_command(raised: str, code: int, told: str) -> None:
    """Of an error of ours the traceback stands in full, with the error that it came of."""
    lines = [
        "import sys",
        "from hpo.command_line import exit_code",
        "from hpo.errors import StorageError",
        "def deep():",
        f"    try: raise KeyError('{URL}')",
        f"    except KeyError as error: raise {raised} from error",
        "sys.exit(exit_code(deep))",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code
    assert told in done.stderr and "s3cret" not in done.stdout + done.stderr
    if code == 1:
        assert "Traceback" in done.stderr and ", in deep" in done.stderr and "The above exception was" in done.stderr
        assert f"KeyError: '{MASKED}'" in done.stderr
    else:
        assert "Traceback" not in done.stderr

"""`python -m hpo.ui` opens MLflow and the reports: MLflow's UI on this machine only, or says where it is already."""

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import webbrowser
from collections.abc import Mapping
from pathlib import Path

from hpo.addresses import hide_passwords, masked
from hpo.command_line import add_output, exit_code
from hpo.errors import StorageError
from hpo.output import require_written, study_folder
from hpo.plain_text import printable

HOST = "127.0.0.1"
START_SECONDS = 120
# A tunnel may have another port. MLflow's default lets any private address in, and with `10.*` also `10.evil.org`,
# by which a web page could read the database.
ALLOWED_HOSTS = ",".join((HOST, f"{HOST}:*", "localhost", "localhost:*"))
# No telemetry, and none of the background jobs that serve features for generative AI.
ENVIRONMENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m hpo.ui", description=__doc__)
    add_output(parser)
    parser.add_argument("--port", type=int, default=5000, help="default: 5000, or the next free one")
    parser.add_argument("--no-browser", action="store_true", help="only say where they are")
    options = parser.parse_args(arguments)
    return exit_code(lambda: serve(options.output, options.port, browse=not options.no_browser and has_display()))


def has_display() -> bool:
    """Whether somebody at this machine's own screen has asked: over ssh a browser would open where nobody looks."""
    windows = sys.platform in ("darwin", "win32") and "SSH_CONNECTION" not in os.environ
    return sys.stdout.isatty() and (windows or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY"))))


def serve(output: Path, port: int, *, browse: bool = False) -> int:
    """Runs the server until Ctrl-C; where `MLFLOW_TRACKING_URI` names one that runs, only says so.

    Args:
        browse: open the newest study's page and its report in a browser.

    Raises:
        StorageError: there is no database yet, or the server does not answer.
    """
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        require_written(output / "mlflow.db")
    from hpo.tracking import tracker_of, tracking_uri
    from hpo.tracking_store import is_database

    tracker = tracker_of(output)
    for note in tracker.send_waiting():
        print(note, flush=True)
    studies, uri = tracker.studies(), tracking_uri(output)
    if not is_database(uri):
        _show_pages(masked(uri).rstrip("/"), studies, output, browse=browse)
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or the server would outlive this process
    port = free_port(port)
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    command += ["--allowed-hosts", ALLOWED_HOSTS]
    command += ["--no-serve-artifacts", "--default-artifact-root", str((output / "artifacts").resolve())]
    # Not in the command, which every user of the machine may read.
    environment = os.environ | ENVIRONMENT | {"MLFLOW_BACKEND_STORE_URI": uri}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            if not _answers(process, port):
                log.seek(0)
                told = hide_passwords(log.read()[-2000:])
                raise StorageError(f"the MLflow server did not start over {masked(uri)}:\n{told}")
            _show_pages(f"http://{HOST}:{port}", studies, output, "  (Ctrl-C ends it)", browse=browse)
            return process.wait()
        finally:
            process.terminate()
            process.wait()


def _show_pages(address: str, studies: Mapping[str, str], output: Path, way_out: str = "", *, browse: bool) -> None:
    """Each study's page in MLflow, and its report where this machine has it; the newest study's in a browser."""
    print(f"MLflow: {address}{way_out}", flush=True)
    shown: list[str] = []
    for name, page in studies.items():
        pages = [f"{address}/#/{page}"]
        print(f"  {printable(name)}: {pages[0]}", flush=True)
        with contextlib.suppress(StorageError):  # a name that is none of ours, in the database of others
            report = (study_folder(output, name) / "report.html").resolve()
            if report.is_file():
                pages.append(report.as_uri())
                print(f"    report: {pages[1]}", flush=True)
        shown = shown or pages
    if browse:
        for page in shown or [address]:
            webbrowser.open(page)


def _answers(process: subprocess.Popen[bytes], port: int) -> bool:
    """Waits until the server takes connections; no if it ended or took longer than `START_SECONDS`."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return True
        time.sleep(0.1)
    return False


def free_port(wanted: int) -> int:
    """The first free port from `wanted` on, of a hundred. Raises `StorageError` if there is none."""
    for port in range(max(wanted, 1), min(wanted + 100, 2**16)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise StorageError(f"a port from {wanted} on must be free, but none of a hundred is. Give another with --port.")


if __name__ == "__main__":
    sys.exit(main())

"""`python -m hpo.ui` opens the MLflow UI over a study's database, on this machine only."""

import argparse
import os
import socket
import subprocess
import sys
from pathlib import Path

from hpo.command_line import add_output, exit_code
from hpo.errors import StorageError

HOST = "127.0.0.1"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m hpo.ui", description=__doc__)
    add_output(parser)
    parser.add_argument("--port", type=int, default=5000, help="default: 5000, or the next free one")
    options = parser.parse_args(arguments)
    return exit_code(lambda: serve(options.output, options.port))


def serve(output: Path, port: int) -> int:
    """Runs the server until Ctrl-C. Raises `StorageError` if there is no database yet."""
    database = (output / "mlflow.db").resolve()
    if not database.is_file():
        raise StorageError(
            f"there is no {database} yet: run `python -m hpo.run` first, or name its folder with --output."
        )
    port = free_port(port)
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{database}", "--no-serve-artifacts"]
    command += ["--default-artifact-root", str((output / "artifacts").resolve())]
    print(f"MLflow: http://{HOST}:{port}  (Ctrl-C ends it)", flush=True)
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        return process.wait()
    finally:
        process.terminate()
        process.wait()


def free_port(wanted: int) -> int:
    """The first free port from `wanted` on, of a hundred. Raises `StorageError` if there is none."""
    for port in range(wanted, min(wanted + 100, 2**16)):
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

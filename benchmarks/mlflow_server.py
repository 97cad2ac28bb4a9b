"""A real MLflow server that can be killed, held and started again at the same address."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run


class MlflowServer:
    """Serves a database on 127.0.0.1 with the app that `mlflow server` serves, in one process."""

    def __init__(self, database: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self._environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"} | {
            "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{database}",
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(database.parent / "served"),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        # Reads what it has at any time, also while it is away.
        self.client = MlflowClient(f"sqlite:///{database}")
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Starts it, if it does not run, without waiting for it."""
        if self._process is None:
            command = [
                sys.executable,
                "-W",
                "ignore",
                "-m",
                "uvicorn",
                "--port",
                str(self.port),
                "--log-level",
                "error",
            ]
            command += ["--interface", "wsgi", "mlflow.server:app"]
            self._process = subprocess.Popen(command, env=self._environment)

    def start(self) -> None:
        """Returns when it answers."""
        self.launch()
        deadline = time.monotonic() + 50
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert self._process is not None and self._process.poll() is None
                time.sleep(0.05)
        raise TimeoutError

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def hold(self) -> None:
        """It still takes connections, and never answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def runs(self, study: str) -> dict[str, Run]:
        """The runs of a study by name; asserts that no name is there twice."""
        experiment = self.client.get_experiment_by_name(study)
        runs = self.client.search_runs([experiment.experiment_id])
        named = {run.info.run_name: run for run in runs}
        assert len(named) == len(runs)
        return named

    def steps(self, run: Run, metric: str) -> list[int]:
        """The steps of a metric as they are stored, by the time at which they were logged."""
        history = self.client.get_metric_history(run.info.run_id, metric)
        return [point.step for point in history]

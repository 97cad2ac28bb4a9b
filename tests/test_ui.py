"""The MLflow UI for real: it answers on this machine over the right database, and ends with its command."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest

from benchmarks.mlflow_server import MlflowServer
from hpo.errors import StorageError
from hpo.tracking import Tracker
from hpo.ui import HOST, free_port, main, serve


@pytest.mark.timeout(150)
def test_serves_the_database_of_the_output_folder(output: Path) -> None:
    Tracker(output).start_study("my study", None, "", {})
    process = subprocess.Popen(
        [sys.executable, "-m", "hpo.ui", "--output", str(output), "--port", str(free_port(5600))],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[1]
        link = process.stdout.readline()
        assert link.startswith(f"  my study: {address}/#/experiments/1/runs")
        assert address.startswith(f"http://{HOST}:")
        request = urllib.request.Request(
            f"{address}/api/2.0/mlflow/experiments/search",
            data=json.dumps({"max_results": 10}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=20) as response:
            names = [experiment["name"] for experiment in json.load(response)["experiments"]]
        assert "my study" in names
        _listens_here_only(process, int(address.rpartition(":")[2]))
        _turns_strangers_away(int(address.rpartition(":")[2]))
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    with pytest.raises(OSError):
        urllib.request.urlopen(address, timeout=2)


def test_says_where_the_server_is_that_the_study_logged_to(
    server: MlflowServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Tracker(tmp_path).start_study("served study", None, "", {})
    for variable in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(variable, "")  # restored afterwards
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address.replace("://", "://me:hush@"))
    assert main(["--output", str(tmp_path / "there")]) == 0
    first, *links = capsys.readouterr().out.splitlines()
    address = server.address.replace("://", "://me:***@")
    assert first == f"MLflow: {address}"
    assert any(link.startswith(f"  served study: {address}/#/experiments/") for link in links)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hush@127.0.0.1:9")
    assert main(["--output", str(tmp_path / "other")]) == 2
    told = capsys.readouterr().err
    assert "MLFLOW_TRACKING_URI" in told and "hush" not in told


def test_the_newest_study_and_its_report_are_opened(server: MlflowServer, tmp_path: Path) -> None:
    """By the browser that is set, here one that writes down what it is to open."""
    for name in ("older study", "newer-study"):
        Tracker(tmp_path).start_study(name, None, "", {})
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.html").write_text("<h1>report</h1>")
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/opened\n')
    browser.chmod(0o755)
    command = f"from pathlib import Path; from hpo.ui import serve; serve(Path({str(tmp_path)!r}), 5600, browse=True)"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent), "BROWSER": f"{browser} %s"}
    told = subprocess.run(
        [sys.executable, "-c", command], env=environment, check=True, capture_output=True, text=True, timeout=50
    ).stdout
    page, report = (tmp_path / "opened").read_text().split()
    assert f"  newer-study: {page}\n    report: {report}\n" in told
    assert report == (tmp_path / "newer-study" / "report.html").as_uri()
    assert "  older study: " in told


def _listens_here_only(process: subprocess.Popen[str], port: int) -> None:
    servers = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
    listening = [
        socket.laddr
        for pid in servers
        for socket in psutil.Process(pid).net_connections("inet")
        if socket.status == psutil.CONN_LISTEN
    ]
    assert set(listening) == {(HOST, port)}


def _turns_strangers_away(port: int) -> None:
    """By the name that a browser asks for, and by the page that asks: what a web page could do with the database."""

    def status(host: str, origin: str | None = None) -> int:
        connection = http.client.HTTPConnection(HOST, port, timeout=20)
        connection.putrequest("POST", "/api/2.0/mlflow/experiments/search", skip_host=True)
        body = b'{"max_results": 1}'
        headers = {"Host": host, "Content-Type": "application/json", "Content-Length": str(len(body))}
        for name, value in (headers | ({"Origin": origin} if origin else {})).items():
            connection.putheader(name, value)
        connection.endheaders(body)
        with contextlib.closing(connection):
            return connection.getresponse().status

    for host in (f"{HOST}:{port}", HOST, f"localhost:{port}", "localhost:9999"):  # the last one is a tunnel's
        assert status(host) == 200, host
    for host in (
        "example.org",
        f"10.example.org:{port}",
        "192.168.example.org",
        "192.168.0.1",
        f"127.0.0.1.evil:{port}",
    ):
        assert status(host) == 403, host
    assert status(HOST, f"http://localhost:{port}") == 200
    for origin in ("http://example.org", "https://localhost.example.org", "null"):
        assert status(HOST, origin) == 403, origin


def test_no_database_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"hpo\.run"):
        serve(tmp_path, 5600)


def test_a_taken_port_is_passed_over() -> None:
    import socket

    with socket.socket() as taken:
        taken.bind((HOST, free_port(5700)))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) > port
    assert 0 < free_port(-1) <= 99
    with pytest.raises(StorageError, match="Give another with --port"):
        free_port(70_000)

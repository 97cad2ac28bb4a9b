"""PostgreSQL: what is refused and how, that no password shows, and that a server may go away at any time.

The server is a real one, stopped, killed and started again under the program.
"""

import inspect
import itertools
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import psycopg
import pytest
from optuna.distributions import FloatDistribution
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage, get_storage
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from benchmarks.postgres import PASSWORD, Database, PostgresServer
from hpo import storage_server
from hpo.errors import StorageError
from hpo.storage import open_storage, study_names
from hpo.storage_server import open_server, patiently, server_lock

MAXIMIZE = [StudyDirection.MAXIMIZE]


def test_all_that_open_a_new_database_first_get_it(postgres_server: tuple[PostgresServer, str], tmp_path: Path) -> None:
    server, _ = postgres_server
    with server.database() as empty, ThreadPoolExecutor(6) as pool:
        opened = list(pool.map(lambda _: study_names(open_storage(tmp_path, empty.url)), range(6)))
    assert opened == [[]] * 6


class TestRefused:
    @pytest.mark.parametrize(
        ("url", "told"),
        [
            (
                "mysql://me:secret@db/hpo",
                r"must be an address such as postgresql://user@host.*got mysql://me:\*\*\*@db",
            ),
            ("postgresql+psycopg2://me:secret@db/hpo", r"got postgresql\+psycopg2://me:\*\*\*@db/hpo\. Of the servers"),
            ("postgresql://me:secret@db:port/hpo", r"got postgresql://me:\*\*\*@db:port/hpo"),
            ("somewhere", "got somewhere"),
            ("", "got nothing"),
            ("sqlite:///optuna.db", r"optuna\.db of the folder that --output names"),
            ("postgresql://me:***@db/hpo", "the password in --storage is masked"),
        ],
    )
    def test_an_address_that_is_none(self, tmp_path: Path, url: str, told: str) -> None:
        with pytest.raises(StorageError, match=told) as error:
            open_storage(tmp_path, url)
        assert "secret" not in str(error.value)

    @pytest.mark.parametrize(
        ("old", "new", "told"),
        [
            ("@127", "x@127", "password authentication failed for user .*Give the right one in OPTUNA_STORAGE"),
            ("/test_", "/nowhere_", r"database .* does not exist\. Create it"),
            ("hpo:", "nobody:", "password authentication failed"),
        ],
    )
    def test_what_the_server_refuses_is_told_at_once(
        self, postgres: Database, tmp_path: Path, old: str, new: str, told: str
    ) -> None:
        began = time.monotonic()
        with pytest.raises(StorageError, match=told) as error:
            open_storage(tmp_path, postgres.url.replace(old, new))
        assert time.monotonic() - began < storage_server.OPENING_SECONDS
        assert no_password(str(error.value))

    def test_no_password_but_that_of_the_environment(
        self, postgres: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        without = f"postgresql://hpo@127.0.0.1:{postgres.server.port}/{postgres.name}"
        monkeypatch.setenv("PGPASSFILE", str(tmp_path / "pgpass"))
        with pytest.raises(StorageError, match=r"no password supplied\. Give the right one"):
            open_storage(tmp_path, without)
        monkeypatch.setenv("PGPASSWORD", PASSWORD)
        assert study_names(open_storage(tmp_path, without)) == []
        monkeypatch.delenv("PGPASSWORD")
        escaped = PASSWORD.replace("\\", "\\\\").replace(":", "\\:")
        (tmp_path / "pgpass").write_text(f"127.0.0.1:{postgres.server.port}:*:hpo:{escaped}\n")
        (tmp_path / "pgpass").chmod(0o600)
        assert study_names(open_storage(tmp_path, without)) == []

    def test_a_server_that_is_not_there(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))  # and nobody listens
            url = f"postgresql://me:secret@127.0.0.1:{unused.getsockname()[1]}/hpo"
            with pytest.raises(StorageError, match=r"must answer within 5 s.*Connection refused.*Start the server"):
                open_storage(tmp_path, url)
        assert capsys.readouterr().err.count("does not answer") == 1

    def test_a_server_that_never_answers(self, tmp_path: Path) -> None:
        """As behind a firewall that drops what it does not let through."""
        began = time.monotonic()
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"postgresql://me:secret@127.0.0.1:{silent.getsockname()[1]}/hpo"
            with pytest.raises(StorageError, match="timeout expired"):
                open_storage(tmp_path, url)
        assert time.monotonic() - began < 30

    def test_a_user_who_may_not_make_tables(self, postgres_server: tuple[PostgresServer, str], tmp_path: Path) -> None:
        server, _ = postgres_server
        with server.database() as empty:
            with closing(empty.connect()) as connection:
                connection.execute("CREATE USER guest PASSWORD 'hush'")
            try:
                url = f"postgresql://guest:hush@127.0.0.1:{server.port}/{empty.name}"
                with pytest.raises(StorageError, match=r"permission denied for schema public\. Let the user create"):
                    open_storage(tmp_path, url)
            finally:
                with closing(empty.connect()) as connection:
                    connection.execute("DROP USER guest")

    def test_one_of_a_later_optuna(self, postgres: Database, tmp_path: Path) -> None:
        with closing(postgres.connect()) as connection:
            connection.execute("UPDATE alembic_version SET version_num = 'v99'")
        with pytest.raises(StorageError, match="no longer compatible"):
            open_storage(tmp_path, postgres.url)

    def test_a_driver_that_is_not_installed(self, tmp_path: Path) -> None:
        code = (
            "import sys; from pathlib import Path; sys.modules['psycopg'] = None\n"
            "from hpo.storage import open_storage; from hpo.command_line import exit_code\n"
            "sys.exit(exit_code(lambda: open_storage(Path(), 'postgresql://me:secret@127.0.0.1/hpo')))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 2
        assert "pip install 'hpo[postgres]'" in done.stderr
        assert "secret" not in done.stderr and "Traceback" not in done.stderr


def no_password(text: str) -> bool:
    from urllib.parse import quote

    return PASSWORD not in text and quote(PASSWORD, safe="") not in text


class Cable:
    """Between the program and the server. Once told to, it breaks at a COMMIT: before the server has it, or after.

    After it, the server has committed, and its answer is lost.
    """

    def __init__(self, port: int) -> None:
        self.port, self.breaks, self.broken = port, "", 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self.port))
                silenced = threading.Event()
                for carry, *ends in ((self._there, client, server), (self._back, server, client)):
                    threading.Thread(target=carry, args=(*ends, silenced), daemon=True).start()

    def _there(self, client: socket.socket, server: socket.socket, silenced: threading.Event) -> None:
        with suppress(OSError):
            while data := client.recv(2**16):
                breaks = self.breaks if b"COMMIT" in data else ""
                if breaks:
                    self.breaks, self.broken = "", self.broken + 1
                if breaks == "before":
                    break
                if breaks == "after":
                    silenced.set()
                server.sendall(data)
        if not silenced.is_set():
            hang_up(client, server)

    def _back(self, server: socket.socket, client: socket.socket, silenced: threading.Event) -> None:
        with suppress(OSError):
            while data := server.recv(2**16):
                if silenced.is_set():
                    break
                client.sendall(data)
        hang_up(client, server)


def hang_up(*ends: socket.socket) -> None:
    for end in ends:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()


@pytest.fixture
def cable(postgres: Database) -> Iterator[Cable]:
    made = Cable(postgres.server.port)
    yield made
    made.listener.close()


class TestOnce:
    """Whatever is cut, what was asked is done once, and the caller is told so."""

    @pytest.fixture(params=["before", "after"])
    def breaking(self, request: pytest.FixtureRequest, postgres: Database, cable: Cable) -> Iterator["Breaking"]:
        here = cable.listener.getsockname()[1]
        made = open_server(postgres.url.replace(f":{postgres.server.port}/", f":{here}/"))
        study_id = made.create_new_study(MAXIMIZE, "study")
        yield Breaking(made, study_id, cable, request.param)

    def test_a_study(self, breaking: "Breaking") -> None:
        other = breaking(lambda: breaking.storage.create_new_study(MAXIMIZE, "other"))
        found = {study.study_name: study._study_id for study in breaking.storage.get_all_studies()}
        assert found == {"study": breaking.study_id, "other": other}

    @pytest.mark.parametrize("state", [None, TrialState.WAITING, TrialState.COMPLETE])
    def test_a_trial(self, breaking: "Breaking", state: TrialState | None) -> None:
        template = (
            None
            if state is None
            else create_trial(
                state=state,
                values=[0.5] if state.is_finished() else None,
                params={"x": 1.0},
                distributions={"x": FloatDistribution(0, 1)},
                user_attrs={"a": 1},
            )
        )
        trial_id = breaking(lambda: breaking.storage.create_new_trial(breaking.study_id, template))
        (trial,) = breaking.storage.get_all_trials(breaking.study_id)
        assert (trial._trial_id, trial.number) == (trial_id, 0)
        assert trial.state == (state or TrialState.RUNNING)
        assert trial.params == ({"x": 1.0} if template else {})

    def test_a_claim(self, breaking: "Breaking") -> None:
        waiting = breaking.storage.create_new_trial(breaking.study_id, create_trial(state=TrialState.WAITING))
        assert breaking(lambda: breaking.storage.set_trial_state_values(waiting, TrialState.RUNNING))
        assert not breaking.storage.set_trial_state_values(waiting, TrialState.RUNNING)

    def test_an_end(self, breaking: "Breaking") -> None:
        trial_id = breaking.storage.create_new_trial(breaking.study_id)
        assert breaking(lambda: breaking.storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.5]))
        trial = breaking.storage.get_trial(trial_id)
        assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.5)
        with pytest.raises(UpdateFinishedTrialError):
            breaking.storage.set_trial_state_values(trial_id, TrialState.FAIL)

    def test_what_a_trial_is_told(self, breaking: "Breaking") -> None:
        storage, trial_id = breaking.storage, breaking.storage.create_new_trial(breaking.study_id)
        breaking(lambda: storage.set_trial_param(trial_id, "x", 0.5, FloatDistribution(0, 1)))
        breaking(lambda: storage.set_trial_intermediate_value(trial_id, 1, 0.25))
        breaking(lambda: storage.set_trial_user_attr(trial_id, "a", [1]))
        breaking(lambda: storage.set_trial_system_attr(trial_id, "b", "c"))
        breaking(lambda: storage.set_study_user_attr(breaking.study_id, "d", None))
        trial = storage.get_trial(trial_id)
        assert (trial.params, trial.intermediate_values) == ({"x": 0.5}, {1: 0.25})
        assert (trial.user_attrs, trial.system_attrs) == ({"a": [1]}, {"b": "c"})
        assert storage.get_study_user_attrs(breaking.study_id) == {"d": None}


@dataclass
class Breaking:
    storage: RDBStorage
    study_id: int
    cable: Cable
    where: str

    def __call__(self, action: Callable[[], Any]) -> Any:
        """The action, whose transaction is cut once."""
        before = self.cable.broken
        self.cable.breaks = self.where
        result = action()
        assert self.cable.broken == before + 1
        return result


class TestAway:
    """A server that is stopped, killed and started again."""

    def test_every_method_that_talks_to_the_database_is_made_again(self) -> None:
        talking = {name for name, method in vars(RDBStorage).items() if "_create_scoped_session(" in source(method)}
        again = {name for name, method in vars(storage_server._ServerStorage).items() if hasattr(method, "__wrapped__")}
        assert talking == again
        assert {"_create_new_trial", "set_trial_state_values", "_get_trials", "get_all_studies"} <= talking

    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
    def test_a_restart_between_two_calls_goes_unnoticed(
        self, postgres: Database, how: signal.Signals, capsys: pytest.CaptureFixture[str]
    ) -> None:
        storage = open_server(postgres.url)
        study_id = storage.create_new_study(MAXIMIZE, "study")
        trial_id = storage.create_new_trial(study_id)
        postgres.restart(how=how)
        storage.set_trial_user_attr(trial_id, "a", 1)
        postgres.restart(how=how)
        assert storage.get_trial(trial_id).user_attrs == {"a": 1}
        assert capsys.readouterr().err == ""

    def test_a_server_that_is_down_for_a_while_is_waited_for(
        self, postgres: Database, capsys: pytest.CaptureFixture[str]
    ) -> None:
        storage = get_storage(open_server(postgres.url))
        study = optuna.create_study(storage=storage)
        trial = study.ask()
        postgres.stop()
        with ThreadPoolExecutor(1) as pool:
            reported = pool.submit(trial.report, 0.5, 1)
            time.sleep(4)
            assert not reported.done()
            postgres.start()
            reported.result(timeout=30)
        study.tell(trial, 0.5)
        assert study.trials[0].intermediate_values == {1: 0.5}
        gone, back = capsys.readouterr().err.splitlines()
        assert gone.startswith("postgresql://hpo:***@127.0.0.1:") and "waiting for it, up to 300 s" in gone
        assert "answers again, after" in back

    def test_it_is_waited_for_no_longer_than_said(self, postgres: Database) -> None:
        postgres.stop()
        began = time.monotonic()
        with pytest.raises(StorageError, match=r"must answer within 1 s, but got here: .*Connection refused"):
            patiently(lambda: psycopg.connect(postgres.url), "here", 1.0)
        assert 1 <= time.monotonic() - began < 20

    @pytest.mark.parametrize("code", ["22012", "53100", "23505"])  # division_by_zero, disk_full, unique_violation
    def test_any_other_error_is_raised_at_once(self, postgres: Database, code: str) -> None:
        tries = itertools.count()
        with closing(postgres.connect()) as connection, pytest.raises(psycopg.errors.lookup(code)):
            patiently(lambda: (next(tries), connection.execute(f"DO $$ {raising(code)} $$")), "here")
        assert next(tries) == 1

    def test_a_full_server_is_no_absence(self, postgres: Database) -> None:
        storage = open_server(postgres.url)
        study_id = storage.create_new_study(MAXIMIZE, "study")
        with closing(postgres.connect()) as connection:
            connection.execute(f"CREATE FUNCTION full() RETURNS trigger LANGUAGE plpgsql AS $$ {raising('53100')} $$")
            connection.execute("CREATE TRIGGER t BEFORE INSERT ON study_user_attributes EXECUTE FUNCTION full()")
        with pytest.raises(StorageInternalError) as error:
            storage.set_study_user_attr(study_id, "a", 1)
        assert "the reason" in str(error.value.__cause__)

    def test_a_server_with_no_connection_left_is_waited_for(self, postgres: Database) -> None:
        """Each worker has one or two, and PostgreSQL takes a hundred."""
        guest = f"postgresql://guest:hush@127.0.0.1:{postgres.server.port}/{postgres.name}"
        with closing(postgres.connect()) as connection:
            connection.execute("CREATE USER guest PASSWORD 'hush' CONNECTION LIMIT 1")
            try:
                with ThreadPoolExecutor(1) as pool:
                    with server_lock(guest, "one"):
                        second = pool.submit(lock_once, guest, "two")
                        time.sleep(1)
                        assert not second.done()
                    second.result(timeout=30)
            finally:
                connection.execute("DROP USER guest")

    def test_the_lock_is_waited_for_through_a_restart(self, postgres: Database) -> None:
        with ThreadPoolExecutor(1) as pool:
            with server_lock(postgres.url, "study"):
                waiting = pool.submit(lock_once, postgres.url, "study")
                time.sleep(1)
                postgres.stop()
                time.sleep(1)
                assert not waiting.done()
                postgres.start()
            waiting.result(timeout=30)  # and the one whose lock was lost has left without an error


def lock_once(url: str, name: str) -> None:
    with server_lock(url, name):
        pass


@pytest.mark.parametrize(
    ("reason", "refuses"),
    [
        ('connection to server at "db", port 5432 failed: FATAL:  password authentication failed for user "me"', True),
        ('connection to server at "db", port 5432 failed: FATAL:  no pg_hba.conf entry for host "x"', True),
        ('connection to server at "db", port 5432 failed: fe_sendauth: no password supplied', True),
        ('connection to server at "db", port 5432 failed: FATAL:  role "me" is not permitted to log in', True),
        ('connection to server at "db", port 5432 failed: FATAL:  the database system is starting up', False),
        ('connection to server at "db", port 5432 failed: FATAL:  canceling authentication due to timeout', False),
        ('connection to server at "db", port 5432 failed: FATAL:  sorry, too many clients already', False),
        ('connection to server at "db", port 5432 failed: Connection refused', False),
        ("consuming input failed: FATAL:  terminating connection due to administrator command", False),
    ],
)
def test_which_words_of_a_server_are_final(reason: str, refuses: bool) -> None:
    assert storage_server._refuses(reason) == refuses


def raising(code: str) -> str:
    return f"BEGIN RAISE EXCEPTION 'the reason' USING ERRCODE = '{code}'; END"


def source(method: object) -> str:
    return inspect.getsource(method) if inspect.isfunction(method) else ""

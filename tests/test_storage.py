"""The database of a study: opening it, what others write to it, and the lock under which a study changes hands."""

import multiprocessing
import os
import signal
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from multiprocessing.synchronize import Event
from pathlib import Path

import optuna
import pytest
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from hpo.errors import StorageError
from hpo.storage import exclusive, open_storage, storage_of, study_names
from hpo.study import load_study, next_position, open_study, remaining_trials
from searching import MakeSpec, points, run

SPAWN = multiprocessing.get_context("spawn")


class TestAnyStorage:
    """What holds wherever a study is kept."""

    def test_it_is_empty_at_first(self, tmp_path: Path, address: str | None) -> None:
        assert study_names(open_storage(tmp_path, address)) == []

    def test_a_trial_is_given_the_storage_that_was_opened_last(self, tmp_path: Path, address: str | None) -> None:
        """An earlier one may remember a study of the same number, that another process has replaced since."""
        assert storage_of(tmp_path, address) is storage_of(tmp_path, address)
        earlier, later = storage_of(tmp_path, address), open_storage(tmp_path, address)
        assert storage_of(tmp_path, address) is later is not earlier

    def test_what_another_process_writes_is_seen(
        self, make_spec: MakeSpec, tmp_path: Path, address: str | None
    ) -> None:
        spec = make_spec(n_trials=5)
        here, there = (open_study(spec, open_storage(tmp_path, address)) for _ in range(2))
        run(here, spec, 1)
        assert next_position(there) == 1
        run(there, spec, 2)
        trial = there.ask()
        assert (next_position(here), remaining_trials(here, spec)) == (4, 2)
        there.tell(trial, 0.5)
        assert (next_position(here), remaining_trials(here, spec)) == (4, 1)
        assert points(here) == points(there)

    @pytest.mark.timeout(180)
    def test_workers_of_one_study_lose_nothing(self, make_spec: MakeSpec, tmp_path: Path, address: str | None) -> None:
        """Four processes that ask, report and tell at once: every trial is there, whole, under a number of its own."""
        spec = make_spec()
        open_study(spec, open_storage(tmp_path, address))
        workers = [SPAWN.Process(target=work, args=(tmp_path, address, spec.name, 5), daemon=True) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert [worker.exitcode for worker in workers] == [0] * 4
        trials = load_study(open_storage(tmp_path, address), spec.name).trials
        assert [trial.number for trial in trials] == list(range(20))
        assert {trial.state for trial in trials} == {TrialState.COMPLETE}
        assert all(trial.intermediate_values == {step: step / 10 for step in range(5)} for trial in trials)
        assert all(trial.value == trial.params["x"] == trial.user_attrs["x"] for trial in trials)


def work(output: Path, address: str | None, name: str, n: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = load_study(storage_of(output, address), name)
    study.sampler = optuna.samplers.RandomSampler()
    for _ in range(n):
        with exclusive(output, name, address):
            trial = study.ask()
        x = trial.suggest_float("x", 0, 1)
        trial.set_user_attr("x", x)
        for step in range(5):
            trial.report(step / 10, step)
        study.tell(trial, x)


class TestExclusive:
    @pytest.mark.timeout(180)
    def test_one_process_at_a_time_and_a_killed_one_frees_it(self, tmp_path: Path, address: str | None) -> None:
        """Four processes count in a file under the lock; a fifth is killed while it holds it."""
        counter, held = tmp_path / "counter", SPAWN.Event()
        counter.write_text("0")
        holder = SPAWN.Process(target=hold, args=(tmp_path, address, held), daemon=True)
        holder.start()
        assert held.wait(30)
        workers = [SPAWN.Process(target=count, args=(tmp_path, address, counter, 25), daemon=True) for _ in range(4)]
        for worker in workers:
            worker.start()
        time.sleep(2)
        assert counter.read_text() == "0"
        assert holder.pid is not None
        os.kill(holder.pid, signal.SIGKILL)
        for worker in [*workers, holder]:
            worker.join()
        assert [worker.exitcode for worker in workers] == [0] * 4
        assert counter.read_text() == "100"

    def test_of_another_study_it_is_another_one(self, tmp_path: Path, address: str | None) -> None:
        with exclusive(tmp_path, "one", address), exclusive(tmp_path, "two", address):
            pass

    def test_an_error_frees_it(self, tmp_path: Path, address: str | None) -> None:
        for _ in range(2):
            with pytest.raises(RuntimeError), exclusive(tmp_path, "one", address):
                raise RuntimeError


def hold(output: Path, address: str | None, held: Event) -> None:
    with exclusive(output, "study", address):
        held.set()
        time.sleep(600)


def count(output: Path, address: str | None, counter: Path, n: int) -> None:
    for _ in range(n):
        with exclusive(output, "study", address):
            number = int(counter.read_text())
            time.sleep(0.001)
            counter.write_text(str(number + 1))


class TestFile:
    """`optuna.db` in the output folder."""

    @pytest.fixture
    def database(self, make_spec: MakeSpec, tmp_path: Path) -> Path:
        """With eight trials, and closed, so that nothing of it is in its write-ahead log."""
        spec = make_spec()
        storage = open_storage(tmp_path)
        run(open_study(spec, storage), spec, 8)
        close(storage)
        assert [path.name for path in tmp_path.glob("optuna.db*")] == ["optuna.db"]
        return tmp_path / "optuna.db"

    def test_it_is_made_where_there_is_none(self, tmp_path: Path) -> None:
        assert study_names(open_storage(tmp_path)) == []
        assert (tmp_path / "optuna.db").is_file()

    def test_all_that_open_it_first_get_it(self, tmp_path: Path) -> None:
        """As a driver and `hpo.report` beside it do: without a lock one of them creates tables that are there."""
        with ThreadPoolExecutor(6) as pool:
            opened = list(pool.map(lambda _: study_names(open_storage(tmp_path)), range(6)))
        assert opened == [[]] * 6

    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(StorageError, match=r"optuna\.db must be a database of Optuna that can be written"):
            open_storage(tmp_path / "nowhere")

    def test_a_folder_in_its_place(self, tmp_path: Path) -> None:
        (tmp_path / "optuna.db").mkdir()
        with pytest.raises(StorageError, match="unable to open"):
            open_storage(tmp_path)

    @pytest.mark.parametrize("content", [b"not a database " * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
    def test_no_database(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "optuna.db").write_bytes(content)
        with pytest.raises(StorageError, match="Move it away with its `-wal`, or give another folder with --output"):
            open_storage(tmp_path)
        assert (tmp_path / "optuna.db").read_bytes() == content  # nothing lost

    def test_a_database_cut_short(self, database: Path) -> None:
        database.write_bytes(database.read_bytes()[: database.stat().st_size // 2])
        with pytest.raises(StorageError, match=r"Move it away"):
            open_storage(database.parent)

    def test_a_damaged_page_wherever_it_is(self, database: Path) -> None:
        """Optuna itself opens most of these and breaks later, in the middle of a study."""
        whole, page = database.read_bytes(), 4096
        for start in range(0, len(whole), page):
            database.write_bytes(whole[:start] + b"\xab" * page + whole[start + page :])
            with pytest.raises(StorageError, match=r"optuna\.db must be a database of Optuna"):
                open_storage(database.parent)

    def test_a_database_of_somebody_else(self, tmp_path: Path) -> None:
        connection = sqlite3.connect(tmp_path / "optuna.db")
        connection.execute("create table studies (something integer)")
        connection.commit()
        connection.close()
        with pytest.raises(StorageError, match="Move it away"):
            open_storage(tmp_path)

    def test_one_of_a_later_optuna(self, database: Path) -> None:
        connection = sqlite3.connect(database)
        connection.execute("update alembic_version set version_num = 'v99'")
        connection.commit()
        connection.close()
        with pytest.raises(StorageError, match="no longer compatible"):
            open_storage(database.parent)

    def test_one_who_reads_waits_for_no_writer(self, database: Path) -> None:
        """As `hpo.report` beside a study."""
        with closing(sqlite3.connect(database)) as writer:
            writer.execute("BEGIN IMMEDIATE")
            writer.execute("DELETE FROM trials")
            assert len(load_study(open_storage(database.parent), "tiny").trials) == 8
            writer.rollback()

    def test_a_database_of_before_the_log_gets_one(self, database: Path) -> None:
        with closing(sqlite3.connect(database)) as connection:
            assert connection.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
        assert len(load_study(open_storage(database.parent), "tiny").trials) == 8
        with closing(sqlite3.connect(database)) as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)

    def test_what_a_killed_process_wrote_is_there(self, make_spec: MakeSpec, tmp_path: Path) -> None:
        """In the log alone, and in the database by the next one that closes it."""
        spec = make_spec()
        close(open_study(spec, open_storage(tmp_path))._storage)
        written = SPAWN.Event()
        writer = SPAWN.Process(target=write, args=(tmp_path, spec.name, written), daemon=True)
        writer.start()
        assert written.wait(30)
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        assert (tmp_path / "optuna.db-wal").stat().st_size > 0
        trial = load_study(open_storage(tmp_path), spec.name).trials[0]
        assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.5)


def close(storage: BaseStorage) -> None:
    storage._backend.engine.dispose()  # type: ignore[attr-defined]


def write(output: Path, name: str, written: Event) -> None:
    study = load_study(open_storage(output), name)
    study.tell(study.ask(), 0.5)
    written.set()
    time.sleep(600)

"""Storages of other tools, which a report reads and leaves as they are."""

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

import optuna
import pytest
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from benchmarks.postgres import Database, PostgresServer
from hpo.errors import StorageError
from hpo.report.__main__ import main
from hpo.storage import study_names
from hpo.storage_reader import _server, open_to_read
from synthetic import synthetic_study
from test_storage_server import no_password

ROOT = Path(__file__).parent.parent


def write(storage: str | BaseStorage, name: str = "theirs") -> None:
    """Six trials of another tool's study, one of them pruned."""

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 1e-3, 1, log=True)
        trial.report(x, 1)
        if trial.number == 3:
            raise optuna.TrialPruned
        return x + (trial.suggest_categorical("kind", ["a", "b"]) == "a")

    optuna.create_study(study_name=name, storage=storage, direction="maximize").optimize(objective, n_trials=6)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder whose name is anything but an address."""
    made = tmp_path / "50% of #1 {x}"
    made.mkdir()
    return made


@pytest.fixture
def database(folder: Path) -> Path:
    """Of another tool, in SQLite's own journal mode."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write("sqlite:///theirs.db")
    return folder / "theirs.db"


@pytest.fixture
def journal(folder: Path) -> Path:
    write(JournalStorage(JournalFileBackend(str(folder / "theirs.log"))))
    return folder / "theirs.log"


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def with_a_log(database: Path) -> None:
    """As tools set it who let readers pass writers, and so do we; nobody has it open."""
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)


class TestFile:
    @pytest.mark.parametrize("log", [False, True], ids=["journal", "wal"])
    def test_a_database_stays_as_it_is(
        self, database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: bool
    ) -> None:
        if log:
            with_a_log(database)
        before, output = contents(database.parent), tmp_path / "reports"
        monkeypatch.chdir(database.parent)
        for address in (f"sqlite:///{database}", "sqlite:///theirs.db", "theirs.db", str(database)):
            assert main(["--study", "theirs", "--output", str(output), "--storage", address]) == 0
            page = (output / "theirs" / "report.md").read_text()
            assert "Another tool ran this study" in page
            assert "hpo.run" not in page and "MLflow" not in page
            (output / "theirs" / "report.md").unlink()
        assert main(["--compare", "theirs", "--output", str(output), "--storage", "sqlite:///theirs.db"]) == 0
        assert (output / "comparison.md").is_file()
        assert contents(database.parent) == before  # nor is there a file more

    def test_one_that_may_not_be_written(self, database: Path) -> None:
        """By one who is not root, who may write to any, in a folder where nothing can be made."""
        with_a_log(database)
        code = (
            "import os, sys; from hpo.storage_reader import open_to_read; from hpo.study import load_study\n"
            "load_study(open_to_read(sys.argv[1]), 'theirs').trials  # or it could not import what it needs\n"
            "if not os.getuid(): os.setgroups([]), os.setgid(65534), os.setuid(65534)\n"
            "print(os.access('.', os.W_OK), len(load_study(open_to_read('theirs.db'), 'theirs').trials))"
        )
        with TemporaryDirectory() as folder:  # that others than its owner may enter, unlike pytest's
            copy = Path(shutil.copy(database, folder))
            copy.chmod(0o444)
            copy.parent.chmod(0o555)
            done = subprocess.run(
                [sys.executable, "-c", code, database],
                cwd=folder,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
            )
            copy.parent.chmod(0o755)
            assert done.stdout == "False 6\n", done.stderr
            assert list(contents(copy.parent)) == ["theirs.db"]

    def test_what_another_process_has_in_its_log_is_seen(self, database: Path) -> None:
        with_a_log(database)
        with closing(sqlite3.connect(database)) as writer:
            writer.execute("INSERT INTO studies (study_name) VALUES ('new')")
            writer.commit()
            before = contents(database.parent)
            assert study_names(open_to_read(f"sqlite:///{database}")) == ["new", "theirs"]
            after = contents(database.parent)
            assert [after[name] == before[name] for name in ("theirs.db", "theirs.db-wal")] == [True, True]

    def test_an_address_that_says_itself_how_to_open(self, database: Path) -> None:
        assert study_names(open_to_read(f"sqlite:///file:{quote(quote(str(database)))}?uri=true&mode=rwc")) == [
            "theirs"
        ]

    def test_a_path_that_no_address_can_have(self, database: Path) -> None:
        assert study_names(open_to_read(str(database.rename(database.with_name("a?b.db"))))) == ["theirs"]

    def test_a_journal_stays_as_it_is(self, journal: Path, tmp_path: Path) -> None:
        before, output = contents(journal.parent), tmp_path / "reports"
        assert main(["--study", "theirs", "--output", str(output), "--storage", str(journal)]) == 0
        assert main(["--compare", "theirs", "--output", str(output), "--storage", str(journal)]) == 0
        assert "Another tool ran this study" in (output / "theirs" / "report.md").read_text()
        assert contents(journal.parent) == before

    @pytest.mark.parametrize(("name", "made"), [("sweep/lr", "sweep_lr"), ("default", "default_"), ("a.b", "a.b")])
    def test_a_study_whose_name_is_no_folder(self, folder: Path, tmp_path: Path, name: str, made: str) -> None:
        """As other tools name theirs."""
        write(JournalStorage(JournalFileBackend(str(folder / "log"))), name)
        assert main(["--study", name, "--output", str(tmp_path), "--storage", str(folder / "log")]) == 0
        assert (tmp_path / made / "report.html").is_file()

    def test_a_study_whose_name_leaves_the_folder(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write(JournalStorage(JournalFileBackend(str(folder / "log"))), "..")
        assert main(["--study", "..", "--output", str(tmp_path / "out"), "--storage", str(folder / "log")]) == 2
        assert "must be that of a folder of its own" in capsys.readouterr().err


class TestRefused:
    @pytest.mark.parametrize(
        ("address", "told"),
        [
            ("sqlite:///nowhere.db", r"names a file that is there, but got sqlite:///nowhere\.db: there is no nowhere"),
            ("sqlite:///", "sqlite:///: it names no file"),
            ("sqlite://", "it names no file"),
            ("sqlite:///.", r"there is no \.\. Mend the path: `sqlite:////` begins one from the root"),
            ("nowhere.db", r"neither an address nor a file that is there\. Give sqlite:///FILE"),
            ("", "but got nothing"),
            ("mysql://me:secret@db/hpo", r"mysql://me:\*\*\*@db/hpo: .*MySQLdb.*Install that driver"),
            ("nosuch://me:secret@db/hpo", r"nosuch://me:\*\*\*@db/hpo: .*Install that driver"),
            ("redis://me:secret@127.0.0.1:1/0", r"redis://me:\*\*\*@127.0.0.1:1/0: .*(redis|refused)"),
            ("mysql://me:***@db/hpo", "the password in --storage is masked"),
            ("postgresql://me:***@db/hpo", "the password in --storage is masked"),
            ("postgresql://me:secret@db:port/hpo", r"got postgresql://me:\*\*\*@db:port/hpo"),
        ],
    )
    def test_an_address_that_is_none(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], address: str, told: str
    ) -> None:
        monkeypatch.chdir(folder)
        with pytest.raises(StorageError, match=told) as error:
            open_to_read(address)
        assert "secret" not in str(error.value)
        assert main(["--study", "theirs", "--storage", address]) == 2
        assert "secret" not in capsys.readouterr().err
        assert contents(folder) == {}

    @pytest.mark.parametrize(
        ("content", "told"),
        [
            (b"", "holds no studies of Optuna"),
            (b"not a database " * 1000, "not a database"),
            (b"SQLite format 3\0" + b"\xff" * 5000, "."),
        ],
        ids=["empty", "text", "damaged"],
    )
    def test_no_database(self, folder: Path, content: bytes, told: str) -> None:
        self.left(folder, content, told, "sqlite:///{}")

    @pytest.mark.parametrize(
        ("content", "told"),
        [
            (b"{}\n", "op_code"),
            (b"no journal\n{}\n", "Expecting value"),
            (b"\xff\xfe\n\n", "decode"),
            (b'[1]\n{"op_code": 99}\n', "."),
            (b"SQLite format 3\0" + b"\xff" * 5000, "."),
        ],
        ids=["object", "text", "bytes", "list", "database"],
    )
    def test_no_journal(self, folder: Path, content: bytes, told: str) -> None:
        self.left(folder, content, told, "{}")

    def left(self, folder: Path, content: bytes, told: str, address: str) -> None:
        path = folder / "file"
        path.write_bytes(content)
        with pytest.raises(StorageError, match=rf"(?s)--storage must be a database that Optuna can use.*{told}"):
            open_to_read(address.format(path))
        assert {name: (folder / name).read_bytes() for name in contents(folder)} == {"file": content}

    def test_a_database_of_somebody_else(self, folder: Path) -> None:
        with closing(sqlite3.connect(folder / "other.db")) as connection:
            connection.execute("CREATE TABLE studies (something integer)")
        before = contents(folder)
        with pytest.raises(StorageError, match=r"holds no studies of Optuna\. Give the storage"):
            open_to_read(f"sqlite:///{folder / 'other.db'}")
        assert contents(folder) == before

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            ("UPDATE alembic_version SET version_num = 'v2.6.0.a'", r"optuna storage upgrade.* Upgrade a copy"),
            ("UPDATE alembic_version SET version_num = 'v99'", "pip install -U optuna"),
            ("DROP TABLE alembic_version", r"readonly database\. Copy it"),
        ],
        ids=["older", "later", "oldest"],
    )
    def test_another_schema(self, database: Path, change: str, told: str) -> None:
        with closing(sqlite3.connect(database)) as connection:
            connection.execute(change)
            connection.commit()
        before = contents(database.parent)
        with pytest.raises(StorageError, match=told):
            open_to_read(f"sqlite:///{database}")
        assert contents(database.parent) == before

    def test_a_damaged_page(self, database: Path) -> None:
        whole, page = database.read_bytes(), 4096
        database.write_bytes(whole[: 8 * page] + b"\xab" * page + whole[9 * page :])
        with pytest.raises(StorageError, match=r"damaged pages|malformed"):
            open_to_read(f"sqlite:///{database}")


class TestOurs:
    """A study of this program, of which MLflow's database is not there."""

    @pytest.mark.parametrize("given", [False, True], ids=["in the output folder", "by its address"])
    def test_it_has_its_report(self, tmp_path: Path, given: bool) -> None:
        kept, output = tmp_path / "kept", tmp_path / "reports" if given else tmp_path / "kept"
        kept.mkdir()
        name = synthetic_study(8, storage=f"sqlite:///{kept / 'optuna.db'}").study_name
        address = ["--storage", f"sqlite:///{kept / 'optuna.db'}"] if given else []
        assert main(["--study", name, "--output", str(output), *address]) == 0
        assert "Another tool" not in (output / name / "report.md").read_text()
        assert not list(tmp_path.rglob("mlflow*"))


class TestServer:
    def test_one_that_is_read_through_sqlalchemy_alone(self, postgres: Database) -> None:
        """As MySQL: any driver will do, so that of PostgreSQL does."""
        url = postgres.url.replace("postgresql:", "postgresql+psycopg:")
        opened = _server(url)
        assert study_names(opened) == []
        opened._backend.engine.dispose()  # type: ignore[attr-defined]
        with pytest.raises(StorageError, match="password authentication failed") as error:
            _server(url.replace("hpo:", "hpo:x"))
        assert no_password(str(error.value))

    def test_what_a_reader_may_see(self, postgres: Database, tmp_path: Path) -> None:
        """By one who may not write, as another tool's server lets in."""
        theirs = RDBStorage(postgres.url.replace("postgresql:", "postgresql+psycopg:"))
        write(theirs)
        theirs.engine.dispose()
        with closing(postgres.connect()) as connection:
            connection.execute("CREATE USER guest PASSWORD 'hush'")
        try:
            url = f"postgresql://guest:hush@127.0.0.1:{postgres.server.port}/{postgres.name}"
            with pytest.raises(StorageError, match=r"permission denied for table version_info\. Let the user read"):
                open_to_read(url)
            with closing(postgres.connect()) as connection:
                connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO guest")
            assert main(["--study", "theirs", "--output", str(tmp_path), "--storage", url]) == 0
            assert "Another tool" in (tmp_path / "theirs" / "report.md").read_text()
        finally:
            with closing(postgres.connect()) as connection:
                connection.execute("DROP OWNED BY guest")
                connection.execute("DROP USER guest")

    def test_an_empty_database_gets_no_tables(self, postgres_server: tuple[PostgresServer, str]) -> None:
        server, _ = postgres_server
        with server.database() as empty:
            with pytest.raises(StorageError, match="holds no studies of Optuna"):
                open_to_read(empty.url)
            with closing(empty.connect()) as connection:
                count = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
        assert count == (0,)

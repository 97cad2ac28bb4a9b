"""No password is shown, however its address was written."""

import pytest

from hpo.addresses import hide_passwords, masked


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql+psycopg://me:secret@db:5432/hpo", "postgresql+psycopg://me:***@db:5432/hpo"),
        ("https://me:secret@mlflow.example/path?a=1", "https://me:***@mlflow.example/path?a=1"),
        ("https://:secret@mlflow.example", "https://:***@mlflow.example"),
        ("postgresql://me:p@ss/w:rd@db/hpo", "postgresql://me:***@db/hpo"),
        ("postgresql://db/hpo?user=me&password=secret&sslmode=require", "postgresql://db/hpo?user=me&password=***&sslmode=require"),
        ("postgresql://db/hpo?sslpassword=secret", "postgresql://db/hpo?sslpassword=***"),
        ("postgresql://me@db:5432/hpo", "postgresql://me@db:5432/hpo"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("sqlite:///mlruns/mlflow.db", "sqlite:///mlruns/mlflow.db"),
    ],
)  # fmt: skip
def test_an_address_is_shown_without_its_password(url: str, shown: str) -> None:
    assert masked(url) == shown
    assert masked(shown) == shown


def test_every_address_in_a_text_loses_its_password() -> None:
    text = "Job(storage='postgresql://me:secret@db/hpo', other=\"https://you:hidden@host\")\n  at a://b:c@d, x@y.z"
    assert hide_passwords(text) == (
        "Job(storage='postgresql://me:***@db/hpo', other=\"https://you:***@host\")\n  at a://b:***@d, x@y.z"
    )


def test_a_text_without_one_stays_as_it_is() -> None:
    text = "10:30 http://127.0.0.1:5000/#/experiments/1 and me@example.org, password=none"
    assert hide_passwords(text) == text

"""Passwords of databases: refused where others could read them, and shown in no message, however they are written."""

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
import sqlalchemy
from ports import free_port
from sqlalchemy.ext.asyncio import create_async_engine

from rlhf.cli.main import main
from rlhf.services.postgresql import for_mlflow, for_prefect, prepare_database

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
PASSWORD = "S3cr%t/p@:ss?#[w] ü"  # pragma: allowlist secret
# Of each password, whatever of it would be seen in a message that quotes the address in part.
BAD = ["SECRET%pw4", "SEC/RETpw4", "SEC@RETpw4", "SEC?RETpw4", "SEC#RETpw4", "12/SECRETpw4", "SEC:RETpw4", "[SECRETpw4"]


@pytest.mark.parametrize("given", ["--database", "RLHF_DATABASE"])
@pytest.mark.parametrize("password", BAD)
def test_a_password_that_is_not_encoded_is_one_line_without_it(
    given: str, password: str, project_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Row 14: with % the whole password was printed, with / a traceback showed it, with @ its second half."""
    address = f"postgresql://me:{password}@127.0.0.1:{free_port()}/d"
    if given == "RLHF_DATABASE":
        monkeypatch.setenv("RLHF_DATABASE", address)
    assert main(["up", *(["--database", address] if given == "--database" else [])]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"rlhf: error: {given}: ")
    assert said.count("\n") == 1
    assert not any(part in said for part in ("SEC", "RETpw4", "pw4"))
    assert ("percent-encode it" if given == "RLHF_DATABASE" else "set RLHF_DATABASE") in said


@pytest.mark.parametrize(
    "address", ["postgresql://me:" + "Secretpw4@127.0.0.1:9/d", "postgresql://me@127.0.0.1:9/d?pass" + "word=Secretpw4"]
)
def test_a_flag_with_a_password_is_refused(address: str, project_root: Path, capsys: pytest.CaptureFixture[str]):
    """Row 15: `--database` with a password was taken, although every user of the machine sees it in `ps`."""
    assert main(["up", "--database", address]) == 2
    said = capsys.readouterr().err
    assert "--database: the address holds a password" in said
    assert "RLHF_DATABASE" in said
    assert "Secretpw4" not in said


@pytest.mark.parametrize(
    "address", ["postgresql://h:port/d", "postgresql://h:0/d", "postgresql:///d", "postgresql://[::/d", "mysql://h/d"]
)
def test_an_address_that_cannot_be_read_is_one_line(
    address: str, project_root: Path, capsys: pytest.CaptureFixture[str]
):
    """Row 14: the port of an address was read without a guard, which ended in a traceback."""
    assert main(["up", "--database", address]) == 2
    said = capsys.readouterr().err
    assert said.startswith("rlhf: error: --database")
    assert "is not of the form postgresql://USER@HOST:PORT/NAME" in said
    assert said.count("\n") == 1


def test_a_server_that_is_away(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Row 14: an error of the client library was printed as it is."""
    monkeypatch.setenv("RLHF_ROOT", str(tmp_path_factory.mktemp("p")))  # the path of a socket is not long
    port = free_port()
    monkeypatch.setenv("RLHF_DATABASE", f"postgresql://me:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/d")
    monkeypatch.setattr("rlhf.cli.up.be_client_of", lambda _: None)  # it would change the environment of the tests
    monkeypatch.setattr("flows.servers.up.check_port_is_free", lambda *_: None)
    assert main(["up"]) == 2
    said = capsys.readouterr().err
    assert f"RLHF_DATABASE: PostgreSQL at 127.0.0.1:{port} does not do: " in said
    assert PASSWORD not in said
    assert quote(PASSWORD, safe="") not in said


@pytest.fixture
def guarded() -> Iterator[str]:
    """The address of a database of a PostgreSQL server that asks for `PASSWORD`."""
    if not PROGRAMS:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="rlhf-postgresql-"))
    folder.chmod(0o777)
    port = free_port()

    def run(program: str, *arguments: str) -> None:
        """PostgreSQL refuses to run as root."""
        words = [str(PROGRAMS[-1] / program), "-D", str(folder / "data"), *arguments]
        as_postgres = ["runuser", "-u", "postgres", "--", *words] if os.geteuid() == 0 else words
        subprocess.run(as_postgres, check=True, capture_output=True)

    (folder / "password").write_text(PASSWORD)
    run("initdb", "-A", "scram-sha-256", "-U", "rlhf", "-E", "UTF8", f"--pwfile={folder / 'password'}")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -k {folder} -c fsync=off"
    run("pg_ctl", "-w", "-l", str(folder / "log"), "-o", options, "start")
    try:
        yield f"postgresql://rlhf:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/postgres"
    finally:
        run("pg_ctl", "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def test_an_encoded_password_works_for_every_client(guarded: str):
    """Row 14: a password may hold any character, as long as it is percent-encoded."""
    prepare_database(guarded, "RLHF_DATABASE")
    with psycopg.connect(guarded) as connection:
        names = {name for (name,) in connection.execute("SELECT schema_name FROM information_schema.schemata")}
    assert {"prefect", "mlflow"} <= names
    engine = sqlalchemy.create_engine(for_mlflow(guarded))
    with engine.connect() as connection:
        assert connection.execute(sqlalchemy.text("SHOW search_path")).scalar() == "mlflow"
    engine.dispose()

    async def ask() -> object:
        engine = create_async_engine(for_prefect(guarded))
        async with engine.connect() as connection:
            answer = (await connection.execute(sqlalchemy.text("SELECT 1"))).scalar()
        await engine.dispose()
        return answer

    assert asyncio.run(ask()) == 1

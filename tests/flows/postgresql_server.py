"""A PostgreSQL server of a test's own."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
import pytest
from ports import free_port
from started_services import wait_until_gone

PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server with an empty database."""

    folder: Path
    port: int

    @property
    def url(self) -> str:
        return f"postgresql://rlhf@127.0.0.1:{self.port}/pipeline"

    def make(self) -> None:
        self.run("initdb", "-A", "trust", "-U", "rlhf")
        self.start()
        with psycopg.connect(self.url.replace("/pipeline", "/postgres"), autocommit=True) as connection:
            connection.execute("CREATE DATABASE pipeline")

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self.folder} -c fsync=off"
        self.run("pg_ctl", "-w", "-l", str(self.folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        self.run("pg_ctl", "-m", "immediate", "stop")

    def kill(self) -> None:
        """As the system would, if it had no memory left."""
        postmaster = psutil.Process(int((self.folder / "data" / "postmaster.pid").read_text().split()[0]))
        everything = [postmaster, *postmaster.children(recursive=True)]
        for process in everything:
            process.kill()
        wait_until_gone(everything, 30)

    def run(self, program: str, *arguments: str) -> None:
        """PostgreSQL refuses to run as root."""
        words = [str(PROGRAMS[-1] / program), "-D", str(self.folder / "data"), *arguments]
        as_postgres = ["runuser", "-u", "postgres", "--", *words] if os.geteuid() == 0 else words
        subprocess.run(as_postgres, check=True, capture_output=True)


@contextmanager
def postgresql() -> Iterator[Server]:
    if not PROGRAMS:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    # Not below the tests' own folder, which only its owner may enter.
    folder = Path(tempfile.mkdtemp(prefix="rlhf-postgresql-"))
    folder.chmod(0o777)
    server = Server(folder, free_port())
    server.make()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)

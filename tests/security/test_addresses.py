"""Addresses that are shown or kept: without user, password, query and fragment."""

from pathlib import Path

import httpx
import pytest

from rlhf.addresses import public_address, with_public_addresses
from rlhf.cli.console import print_ui_commands
from rlhf.data.versions.stores import stores
from rlhf.errors import one_line
from rlhf.model_card.tables import portable_command
from rlhf.provenance.capture import default_remote
from tasks import prefect_artifacts as display


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("s3://bucket/path?token=DvcQuerySecret99", "s3://bucket/path"),  # pragma: allowlist secret
        ("s3://bucket/me@home", "s3://bucket/me@home"),
        ("https://me:secret@host:80/x#secret", "https://host:80/x"),  # pragma: allowlist secret
        ("postgresql+psycopg://me:" + "se%40cret@host/x?sslpassword=secret", "postgresql+psycopg://host/x"),
        ("ssh://me@host:22/x", "ssh://host:22/x"),
        ("http://me:secret@[::1]:5000", "http://[::1]:5000"),  # pragma: allowlist secret
        ("postgresql://me:se@cret@host/x", "postgresql://host/x"),  # pragma: allowlist secret
        ("postgresql://me:12/secret@host/x", "postgresql://..."),
        ("postgresql://me:sec/ret@host/x", "postgresql://..."),
        ("postgresql://me:sec#ret@host/x", "postgresql://..."),
        ("https://[secret", "https://..."),
        ("sqlite:////folder/mlflow.db", "sqlite:////folder/mlflow.db"),
        ("sqlite:///file:x.db?key=secret", "sqlite:///file:x.db"),
        ("/folder/with?odd#name@x", "/folder/with?odd#name@x"),
    ],
)
def test_what_is_shown_of_an_address(address: str, shown: str):
    """Row 5: the query of an address was kept, and of one that is written wrongly a part of the password."""
    assert public_address(address) == shown


def test_addresses_in_what_a_library_says():
    """Row 14: a library's error quotes the address that it was given."""
    who = "me:secret"
    said = f"API request to http://{who}@host/api?token=secret failed (see 'https://{who}@host/x'): refused"
    assert with_public_addresses(said) == "API request to http://host/api failed (see 'https://host/x'): refused"
    assert one_line(ValueError("no\nremote at s3://b/p?token=secret, or elsewhere")) == (
        "no remote at s3://b/p, or elsewhere"
    )


def test_the_query_of_a_remote_is_in_no_record(project_root: Path):
    """Row 5: `?token=` of a DVC remote stood in record.json, and in provenance.json beside the published policy."""
    (project_root / ".dvc" / "config").write_text(
        "[core]\n    remote = a\n['remote \"a\"']\n    url = s3://bucket/path?token=" + "DvcQuerySecret99\n"
    )
    assert default_remote(project_root) == "s3://bucket/path"


def test_the_query_of_a_remote_is_in_no_message(project_root: Path):
    """Row 5: what a command says of a remote, such as what it was pushed to."""
    (project_root / ".dvc" / "config").write_text(
        "[core]\n    remote = a\n['remote \"a\"']\n    url = https://me:" + "secret@127.0.0.1:9/path?token=secret\n"
    )
    with stores(project_root) as found:
        assert "secret" not in str(found)
        assert "https://127.0.0.1:9/path" in str(found)


def test_the_commands_that_open_the_pages_hold_no_password(
    project_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Row 5: `rlhf ui`, and the end of every run, printed the addresses of the environment as they are."""
    monkeypatch.setenv("PREFECT_API_URL", "https://me:secret@prefect.example/api")  # pragma: allowlist secret
    for store in ("https://me:" + "secret@mlflow.example", "postgresql+psycopg://me:" + "secret@db.example/mlflow"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
        print_ui_commands()
    said = capsys.readouterr().out
    assert "secret" not in said
    assert all(host in said for host in ("https://prefect.example", "https://mlflow.example", "//db.example/mlflow"))


def test_what_was_typed_is_published_without_secrets():
    """Row 5: the card beside the weights says what was typed."""
    typed = portable_command("rlhf run x.yaml --a=https://me:" + "secret@host/x?a=b --b s3://me:" + "secret@b/c")
    assert typed == "rlhf run x.yaml --a=https://host/x --b s3://b/c"


def test_a_log_line_about_a_server_that_is_away(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    """Row 5: clients quote the whole address of Prefect in their errors, and those are logged."""

    def refuse(**_: object) -> None:
        raise httpx.ConnectError("no answer from https://me:" + "secret@prefect.example/api")

    monkeypatch.setattr(display, "create_link_artifact", refuse)
    display.show_link("key", "http://x", "words")
    assert "https://prefect.example/api" in caplog.text
    assert "secret" not in caplog.text

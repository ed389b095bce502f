"""Secrets in changed files: no patch holds them, the record of the run names the file, and other code stays."""

import subprocess
import time
from pathlib import Path

import pytest

from rlhf.provenance.code import MAX_FILE_BYTES, working_patch
from rlhf.provenance.credentials import has_secret_name, holds_secret

ROOT = Path(__file__).resolve().parents[2]
# In two parts, so that this file holds none.
QUOTED = {
    "a password": ('password = "', 'PatchPlainPw99xx"'),
    "an argument": ('connect(user="me", password="', 'Tr0ub4dor")'),
    "a value of JSON": ('"password": "', 'Tr0ub4dor&3",'),
    "a client's secret": ('client_secret: "', 'q8Zx1Lm0Rt5Yv2Kw"'),
    "the environment": ('os.environ["DB_PASSWORD"] = "', 'hunter2hunter2"'),
    "a hook of Slack": ('hook = "https://hooks.slack.com/', 'services/T00000000/B00000000/XXXXabcdXXXXefgh12345678"'),
    "a hook of Discord": ("https://discord.com/api/", "webhooks/123456789012345678/abcDEF_ghi-JKL"),
    "a bearer": ('headers = {"Authorization": "Bea', 'rer abcDEF123456ghiJKL789"}'),
    "a bearer of a command": ("curl -H 'Authorization: Bea", "rer abcDEF123456ghiJKL789'"),
    "a basic header": ("Authorization: ", "Basic dXNlcjpQYXNzd29yZDEyMw=="),
    "a JWT": (
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.",
        "eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP",
    ),
    "a database": ('url = "postgresql://me:', 'abc1234@host/db"'),
    "a query": ('url = "s3://bucket/path?', 'token=DvcQuerySecret99"'),
    "AWS": ("AKIA", "ABCDEFGHIJ234567"),
    "AWS, unquoted": ("aws_secret_access_key = wJalr", "XUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
    "Hugging Face": ("hf_", "abcDEFghiJKLmnoPQRstuVWXyz12345678"),
    "GitHub": ("ghp_", "abcDEFghiJKLmnoPQRstuVWXyz1234567890"),
    "GitHub, long": ("github_pat_", "11AAAAAAA0abcdefghijkl_mnopqrstuvwxyz"),
    "GitLab": ("glpat-", "abcdefghij1234567890"),
    "OpenAI": ("sk-", "proj-abcDEFghiJKLmnoPQRstuVWX"),
    "Slack": ("xoxb-", "123456789012-abcdefGHIJKL"),
    "Stripe": ("sk_live_", "abcdefghijklmnopqrstuvwx"),
    "npm": ("//registry.npmjs.org/:_authToken=", "npm_abcdefghijklmnopqrstuvwxyz0123456789"),
    "a private key": ("-----BEGIN RSA ", "PRIVATE KEY-----"),
}
UNQUOTED = {
    "a shell": ("export DB_PASSWORD=", "Tr0ub4dor3"),
    "YAML": ("password: ", "Tr0ub4dor3"),
    "a key of wandb": ("wandb_api_key: ", "0a0a0a0a0a0a0a0a0a0a0a0a"),
}
HARMLESS = [
    "password = None",
    'password = os.environ.get("X")',
    "password = ask_for_the_password()",
    "token = tokenizer.pad_token",
    'pad_token = "<|endoftext|>"',
    'PASSWORD_VARIABLE = "RLHF_PASSWORD"',
    'password = ""',
    "secret: ${SECRET}",
    "max_response_tokens: 128",
    "detect-secrets==1.5.0",
    'sha256: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"',
    'headers = {"Authorization": f"Bearer {token}"}',
    "http://127.0.0.1:5000/#/experiments?workflowType=machine_learning",
    'password = "correct horse 1"  # pragma: allowlist secret',
]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout with one file of code and one of settings."""
    folder = tmp_path / "tree"
    (folder / "rlhf").mkdir(parents=True)
    (folder / "rlhf" / "loss.py").write_text("x = 1\n")
    (folder / "demo.yaml").write_text("seed: 0\n")
    for arguments in (("init", "--quiet"), ("add", "--all"), ("commit", "--quiet", "--message", "First")):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    return folder


@pytest.mark.parametrize(
    ("name", "parts"),
    [("rlhf/loss.py", parts) for parts in QUOTED.values()] + [("demo.yaml", parts) for parts in UNQUOTED.values()],
    ids=[*QUOTED, *UNQUOTED],
)
def test_a_secret_is_in_no_patch(tree: Path, name: str, parts: tuple[str, str]):
    """Row 5: passwords in quotes, hooks, headers, JWTs and short passwords of databases were recorded in the patch."""
    text = "".join(parts)
    (tree / name).write_text(f"a = 1\n{text}\n")
    (tree / "rlhf" / "other.py").write_text("w = 4\n")
    patch = working_patch(tree)
    assert patch.left_out == (name,)
    assert text.encode() not in patch.content
    assert b"+w = 4" in patch.content


@pytest.mark.parametrize("text", HARMLESS)
@pytest.mark.parametrize("name", ["rlhf/loss.py", "demo.yaml"])
def test_what_is_none_is_in_the_patch(text: str, name: str):
    """Row 5: a file that is held back wrongly makes a run that cannot be repeated."""
    assert not holds_secret(text.encode(), name)


def test_nothing_of_this_project_is_taken_for_one():
    """Row 5: whatever of its code, recipes and documents somebody changes, the run can be repeated."""
    folders = ("rlhf", "flows", "tasks", "configs", "docs", "tests/security", "*.lock", "*.md", "*.toml", "Makefile")
    listed = subprocess.run(["git", "ls-files", "-z", *folders], cwd=ROOT, check=True, capture_output=True, text=True)
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert [path.name for path in files if has_secret_name(path.name)] == []
    text = [path for path in files if path.suffix != ".png"]
    assert [path.name for path in text if holds_secret(path.read_bytes(), path.name)] == []


@pytest.mark.parametrize("text", ['{"text": "', "password token: ", '"password": ' + "'", "a1B"])
def test_a_long_line_takes_seconds_at_most(text: str):
    """Row 5: patterns that go back and forth over a line could hold up a run."""
    begun = time.monotonic()
    holds_secret((text * MAX_FILE_BYTES)[:MAX_FILE_BYTES].encode(), "rows.json")
    assert time.monotonic() - begun < 20


def test_what_is_cut_in_two_is_found(tree: Path):
    """Row 5: long lines are looked at in parts."""
    secret = "".join(QUOTED["Stripe"])
    assert all(holds_secret(b" " * length + secret.encode(), "rows.json") for length in range(3970, 4010))

"""`rlhf serve` in a process of its own, asked by OpenAI's client and by strangers."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from openai import AuthenticationError, BadRequestError, OpenAI
from ports import free_port

from rlhf.cli.main import main

pytestmark = pytest.mark.slow
QUESTION = [{"role": "user", "content": "What is 3 + 4 ?"}]


@dataclass(frozen=True)
class Endpoint:
    url: str
    model: str
    key: str
    process: "subprocess.Popen[str]"

    def client(self, key: str | None = None) -> OpenAI:
        return OpenAI(base_url=self.url, api_key=key or self.key, max_retries=0)


@pytest.fixture(scope="module")
def endpoint(trained: Path) -> Iterator[Endpoint]:
    port = free_port()
    command = [sys.executable, "-m", "rlhf.cli", "serve", "v1", "--port", str(port)]
    environment = os.environ | {"RLHF_ROOT": str(trained)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = "".join(process.stdout.readline() for _ in range(4))
    found = re.fullmatch(r"Endpoint: (.*)\nModel: (rlhf-\w{8})\nKey: (\S{20,})\nCtrl-C ends it.\n", said)
    assert found is not None, said
    assert found[1] == f"http://127.0.0.1:{port}/v1"
    for _ in range(300):
        try:
            httpx.get(f"http://127.0.0.1:{port}/health")
            break
        except httpx.ConnectError:
            assert process.poll() is None, process.communicate()
            time.sleep(0.2)
    yield Endpoint(found[1], found[2], found[3], process)
    process.kill()
    process.communicate()


def test_openais_client_talks_to_it(endpoint: Endpoint):
    with endpoint.client() as client:
        talk(client, endpoint)


def talk(client: OpenAI, endpoint: Endpoint) -> None:
    assert [model.id for model in client.models.list()] == [endpoint.model]
    answer = client.chat.completions.create(model=endpoint.model, messages=QUESTION, temperature=0)
    text = answer.choices[0].message.content
    assert text
    assert answer.usage is not None
    # The smoke recipe's longest answer, and not what the library takes.
    assert answer.usage.completion_tokens <= 20
    with client.chat.completions.create(model=endpoint.model, messages=QUESTION, temperature=0, stream=True) as stream:
        assert "".join(part.choices[0].delta.content or "" for part in stream if part.choices) == text
    drawn = {
        client.chat.completions.create(model=endpoint.model, messages=QUESTION, seed=seed).choices[0].message.content
        for seed in range(4)
    }
    assert len(drawn) > 1, "at the temperature of the run's evaluation"
    assert client.completions.create(model=endpoint.model, prompt="What is", max_tokens=3).choices[0].text


def test_strangers_and_other_models_are_refused(endpoint: Endpoint):
    with (
        endpoint.client("another") as client,
        pytest.raises(AuthenticationError, match="show the key that `rlhf serve`"),
    ):
        client.models.list()
    with endpoint.client() as client, pytest.raises(BadRequestError) as refused:
        client.chat.completions.create(model="org/other", messages=QUESTION)
    assert f"Server is pinned to '{endpoint.model}'" in refused.value.response.text
    with httpx.Client(base_url=endpoint.url.removesuffix("/v1")) as client:
        assert client.get("/v1/models").status_code == 401
        assert client.get("/health").status_code == 200
        assert client.get("/health", headers={"Host": "evil.test"}).status_code == 400
        known = {"Authorization": f"Bearer {endpoint.key}"}
        for path in ("/load_model", "/reset", "/v1/responses", "/v1/audio/transcriptions"):
            assert client.post(path, json={"model": "org/other"}, headers=known).status_code == 404
        assert client.get("/docs", headers=known).status_code == 404


def test_it_ends_when_told(endpoint: Endpoint):
    """The last: nothing is there after it."""
    endpoint.process.send_signal(signal.SIGINT)
    assert endpoint.process.wait(timeout=60) in (0, 130)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("--name", "a b"), "--name is a b; give letters, digits"),
        (("--port", "70000"), "--port is 70000; give a number from 1 to 65535"),
        (("nobody",), "nobody"),
    ],
)
@pytest.mark.usefixtures("project_root")
def test_mistakes(arguments: tuple[str, ...], what: str, capsys: pytest.CaptureFixture[str]):
    given = arguments if "--port" in arguments else (*arguments, "--port", str(free_port()))
    assert main(["serve", *given]) == 2
    assert what in capsys.readouterr().err


def test_a_key_that_can_be_guessed(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("RLHF_API_KEY", "short")
    assert main(["serve", "v1", "--port", str(free_port())]) == 2
    assert "RLHF_API_KEY has 5 characters; give at least 12" in capsys.readouterr().err


def test_a_taken_port(capsys: pytest.CaptureFixture[str]):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 2
    assert f"the endpoint cannot listen at 127.0.0.1:{port}" in capsys.readouterr().err

"""`rlhf export` of a run's policy: the folder, a hub on this machine, and llama.cpp's tools where they are.

`make test-export LLAMA_CPP=DIR` runs the last, with a checkout of llama.cpp in which llama-server is built.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from made_hub import Hub, hub

from rlhf.cli.main import main
from rlhf.export.gguf import CONVERTER
from rlhf.files.manifest import hash_files

NAME = "team/aligned"
NUM_PROMPTS = 4  # that the smoke recipe's evaluation shows
NEEDED = {"README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors"}
NEEDED |= {"tokenizer.json", "tokenizer_config.json"}


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run `rlhf export`; what it says where it ends as it is to."""

    def run(*arguments: str, code: int = 0) -> str:
        assert main(["export", *arguments]) == code
        done = capsys.readouterr()
        return done.err if code else done.out

    return run


@pytest.fixture
def policy(project: Path) -> Path:
    """The folder with the card of the only run."""
    (card,) = (project / "mlruns" / "artifacts").glob("*/artifacts/output/README.md")
    return card.parent


def test_a_folder_has_all_that_a_tool_needs_and_is_not_written_over(
    said: Callable[..., str], policy: Path, tmp_path: Path
):
    destination = tmp_path / "aligned"
    text = said("v1", str(destination), "--to", "folder")
    assert text == (
        f"Written: {destination}. Transformers loads it, and its greedy answers to {NUM_PROMPTS} prompts are the "
        "policy's.\n"
    )
    assert {file.name for file in destination.iterdir()} >= NEEDED
    assert hash_files(destination) == hash_files(policy)
    assert "there is something of this name already" in said("v1", str(destination), "--to", "folder", code=2)
    text = said(str(destination), str(tmp_path / "served"), "--to", "vllm")
    assert f"vllm serve {tmp_path / 'served'} --served-model-name served" in text


def test_what_nobody_could_use_is_refused_and_leaves_nothing(said: Callable[..., str], policy: Path, tmp_path: Path):
    broken = Path(shutil.copytree(policy, tmp_path / "broken"))
    (broken / "generation_config.json").write_text('{"eos_token_id": 3}')
    text = said(str(broken), str(tmp_path / "aligned"), "--to", "folder", code=2)
    assert "generation_config.json ends answers with token 3" in text
    shutil.copy(policy / "generation_config.json", broken)
    (broken / "chat_template.jinja").unlink()
    said(str(broken), str(tmp_path / "aligned"), "--to", "folder", code=2)
    assert sorted(path.name for path in tmp_path.iterdir() if "aligned" in path.name) == []


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("x", "--to", "folder", "--push"), "--push is for --to hub, and would be ignored with --to folder"),
        (("x", "--to", "hub", "--llama-cpp", "y"), "--llama-cpp is for --to gguf or ollama"),
        (("x", "--to", "ollama"), f"written by llama.cpp's {CONVERTER}, which is not here; clone https://"),
        (("x", "--to", "hub"), "x: this names no repository of a hub: the owner is missing; give OWNER/NAME"),
        (("a b/c", "--to", "hub"), "a b/c: this names no repository of a hub"),
        (("x.gguf", "--to", "gguf"), f"written by llama.cpp's {CONVERTER}, which is not here; clone https://"),
        (("x.gguf", "--to", "gguf", "--llama-cpp", "."), f".: there is no {CONVERTER} in this folder"),
        (("x.gguf", "--to", "gguf", "--num-prompts", "-1"), "--num-prompts is -1; give 1 or more"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], what: str, said: Callable[..., str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("LLAMA_CPP", raising=False)
    assert what in said("champion", *arguments, code=2)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Hub]:
    with hub() as started:
        started.folder = tmp_path / "hub"
        yield started


def push(served: Hub, project: Path, token: str) -> "subprocess.CompletedProcess[str]":
    """In a process of its own, since huggingface_hub asks once which hub it is."""
    own = {"HF_ENDPOINT": served.url, "HF_TOKEN": token, "HF_HUB_OFFLINE": "0", "HF_HOME": str(project / "home")}
    command = [sys.executable, "-m", "rlhf.cli", "export", "v1", NAME, "--to", "hub", "--push"]
    return subprocess.run(command, env=os.environ | own, capture_output=True, text=True, check=False)


def test_a_hub_is_told_of_first_and_then_has_it_for_its_owner_alone(
    said: Callable[..., str], project: Path, policy: Path, served: Hub
):
    text = said("v1", NAME, "--to", "hub")
    assert text.startswith(f"Nothing was pushed. {NAME} would get")
    assert "\n  model.safetensors\n" in text
    assert "A repository that is made is private. To do it: --push\n" in text
    assert served.requests == []

    done = push(served, project, served.token)
    assert done.returncode == 0, done.stderr
    text = done.stdout
    repository = served.repositories[NAME]
    commit = repository.branches["main"]
    assert f"Pushed: {served.url}/{NAME} at commit {commit} (private)." in text
    assert f"its greedy answers to {NUM_PROMPTS} prompts are the policy's" in text
    assert hash_files(repository.commits[commit]) == hash_files(policy)
    assert repository.private


def test_a_hub_that_refuses(project: Path, served: Hub):
    done = push(served, project, "hf_of_somebody_else")
    assert done.returncode == 2
    assert f"{NAME}: the hub at {served.url} refused (" in done.stderr
    assert "set HF_TOKEN to a token that may write there" in done.stderr
    assert "hf_of_somebody_else" not in done.stderr
    assert served.repositories == {}


REFUSING = """
import sys
print("INFO:hf-to-gguf:Loading model", file=sys.stderr)
raise NotImplementedError("BPE pre-tokenizer was not recognized - update get_vocab_base_pre()")
"""


@pytest.mark.usefixtures("policy")
def test_a_tokenizer_that_the_converter_does_not_know(said: Callable[..., str], tmp_path: Path):
    """As llama.cpp's own script ends; it is met in `make test-export`."""
    (tmp_path / CONVERTER).write_text(REFUSING)
    file = tmp_path / "policy.gguf"
    text = said("v1", str(file), "--to", "gguf", "--llama-cpp", str(tmp_path), code=2)
    assert f"llama.cpp's {CONVERTER} refuses this model (NotImplementedError: BPE pre-tokenizer was not rec" in text
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("project", CONVERTER)] == []


LLAMA_CPP = os.environ.get("LLAMA_CPP")
STORIES = Path(__file__).parents[3] / "shared" / "realdata" / "model" / "stories260K-hf"
real_tools = pytest.mark.skipif(LLAMA_CPP is None, reason="LLAMA_CPP names no checkout of llama.cpp")


@pytest.mark.soak
@real_tools
@pytest.mark.usefixtures("project")
def test_llama_cpp_gives_the_same_tokens(said: Callable[..., str], tmp_path: Path):
    """A real pretrained model, with a chat template, by llama.cpp's own tools."""
    from rlhf.config.model import ModelConfig
    from rlhf.modeling.tokenizer import prepare_tokenizer

    folder = Path(shutil.copytree(STORIES, tmp_path / "stories"))
    tokenizer, _ = prepare_tokenizer(ModelConfig(base=str(STORIES)), [])
    tokenizer.save_pretrained(folder)
    file = tmp_path / "stories.gguf"
    text = said(str(folder), str(file), "--to", "gguf", "--num-prompts", "50")
    print(text)
    assert file.is_file()
    assert "token by token" in text or "greedy answers are others" in text

    # Ollama's folder: the Modelfile's prompts are read as the policy's own tokens.
    text = said(str(folder), str(tmp_path / "for-ollama"), "--to", "ollama", "--num-prompts", "50")
    print(text)
    assert {file.name for file in (tmp_path / "for-ollama").iterdir()} == {"policy.gguf", "Modelfile"}
    assert "as other tokens" not in text


@pytest.mark.soak
@real_tools
@pytest.mark.usefixtures("policy")
def test_the_demos_tokenizer_is_refused_by_llama_cpp_itself(said: Callable[..., str], tmp_path: Path):
    text = said("v1", str(tmp_path / "policy.gguf"), "--to", "gguf", code=2)
    print(text)
    assert f"llama.cpp's {CONVERTER} refuses this model (" in text

"""Chat templates in Go's language: written as the tokenizer's writes, by a reader of the few words that they use.

Where Go is installed, its own text/template reads them too.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from made_tokenizers import CHATML, byte_level
from transformers import AutoTokenizer

from rlhf.chat.policies import ChatPolicy
from rlhf.errors import InputError
from rlhf.export import ollama
from rlhf.export.go_template import go_template, observed, trims, write
from rlhf.modeling import tokenizer as own

# As models bring them: a system's message of their own, the system's message within the first turn, no system.
DEFAULT_SYSTEM = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\n"
    "You are \"{{ '{{' }}\".\u200b<|im_end|>\n{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
WITHIN = (
    "{% set first = messages[0]['role'] == 'system' %}{% for m in messages %}{% if m['role'] == 'system' %}"
    "[INST] <<SYS>>\n{{ m['content'] }}\n<</SYS>>\n\n{% elif m['role'] == 'user' %}"
    "{% if not (first and loop.index0 == 1) %}[INST] {% endif %}{{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }} {{ eos_token }}{% endif %}{% endfor %}"
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no such role') }}{% endif %}"
    "<turn>{{ m['role'] }}\n{{ m['content'] | trim }}</turn>{% endfor %}<turn>model\n"
)
WRITTEN = {
    "ChatML": CHATML,
    "a default system": DEFAULT_SYSTEM,
    "within the turn": WITHIN,
    "no system": NO_SYSTEM,
    "built": own._BUILT_TEMPLATE,
    "of texts": own._TEXT_TEMPLATE.replace("GAP", "\\n").replace("UNASKED", "").replace("ASKED", "\\n"),
    "continuation": own._CONTINUATION_TEMPLATE.replace("UNASKED", "").replace("ASKED", "\\n"),
}
REFUSED = {
    "the last message is written otherwise": (
        "{% for m in messages %}<{{ m['role'] }}>{% if loop.last %}!{% endif %}{{ m['content'] }}{% endfor %}",
        "is not made of what it writes for each",
    ),
    "a message is changed": (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'].replace('x', 'y') }}{% endfor %}",
        "it changes what messages say",
    ),
    "the system's message is left out": (
        "{% for m in messages if m['role'] != 'system' %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}",
        "or not all of them",
    ),
    "no question is taken": ("{{ raise_exception('no') }}", "refuses a conversation: no"),
}
DIALOGUES = [
    [("user", "What is 1 + 1 ?")],
    [("user", "a {{ .Role }}\n"), ("assistant", '"""'), ("user", "c")],
    [("system", "Be kind ."), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")],
]
GO = """
package main

import ("encoding/json"; "fmt"; "os"; "text/template")

func main() {
	var given struct { Template string; Messages []struct{ Role, Content string } }
	if err := json.NewDecoder(os.Stdin).Decode(&given); err != nil { panic(err) }
	read, err := template.New("").Option("missingkey=zero").Parse(given.Template)
	if err == nil { err = read.Execute(os.Stdout, map[string]any{"Messages": given.Messages}) }
	if err != nil { fmt.Fprintln(os.Stderr, err); os.Exit(1) }
}
"""
Reader = Callable[[str, Sequence[dict[str, str]]], str]


def read(template: str, messages: Sequence[dict[str, str]]) -> str:
    """What the template writes, by its few words: range, if eq, else, print, slice, literals."""
    start, loop, end = re.fullmatch(
        r"(\{\{ \$last := \"\" \}\}\{\{ range \.Messages \}\}\{\{ \$step := print \$last \">\" \.Role \}\})"
        r"(.*)\{\{ \.Content \}\}\{\{ \$last = \.Role \}\}\{\{ end \}\}(.*)",
        template,
        re.DOTALL,
    ).groups()  # type: ignore[union-attr]
    assert start
    last, text = "", ""
    for message in messages:
        text += choose(loop, f"{last}>{message['role']}") + message["content"]
        last = message["role"]
    return text + choose(end, last)


def choose(chain: str, value: str) -> str:
    for case in re.split(r"\{\{ else ", chain.removeprefix("{{ ").removesuffix("{{ end }}")):
        condition, text = case.split(" }}", 1) if not case.startswith("}}") else ("", case[2:])
        if condition == "" or condition.endswith(f' "{value}"'):
            if text.startswith("{{ slice"):
                raise ValueError(text)
            literal = re.fullmatch(r'\{\{ "(.*)" \}\}', text)
            return literal[1].encode("latin-1", "backslashreplace").decode("unicode_escape") if literal else text
    raise AssertionError(chain)


@pytest.fixture(scope="session")
def by_go(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    if shutil.which("go") is None:
        pytest.skip("Go is not installed")
    folder = tmp_path_factory.mktemp("go")
    (folder / "main.go").write_text(GO)
    subprocess.run(["go", "build", "-o", "reader", "main.go"], cwd=folder, check=True)

    def run(template: str, messages: Sequence[dict[str, str]]) -> str:
        given = json.dumps({"Template": template, "Messages": messages}).encode()
        done = subprocess.run([folder / "reader"], input=given, capture_output=True, check=False)
        if done.returncode:
            raise ValueError(done.stderr.decode())
        return done.stdout.decode()

    return run


@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    return AutoTokenizer.from_pretrained(byte_level(tmp_path / "tokenizer", CHATML))


def check(tokenizer: Any, reader: Reader) -> None:
    texts = observed(tokenizer)
    template = go_template(texts)
    for turns in DIALOGUES:
        messages = [{"role": role, "content": content} for role, content in turns]
        if turns[0][0] == "system" and ("", "system") not in texts:
            with pytest.raises(ValueError, match="writes no dialogue with its roles in this order"):
                reader(template, messages)
            continue
        given = [{**message, "content": message["content"].strip()} for message in messages]
        expected = tokenizer.apply_chat_template(given, tokenize=False, add_generation_prompt=True)
        assert reader(template, given) == write(texts, given) == expected
    with pytest.raises(ValueError, match="writes no dialogue with its roles in this order"):
        reader(template, [{"role": "tool", "content": "x"}])


@pytest.mark.parametrize("template", WRITTEN.values(), ids=WRITTEN)
def test_a_dialogue_is_written_as_by_the_tokenizer(tokenizer: Any, template: str):
    tokenizer.chat_template = template
    check(tokenizer, read)
    assert trims(tokenizer) == (template == NO_SYSTEM)


@pytest.mark.parametrize("template", WRITTEN.values(), ids=WRITTEN)
def test_go_writes_it_too(tokenizer: Any, template: str, by_go: Reader):
    tokenizer.chat_template = template
    check(tokenizer, by_go)


@pytest.mark.parametrize(("template", "why"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_written_message_by_message_is_refused(tokenizer: Any, template: str, why: str):
    tokenizer.chat_template = template
    with pytest.raises(InputError, match=f"cannot be written as one of Go.*{why}.*export it with --to gguf"):
        observed(tokenizer)


def test_a_modelfile(tokenizer: Any, tmp_path: Path):
    """Ollama drops what is not printable, and ends a text at three quotation marks."""
    tokenizer.chat_template = DEFAULT_SYSTEM
    settings = {"evaluation.temperature": "0.7", "rl.max_response_tokens": "20", "model.max_length": "48"}
    texts = observed(tokenizer)
    text = ollama.modelfile(ChatPolicy("policy", "x", tmp_path, settings=settings), texts, "<|im_end|>")
    assert text.startswith('FROM ./policy.gguf\nTEMPLATE """{{ $last := "" }}')
    before, template, after = text.split('"""', 3)[0], text.split('"""')[1], text.split('"""', 2)[2]
    assert template == go_template(texts)
    assert all(char.isprintable() or char == "\n" for char in text)
    assert before.endswith("TEMPLATE ")
    assert after.splitlines()[1:] == [
        'PARAMETER stop """<|im_end|>"""',
        "PARAMETER temperature 0.7",
        "PARAMETER num_predict 20",
        "PARAMETER top_k 0",
        "PARAMETER top_p 1",
        "PARAMETER min_p 0",
        "PARAMETER repeat_penalty 1",
        "PARAMETER num_ctx 48",
    ]


def program(folder: Path, text: str) -> Path:
    file = folder / "ollama"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o700)
    return file


def test_a_model_of_that_name_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(program(tmp_path, "exit 0").parent))
    with pytest.raises(InputError, match="Ollama has a model aligned already; give the folder another name"):
        ollama.find_ollama(tmp_path / "aligned")
    monkeypatch.setenv("PATH", "/nowhere")
    assert ollama.find_ollama(tmp_path / "aligned") is None


def test_an_ollama_that_does_not_take_it_is_told_and_the_folder_stays(tmp_path: Path):
    said = "Error: ollama server not responding - could not connect to ollama server, run 'ollama serve' to start it"
    refusing = program(tmp_path, f'echo "{said}" >&2; exit 1')
    with pytest.raises(
        InputError, match=r"is written, but Ollama did not take it .*ollama serve.*ollama create aligned -f"
    ):
        ollama.create(str(refusing), tmp_path / "aligned", ChatPolicy("policy", "x", tmp_path), 4)

"""Talking to what a run has made: answers, scores, and judgments that retraining takes."""

import fcntl
import json
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import sys
import termios
import time
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from rlhf.chat.dialogue import ChatAnswer, Sampling, Scorer, Speaker
from rlhf.chat.judgments import Inbox, can_be_judged
from rlhf.chat.policies import ChatPolicy, find_beside, find_policy
from rlhf.cli.main import main
from rlhf.config.model import ComputeConfig
from rlhf.data.schema import pairs_of, read_rows
from rlhf.data.versions.inbox import import_inbox
from rlhf.errors import InputError
from rlhf.modeling.conversations import decode_responses, encode_dialogues, encode_prompts
from rlhf.modeling.generation import sample, sampling_noise
from rlhf.modeling.models import load_policy
from rlhf.modeling.tokenizer import load_tokenizer
from rlhf.paths import stage_folder
from rlhf.references import ModelRef, RewardModelsRef
from rlhf.rewards.scoring import score_rows_once
from rlhf.tracking.artifacts import local_path, output_of
from rlhf.tracking.queries import tags_of
from rlhf.tracking.runs import close_run, open_pipeline, open_stage, set_tags

CPU = ComputeConfig(dtype="fp32", num_threads=1)
QUESTION = [{"role": "user", "content": "What is 3 + 4 ?"}]
ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


def test_a_run_an_alias_and_a_folder_name_the_policy(project: Path):
    newest = find_policy(None)
    assert (newest.title, newest.settings["name"]) == ("policy", "smoke")
    run_id = newest.run_id or ""
    assert find_policy(run_id[:8]) == find_policy("candidate") == newest
    of_folder = find_policy(str(newest.folder))
    assert (of_folder.run_id, of_folder.reward_models) == (run_id, newest.reward_models)
    assert (find_beside(run_id, newest).title, find_beside(str(newest.folder), newest).title) == (
        f"policy of {run_id[:8]}",
        "output",
    )
    sft = find_beside("sft", newest)
    reference, _ = output_of(run_id, "sft", ModelRef)
    assert sft.folder == local_path(reference) / "policy"
    assert sft.name == f"{run_id}/sft"


def test_a_folder_from_elsewhere_is_talked_to_without_scores(project: Path, tmp_path: Path):
    elsewhere = tmp_path / "other"
    shutil.copytree(find_beside("sft", find_policy(None)).folder, elsewhere)
    policy = find_policy(str(elsewhere))
    assert (policy.title, policy.run_id, policy.reward_models) == ("other", None, None)
    with pytest.raises(InputError, match="so its SFT policy is not known; name the folder of another model"):
        find_beside("sft", policy)
    (elsewhere / "config.json").unlink()
    with pytest.raises(InputError, match=r"there is no config\.json here, so this is no model's folder"):
        find_policy(str(elsewhere))


def test_a_run_under_way_answers_with_its_best_policy_so_far(project: Path, caplog: pytest.LogCaptureFixture):
    done = find_policy(None)
    run_id = open_pipeline("smoke", None, {"name": "smoke", "rl": {"max_response_tokens": 5}}, {})
    with pytest.raises(InputError, match=f"run {run_id} has no SFT policy yet"):
        find_policy(run_id)
    open_stage(run_id, "policy", "f" * 64, {}, {})
    kept = stage_folder("policy", "f" * 64) / "checkpoints" / "candidates"
    for update in ("update_0000", "update_0012"):
        shutil.copytree(done.folder, kept / update)
    policy = find_policy(run_id)
    assert (policy.title, policy.folder) == ("policy, best so far", kept / "update_0012")
    assert Speaker(policy, CPU, Sampling(0)).max_response_tokens == 5
    close_run(run_id, "KILLED")


def test_a_policy_that_was_removed_is_told_with_the_way_back(project: Path):
    run_id = find_policy(None).run_id or ""
    card = tags_of(run_id)["rlhf.run.model_card"]
    set_tags(card, {"rlhf.output_removed": "2026-11-29"})
    with pytest.raises(InputError, match=f"was removed on 2026-11-29 to make room; `rlhf reproduce {run_id}` makes it"):
        find_policy(None)


def test_answers_are_those_of_the_sampler_and_scores_those_of_the_run(project: Path):
    policy = find_policy(None)
    heard: list[str] = []
    speaker = Speaker(policy, CPU, Sampling(3))
    answer = speaker.answer(QUESTION, [1], heard.append)

    tokenizer = load_tokenizer(policy.folder)
    (prompt,) = encode_prompts(tokenizer, [QUESTION])
    noise = sampling_noise(3, [("chat", 1)], 20)
    (ids,) = sample(load_policy(policy.folder, CPU), [prompt], noise, tokenizer, CPU, 1.0)
    assert answer.text == decode_responses(tokenizer, [ids])[0] == heard[-1]
    assert (answer.num_tokens, len(heard)) == (len(ids), len(ids))
    assert answer.ended == (ids[-1] == tokenizer.eos_token_id)
    assert speaker.answer(QUESTION, [1]).text == answer.text != speaker.answer(QUESTION, [2]).text

    assert policy.reward_models is not None
    scores = Scorer(policy.reward_models, policy.folder, CPU).score(answer)
    reference, _ = output_of(policy.run_id or "", "reward_model", RewardModelsRef)
    rows = encode_dialogues(tokenizer, [QUESTION], [answer.text], [answer.ended])
    for name in ("reward_model", "selection_reward_model"):
        (expected,) = score_rows_once(local_path(reference) / name, CPU, rows, 1)
        assert scores[name] == pytest.approx(expected, abs=1e-6)


def test_a_long_dialogue_loses_its_oldest_turns_and_says_so(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    lines = "".join(f"What is {number} + 4 ?\n" for number in range(4))
    monkeypatch.setattr("sys.stdin", StringIO(lines))
    assert main(["chat", "--beside", "sft"]) == 0
    said = capsys.readouterr()
    answers = [line for line in said.out.splitlines() if line.startswith(("policy: ", "SFT policy: "))]
    assert len(answers) == 8
    assert "for want of room" in said.out
    assert len(re.findall(r"reward model [-+]\d\.\d\d, selection model [-+]\d\.\d\d, \d+ tokens", said.out)) == 8
    assert "policy of run" in said.err
    assert "No checkpoint was better than the SFT policy" in said.err


def test_ten_judgments_are_rows_that_retraining_finds(project: Path):
    names = ChatPolicy("policy", "run/policy", project), ChatPolicy("SFT policy", "run/sft", project)
    inbox = Inbox(project / "inbox", "ann")
    now = datetime(2026, 11, 29, 12, tzinfo=UTC)
    before = len(list(read_rows(project / "data" / "preferences.jsonl", "preferences")))
    for number in range(10):
        dialogue = [{"role": "user", "content": f"Which number is {number} ?"}]
        answers = [ChatAnswer(who, dialogue, f"It is {word} .", 4, True) for who, word in zip(names, "ab", strict=True)]
        assert can_be_judged(answers) is None
        inbox.keep(dialogue, answers, ("first", "second", "tie")[number % 3], now)
    files = sorted((project / "inbox").iterdir())
    assert len(files) == 10
    rows = sorted((json.loads(file.read_text()) for file in files), key=lambda row: row["prompt"][0]["content"])
    assert [row["policies"] for row in rows[:2]] == [["run/policy", "run/sft"], ["run/sft", "run/policy"]]
    assert rows[1]["chosen"][0]["content"] == "It is b ."
    assert rows[2]["ranks"] == [1, 1]
    assert {row["time"] for row in rows} == {now.isoformat()}

    assert import_inbox("inbox", project) == 10
    stored = [row for _, row in read_rows(project / "data" / "preferences.jsonl", "preferences")]
    new = [row for row in stored if row.get("source") == "rlhf chat"]
    assert (len(stored), len(new)) == (before + 10, 10)
    assert {row["annotator"] for row in new} == {"ann"}
    assert [[*pairs_of(row)] == [] for row in new].count(True) == 3, "ties"


def test_what_cannot_be_judged(tmp_path: Path):
    who = ChatPolicy("policy", "p", tmp_path)
    same = [ChatAnswer(who, QUESTION, "7", 2, True)] * 2
    assert can_be_judged(same) == "both answers are the same"
    assert can_be_judged([same[0], ChatAnswer(who, QUESTION, " ", 1, True)]) == "an answer is empty"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nobody"], "nobody"),
        (["--temperature", "0"], "--temperature is 0.0; give a number above 0"),
        (["--max-response-tokens", "0"], "--max-response-tokens is 0; give a number of at least 1"),
        (["--max-response-tokens", "48"], "--max-response-tokens is 48, and policy reads 48 tokens with the question"),
        (["--inbox", "../elsewhere"], "--inbox: ../elsewhere is not a folder below"),
        (["--beside", "v9"], "no registered policy is v9; the aliases that there are: smoke@candidate (smoke/1)"),
    ],
)
def test_mistakes(project: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    assert main(["chat", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_before_any_run(project_root: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["chat"]) == 2
    assert "no run has finished yet; start with `rlhf run CONFIG`" in capsys.readouterr().err


class Terminal:
    """`rlhf chat` in a terminal of 80 columns."""

    def __init__(self, project: Path, beside: Path) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        environment = os.environ | {"TERM": "xterm-256color", "RLHF_ROOT": str(project)}
        command = [sys.executable, "-m", "rlhf.cli", "chat", "--beside", str(beside), "--annotator", "ann"]
        self.process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
        os.close(theirs)
        self.said = ""
        self._heard = 0

    def wait_for(self, text: str, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.said[self._heard :]:
            assert time.monotonic() < deadline, self.said
            if select.select([self._ours], [], [], 1)[0]:
                self.said += ANSI.sub("", os.read(self._ours, 65536).decode(errors="replace"))
        self._heard = self.said.index(text, self._heard) + len(text)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
        print(self.said)


def another(policy: Path, folder: Path) -> Path:
    """A policy that answers otherwise."""
    shutil.copytree(policy, folder)
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor + 0.1 for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


@pytest.mark.slow
def test_judged_by_keys_and_killed_nothing_is_lost(project: Path, tmp_path: Path):
    terminal = Terminal(project, another(find_policy(None).folder, tmp_path / "other"))
    try:
        for number, key in enumerate("12t", start=3):
            terminal.wait_for("> ")
            terminal.type(f"What is {number} + 4 ?\n")
            terminal.wait_for("Which is better? ")
            time.sleep(1)  # what is typed before the question is not its answer
            terminal.type(key)
            terminal.wait_for("kept in inbox/chat-")
        terminal.wait_for("> ")
        terminal.type("/again\n")
        terminal.wait_for("Which is better? ")
        terminal.process.kill()
    finally:
        terminal.end()
    rows = [json.loads(file.read_text()) for file in (project / "inbox").iterdir()]
    by_turns = {len(row["prompt"]): row for row in rows}
    assert sorted(by_turns) == [1, 3, 5]
    first, second, tie = (by_turns[turns] for turns in (1, 3, 5))
    assert second["prompt"][:2] == [*QUESTION, *first["chosen"]]
    assert tie["prompt"][:4] == [*second["prompt"], *second["chosen"]]
    assert [tuple(Path(name).name for name in row["policies"]) for row in (first, second)] == [
        ("policy", "other"),
        ("other", "policy"),
    ]
    assert tie["ranks"] == [1, 1]

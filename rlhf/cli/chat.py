"""`rlhf chat`: talk to a policy, with another one beside it, and say which answer is better."""

import argparse
import contextlib
import getpass
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.live import Live
from rich.table import Table
from rich.text import Text

from rlhf.cli.environment import use_the_store
from rlhf.errors import ConfigError, DataError
from rlhf.headline import KEPT_SFT
from rlhf.paths import root
from rlhf.text.console import TextConsole
from rlhf.text.terminal import printable, say

if TYPE_CHECKING:
    from rlhf.chat.dialogue import ChatAnswer, Scorer, Speaker
    from rlhf.chat.judgments import Choice, Inbox

_HELP = """\
/new     begin another dialogue
/again   other answers to the last message
/help    this
/quit    end (so does Ctrl-D)"""
_CHOICES: "dict[str, Choice]" = {"1": "first", "2": "second", "t": "tie"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.description = (
        "Talk to a policy. With another one beside it, the keys 1, 2 and t say which answer is better, and each "
        "judgment becomes a row of preferences in the inbox, from which retraining takes it. What comes through a pipe "
        "is a message a line, and the answers are printed."
    )
    parser.add_argument(
        "policy",
        metavar="POLICY",
        nargs="?",
        help="run id or the beginning of one, RECIPE@champion, RECIPE/3, champion, or a model's folder; the newest "
        "finished run by default. Of a run under way it is the best policy so far",
    )
    parser.add_argument("--beside", metavar="POLICY", help="who answers too: sft, or as above")
    parser.add_argument("--inbox", metavar="DIR", default="inbox", help="where judgments go, below the project's root")
    parser.add_argument("--annotator", metavar="NAME", help="who judges; your login name by default")
    parser.add_argument("--no-scores", action="store_true", help="leave the reward models, and their memory, out")
    parser.add_argument("--system", metavar="TEXT", help="a system message at the beginning of each dialogue")
    parser.add_argument("--temperature", metavar="X", type=float, help="default: that of the run's evaluation")
    parser.add_argument("--max-response-tokens", metavar="N", type=int, help="longest answer; default: the run's")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of the answers' sampling; default 0")


def run(options: argparse.Namespace) -> int:
    """Talk until the person ends it. Returns the exit code."""
    _check(options)
    use_the_store()
    from rlhf.chat.dialogue import Sampling, Scorer, Speaker
    from rlhf.chat.judgments import Inbox
    from rlhf.chat.policies import find_beside, find_policy
    from rlhf.config.model import ComputeConfig
    from rlhf.data.versions.inbox import inbox_folder
    from rlhf.modeling.device import best_device, configure

    inbox = Inbox(inbox_folder(options.inbox, root(), "--inbox"), options.annotator or getpass.getuser())
    policies = [find_policy(options.policy)]
    if options.beside is not None:
        policies.append(find_beside(options.beside, policies[0]))
    policy = policies[0]
    compute = ComputeConfig(device=best_device(), dtype="fp32")
    configure(compute)
    sampling = Sampling(options.seed, options.temperature, options.max_response_tokens)
    say(f"Loading {' and '.join(policy.title for policy in policies)} ...", file=sys.stderr, flush=True)
    speakers = [Speaker(policy, compute, sampling) for policy in policies]
    reward_models = None if options.no_scores else policy.reward_models
    scorer = Scorer(reward_models, policy.folder, compute) if reward_models is not None else None
    system = [{"role": "system", "content": options.system}] if options.system else []
    session = _Session(speakers, scorer, inbox, system)
    session.introduce()
    session.talk()
    return 0


def _check(options: argparse.Namespace) -> None:
    if options.temperature is not None and not 0 < options.temperature < float("inf"):
        raise ConfigError(f"--temperature is {options.temperature}; give a number above 0, such as 0.7")
    if options.max_response_tokens is not None and options.max_response_tokens < 1:
        raise ConfigError(f"--max-response-tokens is {options.max_response_tokens}; give a number of at least 1")


@dataclass
class _Session:
    """A conversation at a terminal, or through a pipe."""

    speakers: "Sequence[Speaker]"
    scorer: "Scorer | None"
    inbox: "Inbox"
    system: list[dict[str, str]]
    console: TextConsole = field(default_factory=TextConsole)
    dialogue: list[dict[str, str]] = field(default_factory=list)
    num_turns: int = 0
    num_kept: int = 0

    @property
    def typed(self) -> bool:
        """A person types, and sees the answers as they come."""
        return sys.stdin.isatty() and self.console.is_terminal

    def introduce(self) -> None:
        """Say who answers, and how."""
        for speaker in self.speakers:
            policy = speaker.policy
            of = f" of run {policy.run_id[:8]} ({policy.settings.get('name', '')})" if policy.run_id else ""
            say(
                f"{policy.title}{of}: at most {speaker.max_response_tokens} tokens an answer, temperature "
                f"{speaker.temperature:g}",
                file=sys.stderr,
            )
        if self.speakers[0].policy.is_sft:
            say(KEPT_SFT, file=sys.stderr)
        if self.speakers[0].policy.reward_models is None:
            say("No run here has made this model, so there are no reward models to score its answers.", file=sys.stderr)
        if self.typed:
            say("/help lists the commands; Ctrl-D ends.", file=sys.stderr)

    def talk(self) -> None:
        """Take messages until they end."""
        self.dialogue = [*self.system]
        for message in self._messages():
            with contextlib.suppress(KeyboardInterrupt):  # while they answer it stops them, and not the session
                self._take(message)
        if self.num_kept:
            where = self.inbox.folder.relative_to(root().resolve())
            say(
                f"{self.num_kept} judgment{'s' if self.num_kept > 1 else ''} in {where}/; retraining takes them "
                f"with retrain.source inbox and retrain.inbox {where}, and `rlhf data add {where}/*.jsonl` adds them",
                file=sys.stderr,
            )

    def _messages(self) -> Iterator[str]:
        if not self.typed:
            yield from (line.rstrip("\n") for line in sys.stdin if line.strip())
            return
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  # input() edits lines by it
        while True:
            try:
                message = input("> ")
            except (EOFError, KeyboardInterrupt):
                say(file=sys.stderr)
                return
            if message.strip() == "/quit":
                return
            if message.strip():
                yield message

    def _take(self, message: str) -> None:
        command = message.strip()
        if command == "/new":
            self.dialogue = [*self.system]
        elif command == "/again":
            self._again()
        elif command == "/help":
            say(_HELP)
        elif self.typed and command.startswith("/"):
            say(f"{command.split()[0]} is no command.\n{_HELP}")
        else:
            self._answer([*self.dialogue, {"role": "user", "content": message}])

    def _again(self) -> None:
        if not self.dialogue or self.dialogue[-1]["role"] != "assistant":
            say("There is no answer yet.")
        else:
            self._answer(self.dialogue[:-1])

    def _answer(self, dialogue: list[dict[str, str]]) -> None:
        """Let all answer, ask which is better, and go on with the better answer."""
        self.num_turns += 1
        try:
            answers = self._shown_as_they_come(dialogue) if self.typed else self._printed(dialogue)
        except DataError as error:
            say(f"{error}", file=sys.stderr)
            return
        choice = self._choice(answers) if len(answers) > 1 and self.typed else None
        if choice is not None:
            file = self.inbox.keep(dialogue, answers, choice, datetime.now(UTC))
            self.num_kept += 1
            say(f"kept in {file.relative_to(root().resolve())}")
        better = answers[1 if choice == "second" else 0]
        self.dialogue = [*dialogue, {"role": "assistant", "content": better.text}]

    def _choice(self, answers: "Sequence[ChatAnswer]") -> "Choice | None":
        from click import getchar

        from rlhf.chat.judgments import can_be_judged

        obstacle = can_be_judged(answers)
        if obstacle is not None:
            say(f"Nothing to judge: {obstacle}.")
            return None
        say("Which is better? 1, 2, t for a tie, any other key for no judgment: ", end="", flush=True)
        key = getchar().lower()
        say({"1": "1", "2": "2", "t": "tie"}.get(key, "none"))
        return _CHOICES.get(key)

    def _printed(self, dialogue: list[dict[str, str]]) -> "list[ChatAnswer]":
        answers = [speaker.answer(dialogue, [self.num_turns]) for speaker in self.speakers]
        for answer in answers:
            say(f"{answer.policy.title}: {answer.text}")
            say(f"  {self._notes(dialogue, answer)}")
        return answers

    def _shown_as_they_come(self, dialogue: list[dict[str, str]]) -> "list[ChatAnswer]":
        texts, notes = ["" for _ in self.speakers], ["" for _ in self.speakers]
        answers = []
        with Live(console=self.console, refresh_per_second=10) as live:
            for at, speaker in enumerate(self.speakers):

                def show(text: str, at: int = at) -> None:
                    texts[at] = text
                    live.update(self._table(texts, notes))

                answer = speaker.answer(dialogue, [self.num_turns], show)
                notes[at] = self._notes(dialogue, answer)
                show(answer.text)
                answers.append(answer)
        return answers

    def _table(self, texts: Sequence[str], notes: Sequence[str]) -> Table:
        table = Table(expand=True)
        for number, speaker in enumerate(self.speakers, start=1):
            table.add_column(
                f"{number}  {speaker.policy.title}" if len(self.speakers) > 1 else speaker.policy.title, ratio=1
            )
        table.add_row(*(Text(printable(text)) for text in texts))
        table.add_row(*(Text(note, style="dim") for note in notes))
        return table

    def _notes(self, dialogue: Sequence[object], answer: "ChatAnswer") -> str:
        """Scores, length, and what a person should know of an answer."""
        from rlhf.chat.dialogue import REWARD_MODELS

        scores = self.scorer.score(answer) if self.scorer is not None else {}
        notes = [f"{REWARD_MODELS[name]} {value:+.2f}" for name, value in scores.items()]
        notes.append(f"{answer.num_tokens} tokens{'' if answer.ended else ', cut off'}")
        dropped = len(dialogue) - len(answer.prompt)
        if dropped:
            notes.append(f"without the first {dropped} messages, for want of room")
        return ", ".join(notes)

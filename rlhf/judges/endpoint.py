"""An OpenAI-compatible endpoint: one client, one memory of answers, one budget."""

import hashlib
import json
import math
import os
import sqlite3
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from openai import APIError, APIStatusError, APITimeoutError, OpenAI

from rlhf.config.judge import JudgeConfig
from rlhf.errors import InputError, one_line
from rlhf.paths import local_folder

Message = Mapping[str, str]
_LEAST_MASS = 0.5
_TOP = 20
"""Alternatives whose probabilities are asked for; no endpoint gives more."""
_MOST_IN_A_ROW = 8
"""Failures one after another from which on the endpoint is at fault, and not what it is asked."""
_REFUSED = (400, 413, 422)
_KEYS_AT_ONCE = 1000
_KNOWN = "SELECT asked, answer FROM answers WHERE asked IN (SELECT value FROM json_each(?))"


class EndpointError(InputError):
    """The endpoint cannot be asked: it is away, it refuses, or the budget is spent."""


class BudgetSpentError(EndpointError):
    """As many requests were sent as may be."""


class QuestionRefusedError(EndpointError):
    """The endpoint does not take what it was asked, such as a dialogue that is too long for its model."""


@dataclass(frozen=True)
class Completion:
    """What a model answered.

    Attributes:
        text: the answer.
        first_token: log-probabilities of what the first token could have been, by token; empty where the endpoint does
            not say.
        ended: the answer came to its end, and was not cut off.
    """

    text: str
    first_token: Mapping[str, float] = field(default_factory=dict)
    ended: bool = True

    def probability(self, first: str, second: str) -> float | None:
        """The probability of the letter `first` against `second` as the first token.

        None where the two are not most of what the token could have been: the model says something else then, and what
        is left of the letters is no preference.
        """
        weights = {first: 0.0, second: 0.0}
        for token, logprob in self.first_token.items():
            letter = token.strip(" ()[].:*\"'\n\t")
            if letter in weights:
                weights[letter] += math.exp(logprob)
        total = sum(weights.values())
        return weights[first] / total if total >= _LEAST_MASS else None


class Endpoint:
    """A judge's endpoint. Answers are kept in a file by what was asked, so nothing is paid twice.

    Args:
        config: where it is, and how it is asked.
        folder: of the answers; None for the project's own.
    """

    def __init__(self, config: JudgeConfig, folder: Path | None = None) -> None:
        self.config = config
        self.num_sent = 0
        self._lock = threading.Lock()
        key = os.environ.get(config.key_variable) or "none"
        if not key.isascii() or not key.isprintable():
            raise EndpointError(f"{config.key_variable} holds what is no key; set it to the endpoint's key alone")
        self._client = OpenAI(
            api_key=key,
            base_url=config.url,
            timeout=config.timeout_seconds,
            max_retries=config.num_retries,
        )
        self._memory = _Memory((folder or local_folder("judgments")) / "answers.db")

    def ask_all(
        self,
        asked: Sequence[Sequence[Message]],
        max_tokens: int,
        *,
        letters: bool = False,
        failures: list[EndpointError] | None = None,
    ) -> Iterator[tuple[int, Completion]]:
        """Ask several things at a time: each once, and nothing whose answer is known.

        Args:
            asked: dialogues.
            max_tokens: of each answer.
            letters: ask for the probabilities of the first token.
            failures: gets the error of each question that failed after all retries, whose place is not yielded, unless
                the endpoint is at fault: it answered none, or failed eight times in a row, refused questions apart.
                None: the first error is raised.

        Yields:
            Place and answer, as they come. What was answered is kept, however this ends.

        Raises:
            EndpointError: the endpoint does not answer or refuses, or the budget is spent.
        """
        places: dict[str, list[int]] = {}
        for place, messages in enumerate(asked):
            places.setdefault(self._key(self._request(messages, max_tokens, letters)), []).append(place)
        num_questions, is_known, in_a_row = len(places), False, 0
        for key, answer in self._memory.read_all(list(places)):
            known, is_known = Completion(**answer), True
            yield from ((place, known) for place in places.pop(key))
        unknown = {key: asked[some[0]] for key, some in places.items()}
        with closing(self._outcomes(unknown, max_tokens, letters)) as outcomes:
            for key, outcome in outcomes:
                if isinstance(outcome, Completion):
                    is_known, in_a_row = True, 0
                    yield from ((place, outcome) for place in places[key])
                    continue
                in_a_row += not (is_known and isinstance(outcome, QuestionRefusedError))
                if failures is None or in_a_row in (_MOST_IN_A_ROW, num_questions):
                    raise outcome
                failures.append(outcome)

    def _outcomes(
        self, asked: Mapping[str, Sequence[Message]], max_tokens: int, letters: bool
    ) -> Generator[tuple[str, Completion | EndpointError], None, None]:
        """Answers to questions by their keys, or what went wrong, as they come."""
        waiting, running = iter(asked), dict[Future[Completion], str]()
        pool = ThreadPoolExecutor(self.config.concurrency)
        try:
            while True:
                while len(running) < self.config.concurrency and (key := next(waiting, "")):
                    running[pool.submit(self.ask, asked[key], max_tokens, letters=letters)] = key
                if not running:
                    return
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    key, error = running.pop(done), done.exception()
                    if isinstance(error, BudgetSpentError):  # the others are being answered, and paid
                        pool.shutdown(cancel_futures=True)
                        raise error
                    yield key, error if isinstance(error, EndpointError) else done.result()
        finally:  # what is still under way after another error may take minutes, with all its retries
            pool.shutdown(wait=not running, cancel_futures=True)

    def ask(self, messages: Sequence[Message], max_tokens: int, *, letters: bool = False) -> Completion:
        """Ask one thing.

        Raises:
            EndpointError: the endpoint does not answer or refuses, or the budget is spent.
        """
        request = self._request(messages, max_tokens, letters)
        key = self._key(request)
        known = self._memory.read(key)
        if known is not None:
            return Completion(**known)
        self._spend()
        completion = self._send(request)
        self._memory.write(key, asdict(completion))
        return completion

    def _request(self, messages: Sequence[Message], max_tokens: int, letters: bool) -> dict[str, Any]:
        return {
            "model": self.config.model,
            "messages": [dict(message) for message in messages],
            "max_tokens": max_tokens,
            "temperature": 0.0,
            **({"logprobs": True, "top_logprobs": _TOP} if letters else {}),
        }

    def _key(self, request: Mapping[str, Any]) -> str:
        return hashlib.sha256(json.dumps([self.config.url, request], sort_keys=True).encode()).hexdigest()

    def _spend(self) -> None:
        with self._lock:
            most = self.config.max_requests
            if most is not None and self.num_sent >= most:
                raise BudgetSpentError(
                    f"{self.config.model}: the {most:,} requests of max_requests are sent; what they answered is kept, "
                    f"so the same command goes on where it was with another budget"
                )
            self.num_sent += 1

    def _send(self, request: Mapping[str, Any]) -> Completion:
        where = f"the endpoint {self.config.url}"
        try:
            answer = self._client.chat.completions.create(**request)
            choice = answer.choices[0]
            text, logprobs = choice.message.content, choice.logprobs
            first = logprobs.content[0] if logprobs is not None and logprobs.content else None
            alternatives = {token.token: token.logprob for token in first.top_logprobs or ()} if first else {}
        except APITimeoutError:
            raise EndpointError(
                f"{where} took longer than {self.config.timeout_seconds:g} s, {self.config.num_retries + 1} times; "
                f"look whether it is overloaded, raise timeout_seconds or lower concurrency; the same command goes on"
            ) from None
        except APIStatusError as error:
            kind = QuestionRefusedError if error.status_code in _REFUSED else EndpointError
            raise kind(f"{where} answers {error.status_code}: {one_line(error)[:300]}; {_advice(error)}") from None
        except (APIError, json.JSONDecodeError) as error:
            raise EndpointError(
                f"{where} does not answer as an OpenAI-compatible one: {one_line(error)[:300]}; look whether it runs, "
                f"and whether url ends as its own documentation says (often /v1)"
            ) from None
        except (AttributeError, IndexError, TypeError):
            raise EndpointError(
                f"{where} sent an answer without choices; look whether it is an OpenAI-compatible one"
            ) from None
        return Completion(text or "", alternatives, choice.finish_reason != "length")


def _advice(error: APIStatusError) -> str:
    if error.status_code in (401, 403):
        return "set the variable that key_variable names to a key that it takes"
    if error.status_code in _REFUSED:
        return "it does not take what it was asked, which the words before say; look at model, or take another endpoint"
    if error.status_code == 404:
        return "look at url and model"
    if error.status_code == 429:
        return "it is still too busy after all retries; lower concurrency, or wait; the same command goes on"
    return "the same command goes on where it was"


class _Memory:
    """Answers by the digest of what was asked, in a SQLite file."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(file, check_same_thread=False, timeout=60)
        with self._open() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS answers (asked TEXT PRIMARY KEY, answer TEXT NOT NULL)")

    def read(self, key: str) -> dict[str, Any] | None:
        with self._open() as connection:
            row = connection.execute("SELECT answer FROM answers WHERE asked = ?", (key,)).fetchone()
        return None if row is None else dict(json.loads(row[0]))

    def read_all(self, keys: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Those of them that are known, a part after the other: answers may be long."""
        for start in range(0, len(keys), _KEYS_AT_ONCE):
            with self._open() as connection:
                rows = connection.execute(_KNOWN, (json.dumps(keys[start : start + _KEYS_AT_ONCE]),)).fetchall()
            yield from ((key, json.loads(answer)) for key, answer in rows)

    def write(self, key: str, answer: Mapping[str, Any]) -> None:
        with self._open() as connection:
            connection.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, json.dumps(answer)))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._connection:
            yield self._connection

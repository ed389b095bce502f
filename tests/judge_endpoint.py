"""An OpenAI-compatible endpoint on loopback: a judge that a test decides, and that misbehaves when it is told to."""

import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_OPTIONS = re.compile(r"\(A\) (.*)\n\n\(B\) (.*)\n\nAnswer with one letter", re.DOTALL)
Decide = Callable[[str, str, str], float]
"""The probability that the answer at (A) is chosen, from the whole question and both answers."""


@dataclass
class Judge:
    """What the endpoint does.

    Attributes:
        decide: see `Decide`.
        write: what is answered to a dialogue, in place of a decision.
        grade: what is answered to a question that asks for a grade.
        refuses: an HTTP status for a question that always gets it; 0 for others.
        says: `letters` (probabilities of letters), `text` (a letter alone), or other text.
        fails: what the next requests get, one each, before it behaves: an HTTP status, `slow`, `cut`, `nonsense`, or
            `no choices`.
    """

    decide: Decide
    says: str = "letters"
    write: Callable[[list[dict[str, str]]], str] | None = None
    grade: Callable[[str], str] = lambda question: "5"
    refuses: Callable[[str], int] = lambda question: 0
    fails: list[int | str] = field(default_factory=list)
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)


@contextmanager
def judge_endpoint(decide: Decide, **settings: Any) -> Iterator[Judge]:
    judge, lock = Judge(decide, **settings), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                judge.requests.append(body)
                judge.keys.append(self.headers.get("Authorization", ""))
                failure = judge.fails.pop(0) if judge.fails else judge.refuses(body["messages"][-1]["content"]) or None
            if isinstance(failure, int):
                self._send(failure, b'{"error": {"message": "not now"}}')
            elif failure == "slow":
                time.sleep(3)
                self._send(200, _answer(judge, body))
            elif failure == "cut":
                self._send(200, _answer(judge, body)[:20])
            elif failure == "nonsense":
                self._send(200, b"<html>hello</html>")
            elif failure == "no choices":
                self._send(200, b'{"id": "1", "object": "chat.completion", "choices": []}')
            else:
                self._send(200, _answer(judge, body))

        def _send(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    judge.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield judge
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _answer(judge: Judge, body: dict[str, Any]) -> bytes:
    choice: dict[str, Any]
    question = body["messages"][-1]["content"]
    if judge.write is not None or question.endswith("Answer with the number alone."):
        text = judge.grade(question) if judge.write is None else judge.write(body["messages"])
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
        return json.dumps(
            {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice]}
        ).encode()
    found = _OPTIONS.search(question)
    assert found is not None, question
    probability = judge.decide(question, found[1], found[2])
    texts = {"letters": "A" if probability > 0.5 else "B", "text": f"({'A' if probability > 0.5 else 'B'})."}
    message = {"role": "assistant", "content": texts.get(judge.says, judge.says)}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    if judge.says == "letters":
        tops = [
            {"token": token, "logprob": math.log(share), "bytes": None}
            for token, share in ((" A", 0.9 * probability), ("B", 0.9 * (1 - probability)), ("The", 0.1))
            if share > 0
        ]
        first = {"token": texts["letters"], "logprob": tops[0]["logprob"], "bytes": None, "top_logprobs": tops}
        choice["logprobs"] = {"content": [first], "refusal": None}
    return json.dumps(
        {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice]}
    ).encode()

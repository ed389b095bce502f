"""What a person says of two answers, as rows of preferences in an inbox, from which retraining takes them."""

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from rlhf.chat.dialogue import ChatAnswer
from rlhf.files.atomic import write_file
from rlhf.modeling.conversations import Conversation

Choice = Literal["first", "second", "tie"]
SOURCE = "rlhf chat"


@dataclass(frozen=True)
class Inbox:
    """A folder for judgments. Each is a file of its own, so that none is lost, or in the way of an import.

    Attributes:
        folder: below the project's root.
        annotator: who judges.
    """

    folder: Path
    annotator: str

    def keep(self, dialogue: Conversation, answers: Sequence[ChatAnswer], choice: Choice, time: datetime) -> Path:
        """Write a judgment, in one step.

        Args:
            dialogue: ends with the user's message that both answer.
            answers: the two.
            choice: the better one.
            time: now, with a time zone.

        Returns:
            The file: a row of `chosen` and `rejected`, or of `responses` with equal `ranks` for a tie.
        """
        first, second = ([{"role": "assistant", "content": answer.text}] for answer in answers)
        names = [answer.policy.name for answer in answers]
        row: dict[str, object] = {"prompt": [dict(message) for message in dialogue]}
        if choice == "tie":
            row |= {"responses": [first, second], "ranks": [1, 1]}
        else:
            row |= {"chosen": first, "rejected": second} if choice == "first" else {"chosen": second, "rejected": first}
            names = names if choice == "first" else names[::-1]
        row |= {"annotator": self.annotator, "source": SOURCE, "policies": names, "time": time.isoformat()}
        file = self.folder / f"chat-{time:%Y%m%dT%H%M%S}-{secrets.token_hex(4)}.jsonl"
        write_file(file, json.dumps(row, ensure_ascii=False) + "\n")
        return file


def can_be_judged(answers: Sequence[ChatAnswer]) -> str | None:
    """Why two answers cannot become a row of preferences; None where they can."""
    if any(not answer.text.strip() for answer in answers):
        return "an answer is empty"
    if answers[0].text == answers[1].text:
        return "both answers are the same"
    return None

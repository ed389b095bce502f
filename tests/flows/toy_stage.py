"""`rlhf` with one stage more than there is: `python toy_stage.py ARGUMENTS` is `rlhf ARGUMENTS` of such a project.

All that a stage needs is here: a row, a function, a task, and the task's line.
"""

import json
import sys

from rlhf import stages
from rlhf.references import ModelRef, Reference


class LettersRef(Reference):
    """A folder with `letters.json`."""


ROW = stages.StageSpec(
    "letters",
    title="letter count",
    summary="Count the letters of the SFT policy's card.",
    output=LettersRef,
    inputs=("sft",),
    run_argument="letters_run",
    made_from="SFT policy",
)


def add_row() -> None:
    """Before all that reads the table is imported."""
    card = stages.STAGES.pop("model_card")  # type: ignore[attr-defined]  # a dict
    stages.STAGES[ROW.name] = ROW  # type: ignore[index]
    stages.STAGES[card.name] = card  # type: ignore[index]


def add_task() -> None:
    from tasks.stage import Attempt, stage
    from tasks.stages import STAGE_TASKS

    @stage("letters", version="1", module="rlhf.text.markdown")
    def count_letters(attempt: Attempt, start: ModelRef) -> LettersRef:
        (attempt.workspace.output / "letters.json").write_text(json.dumps({"letters": 7}))
        return attempt.save(LettersRef)

    STAGE_TASKS["letters"] = lambda config, made: count_letters(made[ModelRef])  # type: ignore[index]


if __name__ == "__main__":
    add_row()
    if sys.argv[1] in ("run", "stage"):
        add_task()
    from rlhf.cli.main import main

    sys.exit(main())

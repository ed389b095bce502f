"""The files of the user's that an LLM judge of an evaluation reads, as far as a fingerprint knows them."""

from rlhf.config.evaluation import EvaluationConfig
from rlhf.data.schema import validate_file
from rlhf.judges.constitution import read_criteria
from rlhf.paths import root
from rlhf.references import JudgeFiles
from tasks.file_digests import digest


def judge_files(config: EvaluationConfig) -> JudgeFiles | None:
    """The digests of what an evaluation's LLM judge judges by, and is measured by; None without a judge.

    Raises:
        ConfigError: there is no such file.
    """
    judge = config.judge
    if judge is None:
        return None
    return JudgeFiles(
        criteria=digest("evaluation.judge.criteria", judge.criteria),
        labelled=digest("evaluation.judge.labelled", judge.labelled) if judge.labelled is not None else None,
    )


def check_judge_files(config: EvaluationConfig) -> None:
    """Refuse, before anything is computed, files that the evaluation's LLM judge could not read.

    Raises:
        ConfigError: the criteria are none, or a file is not there.
        DataError: a row of the labelled pairs is at fault.
    """
    judge = config.judge
    if judge is None:
        return
    read_criteria(judge.criteria, root())
    if judge.labelled is not None:
        digest("evaluation.judge.labelled", judge.labelled)
        validate_file(root() / judge.labelled, "preferences")

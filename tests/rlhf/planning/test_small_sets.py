from itertools import islice
from types import SimpleNamespace
from typing import Any

from rlhf.config.evaluation import EvaluationConfig
from rlhf.data.schema import write_rows
from rlhf.planning.preflight import preflight


def test_small_evaluation_sets_are_told_before_a_run(tmp_path: Any) -> None:
    for folder in ("prompts", "evaluation"):
        (tmp_path / folder).mkdir()
    prompts = [{"prompt": [{"role": "user", "content": f"Open {n}"}]} for n in range(400)]
    write_rows(tmp_path / "prompts" / "test.jsonl", prompts)
    write_rows(tmp_path / "evaluation" / "few.jsonl", [row | {"kind": "harmful"} for row in prompts[:50]])
    write_rows(tmp_path / "evaluation" / "many.jsonl", [row | {"kind": "safe"} for row in prompts])
    config: Any = SimpleNamespace(evaluation=EvaluationConfig())
    (warning,) = islice(preflight(tmp_path, None, config), 1)
    assert warning == (
        "evaluation set few: 50 prompts of the kind harmful tell a change of 28% at worst, and 385 are needed for 10% "
        "(evaluation.smallest_set_change)"
    )

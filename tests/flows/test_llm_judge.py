"""An LLM judge in a run: its budget ends, the run goes on, its criteria change, its figures are where others are."""

from pathlib import Path

import pytest
from judge_endpoint import judge_endpoint
from retraining_runs import config

from flows.pipeline import rlhf_pipeline
from rlhf.cli.main import main
from rlhf.errors import ConfigError
from rlhf.judges.endpoint import EndpointError
from rlhf.references import PipelineReport

pytestmark = pytest.mark.usefixtures("prefect_server")


def run(url: str, **settings: object) -> PipelineReport:
    judge = {"endpoint.url": url, "endpoint.model": "m", "criteria": "criteria.yaml", "minimum_agreement": 0.0}
    judge |= {"num_measured": 20, "num_prompts": 10, "endpoint.concurrency": 1, **settings}
    of_judge = {f"evaluation.judge.{name}": value for name, value in judge.items()}
    return rlhf_pipeline(config(**of_judge, **{"evaluation.references": True}))


def trained(report: PipelineReport) -> set[str]:
    return {stage.name for stage in report.stages if stage.state == "trained"}


def test_a_run_with_a_judge(project: Path, capsys: pytest.CaptureFixture[str]):
    with judge_endpoint(lambda question, first, second: 0.9 if len(first) > len(second) else 0.1) as endpoint:
        with pytest.raises(ConfigError, match=r"evaluation.judge.criteria: .*criteria.yaml: No such file"):
            run(endpoint.url)
        (project / "criteria.yaml").write_text("- Longer answers are better.\n")
        with pytest.raises(EndpointError, match="the 30 requests of max_requests are sent"):
            run(endpoint.url, **{"endpoint.max_requests": 30})
        assert len(endpoint.requests) == 30
        report = run(endpoint.url)
        assert trained(report) == {"evaluation", "model_card"}
        asked = [request["messages"][0]["content"] for request in endpoint.requests]
        assert len(set(asked)) == len(asked) > 40, "nothing is paid twice"
        assert report.metrics["evaluation/judge_num_prompts"] == 10
        assert {"evaluation/judge_agreement_low", "evaluation/reference_judge_win_rate"} <= report.metrics.keys()
        card = Path(report.model_card).read_text()
        assert "| an LLM judge, m, by `criteria.yaml` |" in card
        assert "(the data's held-out pairs" in card
        assert main(["report", report.run_id]) == 0
        assert "| LLM judge, agreement with people | " in capsys.readouterr().out
        (project / "criteria.yaml").write_text("- Shorter answers are better.\n")
        assert trained(run(endpoint.url)) == {"evaluation", "model_card"}
    assert (project / ".rlhf" / "judgments" / "answers.db").is_file()

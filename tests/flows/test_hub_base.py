"""The pipeline on a base of the hub: fetched by its protocol, known by its commit, and made again when it moves."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from made_hub import hub

from rlhf.config.loading import load_config
from rlhf.config.model import ModelConfig
from rlhf.config.pipeline import PipelineConfig
from rlhf.modeling.models import save_model, start_policy
from rlhf.modeling.tokenizer import prepare_tokenizer
from rlhf.provenance.storage import read_record
from rlhf.tracking.client import client

pytestmark = [pytest.mark.usefixtures("prefect_server"), pytest.mark.slow]

SMOKE = Path(__file__).parents[2] / "configs" / "smoke.yaml"
NAME = "team/tiny"
RUN = """
import json, sys
from pathlib import Path
from rlhf.config.loading import load_config
from flows.pipeline import rlhf_pipeline
from flows.stages import STAGE_FLOWS
flow = {"all": rlhf_pipeline, **STAGE_FLOWS}[sys.argv[3]]
given = {"compute.num_threads": 1, "model.architecture": "none", "model.base": sys.argv[2]}
report = flow(load_config(Path(sys.argv[1]), given)).model_dump(mode="json")
print(json.dumps(report | {"imported": sorted({"torch", "transformers", "trl"} & set(sys.modules))}))
"""


def save_base(folder: Path, data: Path, seed: int) -> Path:
    """A small model with a tokenizer that knows the embedded data's words."""
    given = load_config(SMOKE)
    rows = [json.loads(line) for line in (data / "demonstrations.jsonl").read_text().splitlines()]
    texts = [message["content"] for row in rows for message in row["prompt"] + row["completion"]]
    model = ModelConfig(architecture=given.model.architecture, max_length=given.model.max_length)
    tokenizer, _ = prepare_tokenizer(model, texts)
    setup = PipelineConfig(seed=seed, model=model, compute=given.compute).setup
    save_model(start_policy(setup, tokenizer), tokenizer, folder)
    return folder


def test_a_base_of_the_hub(embedded_project: Path, client_environment: dict[str, str], tmp_path: Path):
    with hub() as served:
        environment = (
            os.environ
            | client_environment
            | {
                "HF_ENDPOINT": served.url,
                "HF_HOME": str(tmp_path / "huggingface"),
                "HF_HUB_OFFLINE": "0",
            }
        )

        def run(stages: str = "all", **more: str) -> dict[str, Any]:
            command = [sys.executable, "-c", RUN, str(SMOKE), NAME, stages]
            done = subprocess.run(command, env=environment | more, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
            return report

        first_commit = served.repository(NAME).push(save_base(tmp_path / "first", embedded_project / "data", 1))
        first = run()
        assert states(first) == {"trained"}
        check_commit(first, first_commit)

        without_hub = run(HF_ENDPOINT="http://127.0.0.1:9")
        offline = run("data", HF_HUB_OFFLINE="1")
        assert states(without_hub) == {offline["state"]} == {"cached"}
        assert without_hub["imported"] == offline["imported"] == []
        check_commit(without_hub, first_commit)

        second_commit = served.repository(NAME).push(save_base(tmp_path / "second", embedded_project / "data", 2))
        second = run("data")
        assert second["state"] == "trained"
        assert client().get_run(second["run_id"]).data.params["model.revision"] == second_commit


def states(report: dict[str, Any]) -> set[str]:
    return {stage["state"] for stage in report["stages"]}


def check_commit(report: dict[str, Any], commit: str) -> None:
    """Settings, record and card name it."""
    run = client().get_run(report["run_id"])
    assert run.data.params["model.revision"] == commit
    base = read_record(report["run_id"]).bases["model.base"]
    assert (base.name, base.revision, base.sha256) == (NAME, commit, None)
    assert read_record(report["run_id"]).obstacles == ()
    assert f"at commit `{commit}`" in Path(report["model_card"]).read_text()

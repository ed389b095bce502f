"""A run whose stages were really trained: sound as it stands, and whatever is changed in it is found by name."""

import contextlib
import json
import sqlite3
from pathlib import Path

import pytest
from retraining_runs import config

from flows.pipeline import rlhf_pipeline
from rlhf.cli.main import main
from rlhf.files.manifest import folder_manifest
from rlhf.references import PolicyRef
from rlhf.runs.audit.lineage import trace
from rlhf.runs.audit.target import find_target
from rlhf.runs.audit.verify import verify
from rlhf.runs.gc.plan import make_plan
from rlhf.tracking import artifacts
from rlhf.tracking.queries import tags_of

pytestmark = pytest.mark.slow


def changed() -> list[str]:
    return [finding.what for finding in verify(find_target("candidate")).findings]


def ppo_output(project: Path) -> Path:
    run_id = find_target("candidate").run_id
    reference, _ = artifacts.output_of(run_id, "policy", PolicyRef)
    folder = artifacts.stored_at(reference)
    assert folder is not None
    assert folder.is_relative_to(project)
    return folder


def test_the_tampering_that_there_may_be(project: Path):
    assert changed() == []

    weights = ppo_output(project) / "policy" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:2000] + bytes([content[2000] ^ 1]) + content[2001:])
    assert changed() == ["output/policy/model.safetensors"]

    manifest = ppo_output(project).with_name("output.sha256")
    before = manifest.read_text()
    manifest.write_text(folder_manifest(ppo_output(project)))
    assert changed() == ["output.sha256", "output (all files)"]
    manifest.write_text(before)
    weights.write_bytes(content)
    assert changed() == []

    rows = project / "data" / "preferences.jsonl"
    text = rows.read_text()
    lines = text.splitlines(keepends=True)
    lines[41] = lines[41].replace('"chosen"', '"Chosen"', 1)
    rows.write_text("".join(lines))
    assert changed() == ["data/preferences.jsonl:42"]
    rows.write_text(text)

    with contextlib.closing(sqlite3.connect(project / "mlruns" / "mlflow.db")) as database, database:
        where = "WHERE key = 'rl.kl_coef' AND run_uuid = ?"
        database.execute(f"UPDATE params SET value = '0.5' {where}", (find_target("candidate").run_id,))
    assert changed() == ["parameter rl.kl_coef"]


def test_lineage_and_clearing_up_across_runs(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    first = find_target("candidate").run_id
    second = rlhf_pipeline(config(**{"rl.kl_coef": 0.2})).run_id
    lineage = trace(find_target("candidate"))
    assert lineage.run_id == second
    assert {node.state for node in lineage.nodes.values()} == {"verified"}
    assert {node.kind for node in lineage.nodes.values() if node.earlier} >= {"data", "sft", "reward_model"}
    figure = tmp_path / "lineage.md"
    assert main(["lineage", second, "--figure", str(figure), "--json", str(tmp_path / "lineage.json")]) == 0
    assert json.loads((tmp_path / "lineage.json").read_text())["run_id"] == second
    capsys.readouterr()

    stages = {tags_of(str(item.run_id))["rlhf.stage"] for item in make_plan(0).items if item.run_id}
    assert stages == {"policy", "evaluation", "model_card"}
    assert main(["gc", "--yes", "--keep-days", "0"]) == 0
    assert main(["verify", second]) == 0
    assert main(["verify", first]) == 1
    assert f"rlhf reproduce {first}" in capsys.readouterr().out

"""The way back from a policy, across runs, with every hash on it held against what is there."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from recorded_runs import Audited, record_run

from rlhf.cli.main import main
from rlhf.config.pipeline import PipelineConfig
from rlhf.errors import InputError
from rlhf.model_card.lineage import lineage_markdown
from rlhf.provenance.record import BaseRecord
from rlhf.provenance.storage import read_record
from rlhf.runs.audit.lineage import trace
from rlhf.runs.audit.lineage_graph import Lineage
from rlhf.runs.audit.mermaid import draw_lineage
from rlhf.runs.audit.target import find_target
from rlhf.tracking import artifacts
from rlhf.tracking.client import client
from rlhf.tracking.tags import OUTPUT_TAG


def lineage_of(text: str) -> Lineage:
    return trace(find_target(text))


def test_back_to_data_and_code_across_runs(audited: Audited):
    first, second = audited.first, audited.second
    found = lineage_of("candidate")
    assert found.nodes[found.root].title == "registered policy audited/2"
    assert found.nodes[found.root].details == ("candidate",)
    by_kind = {node.kind: node for node in found.nodes.values() if node.kind != "code"}
    assert list(by_kind) == ["version", "model_card", "policy", "reward_model", "sft", "data", "data_version"]
    assert all(node.state == "verified" for node in by_kind.values())
    for stage, run in (("policy", second), ("sft", first), ("reward_model", first), ("data", first)):
        assert (by_kind[stage].run_id, by_kind[stage].hash) == (
            run.outputs[stage].run_id,
            run.outputs[stage].sha256,
        )
        assert (by_kind[stage].pipeline, by_kind[stage].earlier) == (run.run_id, run is first)
    assert by_kind["policy"].made_from == tuple(
        first.outputs[stage].run_id for stage in ("data", "sft", "reward_model")
    )
    assert {node.pipeline for node in found.of_kind("code")} == {first.run_id, second.run_id}
    assert found.ledger.sound
    assert found.ledger.num_bytes > 0


def test_what_was_changed_on_the_way(audited: Audited, capsys: pytest.CaptureFixture[str]):
    audited.first.file("sft", "output/policy/model.safetensors").write_text("other")
    found = lineage_of(audited.second.run_id)
    assert {node.kind for node in found.nodes.values() if node.state == "changed"} == {"sft"}
    assert [finding.what for finding in found.ledger.findings] == ["output/policy/model.safetensors"]
    assert main(["lineage", audited.second.run_id]) == 1
    assert main(["lineage", audited.second.run_id, "--no-verify"]) == 0
    printed = capsys.readouterr().out
    assert "changed" in printed
    assert "not checked" in printed


def test_an_input_that_is_not_what_was_read(audited: Audited):
    """The store says that PPO has read other weights than those that SFT has made."""
    sft = audited.first.outputs["sft"]
    other = sft.model_copy(update={"sha256": "0" * 64})
    client().set_tag(sft.run_id, OUTPUT_TAG, other.model_dump_json())
    found = lineage_of(audited.second.run_id)
    assert "input sft, of run " + sft.run_id in [finding.what for finding in found.ledger.findings]


def test_a_stage_whose_run_is_gone(audited: Audited):
    client().delete_run(audited.first.outputs["sft"].run_id)
    found = lineage_of("candidate")
    assert [node.run_id for node in found.nodes.values() if node.state == "changed"] == [
        audited.first.outputs["sft"].run_id
    ]


def test_from_a_folder(audited: Audited, tmp_path: Path):
    shutil.copytree(artifacts.local_path(audited.first.outputs["model_card"]), tmp_path / "policy")
    found = lineage_of(str(tmp_path / "policy"))
    assert (found.run_id, found.nodes[found.root].kind) == (audited.first.run_id, "version")


@pytest.mark.usefixtures("audited")
def test_a_run_that_was_cut_off():
    run = record_run(PipelineConfig(seed=5), stages=3, status="FAILED")
    found = lineage_of(run.run_id)
    assert found.nodes[found.root].kind == "run"
    assert [node.kind for node in found.nodes.values()][1:2] == ["reward_model"]
    nothing = record_run(PipelineConfig(seed=6), stages=0, status="FAILED")
    with pytest.raises(InputError, match="has finished no stage"):
        lineage_of(nothing.run_id)


def test_as_json_and_as_a_figure(audited: Audited, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name in ("lineage.md", "lineage.mmd"):
        assert main(["lineage", "candidate", "--json", "-", "--figure", str(tmp_path / name)]) == 0
    told = json.loads(capsys.readouterr().out.split("\n}\n")[0] + "\n}")
    assert told["root"] == "version audited/2"
    assert told["verification"]["sound"]
    assert {
        "from": f"data {read_record(audited.first.run_id).data.md5}",
        "to": audited.first.outputs["data"].run_id,
    } in (  # type: ignore[union-attr]
        told["edges"]
    )
    text = (tmp_path / "lineage.mmd").read_text()
    assert (tmp_path / "lineage.md").read_text() == f"```mermaid\n{text}```\n"
    nodes, edges = {node["id"]: node["title"] for node in told["nodes"]}, told["edges"]
    assert text.count("-->") == len(edges)
    assert text.count(":::verified") == len(nodes)
    assert all(title in text for title in nodes.values())
    main(["lineage", "candidate", "--json", str(tmp_path / "lineage.json"), "--figure", str(tmp_path / "lineage.mmd")])
    assert (tmp_path / "lineage.mmd").read_text() == text
    assert json.loads((tmp_path / "lineage.json").read_text())["nodes"] == told["nodes"]
    assert "above" in capsys.readouterr().out


def test_what_mermaid_would_read_as_its_own_is_text_in_a_figure(audited: Audited, tmp_path: Path):
    lineage = lineage_of(audited.second.run_id)
    title = 'a"]; click n0 "javascript:x" <img src=x> `#1`\nend \x00\u202e\\n $$x$$ fa:fa-car'
    node = replace(lineage.nodes[lineage.root], title=title)
    lineage.nodes[lineage.root] = node
    draw_lineage(lineage, tmp_path / "lineage.mmd")
    (line,) = (line for line in (tmp_path / "lineage.mmd").read_text().splitlines() if "javascript" in line)
    label = line.partition('["')[2].rpartition('"]')[0]
    assert not set(label.replace("<br>", "")) & set('"<>`\x00\u202e')
    assert "\\n" not in label
    assert "$$" not in label
    assert ":fa-" not in label


def test_files_that_cannot_be_written_are_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("rlhf.cli.lineage.use_the_store", None)
    for name in ("lineage.pdf", "missing/lineage.md"):
        assert main(["lineage", "candidate", "--figure", str(tmp_path / name)]) == 2
        assert "whose name ends with .md" in capsys.readouterr().err
    for name in ("missing/lineage.json", "."):
        assert main(["lineage", "candidate", "--json", str(tmp_path / name)]) == 2
        assert "give a file in a folder that is there" in capsys.readouterr().err


def test_the_lineage_of_a_card_names_no_run_and_no_time(audited: Audited):
    record = read_record(audited.first.run_id)
    base = BaseRecord(name="org/base", revision="1" * 40, sha256=None)
    text = lineage_markdown(record.model_copy(update={"bases": {"model.base": base}}))
    for stage in ("data", "sft", "reward_model", "policy"):
        assert record.stages[stage].sha256 in text
    assert record.data is not None
    for word in (record.data.md5, record.code.commit, record.code.patch_sha256, record.lock_sha256, base.revision):
        assert str(word) in text
    assert audited.first.run_id not in text
    assert text == lineage_markdown(record.model_copy(update={"bases": {"model.base": base}}))

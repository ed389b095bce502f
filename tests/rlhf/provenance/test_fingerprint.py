"""Fingerprints, hashes, git."""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf import provenance
from rlhf.config.data import DataConfig
from rlhf.config.judge import JudgeConfig
from rlhf.config.model import ModelConfig, Setup
from rlhf.config.pipeline import PipelineConfig
from rlhf.config.rl import RLConfig
from rlhf.files.manifest import folder_manifest, folder_sha256
from rlhf.paths import source_root
from rlhf.provenance import GitState, environment, git_state
from rlhf.provenance import fingerprint as fingerprints
from rlhf.provenance.fingerprint import reached_sources, stage_fingerprint
from rlhf.references import DatasetRef, DataSource, ModelRef

SETUP = PipelineConfig().setup
SOURCE = DataSource(path="data", md5="1" * 32 + ".dir", tracked=True)


def ppo_print(config: RLConfig | None = None, setup: Setup = SETUP, **arguments: object) -> str:
    return stage_fingerprint(
        "policy", "1", {"config": config or RLConfig(), "setup": setup, **arguments}, "rlhf.rl.optimization"
    )


@pytest.fixture
def source_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the package's sources that a test may change."""
    for name in ("rlhf", "tasks", "requirements.lock"):
        source = source_root() / name
        command = ["cp", "-r", str(source), str(tmp_path)]
        subprocess.run(command, check=True)
    for module in (environment, fingerprints):
        monkeypatch.setattr(module, "source_root", lambda: tmp_path)
    for cached in (fingerprints.reached_sources, fingerprints._imports, fingerprints._files_of):
        cached.cache_clear()
    yield tmp_path
    for cached in (fingerprints.reached_sources, fingerprints._imports, fingerprints._files_of):
        cached.cache_clear()
    fingerprints._source_sha256.cache_clear()


def after_appending(file: Path) -> str:
    """The fingerprint that a process has which starts after a change."""
    before, unchanged = file.read_text(), ppo_print()
    file.write_text(before + "# changed\n")
    if file.suffix == ".py":
        assert ppo_print() == unchanged, "within a process the sources are read once"
    fingerprints._source_sha256.cache_clear()
    changed = ppo_print()
    file.write_text(before)
    fingerprints._source_sha256.cache_clear()
    return changed


def test_a_fingerprint_depends_on_all_that_decides():
    prints = {
        ppo_print(),
        ppo_print(RLConfig(kl_coef=0.2)),
        ppo_print(setup=SETUP.model_copy(update={"seed": 1})),
        ppo_print(setup=SETUP.model_copy(update={"compute": SETUP.compute.model_copy(update={"num_threads": 7})})),
        stage_fingerprint("policy", "2", {"config": RLConfig(), "setup": SETUP}, "rlhf.rl.optimization"),
        stage_fingerprint("sft", "1", {"config": RLConfig(), "setup": SETUP}, "rlhf.rl.optimization"),
        stage_fingerprint("policy", "1", {"config": RLConfig(), "setup": SETUP}, "rlhf.policy.kl"),
        ppo_print(more=1),
    }
    assert len(prints) == 8
    assert ppo_print() in prints


def test_of_an_input_only_its_content_counts():
    start = ModelRef(run_id="a", uri="runs:/a/output", sha256="1")
    assert ppo_print(start=start) == ppo_print(start=ModelRef(run_id="b", uri="runs:/b/output", sha256="1"))
    assert ppo_print(start=start) != ppo_print(start=ModelRef(run_id="a", uri="runs:/a/output", sha256="2"))
    data = DatasetRef(run_id="a", uri="runs:/a/output", sha256="1", source=SOURCE)
    moved = data.model_copy(update={"source": SOURCE.model_copy(update={"path": "elsewhere", "tracked": False})})
    assert ppo_print(data=data) == ppo_print(data=moved)


def test_of_the_data_its_hash_counts_and_not_its_place():
    here, there = (DataConfig(path=path, allow_dirty_data=path == "b") for path in "ab")
    moved = SOURCE.model_copy(update={"path": "b", "dirty": True})
    assert ppo_print(data=here, source=SOURCE) == ppo_print(data=there, source=moved)
    assert ppo_print(source=SOURCE) != ppo_print(source=SOURCE.model_copy(update={"md5": "2"}))
    assert ppo_print(data=here) != ppo_print(data=here.model_copy(update={"test_fraction": 0.2}))


def test_how_an_endpoint_is_asked_does_not_count():
    """A run whose budget was spent goes on with another one."""
    judge = JudgeConfig(url="http://127.0.0.1:8000/v1", model="m")
    hurried = judge.model_copy(update={"max_requests": 7, "concurrency": 1, "key_variable": "OTHER", "num_retries": 0})
    assert ppo_print(judge=judge) == ppo_print(judge=hurried)
    assert ppo_print(judge=judge) != ppo_print(judge=judge.model_copy(update={"model": "n"}))


def test_a_base_model_in_a_folder_is_known_by_its_content(tmp_path: Path):
    def with_base(folder: Path, content: str) -> str:
        folder.mkdir(exist_ok=True)
        (folder / "model.safetensors").write_text(content)
        return ppo_print(setup=SETUP.model_copy(update={"model": ModelConfig(base=str(folder))}))

    assert with_base(tmp_path / "a", "1") == with_base(tmp_path / "b", "1")
    assert with_base(tmp_path / "a", "1") != with_base(tmp_path / "a", "2")


def test_the_code_that_is_reached_counts_and_no_other(source_tree: Path):
    before = ppo_print()
    assert after_appending(source_tree / "rlhf" / "rl" / "loss.py") != before
    assert after_appending(source_tree / "rlhf" / "policy" / "masking.py") != before
    assert after_appending(source_tree / "rlhf" / "rl" / "__init__.py") != before
    assert after_appending(source_tree / "requirements.lock") != before
    assert after_appending(source_tree / "rlhf" / "supervised" / "sft.py") == before
    assert after_appending(source_tree / "rlhf" / "config" / "rl.py") == before
    assert ppo_print() == before


def test_what_a_stage_reaches():
    ppo = set(reached_sources("rlhf.rl.stage"))
    assert {"rlhf/rl/trainer.py", "rlhf/rl/rollout.py", "rlhf/modeling/models.py", "rlhf/policy/masking.py"} <= ppo
    assert (
        not {
            "rlhf/supervised/sft.py",
            "rlhf/preference/stage.py",
            "rlhf/config/pipeline.py",
            "rlhf/tracking/client.py",
            "rlhf/gold/calibrated_arithmetic.py",
        }
        & ppo
    )
    assert {"rlhf/gold/calibrated_arithmetic.py", "rlhf/gold/pleasant_words.py"} <= set(
        reached_sources("rlhf.evaluation.policy")
    )
    assert "rlhf/model_card/card.md.jinja" in reached_sources("rlhf.model_card.card")


def test_fingerprints_of_all_stages_are_cheap():
    code = """
import sys, time
from rlhf.config.pipeline import PipelineConfig
from rlhf.provenance.fingerprint import stage_fingerprint
supervised = ("supervised.sft", "supervised.reward_model")
started = time.process_time()
for module in ("data.preparation.prepare", *supervised, "evaluation.reward_audit", "rl.trainer", "evaluation.policy"):
    stage_fingerprint("stage", "1", {"config": PipelineConfig()}, f"rlhf.{module}")
assert time.process_time() - started < 0.5, time.process_time() - started
assert not {"torch", "transformers", "trl", "mlflow", "prefect"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_folder_is_hashed_by_names_and_contents(tmp_path: Path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c.txt").write_bytes(b"abc")
    (tmp_path / "a.txt").write_bytes(b"")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert folder_manifest(tmp_path) == f"{empty}  a.txt\n{abc}  b/c.txt\n"
    assert folder_sha256(tmp_path) == hashlib.sha256(f"{empty}  a.txt\n{abc}  b/c.txt\n".encode()).hexdigest()
    check = ["sha256sum", "--check", "--quiet"]
    subprocess.run(check, cwd=tmp_path, input=folder_manifest(tmp_path), text=True, check=True)
    (tmp_path / "a.txt").rename(tmp_path / "d.txt")
    assert folder_manifest(tmp_path) == f"{abc}  b/c.txt\n{empty}  d.txt\n"


def test_git_state(project_root: Path, tmp_path: Path):
    clean = git_state(project_root)
    assert clean.commit is not None
    assert len(clean.commit) == 40
    assert not clean.dirty
    (project_root / "new.py").touch()
    assert git_state(project_root) == GitState(clean.commit, dirty=True)
    assert git_state(tmp_path) == GitState(None, dirty=False)


def test_the_machine_is_described():
    machine = provenance.machine()
    assert machine["version.torch"].startswith("2.")
    assert machine["cpu"]

"""Reward functions are found among really installed packages, by name, and known by their code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf.config.pipeline import PipelineConfig
from rlhf.config.policy import RewardSourceConfig
from rlhf.config.rl import RLConfig
from rlhf.errors import ConfigError
from rlhf.provenance import GitState, Patch
from rlhf.provenance import capture as recording
from rlhf.provenance import fingerprint as fingerprints
from rlhf.provenance.capture import begin_record
from rlhf.provenance.fingerprint import stage_fingerprint
from rlhf.rewards.functions import check_installed, distribution, find_function, load_function, source_files

BREVITY = "def brevity(prompts, responses):\n    return [-len(text) for text in responses]\n"


def function(name="brevity"):
    return RewardSourceConfig(kind="function", name=name)


def test_an_installed_function_is_found_and_called(install):
    install(BREVITY, "brevity = my_rewards:brevity")
    assert load_function("brevity")([[]], ["four"]) == [-4]
    assert distribution(find_function("brevity")) == "my-rewards==1.0"
    check_installed([RewardSourceConfig(), function()])


def test_another_process_finds_it_by_the_path_alone(install):
    path = install(BREVITY, "brevity = my_rewards:brevity")
    code = (
        "import sys; from rlhf.rewards.functions import find_function, load_function, source_files\n"
        "files = list(source_files(find_function('brevity')))\n"
        "print(files, 'my_rewards' in sys.modules, load_function('brevity')([[]], ['four']))"
    )
    environment = os.environ | {"PYTHONPATH": str(path.parent)}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "['my_rewards.py'] False [-4]"


def test_a_name_that_nobody_offers_is_refused_with_those_that_there_are(install):
    with pytest.raises(ConfigError, match=r"offers a reward function 'brevty' .*; there are: calibrated_arithmetic$"):
        load_function("brevty")
    install(BREVITY, "polite = my_rewards:brevity", "brevity = my_rewards:brevity")
    with pytest.raises(
        ConfigError,
        match=r"'brevty' in the entry-point group rlhf.rewards; there are: brevity, calibrated_arithmetic, polite$",
    ):
        check_installed([function("brevty")])


def test_a_name_that_two_packages_offer_is_refused(install):
    install(BREVITY, "brevity = my_rewards:brevity")
    install(BREVITY, "brevity = theirs:brevity", package="theirs", version="2.1", module="theirs")
    offers = r"my_rewards:brevity \(my-rewards==1.0\), theirs:brevity \(theirs==2.1\); uninstall or rename"
    with pytest.raises(ConfigError, match=offers):
        load_function("brevity")


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'; repair"),
        ("raise ValueError('no licence')", "cannot be imported: ValueError: no licence"),
        ("def others(): ...", "AttributeError.*brevity"),
        ("brevity = 3", r"my_rewards:brevity of my-rewards==1.0, is int and cannot be called"),
    ],
)
def test_a_function_that_cannot_be_imported_is_one_clear_error(install, code, what):
    install(code, "brevity = my_rewards:brevity")
    with pytest.raises(ConfigError, match=what):
        load_function("brevity")


@pytest.mark.parametrize("value", ["gone:brevity", "my_rewards.gone:brevity", "json.gone:brevity"])
def test_a_module_that_is_not_there_is_refused_before_anything_is_computed(install, value):
    install(BREVITY, f"brevity = {value}")
    with pytest.raises(ConfigError, match=f"is {value}, but there is no file of a module .*gone; install .* again"):
        check_installed([function()])


def test_sources_are_found_without_importing_the_package(install):
    path = install(BREVITY, "brevity = company.rewards.short:brevity", module="company.rewards.short")
    (path.parent / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (path.parent / "words.py").write_text("WORDS = ()\n")
    (path.parent.parent / "other.py").write_text("")  # `company` is a namespace, which other packages share
    assert source_files(find_function("brevity")) == {
        name: path.parent / name for name in ("short.py", "__init__.py", "words.py")
    }


class TestFingerprint:
    @pytest.fixture(autouse=True)
    def forget(self):
        yield
        fingerprints._source_sha256.cache_clear()

    @staticmethod
    def print_of(*rewards):
        fingerprints._source_sha256.cache_clear()
        return stage_fingerprint("policy", "1", {"config": RLConfig(rewards=rewards)}, "rlhf.policy.masking")

    def test_it_changes_with_the_functions_code(self, install):
        path = install(BREVITY, "brevity = my_rewards:brevity")
        before = self.print_of(function())
        assert before == self.print_of(function())
        assert before != self.print_of(function().model_copy(update={"weight": 2.0}))
        path.write_text(BREVITY.replace("-len", "len"))
        assert before != self.print_of(function())
        path.write_text(BREVITY)
        assert before == self.print_of(function())

    def test_it_changes_with_the_packages_version(self, install):
        path = install(BREVITY, "brevity = my_rewards:brevity")
        before = self.print_of(function())
        metadata = path.parent / "my_rewards-1.0.dist-info" / "METADATA"
        metadata.write_text(metadata.read_text().replace("1.0", "1.1"))
        assert before != self.print_of(function())

    def test_a_reward_model_in_a_folder_is_known_by_its_content(self, tmp_path):
        def print_with(folder: Path, content: str):
            folder.mkdir(exist_ok=True)
            (folder / "model.safetensors").write_text(content)
            return self.print_of(RewardSourceConfig(kind="model", name="safety", path=str(folder)))

        assert print_with(tmp_path / "a", "1") == print_with(tmp_path / "b", "1")
        assert print_with(tmp_path / "a", "1") != print_with(tmp_path / "a", "2")
        hub = {"kind": "model", "name": "safety", "path": "owner/name"}
        assert self.print_of(RewardSourceConfig(**hub)) != self.print_of(RewardSourceConfig(**hub, revision="abc"))

    def test_no_function_means_no_search(self):
        assert self.print_of(RewardSourceConfig()) == self.print_of(RewardSourceConfig())


def test_what_the_lock_does_not_hold_stands_in_the_way_of_a_repetition(install, tmp_path, monkeypatch):
    install(BREVITY, "brevity = my_rewards:brevity", package="My_Rewards")
    (tmp_path / "requirements.lock").write_text("torch==2.13.0\n")
    monkeypatch.setattr(recording, "source_root", lambda: tmp_path)

    def found(**settings):
        config = PipelineConfig(rl=RLConfig(rewards=(RewardSourceConfig(**settings),)))
        return list(begin_record(config, GitState("c" * 40, dirty=False), Patch(b"", ())).obstacles)

    assert found() == []
    assert "brevity is of My_Rewards==1.0, which requirements.lock does not name" in found(**dict(function()))[0]
    (tmp_path / "requirements.lock").write_text("my-rewards==1.0 \\\n    --hash=sha256:0\n")
    assert found(**dict(function())) == []
    assert found(kind="model", name="safety", path="owner/name", revision="a" * 40) == []
    assert found(kind="model", name="safety", path=str(tmp_path)) == []

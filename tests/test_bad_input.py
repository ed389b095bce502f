"""What a person may get wrong: one clear error, exit code 2, no traceback, nothing half-written."""

import errno
import json
import logging
import shutil
from pathlib import Path

import jinja2
import numpy as np
import pyarrow
import pytest
import yaml
from dvc.exceptions import DvcException
from mlflow.tracking import MlflowClient
from prefect.exceptions import MissingResult
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from rlhf.cli.main import main
from rlhf.tracking.client import tracking_uri

SMOKE = str(Path(__file__).resolve().parents[1] / "configs" / "smoke.yaml")
KINDS = ("demonstrations", "preferences", "prompts")

pytestmark = pytest.mark.usefixtures("prefect_server")


def _one_of(values):
    """The last of them in CI, and `make soak` has all: the reader's own tests have the others too."""
    rows = [value if isinstance(value, tuple) else (value,) for value in values]
    return [*(pytest.param(*row, marks=pytest.mark.soak) for row in rows[:-1]), pytest.param(*rows[-1])]


def user(text):
    return [{"role": "user", "content": text}]


def assistant(text):
    return [{"role": "assistant", "content": text}]


def rows_of(kind, count=120):
    for number in range(count):
        prompt = user(f"Name the number after {number} .")
        yield {
            "demonstrations": {"prompt": prompt, "completion": assistant(f"It is {number + 1} .")},
            "preferences": {
                "prompt": prompt,
                "chosen": assistant(f"It is {number + 1} ."),
                "rejected": assistant("No ."),
            },
            "prompts": {"prompt": prompt},
        }[kind]


@pytest.fixture
def data(tmp_path):
    """A data folder elsewhere, with nothing wrong."""
    folder = tmp_path / "own"
    folder.mkdir()
    for kind in KINDS:
        (folder / f"{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_of(kind)))
    (folder / "datasheet.md").write_text("# Numbers\n\nMade for a test.\n")
    return folder


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A model folder with nothing wrong."""
    from rlhf.config.model import ArchitectureConfig, ComputeConfig, ModelConfig, Setup
    from rlhf.modeling.models import save_model, start_policy
    from rlhf.modeling.tokenizer import prepare_tokenizer

    architecture = ArchitectureConfig(hidden_size=16, num_layers=1, num_heads=1, feed_forward_size=16)
    setup = Setup(seed=0, model=ModelConfig(architecture=architecture), compute=ComputeConfig())
    texts = [message["content"] for row in rows_of("demonstrations") for part in row.values() for message in part]
    tokenizer, _ = prepare_tokenizer(setup.model, texts)
    folder = tmp_path_factory.mktemp("base")
    save_model(start_policy(setup, tokenizer), tokenizer, folder)
    return folder


@pytest.fixture
def own_base(base, tmp_path):
    return Path(shutil.copytree(base, tmp_path / "base"))


@pytest.fixture
def refused(project_root, capsys, monkeypatch):
    """Run a command that must be refused, and return its one line."""
    monkeypatch.chdir(project_root)
    # A library's handler may hold on to the captured, and by now closed, standard error of an earlier test.
    monkeypatch.setattr(logging, "raiseExceptions", False)

    def run(*arguments, exit_code=2):
        before = contents(project_root)
        capsys.readouterr()
        assert main(arguments) == exit_code
        shown = capsys.readouterr()
        assert shown.out == ""
        assert "Traceback" not in shown.err
        *others, last = shown.err.splitlines()
        assert last.startswith("rlhf: error: ")
        assert not any("error" in line.lower() for line in others)
        assert contents(project_root) == before
        assert_nothing_left(project_root)
        return last

    return run


def contents(root):
    """What a run must not touch: the data and what tracks it."""
    paths = [root / "data.dvc", root / ".gitignore", *(root / "data").rglob("*")]
    return {path.relative_to(root): path.read_bytes() for path in paths if path.is_file()}


def assert_nothing_left(root):
    """No run that seems to go on, nothing registered, no result that a later run would take."""
    runs = mlflow_runs()
    assert {run.info.status for run in runs} <= {"FAILED", "FINISHED"}
    assert all(run.info.status == "FAILED" for run in runs if run.data.tags["rlhf.kind"] == "pipeline")
    assert list(MlflowClient(tracking_uri()).search_registered_models()) == []
    failed = {run.info.run_id for run in runs if run.info.status == "FAILED"}
    stored = {path.parts[-4] for path in (root / "mlruns" / "artifacts").glob("*/artifacts/output/*")}
    assert stored.isdisjoint(failed)


def mlflow_runs():
    client = MlflowClient(tracking_uri())
    return client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])


def elsewhere(path):
    return ("run", SMOKE, "--compute.num-threads", "1", "--data.embedded", "none", "--data.path", str(path))


def based_on(path):
    return ("--model.architecture", "none", "--model.base", str(path))


def append(path, row):
    with path.open("ab") as file:
        file.write(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n")


class TestSettings:
    def test_unknown(self, refused):
        message = refused("run", SMOKE, "--rl.kl-coeff", "0.1")
        assert "--rl.kl-coeff is not a setting; the nearest known one is --rl.kl-coef" in message
        assert mlflow_runs() == []

    def test_ill_typed(self, refused):
        message = refused("run", SMOKE, "--rl.num-updates", "many")
        assert "--rl.num-updates: got many, expected a whole number at least 1" in message
        assert mlflow_runs() == []

    @pytest.mark.parametrize(
        ("flags", "what"),
        [
            (["--seeds", "7,11,7"], "seed 7 is given twice, and would count twice; give every seed once"),
            (["--seeds", "7,eleven"], "--seeds '7,eleven': eleven is no seed; give whole numbers"),
            (["--seeds", ""], "--seeds '': nothing is no seed; give whole numbers"),
            (["--seeds=-1,2"], "-1 is given as a seed, and must be greater than or equal to 0; give another one"),
            (["--seeds", "7"], "one seed is run by itself with --seed"),
            (["--num-seeds", "1"], "one seed is run by itself with --seed"),
            (["--num-seeds", "few"], "--num-seeds 'few': expected a whole number, as in --num-seeds 5"),
            (["--seeds", "7,11", "--num-seeds", "2"], "seeds and their number are both given; give the seeds, or how"),
            (["--seeds", "7,11", "--seed", "7"], "--seed and --seeds are both given; leave --seed away, or give"),
        ],
    )
    def test_seeds_that_are_no_group(self, refused, flags, what):
        assert what in refused("run", SMOKE, *flags)
        assert mlflow_runs() == []

    def test_rollout_that_the_minibatches_do_not_divide(self, refused):
        message = refused("run", SMOKE, "--rl.rollout-size", "250", "--rl.num-minibatches", "4")
        assert "rollout_size (250) is not a multiple of num_minibatches (4); change one of the two" in message
        assert mlflow_runs() == []

    def test_reward_function_that_no_package_offers(self, refused):
        message = refused("run", SMOKE, "--rl.rewards", "[{kind: trained}, {kind: function, name: nobody}]")
        assert "no installed package offers a reward function 'nobody' in the entry-point group rlhf.rewards" in message
        assert mlflow_runs() == []

    def test_mistake_within_a_list(self, refused):
        message = refused("run", SMOKE, "--rl.rewards", "[{kind: trained, weigth: 2}]")
        assert "--rl.rewards: [0].weigth is not a setting; the nearest known one is weight" in message


class TestDataFiles:
    def test_no_folder(self, refused, tmp_path):
        assert "nowhere: there is no such file or folder" in refused(*elsewhere(tmp_path / "nowhere"))

    @pytest.mark.parametrize("kind", _one_of(KINDS))
    def test_missing(self, refused, data, kind):
        (data / f"{kind}.jsonl").unlink()
        assert f"{kind}.jsonl: the file is missing" in refused(*elsewhere(data))

    @pytest.mark.parametrize("kind", _one_of(KINDS))
    def test_empty(self, refused, data, kind):
        (data / f"{kind}.jsonl").write_text("")
        assert f"{kind}.jsonl: the file is empty" in refused(*elsewhere(data))

    @pytest.mark.parametrize(
        ("row", "what"),
        _one_of(
            [
                (b'{"prompt": [\n', "preferences.jsonl:121: the line is not JSON"),
                (
                    {"prompt": user("Why ?"), "chosen": assistant("So .")},
                    'preferences.jsonl:121: the field "rejected" is missing',
                ),
                (
                    {"prompt": user("Why ?"), "chosen": assistant("So ."), "rejected": assistant("So .")},
                    'preferences.jsonl:121: "chosen" and "rejected" are the same text',
                ),
                (
                    {
                        "prompt": [{"role": "narrator", "content": "Once"}],
                        "chosen": assistant("A"),
                        "rejected": assistant("B"),
                    },
                    'preferences.jsonl:121: message 1 of "prompt" has the unknown role "narrator"',
                ),
                (b'{"prompt": "\xff"}\n', "preferences.jsonl:121: byte 13 of the line (0xff) is not UTF-8"),
            ]
        ),
    )
    def test_row(self, refused, data, row, what):
        append(data / "preferences.jsonl", row)
        assert what in refused(*elsewhere(data))

    def test_one_file_of_preferences(self, refused, data):
        for _ in range(8):
            append(data / "preferences.jsonl", {"prompt": user("Why ?")})
        message = refused(*elsewhere(data / "preferences.jsonl"))
        assert "preferences.jsonl: 8 of 128 rows (6.2%) cannot be understood or used" in message
        assert '8 because a field is missing (no "chosen"): lines 121, 122' in message

    def test_prompt_that_does_not_fit(self, refused, data):
        append(data / "prompts.jsonl", {"prompt": user("so " * 100)})
        message = refused(*elsewhere(data))
        assert "prompts.jsonl:121" in message
        assert "max_length" in message

    def test_role_that_the_template_does_not_know(self, refused, data, own_base):
        template = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        (own_base / "chat_template.jinja").write_text(template + "{{ m.content }}{% endfor %}")
        append(data / "prompts.jsonl", {"prompt": [{"role": "system", "content": "Be brief ."}, *user("Why ?")]})
        message = refused(*elsewhere(data), *based_on(own_base))
        assert "system" in message
        assert "prompts.jsonl" in message


class TestModelFolder:
    def test_missing(self, refused, data, tmp_path):
        assert "nowhere: no such model folder" in refused(*elsewhere(data), *based_on(tmp_path / "nowhere"))

    def test_without_tokenizer(self, refused, data, own_base):
        for path in own_base.glob("*token*"):
            path.unlink()
        assert "base: there is no tokenizer in this model folder" in refused(*elsewhere(data), *based_on(own_base))

    def test_with_pickled_weights_only(self, refused, data, own_base):
        (own_base / "model.safetensors").rename(own_base / "pytorch_model.bin")
        message = refused(*elsewhere(data), *based_on(own_base))
        assert "base: only pickled weights are there (pytorch_model.bin)" in message

    @pytest.mark.parametrize(
        ("break_it", "message"),
        [
            (lambda path: path.write_bytes(path.read_bytes()[:-9]), "base/model.safetensors was cut off: it has"),
            (lambda path: path.write_text("version https://git-lfs"), "base/model.safetensors is a pointer of Git LFS"),
            (
                lambda path: (path.parent / "adapter_config.json").write_text("{}"),
                "base holds the weights of a model and",
            ),
            (
                lambda path: without(path, "model.norm.weight"),
                "base: 1 weight (model.norm.weight) that config.json asks",
            ),
            (
                lambda path: poison(path),
                "base/model.safetensors: numbers of these weights are NaN or infinite: lm_head",
            ),
            (lambda path: (path.parent / "config.json").write_text("{"), "base: its config.json cannot be used"),
        ],
    )
    def test_that_is_not_whole_and_sound(self, refused, data, own_base, break_it, message):
        break_it(own_base / "model.safetensors")
        assert message in refused(*elsewhere(data), *based_on(own_base))
        assert mlflow_runs() == []

    def test_a_language_model_that_is_to_score(self, refused, data, base, tmp_path):
        recipe = tmp_path / "recipe.yaml"
        source = {"kind": "model", "name": "safety", "path": str(base)}
        recipe.write_text(json.dumps(yaml.safe_load(Path(SMOKE).read_text()) | {"rl": {"rewards": [source]}}))
        message = refused("run", str(recipe), *elsewhere(data)[2:])
        assert "the weights of the head that scores (score.weight) are missing" in message
        assert mlflow_runs() == []


def without(path, name):
    weights = load_file(path)
    del weights[name]
    save_file(weights, path)


def poison(path):
    weights = load_file(path)
    weights["lm_head.weight"][0, 0] = np.nan
    save_file(weights, path)


class TestTrackedData:
    @pytest.fixture
    def changed(self, embedded_project):
        append(embedded_project / "data" / "prompts.jsonl", {"prompt": user("What is 1 + 1 ?")})
        return embedded_project

    def test_changed_since_dvc_add(self, changed, refused):
        message = refused("run", SMOKE, "--data.embedded", "none")
        assert "data/ has changed since `dvc add`" in message
        assert "--allow-dirty-data" in message

    def test_allowed_and_then_marked(self, changed, capsys):
        assert main(["stage", "data", SMOKE, "--data.embedded", "none", "--allow-dirty-data", "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)
        (parent,) = [run for run in mlflow_runs() if run.data.tags["rlhf.kind"] == "pipeline"]
        assert shown["state"] == "trained"
        assert parent.data.tags["rlhf.data_dirty"] == "true"
        assert parent.data.tags["rlhf.reproducible"] == "false"

    def test_the_demo_does_not_care(self, changed, capsys):
        assert main(["stage", "data", SMOKE, "--json"]) == 0
        (parent,) = [run for run in mlflow_runs() if run.data.tags["rlhf.kind"] == "pipeline"]
        assert parent.data.tags["rlhf.reproducible"] == "true"

    def test_the_demo_is_never_dirty(self, changed, refused):
        assert "so allow_dirty_data would be ignored; drop it" in refused("run", SMOKE, "--allow-dirty-data")

    def test_an_embedded_set_that_was_changed(self, project_root, refused):
        folder = project_root / "embedded" / "calibrated_arithmetic"
        folder.mkdir(parents=True)
        assert "this is not the embedded set calibrated_arithmetic" in refused("run", SMOKE)


class TestLibraries:
    """What a library raises within a stage, which nothing of ours foresaw there."""

    @pytest.mark.parametrize(
        ("error", "what"),
        _one_of(
            [
                (SafetensorError("Error while deserializing header"), "a file of weights failed (SafetensorError: "),
                (
                    jinja2.TemplateSyntaxError("unexpected '}'", 3),
                    "the chat template failed (TemplateError: unexpected '}'",
                ),
                (pyarrow.ArrowInvalid("not a parquet file"), "a Parquet or CSV file failed (ArrowException: "),
                (DvcException("no such remote"), "DVC failed (DvcException: no such remote)"),
                (MissingResult("gone"), "Prefect failed (PrefectException: gone)"),
                (OSError(errno.ENOSPC, "No space left on device", "/x/y"), "/: the disk is full ("),
                (
                    PermissionError(errno.EACCES, "Permission denied", "/x/y"),
                    "/x/y: may not be read or written by this user",
                ),
            ]
        ),
        ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
    )
    def test_one_line(self, refused, data, project_root, monkeypatch, error, what):
        def failing(*_):
            raise error

        monkeypatch.setattr("rlhf.data.preparation.prepare.prepare_data", failing)
        message = refused(*elsewhere(data))
        assert what in message
        (parent,) = [run for run in mlflow_runs() if run.data.tags["rlhf.kind"] == "pipeline"]
        assert f"LibraryError: {message.removeprefix('rlhf: error: ')}" == parent.data.tags["rlhf.error"]
        assert "in failing" in next((project_root / ".rlhf" / "errors").iterdir()).read_text()

    def test_a_defect(self, refused, data, project_root, monkeypatch):
        def failing(*_):
            raise KeyError("chosen")

        monkeypatch.setattr("rlhf.data.preparation.prepare.prepare_data", failing)
        message = refused(*elsewhere(data), exit_code=1)
        assert "this is a defect of rlhf, and not of what you gave: KeyError: 'chosen'; please report it" in message
        (kept,) = (project_root / ".rlhf" / "errors").iterdir()
        assert "in failing" in kept.read_text()


class TestDivergence:
    def test_loss_that_is_not_finite(self, data, refused):
        sizes = ("--sft.num-epochs", "3", "--sft.batch-size", "8", "--sft.learning-rate", "1e38")
        message = refused(*elsewhere(data), *sizes, exit_code=1)
        assert "step " in message
        assert "checkpoint" in message
        (sft,) = [run for run in mlflow_runs() if run.data.tags.get("rlhf.stage") == "sft"]
        assert sft.info.status == "FAILED"

import ast
import inspect
import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from prefect import Flow

from flows import stages
from rlhf.cli.main import main
from rlhf.cli.parser import COMMANDS, command_module, parse
from rlhf.cli.stage import earlier_runs
from rlhf.config.loading import settings
from rlhf.stages import STAGES, pipeline_stages

SMOKE = Path(__file__).resolve().parents[3] / "configs" / "smoke.yaml"
HEAVY = {"torch", "trl", "transformers", "mlflow", "prefect", "datasets", "dvc", "numpy", "matplotlib"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["run", "nowhere.yaml"],
        ["run", "x", "--sede", "1"],
        ["run", str(SMOKE), "--seeds", "1,1"],
    ],
)
def test_help_and_mistakes_import_nothing_heavy(arguments):
    script = (
        "import sys; from rlhf.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    assert HEAVY.isdisjoint(json.loads(done.stdout.splitlines()[-1].replace("'", '"')))


def test_help_reads_no_setting():
    """It is there at once: pydantic and the settings take several times as long as all the rest."""
    script = "import sys, rlhf.cli.main as cli\ntry: cli.main(['--help'])\nfinally: print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    modules = set(ast.literal_eval(done.stdout.splitlines()[-1]))
    assert modules.isdisjoint({"pydantic", "yaml", "rich", "rlhf.config", "rlhf.data", "rlhf.services"})
    shown = done.stdout.split()
    assert set(COMMANDS) <= set(shown)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_there_and_has_help(command, capsys):
    assert callable(command_module(command).run)
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert capsys.readouterr().out.startswith(f"usage: rlhf {command} ")


def test_help_shows_every_setting_with_its_docstring_default_and_bounds(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "10000")
    with pytest.raises(SystemExit) as end:
        main(["run", "--help", "all"])
    shown = capsys.readouterr().out
    assert end.value.code == 0
    for setting in settings().values():
        if setting.kind == "section" and ("." not in setting.name or not setting.optional):
            assert re.search(rf"^{setting.name}:\n  {re.escape(setting.help)}$", shown, re.MULTILINE)
        else:
            described = rf"^  {setting.flag} .*\s+{re.escape(setting.help)} \[.*default: .+\]$"
            assert re.search(described, shown, re.MULTILINE)
    assert "[a number at least 0 and at most 1; default: 0.95]" in shown


def test_without_a_command_the_help_is_shown(capsys):
    with pytest.raises(SystemExit, match="0"):
        main([])
    assert capsys.readouterr().out.startswith("usage: rlhf ")


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"rlhf {version('rlhf-pipeline')}\n"


@pytest.mark.parametrize("command", [["run"], ["stage", "policy"]])
def test_help_is_short_and_has_a_section_on_demand(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--help"])
    short = capsys.readouterr().out
    assert "--rl.clip-range" not in short
    assert "\nrl:\n" in short
    assert "\npreference:\n" in short
    assert "--seed N" in short
    assert "--help SECTION shows the settings of a section" in short
    assert len(short.splitlines()) < 110
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--help", "rl"])
    section = capsys.readouterr().out
    assert "--rl.clip-range" in section
    assert "--sft." not in section
    assert "\nsft:\n" not in section


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "the following arguments are required: CONFIG"),
        (["run", "a.yaml", "b.yaml"], "unrecognized arguments: b.yaml"),
        (["run", "a.yaml", "--seed"], "argument --seed: expected one argument"),
    ],
)
def test_mistake_in_the_form_of_the_command(capsys, arguments, message):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rnu"], "rnu is not a command; the nearest known one is run"),
        (["run", "nowhere.yaml"], "nowhere.yaml: cannot be read (No such file or directory)"),
        (["run", "demo"], "demo: cannot be read (No such file or directory); did you mean configs/demo.yaml? "),
        (
            ["run", "--help", "preferences"],
            "preferences is not a section of a recipe; the nearest known one is preference",
        ),
        (
            ["run", "x.yaml", "--rl.kl-coeff", "1"],
            "--rl.kl-coeff is not a setting; the nearest known one is --rl.kl-coef",
        ),
        (["run", "--sede=1", "x.yaml"], "--sede is not a setting; the nearest known one is --seed"),
        (["run", "x.yaml", "--jsno"], "--jsno is not a setting; the nearest known one is --json"),
        (["run", "x.yaml", "--kl-coef", "1"], "--kl-coef is not a setting; the nearest known one is --rl.kl-coef"),
    ],
)
def test_mistake_ends_with_one_line_and_exit_code_2(capsys, arguments, message):
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"rlhf: error: {message}")
    assert shown.err.count("\n") == 1


def test_a_run_without_a_model_is_refused(capsys):
    assert main(["run", str(SMOKE.parent / "hh.yaml")]) == 2
    message = (
        "rlhf: error: model.base is not set, so there is no language model to start from; name one with --model.base"
    )
    assert capsys.readouterr().err.startswith(message)
    assert main(["run", str(SMOKE), "--model.architecture", "none"]) == 2
    assert capsys.readouterr().err.startswith(message)


@pytest.mark.parametrize("path", ["nope.jsonl", "no/where"])
def test_a_mistyped_data_path_is_refused_and_not_filled(capsys, embedded_project, path):
    assert main(["run", str(SMOKE), "--data.embedded", "none", "--data.path", path]) == 2
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("base model: none; a Llama with random weights is built, ")
    assert last.startswith(f"rlhf: error: {embedded_project / path}: there is no such file or folder; set data.path")
    assert not (embedded_project / path).exists()


@pytest.mark.parametrize(
    "flags", [["--rl.kl-coef", "x"], ["--rl.kl_coef", "x"], ["--rl.kl-coef=x"], ["--rl.kl_coef=x"]]
)
def test_flags_in_kebab_or_snake_case(tmp_path, capsys, flags):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("seed: 1\n")
    assert main(["run", *flags, str(recipe)]) == 2
    assert "--rl.kl-coef: got x, expected a number at least 0" in capsys.readouterr().err


class TestData:
    @pytest.fixture(autouse=True)
    def project(self, project_root, tmp_path, monkeypatch):
        """A project's root, and the current directory beside it."""
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        return project_root

    @pytest.fixture
    def pairs(self, tmp_path):
        def write(name, answers):
            rows = [{"prompt": "Why?", "chosen": answer, "rejected": "No."} for answer in answers]
            path = tmp_path / "elsewhere" / name
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            return name

        return write

    def test_import_makes_tracks_and_says_how_to_record(self, pairs, project, capsys):
        assert main(["data", "import", pairs("mine.jsonl", ["Because.", "It is so."])]) == 0
        shown = capsys.readouterr().out
        md5 = yaml.safe_load((project / "data.dvc").read_text())["outs"][0]["md5"]
        assert "2 preferences\n" in shown
        assert f"data/ is tracked by DVC, md5 {md5}\n" in shown
        assert "git add data.dvc .gitignore && git commit -m 'Import mine.jsonl'" in shown
        assert len((project / "data" / "preferences.jsonl").read_text().splitlines()) == 2
        assert [line for line in shown.splitlines() if "git add" in line] == shown.splitlines()[-1:]

    def test_import_replaces_only_when_told(self, pairs, project, capsys):
        main(["data", "import", pairs("mine.jsonl", ["Because."])])
        before = _contents(project)
        assert main(["data", "import", pairs("other.jsonl", ["It is so."])]) == 2
        assert "give --replace" in capsys.readouterr().err
        assert _contents(project) == before
        assert main(["data", "import", "other.jsonl", "--replace"]) == 0
        assert _contents(project) != before

    def test_import_that_fails_leaves_nothing(self, pairs, project, capsys):
        before = _contents(project)
        assert main(["data", "import", pairs("mine.jsonl", ["Because.", ""]), "--guidelines", "nowhere.md"]) == 2
        assert "nowhere.md: cannot be read" in capsys.readouterr().err
        assert main(["data", "import", pairs("mine.jsonl", ["No."])]) == 2
        assert _contents(project) == before

    def test_dry_run_says_what_would_be_read_and_changes_nothing(self, pairs, project, capsys):
        main(["data", "import", pairs("mine.jsonl", ["Because."])])
        before = {path: path.read_bytes() for path in (project / "data").iterdir()}
        capsys.readouterr()
        assert main(["data", "import", pairs("other.jsonl", ["It is so."]), "--replace", "--dry-run"]) == 0
        assert main(["data", "add", "other.jsonl", "--dry-run"]) == 0
        shown = capsys.readouterr().out
        assert "  chosen: It is so.\n" in shown
        assert shown.count("This was a dry run: nothing has changed\n") == 2
        assert {path: path.read_bytes() for path in (project / "data").iterdir()} == before

    def test_columns_say_what_a_file_of_ones_own_means(self, project, capsys):
        rows = [{"q": f"Why {n}?", "a": "Because.", "b": "No.", "verdict": n % 2} for n in range(20)]
        (project.parent / "elsewhere" / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        given = "prompt=q,first=a,second=b,verdict=verdict:0=first,1=second"
        assert main(["data", "import", "own.jsonl", "--columns", given]) == 0
        assert "verdicts in \"verdict\": 10 first ('0'), 10 second ('1'), 0 ties, 0 unusable" in capsys.readouterr().out
        chosen = [
            json.loads(line)["chosen"] for line in (project / "data" / "preferences.jsonl").read_text().split("\n")[:-1]
        ]
        assert [said[0]["content"] for said in chosen] == ["Because.", "No."] * 10

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (["--columns", "prompt"], '"prompt" cannot be read; write ROLE=COLUMN with one of prompt, system'),
            (["--columns", "promt=q"], 'did you mean "prompt"?'),
            (["--columns", "prompt=best"], '--columns names "best", and the file has no such column'),
            (["--columns", "chosen=rejected"], 'the file also has a column "chosen", which may say something else'),
            (["--columns", "chosen=a,chosen=b"], '"chosen" is given twice'),
            (["--columns", "verdict=label:0=frist"], '"0=frist" does not say what a value means'),
            (["--demonstrations-format", "qa"], "no file of them; give --demonstrations as well"),
            (["--max-dropped", "5"], "--max-dropped 5.0: this is no share; give a number from 0 to 1"),
        ],
    )
    def test_what_is_said_of_columns_is_understood_or_refused(self, pairs, project, capsys, given, message):
        assert main(["data", "import", pairs("mine.jsonl", ["Because."]), *given]) == 2
        assert message in capsys.readouterr().err
        assert not (project / "data").exists()

    def test_guidelines_and_licence_go_into_the_datasheet(self, pairs, project):
        guidelines = project.parent / "guidelines.md"
        guidelines.write_text("Prefer the answer that gives a reason.")
        extra = ["--guidelines", str(guidelines), "--licence", "MIT"]
        assert main(["data", "import", pairs("mine.jsonl", ["Because."]), *extra]) == 0
        datasheet = (project / "data" / "datasheet.md").read_text()
        assert "Prefer the answer that gives a reason." in datasheet
        assert "MIT" in datasheet

    def test_validate_counts_rows(self, pairs, project, capsys):
        main(["data", "import", pairs("mine.jsonl", ["Because.", "It is so."])])
        capsys.readouterr()
        assert main(["data", "validate"]) == main(["data", "validate", str(project / "data")]) == 0
        assert f"{project}/data/preferences.jsonl: 2 rows" in capsys.readouterr().out

    def test_validate_names_the_first_fault(self, pairs, project, capsys):
        main(["data", "import", pairs("mine.jsonl", ["Because."])])
        with (project / "data" / "prompts.jsonl").open("a") as file:
            file.write("{}\n")
        assert main(["data", "validate"]) == 2
        assert "prompts.jsonl:2" in capsys.readouterr().err

    def test_unknown_flag(self, capsys):
        assert main(["data", "import", "x.jsonl", "--relpace"]) == 2
        assert "--relpace is not a flag; the nearest known one is --replace" in capsys.readouterr().err

    def test_add_makes_a_version_and_says_how_to_record(self, pairs, project, capsys):
        main(["data", "import", pairs("mine.jsonl", ["Because.", "It is so."])])
        _commit_data(project, "first")
        capsys.readouterr()
        assert (
            main(["data", "add", pairs("more.jsonl", ["It is so.", "Ask me later."]), "--prompts", "more.jsonl"]) == 0
        )
        shown = capsys.readouterr().out
        assert "more.jsonl, sha256 " in shown
        assert "1 preferences added; 1 there already" in shown
        assert "0 prompts added; 2 there already" in shown
        assert "git add data.dvc .gitignore && git commit -m 'Add more.jsonl, more.jsonl'" in shown
        dvc_file = yaml.safe_load((project / "data.dvc").read_text())
        assert dvc_file["desc"].startswith("Added 1 preferences of more.jsonl, 20")
        sheet = (project / "data" / "datasheet.md").read_text()
        assert "## Added 20" in sheet
        before = _contents(project)
        assert main(["data", "add", "more.jsonl"]) == 0
        assert "Nothing of it is new" in capsys.readouterr().out
        assert _contents(project) == before

    def test_add_of_nothing_or_to_nothing(self, pairs, project, capsys):
        assert main(["data", "add"]) == 2
        assert "there is nothing to add" in capsys.readouterr().err
        assert main(["data", "add", pairs("mine.jsonl", ["Because."])]) == 2
        assert "data.dvc: the file is missing" in capsys.readouterr().err

    def test_add_of_demonstrations_alone(self, pairs, project, capsys):
        main(["data", "import", pairs("mine.jsonl", ["Because."])])
        rows = project.parent / "elsewhere" / "shown.jsonl"
        rows.write_text(json.dumps({"prompt": "How?", "completion": "So."}) + "\n")
        assert main(["data", "add", "--demonstrations", "shown.jsonl"]) == 0
        assert main(["data", "add", "shown.jsonl"]) == 2
        assert "holds demonstrations and no preferences" in capsys.readouterr().err
        assert len((project / "data" / "demonstrations.jsonl").read_text().splitlines()) == 2

    def test_status_log_and_diff(self, pairs, project, capsys):
        main(["data", "import", pairs("mine.jsonl", ["Because."])])
        _commit_data(project, "first")
        main(["data", "add", pairs("more.jsonl", ["Ask me later."])])
        capsys.readouterr()
        assert main(["data", "status"]) == 0
        assert "git has that data.dvc: no\n" in capsys.readouterr().out
        assert main(["data", "status", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["equal"] is True
        _commit_data(project, "second")
        assert main(["data", "log"]) == 0
        assert "Imported from mine.jsonl" in capsys.readouterr().out
        assert main(["data", "log", "--json"]) == 0
        versions = json.loads(capsys.readouterr().out)
        assert [version["subject"] for version in versions] == ["second", "first"]
        assert [version["rows"]["preferences"] for version in versions] == [2, 1]
        assert main(["data", "diff", "HEAD~1"]) == 0
        assert "| preferences | 1 | 2 | +1 | -0 | 0 |" in capsys.readouterr().out
        assert main(["data", "diff", versions[1]["md5"][:6], "HEAD", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["rows"]["preferences"]["added"] == {"more": 1}

    def test_push_and_pull(self, pairs, project, tmp_path, capsys):
        main(["data", "import", pairs("mine.jsonl", ["Because."])])
        assert main(["data", "push"]) == 2
        assert "dvc remote add --default" in capsys.readouterr().err
        (project / ".dvc" / "config.local").write_text(f"['remote \"store\"']\nurl = {tmp_path / 'store'}\n")
        assert main(["data", "push"]) == 0
        assert "5 files copied" in capsys.readouterr().out
        before = _contents(project)
        shutil.rmtree(project / "data")
        shutil.rmtree(project / ".dvc" / "cache")
        assert main(["data", "pull", "--remote", "store"]) == 0
        assert _contents(project) == before

    @pytest.mark.parametrize("arguments", [["status"], ["log"], ["diff", "HEAD"], ["push"], ["pull"], ["add", "x"]])
    def test_outside_of_a_repository(self, arguments, tmp_path, monkeypatch, capsys):
        monkeypatch.setenv("RLHF_ROOT", str(tmp_path))
        assert main(["data", *arguments]) == 2
        assert capsys.readouterr().err.startswith("rlhf: error: ")


class TestStage:
    def test_every_stage_has_its_flow_and_that_flows_runs(self):
        flows = {stage.name: getattr(stages, f"{stage.name}_stage") for stage in pipeline_stages()}
        runs = {name: tuple(inspect.signature(flow.fn).parameters) for name, flow in flows.items()}
        wanted = {name: tuple(STAGES[given].run_argument for given in STAGES[name].inputs) for name in flows}
        assert runs == {name: ("config", *arguments) for name, arguments in wanted.items()}
        assert len(flows) == sum(isinstance(value, Flow) for value in vars(stages).values())

    def test_one_run_stands_for_all_that_are_not_named(self):
        options = parse(["stage", "policy", "x.yaml", "--run", "1", "--sft-run", "2"])
        assert earlier_runs(options) == {"data_run": "1", "sft_run": "2", "reward_models_run": "1"}

    def test_a_run_that_is_missing(self, capsys):
        with pytest.raises(SystemExit, match="2"):
            main(["stage", "policy", "x.yaml", "--data-run", "1", "--sft-run", "2"])
        assert "required: --reward-models-run" in capsys.readouterr().err


def _commit_data(project, message):
    subprocess.run(["git", "add", "data.dvc", ".gitignore"], cwd=project, check=True)
    subprocess.run(["git", "commit", "--quiet", "--message", message], cwd=project, check=True)


def _contents(folder):
    names = ("data", "data.dvc")
    paths = [path for name in names for path in [folder / name, *(folder / name).rglob("*")] if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.slow
class TestRun:
    @pytest.fixture
    def run(self, embedded_project, migrated_prefect, monkeypatch):
        """Run the pipeline in a process of its own, with a temporary server of its own."""
        shutil.copytree(migrated_prefect, embedded_project / ".prefect")
        monkeypatch.setenv("PREFECT_HOME", str(embedded_project / ".prefect"))
        monkeypatch.chdir(embedded_project)

        def start(*arguments):
            script = (
                "import sys; from rlhf.cli.main import main; code = main();"
                "print(sorted(sys.modules), file=sys.stderr); sys.exit(code)"
            )
            command = [sys.executable, "-c", script, "run", str(SMOKE), "--compute.num-threads", "1", *arguments]
            return subprocess.run(command, capture_output=True, text=True, check=False, timeout=400)

        return start

    def test_json_then_cached_without_torch_then_for_people(self, run, monkeypatch):
        # Left over from a launcher. Training waited for a second process, without end.
        left_over = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29512"}
        left_over |= {"OMPI_COMM_WORLD_SIZE": "2", "PMI_SIZE": "2", "LOCAL_RANK": "1"}
        left_over |= {"ACCELERATE_MIXED_PRECISION": "fp16"}
        for name, value in left_over.items():
            monkeypatch.setenv(name, value)
        trained = run("--json")
        assert trained.returncode == 0, trained.stderr
        first, *_ = trained.stderr.splitlines()
        assert first.startswith("base model: none; a Llama with random weights is built, ")
        assert "a launcher's variables are in the environment" in trained.stderr
        assert trained.stderr.count("a launcher's variables") == 1
        report = json.loads(trained.stdout)
        assert set(report) == {"run_id", "metrics", "stages", "policy_path", "model_card", "gates", "refused"}
        assert {stage["state"] for stage in report["stages"]} == {"trained"}
        assert set(report["stages"][0]) == {"name", "state", "run_id", "seconds", "trained_seconds"}
        assert (Path(report["policy_path"]) / "model.safetensors").is_file()
        assert "policy: 4 of 4\n" in trained.stderr
        (planned,) = (line for line in trained.stderr.splitlines() if line.startswith("To compute: "))
        assert planned.startswith("To compute: prepared data")

        cached = run()
        assert cached.returncode == 0, cached.stderr
        modules = set(ast.literal_eval(cached.stderr.splitlines()[-1]))
        assert modules.isdisjoint({"torch", "trl", "transformers"})
        assert "\nAll stages are cached.\n" in cached.stderr
        assert cached.stdout.count("│ cached │") == len(report["stages"])
        assert "win rate against SFT" in cached.stdout
        assert f"rlhf open {json.loads(trained.stdout)['run_id'][:8]}" not in cached.stdout, "it is a run of its own"
        assert "rlhf open " in cached.stdout
        assert "/runs/flow-run/" in cached.stdout
        assert f"Model card: {Path(report['model_card']).relative_to(Path.cwd())}\n" in cached.stdout
        assert "?workflowType=machine_learning" in cached.stdout

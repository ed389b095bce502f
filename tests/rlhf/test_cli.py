import json
import os
import re
import signal
import subprocess
import sys

import pytest

from rlhf.cli import main
from rlhf.configuration import settings

HEAVY = {"torch", "trl", "transformers", "mlflow", "prefect", "datasets", "dvc", "numpy", "matplotlib"}


def _rlhf(*arguments, **options):
    command = [sys.executable, "-m", "rlhf.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["run", "nowhere.yaml"], ["run", "x", "--sede", "1"]]
)
def test_help_and_mistakes_import_nothing_heavy(arguments):
    script = (
        "import sys; from rlhf.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    assert HEAVY.isdisjoint(json.loads(done.stdout.splitlines()[-1].replace("'", '"')))


def test_help_shows_every_setting_with_its_docstring_default_and_bounds(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "10000")
    with pytest.raises(SystemExit) as end:
        main(["run", "--help"])
    shown = capsys.readouterr().out
    assert end.value.code == 0
    for setting in settings().values():
        if setting.kind == "section" and not setting.optional:
            assert re.search(rf"^{setting.name}:\n  {re.escape(setting.help)}$", shown, re.MULTILINE)
        else:
            assert re.search(rf"^  {setting.flag} .*\s+{re.escape(setting.help)} \[.*default: .+\]$", shown, re.MULTILINE)
    assert "[a number at least 0 and at most 1; default: 0.95]" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["rnu"], "invalid choice: 'rnu'"),
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
        (["run", "nowhere.yaml"], "nowhere.yaml: cannot be read (No such file or directory)"),
        (
            ["run", "x.yaml", "--ppo.kl-coeff", "1"],
            "--ppo.kl-coeff is not a setting; the nearest known one is --ppo.kl-coef",
        ),
        (["run", "--sede=1", "x.yaml"], "--sede is not a setting; the nearest known one is --seed"),
        (["run", "x.yaml", "--jsno"], "--jsno is not a setting; the nearest known one is --json"),
        (["run", "x.yaml", "--kl-coef", "1"], "--kl-coef is not a setting; the nearest known one is --ppo.kl-coef"),
    ],
)
def test_mistake_ends_with_one_line_and_exit_code_2(capsys, arguments, message):
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"rlhf: error: {message}")
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize(
    "flags", [["--ppo.kl-coef", "x"], ["--ppo.kl_coef", "x"], ["--ppo.kl-coef=x"], ["--ppo.kl_coef=x"]]
)
def test_flags_in_kebab_or_snake_case(tmp_path, capsys, flags):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("seed: 1\n")
    assert main(["run", *flags, str(recipe)]) == 2
    assert "--ppo.kl-coef: got x, expected a number at least 0" in capsys.readouterr().err

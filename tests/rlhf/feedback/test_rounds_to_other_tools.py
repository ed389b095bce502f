"""A round goes to Argilla and Label Studio and comes back: files as these tools read and write them."""

import json
import subprocess
import venv
from pathlib import Path
from xml.etree import ElementTree

import pytest

from rlhf.data.importing.formats import import_dataset
from rlhf.data.schema import Row, read_rows
from rlhf.errors import ConfigError
from rlhf.feedback.comparisons import Comparison
from rlhf.feedback.export import export_round
from rlhf.feedback.guidelines import Guidelines
from rlhf.feedback.rounds import Round

GUIDELINES = Guidelines(question='Which is "better" & why?', instruction="Right ones first.")
DIALOGUE = (
    {"role": "user", "content": "What is 2 + 3 ?"},
    {"role": "assistant", "content": "It is 5 ."},
    {"role": "user", "content": "And <b>4 + 4</b> ?"},
)


@pytest.fixture
def asked() -> Round:
    comparisons = [
        Comparison(0, DIALOGUE, ("It is 8 .", "It is 9 ."), ("p", "p"), "at random", ("ann",)),
        Comparison(1, DIALOGUE[:1], ("It is 6 .", "It is 5 ."), ("p", "p"), "at random", ("bob",)),
        Comparison(2, DIALOGUE[:1], ("Yes", "No"), ("gold", "gold"), "gold question", ("ann", "bob"), "A"),
    ]
    return Round("week-1", "run", "demo", GUIDELINES, comparisons)


def imported(file: Path, tmp_path: Path) -> list[Row]:
    folder = import_dataset(str(file), tmp_path / "imported").destination
    return [row for _, row in read_rows(folder / "preferences.jsonl", "preferences")]


def of_row(row: Row) -> tuple[str, int, str, str]:
    return row["annotator"], len(row["prompt"]), row["chosen"][0]["content"], row["rejected"][0]["content"]


def label_studio_answers(tasks: list[Row]) -> list[Row]:
    """As Label Studio exports what one person has selected: the left answer of the first task, the right one after."""
    for number, (task, side) in enumerate(zip(tasks, ("left", "right"), strict=True)):
        result = {
            "id": f"r{number}",
            "type": "pairwise",
            "from_name": "better",
            "to_name": "response_1,response_2",
            "origin": "manual",
            "value": {"selected": side},
        }
        task |= {"id": number, "project": 1, "annotations": [{"id": 1, "completed_by": 7, "result": [result]}]}
    return tasks


def test_label_studio_and_back(asked: Round, tmp_path: Path):
    tasks, labels = export_round(asked, "label-studio", "pairwise", tmp_path / "out")
    rows = json.loads(tasks.read_text())
    assert len(rows) == 2, "a gold question is no task"
    header = ElementTree.fromstring(labels.read_text()).find("Header")
    assert header is not None
    assert header.get("value") == GUIDELINES.question
    export = tmp_path / "export.json"
    export.write_text(json.dumps(label_studio_answers(rows)))
    assert [of_row(row) for row in imported(export, tmp_path)] == [
        ("7", 3, "It is 8 .", "It is 9 ."),
        ("7", 1, "It is 5 .", "It is 6 ."),
    ]


@pytest.mark.parametrize("kind", ["pairwise", "ranking"])
def test_argilla_and_back(asked: Round, tmp_path: Path, kind: str):
    records, settings = export_round(asked, "argilla", kind, tmp_path / "out")  # type: ignore[arg-type]
    (question,) = json.loads(settings.read_text())["questions"]
    values = [option["value"] for option in question["settings"]["options"]]
    assert values == ["response_1", "response_2", *(["tie"] if kind == "pairwise" else [])]
    rows = json.loads(records.read_text())
    for row, winner in zip(rows, ("response_1", "response_2"), strict=True):
        value = winner
        if kind == "ranking":
            value = [{"value": name, "rank": 1 if name == winner else 2} for name in ("response_1", "response_2")]
        row["responses"] = {"preference": [{"value": value, "user_id": "u-1"}]}
        row["status"] = "completed"
    records.write_text(json.dumps(rows))
    assert [of_row(row) for row in imported(records, tmp_path)] == [
        ("u-1", 3, "It is 8 .", "It is 9 ."),
        ("u-1", 1, "It is 5 .", "It is 6 ."),
    ]


def test_what_cannot_be_written(asked: Round, tmp_path: Path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(ConfigError, match="is there and not empty; name a new folder"):
        export_round(asked, "argilla", "pairwise", tmp_path)
    with pytest.raises(ConfigError, match="question is ranking, which is written for Argilla alone"):
        export_round(asked, "label-studio", "ranking", tmp_path / "new")
    assert not (tmp_path / "new").exists()


READ_BY_ARGILLA = """
import json, sys, threading
from http.server import BaseHTTPRequestHandler, HTTPServer

class Me(BaseHTTPRequestHandler):
    def do_GET(self):
        user = {"id": "6f9619ff-8b86-d011-b42d-00cf4fc964ff", "username": "ann", "role": "owner", "first_name": "Ann"}
        content = json.dumps(user).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
    def log_message(self, *_):
        pass

server = HTTPServer(("127.0.0.1", 0), Me)
threading.Thread(target=server.serve_forever, daemon=True).start()
import argilla as rg
from argilla.records._io import JsonIO
rg.Argilla(api_url=f"http://127.0.0.1:{server.server_port}", api_key="none")
settings = rg.Settings.from_json(sys.argv[1] + "/settings.json")
settings.validate()
records = JsonIO._records_from_json(sys.argv[1] + "/records.json")
answer = rg.Response("preference", "response_2", user_id="6f9619ff-8b86-d011-b42d-00cf4fc964ff", status="submitted")
records[0].responses.add(answer)
JsonIO.to_json(records, sys.argv[2])
print([field.name for field in settings.fields], [question.name for question in settings.questions])
"""
"""Argilla's package asks its server who one is before it reads anything."""
READ_BY_LABEL_STUDIO = """
import json, sys
from label_studio_sdk.label_interface import LabelInterface
interface = LabelInterface(open(sys.argv[1] + "/labels.xml").read())
interface.validate()
for task in json.load(open(sys.argv[1] + "/tasks.json")):
    assert interface.validate_task(task)
(control,) = interface.controls
print(sorted(control.to_name))
"""


@pytest.mark.soak
def test_the_real_packages_read_what_is_written(asked: Round, tmp_path: Path):
    """Argilla's own package reads its files and writes an answer, and Label Studio's own validates its tasks."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "argilla", "label-studio-sdk"], check=True)

    def run(code: str, *arguments: Path) -> str:
        return subprocess.run([python, "-c", code, *arguments], check=True, capture_output=True, text=True).stdout

    export_round(asked, "argilla", "pairwise", tmp_path / "argilla")
    answered = tmp_path / "answered.json"
    assert run(READ_BY_ARGILLA, tmp_path / "argilla", answered).strip() == (
        "['prompt', 'response_1', 'response_2'] ['preference']"
    )
    (row,) = imported(answered, tmp_path)
    assert of_row(row)[1:] == (3, "It is 9 .", "It is 8 .")
    export_round(asked, "label-studio", "pairwise", tmp_path / "label-studio")
    assert run(READ_BY_LABEL_STUDIO, tmp_path / "label-studio").strip() == "['response_1', 'response_2']"

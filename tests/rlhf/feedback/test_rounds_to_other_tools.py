"""A round goes to Argilla and Label Studio and comes back: files as these tools read and write them."""

import json
import subprocess
import venv
from pathlib import Path
from xml.etree import ElementTree

import pytest

from rlhf.data.importing.formats import import_dataset
from rlhf.data.schema import Row, read_rows
from rlhf.errors import ConfigError, DataError
from rlhf.feedback.comparisons import Comparison
from rlhf.feedback.export import Asked, export_round
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
        Comparison(0, DIALOGUE, ("It is 8 .", "It is 9 ."), ("new", "old"), "at random", ("ann",)),
        Comparison(1, DIALOGUE[:1], ("It is 6 .", "It is 5 ."), ("new", "old"), "at random", ("bob",)),
        Comparison(2, DIALOGUE[:1], ("Yes", "No"), ("gold", "gold"), "gold question", ("ann", "bob"), "A"),
    ]
    return Round("week-1", "run", "demo", GUIDELINES, comparisons)


def imported(file: Path, tmp_path: Path) -> list[Row]:
    folder = import_dataset(str(file), tmp_path / "imported").destination
    return [row for _, row in read_rows(folder / "preferences.jsonl", "preferences")]


def of_row(row: Row) -> tuple[str, int, str, str]:
    return row["annotator"], len(row["prompt"]), row["chosen"][0]["content"], row["rejected"][0]["content"]


def assert_come_back(rows: list[Row], annotator: str) -> None:
    """The first response of the first comparison was better, the second one of the other."""
    assert [of_row(row) for row in rows] == [
        (annotator, 3, "It is 8 .", "It is 9 ."),
        (annotator, 1, "It is 5 .", "It is 6 ."),
    ]
    assert [row["policies"] for row in rows] == [["new", "old"], ["old", "new"]]
    assert {(row["round"], row["source"]) for row in rows} == {("week-1", "feedback, week-1")}


def label_studio_answers(tasks: list[Row], kind: str) -> list[Row]:
    """As Label Studio exports what one person has said: the first answer is better in the first task only."""
    for number, (task, side) in enumerate(zip(tasks, ("left", "right"), strict=True)):
        said = [("better", "response_1,response_2", {"selected": side})]
        if kind == "rating":
            stars = {"left": (4, 2), "right": (1, 5)}[side]
            said = [(f"response_{i}_rating", f"response_{i}", {"rating": given}) for i, given in enumerate(stars, 1)]
        results = [
            {"id": f"r{from_name}", "type": kind, "from_name": from_name, "to_name": to_name, "value": value}
            for from_name, to_name, value in said
        ]
        task |= {"id": number, "project": 1, "annotations": [{"id": 1, "completed_by": 7, "result": results}]}
    return tasks


@pytest.mark.parametrize("kind", ["pairwise", "rating"])
def test_label_studio_and_back(asked: Round, tmp_path: Path, kind: Asked):
    tasks, labels = export_round(asked, "label-studio", kind, tmp_path / "out")
    rows = json.loads(tasks.read_text())
    assert len(rows) == 2, "a gold question is no task"
    header = ElementTree.fromstring(labels.read_text()).find("Header")
    assert header is not None
    assert header.get("value") == (GUIDELINES.question if kind == "pairwise" else "How good is the response?")
    export = tmp_path / "export.json"
    export.write_text(json.dumps(label_studio_answers(rows, kind)))
    assert_come_back(imported(export, tmp_path), "7")


def test_one_rating_of_two_is_no_verdict(asked: Round, tmp_path: Path):
    tasks, _ = export_round(asked, "label-studio", "rating", tmp_path / "out")
    rows = label_studio_answers(json.loads(tasks.read_text()), "rating")
    rows[1]["annotations"][0]["result"].pop()
    export = tmp_path / "export.json"
    export.write_text(json.dumps(rows))
    with pytest.raises(DataError, match="somebody rated one answer and not the other"):
        imported(export, tmp_path)


@pytest.mark.parametrize("flat", [False, True], ids=["records", "columns"])
@pytest.mark.parametrize("kind", ["pairwise", "ranking", "rating"])
def test_argilla_and_back(asked: Round, tmp_path: Path, kind: Asked, flat: bool):
    records, settings = export_round(asked, "argilla", kind, tmp_path / "out")
    questions = json.loads(settings.read_text())["questions"]
    values = {
        "pairwise": ["response_1", "response_2", "tie"],
        "ranking": ["response_1", "response_2"],
        "rating": [1, 2, 3, 4, 5],
    }
    assert all([o["value"] for o in question["settings"]["options"]] == values[kind] for question in questions)
    rows = json.loads(records.read_text())
    for row, winner in zip(rows, ("response_1", "response_2"), strict=True):
        if kind == "rating":
            said = {f"{name}_rating": 5 if name == winner else 3 for name in ("response_1", "response_2")}
        elif kind == "ranking":
            order = [{"value": name, "rank": 1 if name == winner else 2} for name in ("response_1", "response_2")]
            said = {"preference": order}
        else:
            said = {"preference": winner}
        assert said.keys() == {question["name"] for question in questions}
        row["status"] = "completed"
        if flat:  # as its `to_datasets` has them
            row |= row.pop("fields") | row.pop("metadata")
            for name in ("responses", "suggestions", "vectors"):
                del row[name]
            for name, value in said.items():
                row |= {f"{name}.responses": [value], f"{name}.responses.users": ["u-1"]}
                row |= {f"{name}.responses.status": ["submitted"]}
        else:
            row["responses"] = {name: [{"value": value, "user_id": "u-1"}] for name, value in said.items()}
    records.write_text(json.dumps(rows))
    assert_come_back(imported(records, tmp_path), "u-1")


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
question = settings.questions[0]
value = 4 if question.name.endswith("rating") else "response_2"
answer = rg.Response(question.name, value, user_id="6f9619ff-8b86-d011-b42d-00cf4fc964ff", status="submitted")
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
print(*(sorted(control.to_name) for control in interface.controls))
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
    for kind, of_controls in {
        "pairwise": "['response_1', 'response_2']",
        "rating": "['response_1'] ['response_2']",
    }.items():
        export_round(asked, "label-studio", kind, tmp_path / kind)  # type: ignore[arg-type]
        assert run(READ_BY_LABEL_STUDIO, tmp_path / kind).strip() == of_controls
    export_round(asked, "argilla", "rating", tmp_path / "rating-argilla")
    assert "['response_1_rating', 'response_2_rating']" in run(
        READ_BY_ARGILLA, tmp_path / "rating-argilla", tmp_path / "rated.json"
    )

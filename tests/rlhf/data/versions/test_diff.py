"""What `rlhf data diff` finds between versions of a real repository."""

import json
import random
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from data_rows import demonstration, preference, user, write_lines
from hypothesis import given
from hypothesis import strategies as st
from versioned import add_remote, git, record

from rlhf.data.versions.diff import compare_versions, unmatched_rows
from rlhf.data.versions.resolve import track
from rlhf.errors import DataError


def pair(number: int, **fields: object) -> dict:
    return {**preference(f"What is {number} ?", "four", "five"), **fields}


OLD = [
    pair(1, source="a", margin=1.0, annotator="x"),
    pair(2, source="a"),
    pair(2, source="a"),
    pair(3, source="b"),
]
NEW = [
    pair(1, source="a", margin=2.0, annotator="y"),  # changed: margin and annotator
    pair(2, source="a"),  # one of two
    pair(4, source="c", criteria="tone"),  # added
    {**pair(5), "chosen": [{"role": "assistant", "content": "longer than"}]},  # added, longer, without source
]


@pytest.fixture
def project(repository: Path, data_folder: Path) -> Path:
    shutil.copytree(data_folder, repository / "data")
    record(repository, {"preferences": OLD}, "first")
    git(repository, "tag", "v1")
    record(repository, {"preferences": NEW, "demonstrations": [demonstration(), demonstration("And ?")]}, "second")
    return repository


class TestCompareVersions:
    def test_rankings_and_labels(self, project: Path) -> None:
        ranking = {"prompt": pair(9)["prompt"], "responses": [pair(9)["chosen"], pair(9)["rejected"]], "ranks": [1, 1]}
        label = {**demonstration(), "label": True}
        record(project, {"preferences": [*NEW, ranking], "labels": [label, {**label, "label": False}]}, "third")
        found = compare_versions(project, "HEAD~1", "HEAD")
        assert found.kinds["preferences"].added == {"(none)": 1}
        assert found.kinds["labels"].added == {"(none)": 2}
        assert [labels.figures()["rankings"] for labels in found.labels] == [0, 1]
        assert "| labels | 0 | 2 | +2 |" in found.as_markdown()

    def test_rows_by_source(self, project: Path) -> None:
        found = compare_versions(project, "v1", "HEAD")
        rows = found.kinds["preferences"]
        assert (rows.old, rows.new) == (4, 4)
        assert rows.added == {"c": 1, "(none)": 1}
        assert rows.removed == {"a": 1, "b": 1}
        assert rows.changed == {"a": 1}
        assert rows.fields == {"margin": 1, "annotator": 1}
        assert found.kinds["demonstrations"].added == {"(none)": 1}
        assert vars(found.kinds["prompts"]) == vars(type(rows)(old=1, new=1))
        assert not found.datasheet_changed

    def test_labels(self, project: Path) -> None:
        old, new = (labels.figures() for labels in compare_versions(project, "v1", "HEAD").labels)
        assert old["share_by_source"] == {"a": 0.75, "b": 0.25}
        assert new["share_by_source"] == {"a": 0.5, "c": 0.25, "(none)": 0.25}
        assert (old["with_margin"], old["mean_margin"], new["mean_margin"]) == (0.25, 1.0, 2.0)
        assert (old["chosen_is_longer"], new["chosen_is_longer"]) == (0.0, 0.25)
        assert (old["annotators"], old["criteria"], new["criteria"]) == (1, {}, {"tone": 1})

    def test_the_other_way_round(self, project: Path) -> None:
        there, back = compare_versions(project, "v1", "HEAD"), compare_versions(project, "HEAD", "v1")
        assert there.kinds["preferences"].added == back.kinds["preferences"].removed
        assert there.labels[1].figures() == back.labels[0].figures()

    def test_data_as_it_is(self, project: Path) -> None:
        write_lines(project / "data" / "prompts.jsonl", [{"prompt": user("Other")}])
        found = compare_versions(project, "HEAD")
        assert found.kinds["prompts"].added == found.kinds["prompts"].removed == {"(none)": 1}
        assert found.kinds["preferences"].added == {}
        assert found.new.name == "data/"
        shutil.rmtree(project / "data")
        with pytest.raises(DataError, match="there is no such folder; bring it with `rlhf data pull`"):
            compare_versions(project, "HEAD")

    def test_the_same_row_in_another_form_is_the_same(self, project: Path) -> None:
        lines = [json.dumps(dict(reversed(row.items())), separators=(",", ":")) for row in NEW]
        (project / "data" / "preferences.jsonl").write_text("\r\n".join(lines))
        found = compare_versions(project, "HEAD").kinds["preferences"]
        assert (found.old, found.new, found.added, found.removed, found.changed) == (4, 4, {}, {}, {})

    def test_by_md5_out_of_a_remote_without_a_checkout(self, project: Path, tmp_path: Path, contents) -> None:
        from rlhf.data.versions.history import md5_at
        from rlhf.data.versions.remotes import push

        add_remote(project, "store", str(tmp_path / "store"))
        push(project)
        git(project, "checkout", "--quiet", "v1", "--", "data.dvc")
        push(project)
        shutil.rmtree(project / ".dvc" / "cache")
        before = contents(project / "data")
        found = compare_versions(project, md5_at("v1", project)[:8], md5_at("HEAD", project))
        assert found.kinds["preferences"].removed == {"a": 1, "b": 1}
        assert contents(project / "data") == before

    def test_by_an_md5_that_no_commit_records(self, project: Path) -> None:
        write_lines(project / "data" / "prompts.jsonl", [{"prompt": user("Other")}])
        md5 = track(project)
        git(project, "checkout", "--quiet", "--", "data.dvc")
        for name in (md5, md5.removesuffix(".dir")):
            assert compare_versions(project, "HEAD", name).kinds["prompts"].added == {"(none)": 1}
        with pytest.raises(
            DataError, match=r"the data of version 0{32}\.dir cannot be had: DVC's cache .* not have it"
        ):
            compare_versions(project, "0" * 32)

    def test_as_markdown_and_json(self, project: Path) -> None:
        found = compare_versions(project, "v1", "HEAD")
        text = found.as_markdown()
        assert "| preferences | 4 | 4 | +2 | -2 | 1 |" in text
        assert "| preferences | a | +0 | -1 | 1 |" in text
        assert "| mean margin | 1.0000 | 2.0000 |" in text
        plain = json.loads(json.dumps(found.as_json()))
        assert plain["rows"]["preferences"]["changed"] == {"a": 1}
        assert plain["labels"]["new"]["rows"] == 4

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("nowhere", "nowhere: there is no such branch, tag, commit or md5"),
            ("ffffffff", "ffffffff: there is no such branch"),
            ("--all", "--all: there is no such branch"),
        ],
    )
    def test_a_version_that_there_is_not(self, project: Path, name: str, message: str) -> None:
        with pytest.raises(DataError, match=message):
            compare_versions(project, name)

    def test_a_revision_without_data(self, project: Path) -> None:
        git(project, "rm", "--quiet", "--cached", "data.dvc")
        git(project, "commit", "--quiet", "--message", "none")
        with pytest.raises(DataError, match=r"data\.dvc at the git revision HEAD cannot be read"):
            compare_versions(project, "HEAD")

    def test_a_row_that_is_none(self, project: Path) -> None:
        write_lines(project / "data" / "preferences.jsonl", [{"prompt": user("?")}])
        with pytest.raises(DataError, match=r'data/preferences\.jsonl:1: the field "chosen" is missing'):
            compare_versions(project, "HEAD")


@given(st.lists(st.integers(0, 5)), st.lists(st.integers(0, 5)))
def test_each_is_the_partner_of_one_alone(these: list[int], those: list[int]) -> None:
    left = [n for n, lone in zip(these, unmatched_rows(_as(these), _as(those)), strict=True) if lone]
    assert Counter(left) == Counter(these) - Counter(those)


def _as(numbers: list[int]) -> np.ndarray:
    return np.array(numbers, dtype=np.uint64)


def test_against_a_comparison_of_all_rows_at_once(project: Path) -> None:
    """Random versions, and a reference that holds every row in memory."""
    chance = random.Random(0)
    rows = [pair(n % 60, source=chance.choice("ab"), margin=float(chance.randrange(3))) for n in range(200)]
    later = chance.sample(rows, 120) + [pair(n, source="new") for n in range(70, 90)]
    record(project, {"preferences": rows}, "third")
    record(project, {"preferences": later}, "fourth")
    found = compare_versions(project, "HEAD~1", "HEAD").kinds["preferences"]

    def texts(given: list[dict], *names: str) -> Counter[str]:
        return Counter(json.dumps([row[name] for name in names or row], sort_keys=True) for row in given)

    def lone(these: list[dict], those: list[dict]) -> Counter[str]:
        rest = Counter(json.dumps(row) for row in these) - Counter(json.dumps(row) for row in those)
        return texts([json.loads(text) for text in rest.elements()], "prompt", "chosen", "rejected")

    gone, come = lone(rows, later), lone(later, rows)
    assert found.changed.total() == (gone & come).total()
    assert found.added.total() == (come - gone).total()
    assert found.removed.total() == (gone - come).total()

import pytest

from rlhf.errors import ConfigError, InputError
from rlhf.feedback.guidelines import Guidelines, parse_guidelines, read_guidelines


def test_written_and_read_they_are_the_same(tmp_path):
    given = Guidelines(question="Which is kinder?", instruction="Be kind.", details="# Long", flags=("rude",))
    (tmp_path / "g.yaml").write_text(given.as_yaml(), encoding="utf-8")
    assert read_guidelines("g.yaml", tmp_path) == given
    assert read_guidelines(None, tmp_path) == Guidelines()
    assert [level.prefers for level in Guidelines().levels] == ["A", "A", "tie", "B", "B", "none"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", r"g: no mapping of settings \(question, instruction, details, levels, flags\); write them there"),
        ("question: [", "g: this is not YAML as it is read here: "),
        ("qestion: Why?", r"g: qestion: .*\(known: question, instruction, details, levels, flags\)"),
        ("question: ''", "g: question: "),
        ("levels: [{says: A, prefers: A}, {says: A, prefers: B}]", "levels: 'A' stands twice; give each its own words"),
        ("levels: [{says: A, prefers: A}, {says: T, prefers: tie}]", "levels: no answer prefers B; add one"),
        ("levels: [{says: A, prefers: C}]", "g: levels.0.prefers: Input should be 'A', 'B', 'tie' or 'none'"),
        ("levels: [{says: T, prefers: tie, margin: 1}]", "'T' prefers no response, but has a margin; drop it"),
        ("flags: [rude, rude]", "flags: 'rude' stands twice"),
        ("a: &x [1]\nb: *x", "g: this is not YAML as it is read here"),
    ],
)
def test_bad_guidelines_are_refused_with_the_place(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_guidelines(text, "g")


def test_a_file_that_is_not_there_or_leads_out(tmp_path):
    with pytest.raises(
        ConfigError, match=r"guidelines: .*nowhere.yaml: No such file or directory; name a file that is"
    ):
        read_guidelines("nowhere.yaml", tmp_path)
    with pytest.raises(InputError, match="guidelines"):
        read_guidelines("../g.yaml", tmp_path)
    (tmp_path / "g.yaml").write_bytes(b"question: \xff")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        read_guidelines("g.yaml", tmp_path)

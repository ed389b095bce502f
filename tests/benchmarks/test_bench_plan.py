"""The parts of `benchmarks.plan` and `benchmarks.recording` that need no run."""

from xml.etree import ElementTree

from benchmarks.plan import CASES, Outcome, part
from benchmarks.recording import Screen, svg, thinned


def outcome(predicted_mb: float, measured_mb: float, predicted_s: float | None, measured_s: float) -> dict[str, object]:
    return vars(Outcome(predicted_mb, measured_mb, predicted_s, measured_s, 0.05, {}))


def test_the_table_says_how_far_off_the_worst_plan_was():
    row = {"quiet": True, "when": "2026-01-01 10:00", "commit": "abc", "machine": "a machine"}
    rows = {
        "smoke": row | {"first": outcome(900, 1000, 50, 40), "second": outcome(1010, 1000, 80, 100)},
        "demo": row | {"first": outcome(1120, 1000, None, 40), "second": outcome(1000, 1000, 100, 100)},
    }
    said = part(rows)
    assert (
        "| `smoke` | the smallest, fp32 | 900 | 1,000 | -10% | 1,010 | 1,000 | +1% | 80 | 100 | -20% | 0.05 |" in said
    )
    assert "The worst error of memory is 12% (bound 15%), of time 20% (bound 30%)." in said
    busy = part({name: of_case | {"quiet": False} for name, of_case in rows.items()})
    assert "of memory is 12% (bound 15%), of time not known: the machine was busy." in busy
    assert len(CASES) >= 5


def text_of(screen: Screen) -> list[str]:
    return ["".join(character for character, _ in line).rstrip() for line in screen.shown()]


def test_a_screen_shows_what_a_terminal_would():
    screen = Screen()
    screen.write("one\r\ntwo\r\n\x1b[1mthree\x1b[0m\r\n")
    assert text_of(screen) == ["one", "two", "three", ""]
    assert screen.shown()[2][0][1].bold
    screen.write("\x1b[2A\x1b[2K\rnew\r\n\x1b[32mgreen\x1b[0m")
    assert text_of(screen) == ["one", "new", "green", ""]
    screen.write("\r" + "x" * 95)
    assert text_of(screen)[2:] == ["x" * 92, "xxx"]


def test_a_recording_is_one_picture_of_frames_that_differ():
    screen, frames = Screen(), []
    for word in ("first ", "first ", "<second> "):
        screen.write(word)
        frames += [(0.3, screen.shown())] * 2
    kept = thinned(frames)
    assert len(kept) == 3
    assert kept[0][0] == 0.6
    drawn = ElementTree.fromstring(svg(kept))
    lines = {f"#{text.get('id')}": "".join(text.itertext()) for text in drawn.iter() if text.tag.endswith("}text")}
    groups = [element for element in drawn if element.tag.endswith("}g")]
    assert [[lines[line.get("href")] for line in group] for group in groups] == [
        ["first"],
        ["first first"],
        ["first first <second>"],
    ]

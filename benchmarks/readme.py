"""The parts of a README that are written by programs, each between markers; all else is a person's."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.summary import Summary

README = Path(__file__).resolve().parent / "README.md"


def replace_part(text: str, name: str, new: str) -> str:
    """The text with what stands between `<!-- NAME: begin -->` and `<!-- NAME: end -->` replaced.

    Raises:
        ValueError: the markers are not there.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if begin not in text or end not in text:
        raise ValueError(f"the page has no part {name!r}; put {begin} and {end} back")
    before, rest = text.split(begin, 1)
    return f"{before}{begin}\n{new.strip()}\n{end}{rest.split(end, 1)[1]}"


def write_part(name: str, new: str, path: Path = README) -> None:
    """Replace a part of the README."""
    path.write_text(replace_part(path.read_text(encoding="utf-8"), name, new), encoding="utf-8")


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """A Markdown table; the columns in `right` hold numbers."""
    rule = ["---:" if column in right else "---" for column in range(len(header))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))


def speed_part(summaries: Sequence[Summary]) -> str:
    """All that `make bench` says: speed, memory, phases, lengths, versions."""
    if not summaries:
        return "Nothing was measured yet."
    parts = [
        _speed(summaries),
        "Seconds by phase (medians; `other` is what no phase explains):",
        _phases(summaries),
        _lengths(summaries),
        _circumstances(summaries),
    ]
    return "\n\n".join(part for part in parts if part)


def _speed(summaries: Sequence[Summary]) -> str:
    rows = []
    for summary in summaries:
        row, ours, peer = summary.row, summary.row["ours"], summary.row["peer"]
        rows.append(
            [
                f"`{row['case']}`",
                summary.case.what,
                f"{ours['seconds']:.1f}",
                f"{peer['seconds']:.1f}",
                f"{ours['episodes_per_s']:.1f}",
                f"**{row['ratio']:.2f}**",
                f"{row['low']:.2f} to {row['high']:.2f}",
                _target(row["target"], row["ratio"], least=True),
                str(row["pairs"]),
                f"{ours['peak_rss_mb']:,}",
                f"{peer['peak_rss_mb']:,}",
                f"{row['memory_ratio']:.2f}",
                _target(row["memory_target"], row["memory_ratio"], least=False),
            ]
        )
    header = ["case", "what", "ours, s", "peer, s", "ours, episodes/s", "ratio", "spread", "target", "pairs"]
    header += ["ours, MB", "peer, MB", "memory ratio", "target"]
    return table(header, rows, right=(2, 3, 4, 5, 8, 9, 10, 11))


def _target(target: float | None, measured: float, least: bool) -> str:
    if target is None:
        return ""
    met = measured >= target if least else measured <= target
    return f"{'at least' if least else 'at most'} {target:g}: {'met' if met else '**missed**'}"


def _phases(summaries: Sequence[Summary]) -> str:
    rows = [
        [f"`{summary.row['case']}`", side, _listed(summary.row[side]["phases"])]
        for summary in summaries
        for side in ("ours", "peer")
    ]
    return table(["case", "side", "seconds"], rows)


def _listed(phases: Mapping[str, float]) -> str:
    ordered = sorted(phases.items(), key=lambda item: -item[1])
    return ", ".join(f"{name.replace('_', ' ')} {seconds:.1f}" for name, seconds in ordered if seconds >= 0.05)


def _lengths(summaries: Sequence[Summary]) -> str:
    rows = [
        [
            f"`{s.row['case']}`",
            side,
            ", ".join(f"{r['mean']:.1f} / {r['longest']}" for r in s.row[side]["response_tokens"]),
        ]
        for s in summaries
        if s.case.settings.ends
        for side in ("ours", "peer")
    ]
    text = "Response tokens, mean / longest of each rollout (first pair); in all other cases every response has 48:"
    return f"{text}\n\n{table(['case', 'side', 'rollouts'], rows)}" if rows else ""


def _circumstances(summaries: Sequence[Summary]) -> str:
    lines = []
    for summary in summaries:
        row, cycle = summary.row, summary.cycles[-1]
        ours = " ".join(f"{k} {v}" for k, v in cycle.ours[summary.case.name]["versions"].items())
        peer = " ".join(f"{k} {v}" for k, v in cycle.peer["versions"].items())
        quiet = "a quiet machine" if row["quiet"] else "**a busy machine**"
        lines.append(
            f"`{row['case']}`: {row['when']} UTC, commit {row['commit']}, {row['machine']}, {row['ours']['threads']} "
            f"threads, {quiet} (other processes used at most {row['others_cores']:.2f} cores during a run). "
            f"Ours: {ours}. Peer: {peer}."
        )
    return "\n".join(f"- {line}" for line in lines)

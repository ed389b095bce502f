"""A run's report as Markdown, for MLflow and Prefect, and as one HTML file that needs nothing else."""

import base64
from pathlib import Path

from markdown_it import MarkdownIt
from markupsafe import Markup

from rlhf.runs.pages import page_template
from rlhf.runs.report.collect import NUM_SAMPLES, RunReport
from rlhf.text.markdown import escape, table


def as_markdown(report: RunReport, max_characters: int | None = None) -> str:
    """The report without its figure.

    Args:
        report: of a run.
        max_characters: bound of the whole; the last samples are left out where they do not fit.
    """
    rows = [[escape(words), value, interval] for words, value, interval in report.rows]
    parts = [
        f"**{escape(report.verdict)}**",
        table(["measured on held-out data", "value", "95% interval"], rows, numbers=[1, 2]),
        _cost(report),
        "\n".join(["### Limitations", "", *(f"- {sentence}" for sentence in report.limitations)]),
    ]
    text = "\n\n".join(parts)
    samples = [
        [escape(text) or "(empty)" for text in (s.prompt, s.baseline, s.policy)] for s in report.samples[:NUM_SAMPLES]
    ]
    while samples:
        title = f"### Before and after\n\nThe first {len(samples)} test prompts, not picked."
        whole = "\n\n".join([text, title, table(["Prompt", "SFT policy", "Policy"], samples)])
        if max_characters is None or len(whole) <= max_characters:
            return whole + "\n"
        samples.pop()
    return (text if max_characters is None else text[:max_characters]) + "\n"


def as_html(report: RunReport) -> str:
    """The report for a browser, in light or dark as the reader has set it."""
    limitations = [_inline(sentence) for sentence in report.limitations]
    picture = base64.b64encode(report.figure.read_bytes()).decode() if report.figure else None
    template = page_template(Path(__file__).parent, "run.html.jinja")
    return template.render(report=report, limitations=limitations, picture=picture, cost=_cost(report))


def _cost(report: RunReport) -> str:
    slowest = max(report.stages, key=lambda stage: stage[1], default=None)
    longest = f"; the longest stage, {slowest[0]}, took {_time(slowest[1])}" if slowest else ""
    alarms = "alarm" if report.num_alarms == 1 else "alarms"
    said = f" {report.num_alarms} {alarms} went off in training." if report.num_alarms else ""
    return f"Computed in {_time(report.seconds)}{longest}.{said}"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _inline(sentence: str) -> Markup:
    """Markdown of one sentence; HTML in it stays text."""
    return Markup(MarkdownIt("js-default").renderInline(sentence))  # noqa: S704  # the parser's output, HTML turned off

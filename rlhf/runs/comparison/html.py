"""A comparison as Markdown, and as one HTML file that needs nothing else: no network, no scripts, no fonts."""

from collections.abc import Sequence
from html import escape

from rlhf.metrics import METRICS
from rlhf.runs.comparison.charts import Curve, draw
from rlhf.runs.comparison.compare import CURVES, Comparison
from rlhf.runs.comparison.report import Section, Table, sections
from rlhf.runs.comparison.run_view import RunView
from rlhf.text import markdown

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#6B6B6B")
"""Of Okabe and Ito's palette, which the colour-blind can tell apart; one a run."""
_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1080px; margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; padding-bottom: .25rem; border-bottom: 1px solid #ddd; }
p { margin: .35rem 0; max-width: 52rem; color: #444; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .8rem 0; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .32rem 1.1rem .32rem 0; border-bottom: 1px solid #eee; }
td { overflow-wrap: anywhere; }
th { font-weight: 600; border-bottom: 2px solid #ccc; white-space: nowrap; }
.number { text-align: right; white-space: nowrap; }
small { color: #777; font-weight: 400; }
.good { color: #00734f; font-weight: 600; }
.bad { color: #b34700; font-weight: 600; }
.quiet { color: #777; }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .35em; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(460px, 1fr)); gap: 1.2rem; }
figure { margin: 0; }
figcaption { font-weight: 600; font-size: .92rem; }
figcaption small { font-weight: 400; }
svg { width: 100%; height: auto; }
"""


def as_markdown(comparison: Comparison) -> str:
    """The report for a wiki or a pull request."""
    parts = [f"# {_title(comparison)}"]
    for section in sections(comparison):
        parts.append(f"## {section.title}")
        parts += [markdown.escape(sentence).replace("\\`", "`") for sentence in section.sentences]
        parts += [_markdown_table(table) for table in section.tables]
    return "\n\n".join(parts) + "\n"


def as_html(comparison: Comparison) -> str:
    """The report with the curves over one another, for a browser."""
    title = escape(_title(comparison))
    runs, results, *others = sections(comparison)
    parts = [_html_section(runs), _html_section(results), _curves(comparison.sides), *map(_html_section, others)]
    key = " ".join(
        f'<span class="key" style="background:{colour}"></span>{side.label}: {escape(side.run.name)}&emsp;'
        for side, colour in zip(comparison.sides, COLOURS, strict=False)
    )
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n<p>{key}</p>\n{''.join(parts)}</body>\n</html>\n"
    )


def _title(comparison: Comparison) -> str:
    return f"Comparison of {' and '.join(side.short_id for side in comparison.sides)}"


def _markdown_table(table: Table) -> str:
    rows = [["<br>".join(map(markdown.escape, cell.text.strip().split("\n"))) for cell in row] for row in table.rows]
    return markdown.table([markdown.escape(title) for title in table.header], rows)


def _html_section(section: Section) -> str:
    sentences = "".join(f"<p>{escape(sentence)}</p>\n" for sentence in section.sentences)
    return f"<h2>{escape(section.title)}</h2>\n{sentences}{''.join(map(_html_table, section.tables))}"


def _html_table(table: Table) -> str:
    head = "".join(f"<th{_number(place, table)}>{escape(title)}</th>" for place, title in enumerate(table.header))
    rows = []
    for row in table.rows:
        cells = []
        for place, cell in enumerate(row):
            first, _, second = cell.text.partition("\n")
            inner = escape(first) + (f"<br><small>{escape(second)}</small>" if second else "")
            shown = f'<span class="{cell.tone}">{inner}</span>' if cell.tone else inner
            cells.append(f"<td{_number(place, table)}>{shown}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    body = "\n".join(rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>\n'


def _number(place: int, table: Table) -> str:
    return ' class="number"' if place in table.numbers else ""


def _curves(sides: Sequence[RunView]) -> str:
    charts = []
    for metric in CURVES:
        curves = [
            Curve(side.label, colour, side.curves[metric])
            for side, colour in zip(sides, COLOURS, strict=False)
            if metric in side.curves
        ]
        if curves:
            unit = f" <small>{escape(METRICS[metric].unit)}</small>" if METRICS[metric].unit else ""
            charts.append(f"<figure><figcaption>{escape(metric)}{unit}</figcaption>{draw(curves)}</figure>\n")
    if not charts:
        return "<h2>Curves</h2>\n<p>Neither run has any.</p>\n"
    return f'<h2>Curves</h2>\n<p>By training step or update.</p>\n<div class="charts">{"".join(charts)}</div>\n'

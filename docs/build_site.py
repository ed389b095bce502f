"""The documentation site: `make docs` builds it in .site/ and fails where a page, a link or an anchor is wrong.

Pages are those of docs/ and a few of the repository's own. Tables that a comment such as `<!-- made: settings -->`
stands for are made from the code.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from rlhf.cli.parser import _parser
from rlhf.config.loading import settings, shown
from rlhf.metrics import COSTS, FAMILIES, GROUP, METRICS

ROOT = Path(__file__).parents[1]
OUTSIDE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks/index.md",
    "benchmarks/pictures": "benchmarks/pictures",
}
"""What the site has beside docs/: path in the repository, and path on the site."""
_NO_PAGES = {"build_site.py", "zensical.toml", "__pycache__"}
_LINK = re.compile(r"(?P<text>!?\[[^\]]*\])\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")
_LIST_AFTER_TEXT = re.compile(r"^(?![-|#\s]|\d+\. )(.+)\n(?=- |\d+\. )", re.MULTILINE)
_MADE = re.compile(r"<!-- made: (\w+) -->")
_ASKS_ELSEWHERE = re.compile(r"""<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//[^>]*>""")


def build(root: Path, site: Path) -> int:
    """Build the site of a checkout into a folder, which is emptied first. Returns the exit code."""
    shutil.rmtree(site, ignore_errors=True)
    places = dict(_places(root))
    for source, place in places.items():
        target = site / "pages" / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".md":
            target.write_text(_page(source, places), encoding="utf-8")
        else:
            shutil.copyfile(source, target)
    shutil.copy(root / "docs" / "zensical.toml", site)
    command = [str(Path(sys.executable).with_name("zensical")), "build", "--strict", "--clean"]
    built = subprocess.run(command, cwd=site, check=False)
    navigation = (site / "zensical.toml").read_text(encoding="utf-8")
    pages = [place for place in places.values() if place.endswith(".md") and not place.startswith("adr/")]
    wrong = [f"{page}: `nav` of docs/zensical.toml lacks it" for page in pages if f'"{page}"' not in navigation]
    wrong += _asks_elsewhere(site / "html")
    sys.stderr.writelines(f"{line}\n" for line in wrong)
    failed = built.returncode or bool(wrong)
    if not failed:
        print(f"To read it, with its search: {sys.executable} -m http.server --directory {site / 'html'}")
    return failed


def _places(root: Path) -> Iterator[tuple[Path, str]]:
    """Every file of the site, and where it is there."""
    for path in sorted((root / "docs").rglob("*")):
        here = path.relative_to(root / "docs")
        if path.is_file() and not _NO_PAGES & {*here.parts}:
            yield path, here.as_posix()
    for name, place in OUTSIDE.items():
        if (root / name).is_dir():
            yield from ((path, f"{place}/{path.name}") for path in sorted((root / name).iterdir()))
        else:
            yield root / name, place


def _page(source: Path, places: Mapping[Path, str]) -> str:
    """A page's text: tables are filled in, and links lead to where pages are on the site."""
    here = Path(places[source]).parent

    def link(match: re.Match[str]) -> str:
        text, target, anchor = match["text"], match["target"], match["anchor"] or ""
        file = Path(os.path.normpath(source.parent / target))
        if ":" in target or not file.exists():
            return match[0]
        if file in places:
            return f"{text}({os.path.relpath(places[file], here)}{anchor})"
        return text[1:-1]  # a file of the code, which the site does not have

    parts = _LINK.sub(link, source.read_text(encoding="utf-8")).split("```")
    # GitHub lets a list follow a paragraph at once, Zensical wants an empty line between them.
    parts[::2] = [_LIST_AFTER_TEXT.sub(r"\1\n\n", part) for part in parts[::2]]
    text = "```".join(parts)
    return _MADE.sub(lambda match: _TABLES[match[1]](), text)


def _asks_elsewhere(folder: Path) -> Iterator[str]:
    """Pages that would load something from another host."""
    for page in sorted(folder.rglob("*.html")):
        for tag in _ASKS_ELSEWHERE.findall(page.read_text(encoding="utf-8")):
            yield f"{page.relative_to(folder)}: asks another host: {tag}"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |\n"


def _table(*names: str) -> str:
    return _row(*names) + _row(*("---" for _ in names))


def _settings_tables() -> str:
    head = _table("setting", "meaning", "values", "default")
    sections = {"": f"## The whole run\n\n{head}"}
    for setting in settings().values():
        section, _, key = setting.name.rpartition(".")
        if setting.kind == "section":
            optional = " Not set by default; `none` clears the section." if setting.optional else ""
            sections[setting.name] = f"\n## {setting.name}\n\n{setting.help}{optional}\n\n{head}"
            continue
        default = "none" if setting.default is None else shown(setting.default)
        values = re.sub(r"(that matches )(\S+)", r"\1`\2`", setting.expected)
        sections[section] += _row(f"`{key}`", setting.help, values, f"`{default}`")
    return "".join(sections.values())


def _metrics_tables() -> str:
    head = _table("metric", "unit", "better", "interval", "in the pipeline run")
    sections: dict[str, str] = {}
    for name, metric in {**METRICS, **{f"{prefix}NAME": metric for prefix, metric in FAMILIES.items()}}.items():
        if name.startswith(GROUP) or name.endswith(("_low", "_high", *(f"/{cost}" for cost in COSTS))):
            continue
        stage = name.partition("/")[0]
        kept = [kind for kind, is_kept in (("last value", metric.summary), ("curve", metric.curve)) if is_kept]
        interval = "95%" if f"{name}_low" in METRICS else ""
        row = _row(f"`{name}`", metric.unit or "share or ratio", metric.better, interval, ", ".join(kept))
        sections[stage] = sections.get(stage, f"\n## {stage}\n\n{head}") + row
    return "".join(sections.values())


def _commands_text() -> str:
    return "\n".join(_command_text(parser) for parser in _commands(_parser()))


def _commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield parser
    for group in groups:
        for command in group.choices.values():
            yield from _commands(command)


def _command_text(parser: argparse.ArgumentParser) -> str:
    usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
    rows = "".join(
        _row(f"`{_written(action)}`", (action.help or "").replace("%%", "%"))
        for action in parser._actions
        if action.dest not in settings() and action.dest != "help"
    )
    table = f"\n{_table('argument', 'meaning')}{rows}" if rows else ""
    return f"\n## {parser.prog}\n\n{parser.description or ''}\n\n```\n{usage}\n```\n{table}"


def _written(action: argparse.Action) -> str:
    values = action.metavar or ("" if action.nargs == 0 else "{" + ",".join(map(str, action.choices or ())) + "}")
    name = ", ".join(action.option_strings)
    return f"{name} {values}".strip().removesuffix("{}").strip() or action.dest


def _decisions_table() -> str:
    rows = [
        _row(page.name[:4], f"[{page.read_text(encoding='utf-8').partition('. ')[2].splitlines()[0]}](adr/{page.name})")
        for page in sorted((ROOT / "docs" / "adr").glob("*.md"))
    ]
    return _table("number", "decision") + "".join(rows)


_TABLES = {
    "settings": _settings_tables,
    "metrics": _metrics_tables,
    "commands": _commands_text,
    "decisions": _decisions_table,
}

if __name__ == "__main__":
    sys.exit(build(ROOT, ROOT / ".site"))

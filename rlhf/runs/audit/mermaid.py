"""The lineage as a picture in Mermaid's text, which GitHub, MLflow's descriptions and the card's readers draw."""

from collections.abc import Iterator
from pathlib import Path

from rlhf.errors import InputError
from rlhf.runs.audit.lineage_graph import Lineage, Node
from rlhf.text.markdown import one_line

FORMATS = (".md", ".mmd")
# Mermaid reads these as its own, also within quotes, and takes numbers of characters in their place.
_OWN = {character: f"#{ord(character)};" for character in '#";<>&`'}
# These, too: \n is the end of a line, $$ begins a formula, fa:fa-car is a picture. An invisible joiner parts them.
_JOINER = "\u2060"
_OWN |= {character: f"{character}{_JOINER}" for character in "\\$"}
# Of its own it breaks lines at 200 pixels, within names and hashes.
_WIDE = '%%{init: {"flowchart": {"wrappingWidth": 500}}}%%'
_CLASSES = """\
    classDef verified stroke:#009E73,stroke-width:2px
    classDef changed stroke:#D55E00,stroke-width:3px
    classDef unchecked stroke:#9AA3AB"""


def check_figure(path: Path) -> None:
    """Refuse a file that no figure can be written to.

    Raises:
        InputError: the name does not end with .md or .mmd, the folder is not there, or a folder has this name.
    """
    if path.suffix not in FORMATS or not path.parent.is_dir() or path.is_dir():
        raise InputError(
            f"--figure {path}: give a file in a folder that is there, whose name ends with .md (a page) or .mmd "
            "(Mermaid's text alone)"
        )


def draw_lineage(lineage: Lineage, path: Path) -> None:
    """Write the figure: as a page that GitHub draws (.md), or as Mermaid's text (.mmd).

    Raises:
        InputError: no figure can be written to this file.
    """
    check_figure(path)
    text = "\n".join(mermaid(lineage)) + "\n"
    path.write_text(text if path.suffix == ".mmd" else f"```mermaid\n{text}```\n", encoding="utf-8")


def mermaid(lineage: Lineage) -> Iterator[str]:
    """The lines of a flowchart, from data, base model and code to the policy."""
    ids = {name: f"n{number}" for number, name in enumerate(lineage.nodes)}
    yield _WIDE
    yield "flowchart LR"
    for name, node in lineage.nodes.items():
        state = "unchecked" if node.state == "not checked" else node.state
        yield f'    {ids[name]}["{"<br>".join(_escape(line) for line in _lines(node))}"]:::{state}'
    for name, node in lineage.nodes.items():
        yield from (f"    {ids[source]} --> {ids[name]}" for source in node.made_from if source in ids)
    yield _CLASSES


def _lines(node: Node) -> Iterator[str]:
    yield node.title
    if node.hash is not None:
        yield f"{node.hash_name} {node.short_hash}"
    yield from node.details
    if node.run_id is not None:
        yield f"run {node.run_id[:12]}"
    if node.at is not None:
        yield f"{node.at:%Y-%m-%d %H:%M} UTC"
    if node.earlier and node.pipeline:
        yield f"in the earlier run {node.pipeline[:12]}"
    if node.state == "changed":
        yield "CHANGED since it was logged"


def _escape(text: str) -> str:
    return "".join(_OWN.get(character, character) for character in one_line(text)).replace(":fa-", f":{_JOINER}fa-")

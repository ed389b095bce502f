"""Pages for a browser, as one HTML file each, in light or dark as the reader has set it."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template


def page_template(folder: Path, name: str) -> Template:
    """A template whose values are text, and never HTML, unless they are marked as such.

    Args:
        folder: where it is.
        name: of its file.
    """
    environment = Environment(
        loader=FileSystemLoader([folder, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)

"""The form of a deployment: a recipe of configs/ by its name, and what of it shall be otherwise."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

from prefect.runtime import flow_run as this_flow_run
from pydantic import BaseModel, Field, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from rlhf.config.flat import flatten
from rlhf.config.loading import load_config, shown
from rlhf.config.pipeline import METHOD_SECTIONS, PipelineConfig
from rlhf.config.recipes import recipes
from rlhf.errors import ConfigError, nearest
from rlhf.runs.names import started_from
from rlhf.runs.note import noted
from rlhf.services.schedule import read_schedule
from tasks.prefect_artifacts import show_failure

Overrides = Annotated[str, Field(pattern=r"^\s*([\w.-]+=\S+(\s+|$))*$", max_length=2000)]
"""Dotted names and values without spaces, as in `rl.kl_coef=0.2 rl.num_updates=20`."""


class _RecipeChoices:
    """Lets the form offer the recipes that there are when the deployment is registered."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(schema) | {"enum": [*recipe_files()]}


class EverySetting(BaseModel):
    """A recipe's settings in a form, each of them empty."""

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        reference = handler(schema)
        recipe = PipelineConfig.model_json_schema()
        for section in {*METHOD_SECTIONS.values()}:  # one that is left empty is left out, and never nothing
            optional = recipe["properties"][section]
            optional |= optional.pop("anyOf")[0]
        title = {"title": "every setting"}
        handler.resolve_ref_schema(reference).update(_emptied(recipe, recipe["$defs"]) | title)
        return reference


class _ToldOfTheField:
    """With `anyOf` alone a mistake is told of the whole, and not of its field."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        choices = handler(schema)
        return choices | {"if": {"type": "object"}, "then": choices["anyOf"][0]}


RecipeName = Annotated[str, _RecipeChoices()]
EverySettingOrNone = Annotated[EverySetting | None, _ToldOfTheField()]
"""Closed until a person opens it."""


def recipe_files() -> dict[str, Path]:
    """The recipes that a form may name: those of configs/, and the scheduled one wherever it is."""
    with suppress(ConfigError):
        schedule = read_schedule()
        if schedule is not None:
            return recipes() | {recipe_name(Path(schedule.recipe)): Path(schedule.recipe)}
    return recipes()


def recipe_name(file: Path) -> str:
    """The name by which a form names a recipe: that of its file, or of one outside configs/ its path."""
    return next((name for name, known in recipes().items() if known.resolve() == file), str(file))


def read_form(
    recipe: str, seed: int | None = None, overrides: str = "", advanced: Mapping[str, Any] | None = None
) -> PipelineConfig:
    """The settings that a form stands for.

    Args:
        recipe: one of `recipe_files()`.
        seed: in place of the recipe's.
        overrides: see `Overrides`.
        advanced: settings as in a recipe's file, which replace the recipe's.

    Raises:
        ConfigError: there is no such recipe or setting, a value is not one of the setting's, or a setting is given
            twice.
    """
    given: dict[str, object] = flatten(advanced or {})
    further: list[tuple[str, object]] = [] if seed is None else [("seed", seed)]
    for override in overrides.split():
        name, _, text = override.rstrip(",").partition("=")
        further.append((name, text))
    for name, value in further:
        if name in given:
            raise ConfigError(
                f"{name} is given twice in the form, as {shown(given[name])} and {shown(value)}; once is enough"
            )
        given[name] = value
    return load_config(_recipe_file(recipe), given, spell=str)


@contextmanager
def filled_in(form: Mapping[str, Any]) -> Iterator[PipelineConfig]:
    """The settings of a flow run. Within the block, its name says what differs from its recipe, and it has its note.

    Args:
        form: the flow run's parameters: `config`, or the fields of a form.

    Raises:
        ConfigError: see `read_form`.
    """
    if "config" in form:
        yield PipelineConfig.model_validate(form["config"])
        return
    config = read_form(form["recipe"], form.get("seed"), form.get("overrides", ""), form.get("advanced"))
    with started_from(_recipe_file(form["recipe"])), noted(form.get("note", "")):
        yield config


@contextmanager
def form_run(form: Mapping[str, Any]) -> Iterator[PipelineConfig]:
    """`filled_in` for a flow: why a form is refused is shown as any failure is."""
    with ExitStack() as stack:
        try:
            config = stack.enter_context(filled_in(form))
        except ConfigError as error:
            show_failure(error, "*Copy to new run*, in the menu of this page, opens the form as it was filled in.")
            raise
        yield config


def this_config() -> PipelineConfig:
    """The settings of the flow run that is under way."""
    with filled_in(this_flow_run.parameters) as config:
        return config


def named_by(name: Callable[[PipelineConfig], str]) -> str:
    """The name of the flow run that is under way.

    Args:
        name: makes it of the run's settings.
    """
    parameters = this_flow_run.parameters
    # A name that cannot be made leaves a flow run Pending; the flow itself refuses such settings.
    with suppress(ConfigError), filled_in(parameters) as config:
        return name(config)
    recipe = parameters.get("recipe") or PipelineConfig.model_validate(parameters["config"]).name
    return f"{recipe}, settings that are refused"


def _recipe_file(name: str) -> Path:
    files = recipe_files()
    if name not in files:
        raise ConfigError(f"{name} is no recipe of configs/; the nearest one is {nearest(name, files)}")
    return files[name]


def _emptied(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """A schema of settings without defaults and references: what a person leaves empty is then left out."""
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]] | {k: v for k, v in schema.items() if k != "$ref"}
    kept = {key: value for key, value in schema.items() if key not in ("default", "required", "$defs")}
    if "properties" in kept:
        kept["properties"] = {
            name: _emptied(setting, definitions) | {"title": name} for name, setting in kept["properties"].items()
        }
    if "anyOf" in kept:
        kept["anyOf"] = [_emptied(choice, definitions) for choice in kept["anyOf"]]
    if "items" in kept:
        kept["items"] = _emptied(kept["items"], definitions)
    if kept.get("type") == "boolean":  # an empty switch is off, and an empty choice is none
        kept = {key: value for key, value in kept.items() if key != "type"} | {"enum": [True, False]}
    if "const" in kept:
        kept["enum"] = [kept.pop("const")]
    return kept

"""The flows as Prefect's forms start them, on a recipe of configs/: seed, note and overrides first, every setting last.

A deployment's entrypoint is here. The flow of `sft` is `flows.forms.sft_stage`, and so on.
"""

from inspect import Parameter, Signature, getdoc, signature
from typing import Any

from prefect import Flow
from pydantic import MISSING

from flows.feedback import ask_feedback, revise_answers_of
from flows.methods import compare_methods
from flows.pipeline import rlhf_pipeline
from flows.retrain import retrain
from flows.seeds import run_seeds
from flows.stages import STAGE_FLOWS
from rlhf.config.base import Seed
from rlhf.runs.note import Note
from tasks.form import EverySettingOrNone, Overrides, RecipeName, form_run

_FIELDS = """
Args:
    recipe: File of configs/.
    seed: Empty: the recipe's.
    note: For those who look at the run later.
    overrides: What differs from the recipe, as in rl.kl_coef=0.2 rl.num_updates=20
    advanced: Every setting by its name. A field that stays empty leaves the recipe's value as it is.
"""


def _form_of(flow: Flow[..., Any], *, of_one_recipe: bool = False) -> Flow[..., Any]:
    """A flow with the fields of the form in place of its settings.

    Args:
        flow: its first parameter is `config`.
        of_one_recipe: the deployment says which recipe, and not the form.
    """
    own = [parameter for name, parameter in signature(flow.fn).parameters.items() if name != "config"]

    def field(name: str, kind: Any, default: Any = Parameter.empty) -> Parameter:
        return Parameter(name, Parameter.KEYWORD_ONLY, annotation=kind, default=default)

    fields = [
        field("recipe", RecipeName),
        field("seed", Seed | None, None),
        field("note", Note, ""),
        field("overrides", Overrides, ""),
        *(parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in own),
        field("advanced", dict[str, Any] | None, None),
    ]

    def run(**form: Any) -> Any:
        with form_run(form) as config:
            return flow.fn(config, **{parameter.name: form[parameter.name] for parameter in own})

    run.__name__ = run.__qualname__ = flow.fn.__name__
    summary, _, arguments = (getdoc(flow.fn) or "").partition("\n\nArgs:\n")
    run.__doc__ = f"{summary}\n{_FIELDS}{arguments}"
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in fields}
    run.__signature__ = Signature(fields)  # type: ignore[attr-defined]
    form = Flow(
        run,
        name=flow.name,
        flow_run_name=flow.flow_run_name,
        on_crashed=flow.on_crashed_hooks,
        persist_result=flow.persist_result,
        result_serializer=flow.result_serializer,
    )
    # What Prefect shows: a seed that may be left empty, and every setting, which are closed at first.
    shown = {"seed": field("seed", Seed | MISSING, MISSING), "advanced": field("advanced", EverySettingOrNone, None)}
    form.__signature__ = Signature(  # type: ignore[attr-defined]
        [shown.get(parameter.name, parameter) for parameter in fields[of_one_recipe:]]
    )
    return form


feedback_ask = _form_of(ask_feedback)
feedback_revise = _form_of(revise_answers_of)
pipeline = _form_of(rlhf_pipeline, of_one_recipe=True)
seeds = _form_of(run_seeds)
methods = _form_of(compare_methods)
nightly = _form_of(retrain)
globals().update({f"{name}_stage": _form_of(stage_flow) for name, stage_flow in STAGE_FLOWS.items()})

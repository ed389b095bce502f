"""Every private or undocumented interface of a library that this project uses, a line each.

Where the lock moves and one of them fails, its name says what to look at; what it is used for stands beside its use.
"""

import importlib
import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.modeling import needed_positions
from rlhf.modeling.cpu import layers
from rlhf.tracking.sqlite_store import KNOWN_SCHEMAS

TEN = torch.ones(10, 10)


def of(module: str, *names: str) -> Any:
    """An attribute of a module, or of what is in it."""
    value: Any = importlib.import_module(module)
    for name in names:
        value = getattr(value, name)
    return value


def source(module: str) -> str:
    """A module's source, read and not imported."""
    package, *inner = module.split(".")
    specification = importlib.util.find_spec(package)
    assert specification is not None
    assert specification.origin is not None
    path = Path(specification.origin).parent.joinpath(*inner)
    return (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")


def takes(function: Any, *names: str) -> bool:
    """Whether a function has these parameters."""
    return set(names) <= inspect.signature(function).parameters.keys()


def modeling(family: str, layer: str) -> Any:
    return of(f"transformers.models.{family.lower()}.modeling_{family.lower()}", f"{family}{layer}")


def schema_heads() -> set[str]:
    from alembic.script import ScriptDirectory

    return set(ScriptDirectory(str(Path(of("mlflow.store.db_migrations").__file__).parent)).get_heads())


def adapted_layer() -> Any:
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer

    model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(4, 4)), LoraConfig(target_modules=["0"]), "policy")
    return next(module for module in model.modules() if isinstance(module, LoraLayer))


def served_page(text: str) -> bool:
    scripts = Path(of("mlflow.server").__file__).parent.glob("js/build/static/js/main.*.js")
    return any(text in script.read_text(encoding="utf-8") for script in scripts)


FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3")
INTERFACES: dict[str, Callable[[], object]] = {
    # torch
    "torch.ops.mkldnn._linear_pointwise": lambda: torch.ops.mkldnn._linear_pointwise(
        TEN, TEN, None, "none", [], ""
    ).equal(TEN @ TEN.T),
    "torch.ops.mkldnn._is_mkldnn_bf16_supported": lambda: torch.ops.mkldnn._is_mkldnn_bf16_supported() in (True, False),
    "torch.ops.mkldnn._reorder_linear_weight": lambda: (
        torch.ops.mkldnn._reorder_linear_weight(TEN.bfloat16(), 256).is_mkldnn
    ),
    "torch.ops.aten._softmax_backward_data": lambda: (
        torch.ops.aten._softmax_backward_data(TEN, TEN, -1, torch.float32).shape == TEN.shape
    ),
    "torch.ops.aten.silu_backward": lambda: torch.ops.aten.silu_backward(TEN, TEN).shape == TEN.shape,
    "torch.distributed.TCPStore(master_listen_fd)": lambda: (
        "master_listen_fd" in str(of("torch.distributed", "TCPStore", "__init__", "__doc__"))
    ),
    "TORCHELASTIC_USE_AGENT_STORE": lambda: "TORCHELASTIC_USE_AGENT_STORE" in source("torch.distributed.rendezvous"),
    # transformers
    "transformers.cli.serving: what an endpoint is built of": lambda: (
        takes(of("transformers.cli.serving.server", "build_server"), "systemone_handler", "generation_state")
        and takes(of("transformers.cli.serving.model_manager", "ModelManager"), "device", "dtype", "force_model")
        and all(
            takes(of(f"transformers.cli.serving.{module}", name, "_build_generation_config"), "body", "use_cb")
            for module, name in (("chat_completion", "ChatCompletionHandler"), ("completion", "CompletionHandler"))
        )
    ),
    **{
        f"{family}: names of layers and their parts": lambda family=family: (
            {f"{family}RMSNorm", f"{family}MLP", f"{family}Attention", f"{family}DecoderLayer"}
            <= layers._NORMS | layers._FEED_FORWARDS | layers._ATTENTIONS | needed_positions._BLOCKS
            and takes(modeling(family, "RMSNorm").forward, "hidden_states")
            and takes(modeling(family, "MLP").forward, "x")
            and takes(modeling(family, "Attention").forward, "position_embeddings", "attention_mask", "past_key_values")
            and takes(modeling(family, "DecoderLayer").forward, "hidden_states", "position_embeddings")
        )
        for family in FAMILIES
    },
    "PreTrainedModel._supports_attention_backend": lambda: modeling("Llama", "ForCausalLM")._supports_attention_backend,
    "PreTrainedModel._supports_sdpa": lambda: modeling("Llama", "ForCausalLM")._supports_sdpa,
    "PretrainedConfig._attn_implementation": lambda: (
        of("transformers", "LlamaConfig")(attn_implementation="eager")._attn_implementation == "eager"
    ),
    "transformers.masking_utils.eager_mask": lambda: takes(of("transformers.masking_utils", "eager_mask"), "dtype"),
    "transformers.AttentionInterface.register": lambda: of("transformers", "AttentionInterface").register,
    "transformers.masking_utils.AttentionMaskInterface.register": lambda: (
        of("transformers.masking_utils", "AttentionMaskInterface").register
    ),
    "transformers.cache_utils.DynamicLayer.lazy_initialization": lambda: takes(
        of("transformers.cache_utils", "DynamicLayer").lazy_initialization, "key_states", "value_states"
    ),
    "transformers.activations.ACT2FN": lambda: of("transformers.activations", "ACT2FN")["silu"],
    "transformers.pytorch_utils.Conv1D": lambda: of("transformers.pytorch_utils", "Conv1D"),
    "transformers.utils.chat_template_utils.render_jinja_template": lambda: takes(
        of("transformers.utils.chat_template_utils", "render_jinja_template"), "chat_template", "add_generation_prompt"
    ),
    "transformers.Trainer.floating_point_ops": lambda: takes(
        of("transformers", "Trainer").floating_point_ops, "inputs"
    ),
    "transformers.Trainer.create_model_card": lambda: of("transformers", "Trainer").create_model_card,
    "transformers.Trainer.compute_loss": lambda: takes(
        of("transformers", "Trainer").compute_loss, "model", "inputs", "return_outputs", "num_items_in_batch"
    ),
    "transformers.Trainer.compute_loss_context_manager": lambda: (
        of("transformers", "Trainer").compute_loss_context_manager
    ),
    # trl
    "trl: _send_telemetry of both trainers": lambda: (
        of("trl", "SFTTrainer")._send_telemetry and of("trl", "RewardTrainer")._send_telemetry
    ),
    # peft
    "peft: cast_input_dtype_enabled": lambda: hasattr(adapted_layer(), "cast_input_dtype_enabled"),
    "peft: get_delta_weight": lambda: adapted_layer().get_delta_weight("policy").shape == (4, 4),
    "peft.set_peft_model_state_dict": lambda: takes(of("peft", "set_peft_model_state_dict"), "adapter_name"),
    # prefect
    "PREFECT__SERVER_EPHEMERAL": lambda: "PREFECT__SERVER_EPHEMERAL" in source("prefect.server.api.server"),
    "PREFECT__SERVER_FINAL": lambda: "PREFECT__SERVER_FINAL" in source("prefect.server.api.server"),
    "prefect.server.api.server.create_app": lambda: of("prefect.server.api.server", "create_app"),
    "prefect.events.worker.EventsWorker.drain_all": lambda: takes(
        of("prefect.events.worker", "EventsWorker").drain_all, "timeout"
    ),
    "prefect.logging.handlers.APILogWorker.drain_all": lambda: takes(
        of("prefect.logging.handlers", "APILogWorker").drain_all, "timeout"
    ),
    "prefect.context.get_settings_context().profile": lambda: of("prefect.context", "get_settings_context")().profile,
    "prefect: messages of an interrupted run": lambda: all(
        message in source("prefect.states") for message in of("tasks.pipeline_run", "_SIGNALS")
    ),
    "prefect: the state Resuming": lambda: 'name="Resuming"' in source("prefect.server.api.flow_runs"),
    "prefect.events.emit_event(id)": lambda: takes(of("prefect.events", "emit_event"), "id", "occurred"),
    "prefect: storage of leases in files": lambda: of(
        "prefect.server.concurrency.lease_storage.filesystem", "ConcurrencyLeaseStorage"
    ),
    "prefect.Task reads __signature__": lambda: "inspect.signature" in source("prefect.tasks"),
    # mlflow
    "mlflow: head of the schema": lambda: schema_heads() == KNOWN_SCHEMAS.keys(),
    "mlflow.utils.search_utils.SearchUtils": lambda: (
        of("mlflow.utils.search_utils", "SearchUtils").parse_start_offset_from_page_token(
            of("mlflow.utils.search_utils", "SearchUtils").create_page_token(7)
        )
        == 7
    ),
    "mlflow: artifact repositories by scheme": lambda: (
        "file" in of("mlflow.store.artifact.artifact_repository_registry", "get_registered_artifact_repositories")()
    ),
    "mlflow: LocalArtifactRepository": lambda: takes(
        of("mlflow.store.artifact.local_artifact_repo", "LocalArtifactRepository"), "artifact_uri", "tracking_uri"
    ),
    "mlflow: sharedViewState in its page": lambda: served_page("mlflow.sharedViewState"),
    "mlflow.server.fastapi_app.app": lambda: "app = create_fastapi_app" in source("mlflow.server.fastapi_app"),
    "mlflow.server.auth.create_app": lambda: "\ndef create_app(" in source("mlflow.server.auth"),
    "mlflow.server.auth.sqlalchemy_store.SqlAlchemyStore": lambda: all(
        f"def {name}(" in source("mlflow.server.auth.sqlalchemy_store")
        for name in ("init_db", "has_user", "authenticate_user", "update_user")
    ),
    "MLFLOW_AUTH_CONFIG_PATH": lambda: of("mlflow.environment_variables", "MLFLOW_AUTH_CONFIG_PATH"),
    "MLFLOW_FLASK_SERVER_SECRET_KEY": lambda: of("mlflow.environment_variables", "MLFLOW_FLASK_SERVER_SECRET_KEY"),
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": lambda: of(
        "mlflow.environment_variables", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION"
    ),
    "mlflow.tracing.client.TracingClient, of the review page": lambda: all(
        callable(of("mlflow.tracing.client", "TracingClient", f"_{name}"))
        for name in (
            *("create_label_schema", "update_label_schema", "list_label_schemas"),
            *("create_review_queue", "get_review_queue_by_name", "add_items_to_review_queue"),
            *("list_review_queue_items", "set_review_queue_item_status"),
        )
    ),
    "mlflow: spans of several traces at once": lambda: takes(
        of("mlflow.store.tracking.rest_store", "RestStore").log_spans, "location", "spans"
    ),
    "mlflow: traces' assessments at once": lambda: takes(
        of("mlflow.store.tracking.rest_store", "RestStore").batch_get_trace_infos, "trace_ids"
    ),
    "mlflow: names of a span's attributes": lambda: all(
        of("mlflow.tracing.constant", "SpanAttributeKey", name)
        for name in ("REQUEST_ID", "EXPERIMENT_ID", "SPAN_TYPE", "INPUTS", "OUTPUTS")
    ),
    "mlflow: a span out of OpenTelemetry's": lambda: takes(of("mlflow.entities", "Span"), "otel_span"),
    "mlflow: routes of users": lambda: all(
        f'"/mlflow/users/{name}"' in source("mlflow.server.auth.routes")
        for name in ("create", "get", "delete", "permissions/grant")
    ),
    # dvc
    "dvc.repo.Repo.lock, .cache, .cloud": lambda: all(
        f"self.{name}" in source("dvc.repo") or f"def {name}" in source("dvc.repo")
        for name in ("lock", "cache", "cloud")
    ),
    "dvc: get_remote_odb": lambda: takes(of("dvc.data_cloud", "DataCloud").get_remote_odb, "name"),
    "dvc_data.hashfile.db.get_index": lambda: of("dvc_data.hashfile.db", "get_index"),
    "dvc_data.hashfile.cache.DiskError": lambda: of("dvc_data.hashfile.cache", "DiskError"),
    "dvc_objects.db.ObjectDB.oid_to_path": lambda: takes(of("dvc_objects.db", "ObjectDB").oid_to_path, "oid"),
    "dvc_objects.errors": lambda: (
        of("dvc_objects.errors", "ObjectDBError") and of("dvc_objects.errors", "ObjectFormatError")
    ),
    "dvc.logger": lambda: of("dvc.logger"),
}


@pytest.mark.parametrize("name", INTERFACES)
def test_private_interface(name: str):
    assert INTERFACES[name]()

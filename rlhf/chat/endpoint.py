"""A policy behind an OpenAI-compatible endpoint, by the handlers of `transformers serve`.

Of that server it has what talks to the one policy. What loads other models, or takes the policy away, is left out; a
key is asked for, and a name that the server was not told of is refused: a page may have turned its own to this machine.
"""

import os
import secrets
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.middleware.trustedhost import TrustedHostMiddleware
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.completion import CompletionHandler
from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.serving.server import build_server
from transformers.cli.serving.utils import GenerationState

from rlhf.chat.dialogue import MAX_RESPONSE_TOKENS
from rlhf.chat.policies import ChatPolicy
from rlhf.config.flat import policy_setting
from rlhf.errors import ConfigError

KEY_VARIABLE = "RLHF_API_KEY"
_SHORTEST_KEY = 12
_PATHS = ("/v1/chat/completions", "/v1/completions", "/health")
_OPEN = "/health"


@dataclass(frozen=True)
class Defaults:
    """What a request that says nothing else gets, which is what the run's evaluation measured.

    Attributes:
        temperature: divides the logits.
        max_response_tokens: longest answer.
    """

    temperature: float
    max_response_tokens: int

    @classmethod
    def of(cls, policy: ChatPolicy) -> "Defaults":
        """Those of the policy's run; 1 and 256 without one."""
        settings = policy.settings
        longest = int(policy_setting(settings, "max_response_tokens", MAX_RESPONSE_TOKENS))
        return cls(float(settings.get("evaluation.temperature", 1)), longest)

    def fill(self, body: dict[str, Any], config: Any) -> Any:
        """What transformers has made of a request, with these where the request says nothing."""
        if body.get("max_tokens") is None and body.get("max_completion_tokens") is None:
            config.max_new_tokens = self.max_response_tokens
        if body.get("temperature") is None:
            config.do_sample, config.temperature, config.top_k, config.top_p = True, self.temperature, 0, 1.0
        return config


def new_key() -> str:
    """The key that clients must show: that of RLHF_API_KEY, or a new one.

    Raises:
        ConfigError: the given one is short enough to be guessed.
    """
    given = os.environ.get(KEY_VARIABLE)
    if given and len(given) < _SHORTEST_KEY:
        raise ConfigError(
            f"{KEY_VARIABLE} has {len(given)} characters; give at least {_SHORTEST_KEY}, or unset it, and a key is made"
        )
    return given or secrets.token_urlsafe(24)


def build_app(name: str, defaults: Defaults, key: str, hosts: list[str], device: str) -> FastAPI:
    """The app of the endpoint. The policy is loaded.

    Args:
        name: by which clients ask for the policy: a folder of this name in the current directory.
        defaults: of a request that says nothing else.
        key: that clients must show.
        hosts: by which the server may be asked for.
        device: for inference.
    """
    manager = ModelManager(device=device, dtype="float32" if device == "cpu" else "auto", force_model=name)
    state = GenerationState()

    class Filled:
        def _build_generation_config(self, body: Any, *arguments: Any, **named: Any) -> Any:
            made = super()._build_generation_config(body, *arguments, **named)  # type: ignore[misc]
            return defaults.fill(body, made)

    class Chat(Filled, ChatCompletionHandler):  # type: ignore[misc]
        pass

    class Completion(Filled, CompletionHandler):  # type: ignore[misc]
        pass

    nothing: Any = None
    app: FastAPI = build_server(
        manager, Chat(manager, state), Completion(manager, state), nothing, nothing, nothing, state
    )
    app.router.routes[:] = [route for route in app.router.routes if getattr(route, "path", "") in _PATHS]

    @app.get("/v1/models")
    def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": "rlhf"}]}

    @app.middleware("http")
    async def ask_for_the_key(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        shown = request.headers.get("Authorization", "")
        if request.url.path != _OPEN and not secrets.compare_digest(shown.encode(), f"Bearer {key}".encode()):
            said = {"message": "show the key that `rlhf serve` printed, as api_key or as a bearer token", "code": 401}
            return JSONResponse({"error": said}, status_code=401)
        return await call_next(request)

    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    return app


def serve(policy: ChatPolicy, name: str, key: str, host: str, port: int, hosts: list[str], device: str) -> None:
    """Answer until the process is told to end.

    Args:
        policy: what answers.
        name: by which clients ask for it.
        key: that clients must show.
        host: address to listen at.
        port: likewise.
        hosts: names by which the server may be asked for.
        device: for inference.
    """
    with tempfile.TemporaryDirectory(prefix="rlhf-serve-") as folder, chdir(folder):
        # A model is asked for by the name of its folder.
        Path(name).symlink_to(policy.folder.resolve())
        app = build_app(name, Defaults.of(policy), key, hosts, device)
        uvicorn.run(app, host=host, port=port, log_level="warning")

"""The guard before both servers: a request is answered only from the servers' own pages, or from no page.

A browser sends requests to this machine for any page that is open in it. It tells which page that was, and under which
name the server was called, and neither can a page change.
"""

import os
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from rlhf.services.settings import HOSTS_VARIABLE, NAMES_VARIABLE

_POLICY_VIOLATION = 1008


class OwnSite:
    """Refuse (403) what a page of another origin asks for, and what is asked of another name.

    The first is told by Origin, and where that is missing (images, scripts, frames) by Fetch Metadata
    (https://www.w3.org/TR/fetch-metadata/); a link from another page may be followed. The second is DNS rebinding: a
    page whose own name leads to this machine.

    Args:
        app: what answers.
        names: by which it may be called, in lower case, without ports.
    """

    def __init__(self, app: ASGIApp, names: Collection[str]) -> None:
        self._app, self._names = app, frozenset(names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or have it answered."""
        refusal = self._refusal(scope) if scope["type"] in ("http", "websocket") else None
        if refusal is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await WebSocketClose(_POLICY_VIOLATION, refusal)(scope, receive, send)
        else:
            await PlainTextResponse(refusal, status_code=403)(scope, receive, send)

    def _refusal(self, scope: Scope) -> str | None:
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if _hostname(host) not in self._names:
            return f"This server is not called so. If it is, name it in {HOSTS_VARIABLE} and start `rlhf up` again."
        foreign = "Pages of another origin get no answer here."
        if origin is not None:
            return None if urlsplit(origin).netloc.lower() == host.lower() else foreign
        followed = scope["type"] == "http" and scope["method"] == "GET" and headers.get("sec-fetch-mode") == "navigate"
        from_page = headers.get("sec-fetch-site", "none") in ("cross-site", "same-site")
        in_frame = headers.get("sec-fetch-dest", "document") != "document"
        return foreign if from_page and (in_frame or not followed) else None


def own_site(app: ASGIApp) -> OwnSite:
    """The application with the names that `rlhf up` has given to this process."""
    return OwnSite(app, os.environ[NAMES_VARIABLE].split(","))


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None

"""Prefect's pages with less air in the form of a run, so that it fits on a screen, Submit included."""

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_STYLE = b"""<style>
.flow-run-create-form-v2 { padding: 16px; }
.flow-run-create-form-v2, .flow-run-create-form-v2 .p-content { row-gap: 8px; }
.flow-run-create-form-v2 .p-accordion-trigger { padding-block: 8px; }
.flow-run-create-form-v2 .schema-form-property-menu .p-button { height: 20px; }
.flow-run-create-form-v2 .schema-form-property__fields:has(> .schema-form-property-null) { display: none; }
</style>
"""
# A page is sent whole, and not packed: the style comes after its end.
_NOT_ASKED = {b"accept-encoding", b"if-modified-since", b"if-none-match", b"range"}


class CompactForm:
    """Append the style to a page of the application.

    Args:
        app: what answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http" or "text/html" not in Headers(scope=scope).get("accept", ""):
            await self._app(scope, receive, send)
            return
        styled = False

        async def send_styled(message: Message) -> None:
            nonlocal styled
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                styled = scope["method"] == "GET" and headers.get("content-type", "").startswith("text/html")
                if styled and "content-length" in headers:
                    headers["content-length"] = str(int(headers["content-length"]) + len(_STYLE))
            elif styled and message["type"] == "http.response.body" and not message.get("more_body", False):
                message = {**message, "body": message.get("body", b"") + _STYLE}
            await send(message)

        asked = [header for header in scope["headers"] if header[0] not in _NOT_ASKED]
        await self._app({**scope, "headers": asked}, receive, send_styled)

"""Requests of foreign pages and for foreign names are refused, those of people, clients and own pages are not."""

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from rlhf.services.own_site import OwnSite

NAMES = ("127.0.0.1", "localhost", "::1")


async def _greet(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("hello")
    await websocket.close()


APP = Starlette(
    routes=[
        Route("/", lambda _: PlainTextResponse("hello"), methods=["GET", "POST"]),
        WebSocketRoute("/ws", _greet),
    ]
)


@pytest.fixture
def client() -> TestClient:
    return TestClient(OwnSite(APP, NAMES), base_url="http://127.0.0.1:4200")


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("GET", {}),
        ("POST", {}),
        ("POST", {"origin": "http://127.0.0.1:4200"}),
        ("GET", {"host": "localhost:4200"}),
        ("POST", {"host": "LOCALHOST:4200", "origin": "http://localhost:4200"}),
        ("GET", {"host": "[::1]:4200"}),
        # behind a proxy that ends TLS
        ("POST", {"host": "localhost", "origin": "https://localhost"}),
        ("GET", {"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}),
        ("GET", {"sec-fetch-site": "none", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}),
        # a link in another page, which a person follows
        ("GET", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}),
    ],
)
def test_answered(client: TestClient, method: str, headers: dict[str, str]):
    assert client.request(method, "/", headers=headers).text == "hello"


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("GET", {"origin": "http://127.0.0.1:8000"}),
        ("POST", {"origin": "http://localhost:4200"}),
        ("POST", {"origin": "null"}),
        ("POST", {"origin": ""}),
        ("GET", {"host": "evil.test"}),
        ("GET", {"host": "evil.test:4200", "origin": "http://evil.test:4200"}),
        ("GET", {"host": "127.0.0.1.evil.test:4200"}),
        ("GET", {"host": "[::1"}),
        ("GET", {"host": ""}),
        ("GET", {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}),
        ("GET", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}),
        ("POST", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}),
    ],
)
def test_refused(client: TestClient, method: str, headers: dict[str, str]):
    answer = client.request(method, "/", headers=headers)
    assert answer.status_code == 403
    assert "hello" not in answer.text


def test_websockets_are_looked_at_too(client: TestClient):
    with client.websocket_connect("/ws", headers={"host": "127.0.0.1:4200", "origin": "http://127.0.0.1:4200"}) as own:
        assert own.receive_text() == "hello"
    for headers in ({"origin": "http://127.0.0.1:1"}, {"host": "evil.test"}):
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/ws", headers=headers):
            pass

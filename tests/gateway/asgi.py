"""Requests to an ASGI application without a server: what it is sent, and what it sends, whole."""

import asyncio
import json
from dataclasses import dataclass, field
from urllib.parse import unquote


@dataclass
class Answer:
    status: int = 0
    headers: dict = field(default_factory=dict)
    body: bytes = b""

    @property
    def json(self):
        return json.loads(self.body)


async def request(app, method, path, body=b"", headers=None, *, arrives=True):
    """One request. `arrives=False`: the body never comes whole."""
    answer = Answer()
    path, _, query = path.partition("?")
    given = {"content-type": "application/json"} if body else {}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(k.lower().encode(), v.encode("latin-1")) for k, v in {**given, **(headers or {})}.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    pieces = [{"type": "http.request", "body": body, "more_body": not arrives}]

    async def receive():
        if pieces:
            return pieces.pop(0)
        return await asyncio.Event().wait()

    async def send(message):
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {k.decode(): v.decode() for k, v in message["headers"]}
        else:
            answer.body += message.get("body", b"")

    await app(scope, receive, send)
    return answer


async def post(app, path, payload=None, headers=None):
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return await request(app, "POST", path, body, headers)


async def get(app, path, headers=None):
    return await request(app, "GET", path, headers=headers)

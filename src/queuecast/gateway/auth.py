"""Who asks, and what they may do: the application's own `authenticate`, asked once per request."""

from __future__ import annotations

import logging
from typing import Final

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection

from ..app import Principal, Queuecast
from ..brokers.base import Status
from ..errors import Flaw
from .problems import Problem, problem_of

logger = logging.getLogger(__name__)

EVERYBODY: Final = Principal("", manage=True)
"""Without `authenticate` everyone who reaches the gateway may do everything; it listens on 127.0.0.1 then."""


LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")
"""Names of this machine. Where nobody logs in, another site's name that was made to point here (DNS rebinding) must
not be answered: to a browser that site's pages would be ours."""


async def principal_of(app: Queuecast, connection: HTTPConnection) -> Principal:
    """Raises `Problem` 401 for nobody, 500 where the application's own function fails."""
    if app.authenticate is None:
        return EVERYBODY
    try:
        principal = await app.authenticate(connection)
        if not isinstance(principal, Principal | None):
            raise TypeError(f"it gave a {type(principal).__name__}, which is neither a Principal nor None")
    except Exception as error:
        if problem_of(error) is not None:
            raise
        logger.exception("the application's authenticate, %r, failed", app.authenticate)
        raise Problem(500, "internal", "the login of this server failed; its log says more") from error
    if principal is None:
        raise Problem(401, "unauthenticated", "log in first", headers={"www-authenticate": "Bearer"})
    return principal


def same_origin(headers: Headers) -> bool | None:
    """Whether a page of this very site sent the request; None where no browser says anything, as programs do.

    Browsers tell in headers that no page can forge: by `Sec-Fetch-Site` (W3C Fetch Metadata) on https and localhost,
    elsewhere by the `Origin` of a POST only.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in {"same-origin", "none"}
    origin = headers.get("origin")
    return None if origin is None else origin.partition("://")[2] == headers.get("host")


def refuse_cross_site(request: HTTPConnection) -> None:
    """A page of another site can make a visitor's browser post here with the visitor's cookies (CSRF).

    Programs have no visitor and may. Raises `Problem` 403.
    """
    if same_origin(request.headers) is False:
        raise Problem(403, "cross-site", "pages of another site may not change anything here")


def may_follow_all(principal: Principal) -> None:
    if principal.follow != "all":
        raise Problem(403, "forbidden", "you may follow your own tasks only, not everybody's")


def may_submit(principal: Principal) -> None:
    if not principal.submit:
        raise Problem(403, "forbidden", "you may not submit tasks")


def owner_for(principal: Principal, chosen: str | None) -> str | None:
    """Whose the submitted task is. Only who manages may submit in another's name. Raises `Problem` 403."""
    if principal is EVERYBODY or principal.manage:
        return principal.subject or None if chosen is None else chosen
    if chosen not in (None, principal.subject):
        raise Problem(403, "forbidden", "you may not submit in another's name: leave out `owner`")
    return principal.subject


def owner_shown(principal: Principal, asked: str | None) -> str | None:
    """Whose tasks a stream or list shows: one owner's, or None for all. `asked` is `me` or nothing."""
    if asked not in (None, "me"):
        raise Problem(400, "bad-parameter", "owner is `me`, or left out", (Flaw("/owner", "`me`, or left out"),))
    if principal.follow == "own" or asked == "me":
        return principal.subject
    return None


def may_see(principal: Principal, status: Status | None) -> bool:
    """Of a task that is not theirs people with `follow="own"` are not even told that it exists."""
    return status is not None and (principal.follow == "all" or status.owner == principal.subject)


def may_manage(principal: Principal, status: Status) -> None:
    if not principal.manage and status.owner != principal.subject:
        raise Problem(403, "forbidden", "this task is not yours")

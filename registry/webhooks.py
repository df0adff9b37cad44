"""MLflow's webhooks that announce promotions: to whom they go. Signed by HMAC with a secret that both sides know.

MLflow's server delivers them, each time that an alias is set (`model_version_alias.created`: a promotion, a rollback, a
training) or taken away (`model_version_alias.deleted`). It signs `ID.TIME.BODY` by HMAC-SHA256, docs/team.md shows how
a receiver checks that.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from training.errors import InputError
from training.state import State
from training.tracking import connect

if TYPE_CHECKING:
    from mlflow import MlflowClient

SECRET = "POLARSCORE_WEBHOOK_SECRET"
SCHEMES = "MLFLOW_WEBHOOK_ALLOWED_SCHEMES"
EVENTS = ("model_version_alias.created", "model_version_alias.deleted")
SHORTEST = 16  # characters of a secret


@dataclass(frozen=True)
class Webhook:
    """A receiver of announcements. url: as it may be shown, without a password or a query. active: MLflow sends."""

    name: str
    url: str
    events: tuple[str, ...]
    active: bool


def add(state: State, url: str, name: str, environ: Mapping[str, str] = os.environ) -> Webhook:
    """Have promotions announced to a URL, signed with the secret in `POLARSCORE_WEBHOOK_SECRET`.

    MLflow's server may know of it a minute later.

    Raises:
        InputError: no server, no secret or a short one, a URL that is none or not encrypted, a name that is taken, or
            the server refuses.
    """
    client = _client(state)
    _check_url(url, environ)
    secret = _secret(environ)
    if name in {entry.name for entry in _all(client)}:
        raise InputError(f"there is a webhook '{name}' already. Remove it first, or choose another name.")
    return _webhook(_asked(client.create_webhook, name, url, list(EVENTS), secret=secret))


def listed(state: State) -> list[Webhook]:
    """The webhooks that announce promotions, by name.

    Raises:
        InputError: no server, or it does not answer.
    """
    return sorted((_webhook(entry) for entry in _ours(_client(state))), key=lambda webhook: webhook.name)


def remove(state: State, name: str) -> None:
    """Announce no more to the webhook of that name.

    Raises:
        InputError: no server, or no such webhook; names those that there are.
    """
    client = _client(state)
    present = _ours(client)
    found = [entry.webhook_id for entry in present if entry.name == name]
    if not found:
        known = ", ".join(sorted(entry.name for entry in present)) or "none"
        raise InputError(f"there is no webhook '{name}'. There are: {known}.")
    for webhook_id in found:
        _asked(client.delete_webhook, webhook_id)


def _client(state: State) -> "MlflowClient":
    if urlsplit(state.tracking_uri).scheme not in ("http", "https"):
        raise InputError("webhooks are delivered by MLflow's server, and MLflow is a database here. Start a server "
                         "(docs/team.md) and set MLFLOW_TRACKING_URI to its http address.")
    return connect(state)


def _check_url(url: str, environ: Mapping[str, str]) -> None:
    allowed = [scheme.strip() for scheme in (environ.get(SCHEMES) or "https").split(",")]
    try:
        parts = urlsplit(url)
    except ValueError:
        raise InputError("a webhook's URL should look like https://HOST/PATH. Found one that is none.") from None
    if parts.scheme not in allowed or not parts.hostname:
        raise InputError(f"a webhook's URL should look like {allowed[0]}://HOST/PATH. Found '{_shown(url)}'."
                         + (f" Only where {SCHEMES} names http, here and at the server, may it go unencrypted."
                            if parts.scheme == "http" else ""))
    if parts.username or parts.password:
        raise InputError(f"a webhook's URL should hold no password: the signature says who sends. Found one in "
                         f"'{_shown(url)}'.")


def _secret(environ: Mapping[str, str]) -> str:
    secret = environ.get(SECRET, "")
    if len(secret) < SHORTEST:
        found = f"one of {len(secret)}" if secret else "none"
        raise InputError(f"{SECRET} should hold a secret of {SHORTEST} characters or more, which the receiver knows "
                         f"too. Found {found}. Make one: openssl rand -hex 32")
    return secret


def _all(client: "MlflowClient") -> list[Any]:
    """MLflow's webhooks, whatever they announce."""
    found: list[Any] = []
    token = None
    while True:
        page = _asked(client.list_webhooks, max_results=100, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def _ours(client: "MlflowClient") -> list[Any]:
    return [entry for entry in _all(client) if set(map(str, entry.events)) & set(EVENTS)]


def _asked(call: Any, *arguments: Any, **named: Any) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return call(*arguments, **named)
    except MlflowException as error:
        if error.error_code == "INTERNAL_ERROR":  # it cannot read the secrets that another process of it has kept
            raise InputError("MLflow's server cannot read its webhooks. Is MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY set "
                             "there, and the same since they were added?") from None
        said = str(error).removeprefix(f"{error.error_code}: ").splitlines()[0]
        raise InputError(f"MLflow's server refuses: {said[:300]}") from None


def _webhook(entry: Any) -> Webhook:
    return Webhook(entry.name, _shown(entry.url), tuple(sorted(map(str, entry.events))), entry.status.is_active())


def _shown(url: str) -> str:
    """A URL without what may be a secret in it: user, password, query."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()

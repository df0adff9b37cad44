"""Telling somebody's server what a check found: a webhook, signed as MLflow signs its own (`registry.webhooks`).

Headers: `X-MLflow-Delivery-Id`, `X-MLflow-Timestamp` (seconds), and `X-MLflow-Signature`, which is `v1,` and the base64
of HMAC-SHA256 over `ID.TIME.BODY` with the secret in `POLARSCORE_WEBHOOK_SECRET`: one receiver checks both.

A message is written down before it is sent, and crossed out once the receiver has it: what cannot be delivered now is
sent with the next check, under the same id and in the order of the checks. One that the receiver refuses is set aside,
so that it keeps no others waiting.
"""

import base64
import hashlib
import hmac
import json
import os
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, ValidationError

from monitoring.alarm import Alarm, as_json
from registry.webhooks import SCHEMES, SECRET, SHORTEST
from training.errors import InputError

EVENT = "polarscore.check"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
TIMEOUT_S = 5.0
PAUSES_S = (0.5, 2.0)  # before the second and the third try
QUEUE = 100  # messages that wait, or are set aside, at most
PATIENT = (401, 403, 408, 429)  # refusals that are no matter of the message
LOCK_S = 60  # how long another check of the model may take to tell


@dataclass(frozen=True)
class Receiver:
    """Who is told. shown: of the URL what is no secret, its scheme and host."""

    url: str = field(repr=False)
    secret: str = field(repr=False)
    shown: str


class Message(BaseModel):
    """What is to be delivered: its id stays when it is sent again.

    news: something had changed; else a newer one will do as well.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    body: str
    news: bool = True


class Told(BaseModel):
    """What is kept between checks of a model.

    states: of each version, the state of each alarm as found last. waiting: what is still to be delivered. refused:
    what the receiver would not take, the newest last.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    states: dict[str, dict[str, str]] = {}
    waiting: tuple[Message, ...] = ()
    refused: tuple[Message, ...] = ()


def receiver(url: str, environ: Mapping[str, str] = os.environ) -> Receiver:
    """Whom a URL names.

    Raises:
        InputError: no URL, or none of a host that there can be; one that is not encrypted and leaves this machine, one
            with a password; no secret, or a short one.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port  # a port that is none raises
        httpx.URL(url).host.encode("idna")  # as does a host with an empty or too long a part
    except (ValueError, httpx.InvalidURL):
        raise InputError("a webhook's URL should look like https://HOST/PATH. Found one that is none.") from None
    shown = f"{parts.scheme}://{host}{f':{port}' if port else ''}" if host else "one without a host"
    allowed = [scheme.strip() for scheme in (environ.get(SCHEMES) or "https").split(",")]
    if not host or parts.scheme not in ("http", "https") or (parts.scheme not in allowed and host not in LOOPBACK):
        raise InputError(f"a webhook's URL should look like https://HOST/PATH. Found {shown}."
                         + (f" Only where {SCHEMES} names http, or to this machine, may it go unencrypted."
                            if parts.scheme == "http" else ""))
    if parts.username or parts.password:
        raise InputError("a webhook's URL should hold no password: the signature says who sends. Found one in that of "
                         f"{shown}.")
    secret = environ.get(SECRET, "")
    if len(secret) < SHORTEST:
        raise InputError(f"{SECRET} should hold a secret of {SHORTEST} characters or more, which the receiver knows "
                         f"too. Found {f'one of {len(secret)}' if secret else 'none'}. Make one: openssl rand -hex 32")
    return Receiver(url, secret, shown)


def message(
    model: str, version: str, alarms: Sequence[Alarm], changed: Sequence[str], at: datetime,
    action: Mapping[str, Any] | None = None,
) -> Message:
    """What a check found, as JSON: no text of an answer and no id is among it.

    changed: the alarms whose state is not what it was at the last check; action: what was done, if anything was.
    """
    body = {"event": EVENT, "model": model, "version": version, "at": at.astimezone(UTC).isoformat(),
            "changed": list(changed), **as_json(alarms), "action": dict(action) if action else None}
    return Message(id=str(uuid.uuid4()), body=json.dumps(body, allow_nan=False), news=bool(changed or action))


def changes(told: Told, version: str, alarms: Sequence[Alarm]) -> list[str]:
    """The alarms whose state is not what it was at the last check; all of them at the first one of a version."""
    before = told.states.get(version, {})
    return [alarm.name for alarm in alarms if before.get(alarm.name) != alarm.state]


def notify(
    file: Path, to: Receiver, model: str, version: str, alarms: Sequence[Alarm], at: datetime,
    always: bool = False, action: Mapping[str, Any] | None = None,
) -> list[str]:
    """Tell a receiver what has changed since it was told last, and what it has not got yet.

    file: where a model's `Told` is kept. always: tell it also where nothing has changed.

    Returns:
        What went wrong, a sentence each; none if all is well. What could not be delivered is sent with the next check,
        the newest `QUEUE` of it; where it cannot be kept either, that check finds the same change again.
    """
    failures: list[str] = []
    with ExitStack() as stack:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(file.with_suffix(".lock"), timeout=LOCK_S))
        except OSError as error:  # Timeout is one
            failures.append(_unkept(file, error))
        told = _read(file, failures)
        keeps = not failures
        found = changes(told, version, alarms)
        new = [message(model, version, alarms, found, at, action)] if found or action or always else []
        waiting = (*(each for each in told.waiting if each.news or not new), *new)
        if len(waiting) > QUEUE:
            failures.append(f"more than {QUEUE} messages wait for {to.shown}; the oldest are dropped")
        after = Told(states=told.states | {version: {alarm.name: alarm.state for alarm in alarms}},
                     waiting=waiting[-QUEUE:], refused=told.refused)
        written = keeps and _write(file, after, failures)
        _deliver(file, after, to, written, failures)
    return failures


def _deliver(file: Path, told: Told, to: Receiver, written: bool, failures: list[str]) -> None:
    """Send what waits, in order, until one cannot be delivered; what is refused is set aside."""
    try:
        with httpx.Client(timeout=TIMEOUT_S, trust_env=urlsplit(to.url).hostname not in LOOPBACK) as client:
            while told.waiting:
                first, *rest = told.waiting
                failure, final = _sent(client, to, first)
                if failure and not final:
                    break
                refused = (*told.refused, first)[-QUEUE:] if failure else told.refused
                told = told.model_copy(update={"waiting": tuple(rest), "refused": refused})
                if failure:
                    failures.append(f"a message was refused by {to.shown}: {failure}; it is set aside")
                written = written and _write(file, told, failures)
    except Exception as error:  # whatever a proxy, or certificates, of the environment bring up
        failure = _unreached(error)
    if many := len(told.waiting):
        failures.append(f"{many} message{'s' * (many > 1)} could not be delivered to {to.shown}: {failure}; "
                        f"the next check sends {'them' if many > 1 else 'it'} again")


def _sent(client: httpx.Client, to: Receiver, message: Message) -> tuple[str, bool]:
    """Send one, three times if need be: why it could not be, nothing if it was taken; and whether it never will be."""
    failure = ""
    for pause in (*PAUSES_S, None):
        try:
            answer = client.post(to.url, content=message.body.encode(), headers=signed(message, to.secret))
            if answer.is_success:
                return "", True
            failure = f"it answers {answer.status_code}"
            if answer.status_code < 500 and answer.status_code not in (408, 429):
                return failure, answer.status_code >= 400 and answer.status_code not in PATIENT
        except httpx.HTTPError as error:
            failure = _unreached(error)
        if pause is not None:
            time.sleep(pause)
    return failure, False


def _unreached(error: Exception) -> str:
    return "it takes too long" if isinstance(error, httpx.TimeoutException) else "it cannot be reached"


def signed(message: Message, secret: str, at: int | None = None) -> dict[str, str]:
    """The headers of a delivery. at: seconds since 1970, by default now."""
    moment = str(int(time.time()) if at is None else at)
    said = f"{message.id}.{moment}.{message.body}".encode()
    signature = base64.b64encode(hmac.digest(secret.encode(), said, hashlib.sha256)).decode()
    return {"Content-Type": "application/json", "X-MLflow-Delivery-Id": message.id, "X-MLflow-Timestamp": moment,
            "X-MLflow-Signature": f"v1,{signature}"}


def _read(file: Path, failures: list[str]) -> Told:
    """What is kept; where that is damaged, nothing, which is said: everything counts as changed then."""
    try:
        return Told.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return Told()
    except (OSError, ValidationError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is damaged"
        failures.append(f"{file}, which says what was told last, cannot be read: {why}; all is told anew")
        with suppress(OSError):
            file.replace(file.with_suffix(".damaged"))
        return Told()


def _write(file: Path, told: Told, failures: list[str]) -> bool:
    """Replace the file in one step: whether it could be."""
    draft = None
    try:
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        draft = Path(name)
        with os.fdopen(handle, "wb") as out:
            out.write(told.model_dump_json().encode())
            out.flush()
            os.fsync(out.fileno())
        draft.replace(file)
        return True
    except OSError as error:
        if draft:
            draft.unlink(missing_ok=True)
        failures.append(_unkept(file, error))
        return False


def _unkept(file: Path, error: OSError) -> str:
    return (f"what was told cannot be kept in {file}: {error.strerror or 'another check holds it'}; "
            "the next check may tell it again")

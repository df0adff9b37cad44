"""API keys: who may ask the service what. Pure; `serving.keyfile` keeps them.

A key reads `ps_ID_SECRET`, the secret being 256 random bits. Kept is the SHA-256 of all of it: what has that many
random bits needs neither salt nor a slow hash. The id finds the key, so that one comparison decides, in constant time.
"""

import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from training.errors import InputError

Scope = Literal["score", "correct", "feedback", "review", "read", "admin"]
SCOPES: tuple[Scope, ...] = ("score", "correct", "feedback", "review", "read", "admin")
"""score: ask for risks and explanations. feedback: give it. read: see what the service is. admin: these, and erase.

review: see answers on the review page, texts among them, and label them; what such a key says is trusted. correct: have
the LLM asked again, which sends texts to it and may cost money. `admin` holds neither of these two, of which one stands
for a person and the other spends: a key that is to have them, too, is made with them.
"""

APART = frozenset[Scope](("review", "correct"))
"""What `admin` does not hold."""

PREFIX, ID_DIGITS, LONGEST = "ps_", 16, 128
GRACE_H = 24.0
LOCAL = "local"
"""The reviewer's name of whoever needs no key, and so no key's."""
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class ApiKey(BaseModel):
    """What is kept of a key. digest: SHA-256 of the whole key, in hexadecimal digits. revoked: since when."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    name: Annotated[str, Field(pattern=NAME)]
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)]
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    created: AwareDatetime
    expires: AwareDatetime | None = None
    revoked: AwareDatetime | None = None

    def usable(self, now: datetime) -> bool:
        """Whether it opens anything at that moment."""
        return self.revoked is None and (self.expires is None or now < self.expires)

    def allows(self, scope: Scope) -> bool:
        """Whether it may do what needs that scope."""
        return scope in self.scopes or (scope not in APART and "admin" in self.scopes)

    def state(self, now: datetime) -> str:
        """`usable`, `expired` or `revoked`."""
        return "usable" if self.usable(now) else "expired" if self.revoked is None else "revoked"


Keys = tuple[ApiKey, ...]

_NOBODY = ApiKey.model_construct(id="", name="", scopes=(), digest="0" * 64)
"""Compared with where no key has the id. Nothing that anybody knows has this SHA-256."""


def recognise(keys: Mapping[str, ApiKey], given: str, now: datetime) -> ApiKey | None:
    """The usable key that was given, of those by id; None: it is none of them.

    An unknown id, a wrong secret and a text that is no key at all take the same steps: one hash, one comparison.
    """
    digest = hashlib.sha256(given[:LONGEST].encode("utf-8", "surrogatepass")).hexdigest()
    key = keys.get(given[len(PREFIX):len(PREFIX) + ID_DIGITS], _NOBODY)
    same = hmac.compare_digest(digest, key.digest)
    return key if same and key is not _NOBODY and key.usable(now) else None


def issued(name: str, scopes: Sequence[str], now: datetime, lifetime: timedelta | None = None) -> tuple[ApiKey, str]:
    """A new key: what to keep of it, and the key itself, which nothing can show again.

    Raises:
        InputError: the name or a scope is none, or the name is not a key's.
    """
    unknown = [scope for scope in scopes if scope not in SCOPES]
    if unknown or not scopes:
        raise InputError(f"a key's scope should be one of {', '.join(SCOPES)}. Found "
                         + (f"'{unknown[0][:40]}'." if unknown else "none. Give at least one --scope."))
    if name.lower() == LOCAL:
        raise InputError(f"the name '{name}' is that of whoever needs no key. Choose another one.")
    identity = secrets.token_hex(ID_DIGITS // 2)
    key = f"{PREFIX}{identity}_{secrets.token_urlsafe(32)}"
    try:
        kept = ApiKey.model_validate({
            "id": identity, "name": name, "scopes": tuple(scope for scope in SCOPES if scope in scopes),
            "digest": hashlib.sha256(key.encode()).hexdigest(), "created": now,
            "expires": None if lifetime is None else now + lifetime})
    except ValueError:
        raise InputError(f"the name '{name[:40]}' should have letters, digits, '.', '_' or '-', a letter or digit "
                         "first, at most 64 of them.") from None
    except OverflowError:
        raise InputError("the key would expire beyond the year 9999. Leave --days out.") from None
    return kept, key


def added(keys: Keys, key: ApiKey, now: datetime) -> Keys:
    """With one more key.

    Raises:
        InputError: a usable one has its name.
    """
    if any(other.name == key.name and other.usable(now) for other in keys):
        raise InputError(f"there is a key '{key.name}'. Give it a new secret: polarscore apikey rotate {key.name}. "
                         "Or choose another name.")
    return (*keys, key)


def rotated(keys: Keys, name: str, now: datetime, grace: timedelta) -> tuple[Keys, ApiKey, str]:
    """With a new secret of the same scopes and lifetime; the old one is good until the grace is over.

    Gives all keys, what is kept of the new one, and the new one itself.

    Raises:
        InputError: no usable key has the name.
    """
    newest = _usable(keys, name, now)[-1]
    lifetime = None if newest.expires is None else newest.expires - newest.created
    last = now + grace
    fresh, secret = issued(name, newest.scopes, now, lifetime)
    aged = (key.model_copy(update={"expires": last if key.expires is None else min(key.expires, last)})
            if key.name == name and key.usable(now) else key for key in keys)
    return (*aged, fresh), fresh, secret


def revoked(keys: Keys, name: str, now: datetime) -> Keys:
    """With every secret of that name revoked, those in their grace, too.

    Raises:
        InputError: no usable key has the name.
    """
    gone = {key.id for key in _usable(keys, name, now)}
    return tuple(key.model_copy(update={"revoked": now}) if key.id in gone else key for key in keys)


def _usable(keys: Keys, name: str, now: datetime) -> list[ApiKey]:
    found = [key for key in keys if key.name == name and key.usable(now)]
    if not found:
        raise InputError(f"no usable key is named '{name[:64]}'. See: polarscore apikey list.")
    return found

"""Where an LLM may be asked: endpoints that the machine's owner has named and allowed, in a TOML file.

    default = "local"

    [endpoints.local]
    url = "http://127.0.0.1:8080/v1"
    model = "smollm2"
    version = "Q8_0"              # yours: another one when the model behind that name changes, so that it is asked anew

    [endpoints.cloud]
    url = "https://api.example.com/v1"
    model = "large"
    key = "EXAMPLE_API_KEY"       # the name of the variable that holds the secret, never the secret
    allow = true                  # texts may leave this machine for it
    price_in = 0.15               # money for a million tokens
    price_out = 0.60

The file is the machine's, `llm.toml` in the state folder unless named: no task can bring an endpoint.
"""

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from training.errors import InputError
from training.state import State
from training.task import describe
from training.toml_file import read_toml

FILE = "llm.toml"

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Endpoint(_Section):
    """One endpoint that speaks the protocol of OpenAI's chat completions. url: up to and with `/v1`.

    key: the name of the environment variable with the secret; None: it needs none. allow: texts may leave this machine
    for it; not needed on loopback. version: of what stands behind the model's name; replies to another are not used.
    in_flight: requests at a time, at most. timeout_s: of one request. retries: of one request that is refused for now,
    or fails. price_in, price_out: of a million tokens. family: of the sources made with it; by default the model's
    name.
    """

    name: str = ""
    url: str
    model: Annotated[str, Field(min_length=1)]
    key: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    allow: bool = False
    version: str = ""
    in_flight: Annotated[int, Field(ge=1, le=1024)] = 16
    timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 60.0
    retries: Annotated[int, Field(ge=0, le=100)] = 8
    price_in: Amount = 0.0
    price_out: Amount = 0.0
    family: str = ""

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            named = (parts.hostname or "").encode("idna").decode("idna") and parts.port != 0
        except ValueError:
            raise ValueError("should be a URL with a host's name in ASCII and, if any, a port up to 65535") from None
        if parts.scheme not in ("http", "https") or not named or parts.username or parts.password:
            raise ValueError("should be a URL that begins with http:// or https://, without a user or a password")
        if not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError("should be a URL in ASCII, without spaces")
        if parts.query or parts.fragment:
            raise ValueError("should end with its path, as in https://api.example.com/v1")
        return url.rstrip("/")

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine, so that no text leaves it."""
        host = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    def secret(self, environment: Mapping[str, str] = os.environ) -> str | None:
        """The secret, from the environment.

        Raises:
            InputError: the variable is not set, or not something that a header can hold.
        """
        if self.key is None:
            return None
        found = environment.get(self.key, "").strip()
        if not found:
            raise InputError(f"the endpoint '{self.name}' needs a key: set the variable {self.key}.")
        if not (found.isascii() and found.isprintable()):
            raise InputError(f"the variable {self.key} holds characters that no key has.")
        return found


class Settings(_Section):
    """All endpoints of the file. default: which of them is asked unless another is named."""

    default: str | None = None
    endpoints: dict[str, Endpoint]

    @model_validator(mode="after")
    def _default_is_known(self) -> "Settings":
        if not self.endpoints:
            raise ValueError("[endpoints.NAME] should be there at least once")
        if self.default is not None and self.default not in self.endpoints:
            raise ValueError(f"default names '{self.default}', which is no endpoint of this file")
        return self

    def endpoint(self, name: str | None = None) -> Endpoint:
        """The endpoint of that name, or the default, or the only one; texts may go there.

        Raises:
            InputError: there is none such, or the owner did not allow that texts leave the machine for it.
        """
        name = name or self.default or (next(iter(self.endpoints)) if len(self.endpoints) == 1 else None)
        if name is None:
            raise InputError(f"the settings of the LLM name several endpoints: {', '.join(self.endpoints)}. "
                             "Choose one with --endpoint, or set `default`.")
        if name not in self.endpoints:
            raise InputError(f"the settings of the LLM name no endpoint '{name[:60]}'. "
                             f"Expected one of {', '.join(self.endpoints)}.")
        found = self.endpoints[name].model_copy(update={"name": name})
        if not (found.allow or found.is_local):
            raise InputError(f"the endpoint '{name}' is not on this machine, and nobody allowed that texts leave for "
                             "it. If they may, set `allow = true` for it.")
        return found


def read_settings(path: Path) -> Settings:
    """The settings that a file holds.

    Raises:
        InputError: it is missing, no TOML, or has an unknown key or a value that is none.
    """
    content = read_toml(path, "It names the LLM's endpoint: docs/llm.md shows one.")
    try:
        return Settings(**content)
    except ValidationError as error:
        raise InputError(f"{path}: {describe(error)}.") from None


def settings_of(state: State, path: Path | None = None) -> Settings:
    """The settings of a named file, or of the state's own.

    Raises:
        InputError: as `read_settings` does.
    """
    return read_settings(path or state.home / FILE)

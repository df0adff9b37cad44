"""The wire: one request over HTTP, and what came back. The only place that does I/O with an endpoint."""

import asyncio
import ssl
from collections.abc import Mapping

import httpx

from serving.llm.network import Network, whole
from serving.llm.protocol import PATH, Answered, Lost
from serving.llm.settings import Endpoint

CONNECT_S = 10.0  # until there is a connection, at most


class Wire:
    """The connections to one endpoint. transport: how requests travel, in place of a network."""

    def __init__(self, endpoint: Endpoint, transport: httpx.AsyncBaseTransport | None = None):
        """Connect to nothing yet.

        Raises:
            InputError: the endpoint needs a key that is not there.
        """
        secret, url = endpoint.secret(), endpoint.url + PATH
        headers = {"accept": "application/json", "accept-encoding": "identity", "content-type": "application/json",
                   "user-agent": "polarscore"} | ({"authorization": f"Bearer {secret}"} if secret else {})
        self._timeout_s = endpoint.timeout_s
        self._way = _Swapped(url, headers, transport) if transport else Network(
            url, headers, min(CONNECT_S, endpoint.timeout_s), _authorities() if url.startswith("https") else None)

    async def send(self, body: bytes) -> Answered | Lost:
        """Send one request, and wait for all of its answer."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._way.post(body)
        except TimeoutError:
            return Lost("timeout", f"no answer within {self._timeout_s:g} s")

    async def close(self) -> None:
        """Close the connections."""
        await self._way.close()


class _Swapped:
    """A transport of httpx's, in place of a network."""

    def __init__(self, url: str, headers: Mapping[str, str], transport: httpx.AsyncBaseTransport):
        self._url, self._headers, self._transport = url, headers, transport

    async def post(self, body: bytes) -> Answered | Lost:
        try:
            response = await self._transport.handle_async_request(
                httpx.Request("POST", self._url, headers=self._headers, content=body))
            try:
                assert isinstance(response.stream, httpx.AsyncByteStream)
                content = await whole(response.headers, response.stream)
            finally:
                await response.aclose()
        except (httpx.ConnectError, httpx.ConnectTimeout):
            return Lost("away", "no connection")
        except httpx.TimeoutException:
            raise TimeoutError from None
        except httpx.TransportError:
            return Lost("cut", "the connection broke before all of the answer came")
        return Answered(response.status_code, response.headers, content)

    async def close(self) -> None:
        await self._transport.aclose()


def _authorities() -> ssl.SSLContext:
    """Whom TLS trusts: the bundled authorities, and those of this machine."""
    context = httpx.create_ssl_context(trust_env=False)
    context.load_default_certs()
    return context

"""The network, over aiohttp: its parser is in C.

No proxy and no `.netrc` of the environment, no cookies, no redirects, nothing unpacked, nothing sent twice.
"""

import ssl
from collections.abc import AsyncIterable, Mapping

import aiohttp
from yarl import URL

from serving.llm.protocol import Answered, Lost

IDLE_S = 30.0  # that a connection is kept for the next request
MOST_BYTES = 8 * 2**20  # of an answer


class Network:
    """Posts to one URL, always with these headers; connections are kept for the next request."""

    def __init__(self, url: str, headers: Mapping[str, str], connect_s: float, trusted: ssl.SSLContext | None = None):
        """Connect to nothing yet. connect_s: until there is a connection, at most. trusted: whom TLS trusts."""
        self._url, self._headers, self._connect_s = URL(url, encoded=True), headers, connect_s
        self._trusted = trusted
        self._session: aiohttp.ClientSession | None = None

    async def post(self, body: bytes) -> Answered | Lost:
        """Send one request, and wait for all of its answer."""
        session = self._session = self._session or self._opened()
        try:
            response = await session.post(self._url, data=body, allow_redirects=False)
            try:
                content = await whole(response.headers, response.content.iter_any())
            finally:
                response.close()
        except aiohttp.ConnectionTimeoutError:
            return Lost("away", f"no connection within {self._connect_s:g} s")
        except aiohttp.ClientConnectorError as error:
            return Lost("away", _why(error))
        except (aiohttp.ClientError, OSError):
            return Lost("cut", "the connection broke before all of the answer came")
        return Answered(response.status, response.headers, content)

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> aiohttp.ClientSession:
        """A session; made late, since it belongs to an event loop."""
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_S, ssl=self._trusted or True)
        return aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False, trust_env=False,
            headers=self._headers, timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_s))


async def whole(headers: Mapping[str, str], parts: AsyncIterable[bytes]) -> bytes | None:
    """All of a body; None: it is too long, or packed."""
    if headers.get("content-encoding", "identity") != "identity":
        return None
    found = bytearray()
    async for part in parts:
        found += part
        if len(found) > MOST_BYTES:
            return None
    return bytes(found)


def _why(error: aiohttp.ClientConnectorError) -> str:
    """Why there is no connection."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return "its certificate is not trusted"
        if isinstance(cause, ConnectionRefusedError):
            return "it refuses the connection"
        cause = cause.__cause__ or cause.__context__
    return "no connection"

"""One HTTPS request over one new connection, whose certificate the request may depend on.

A library for HTTP would connect when it pleases and take proxies and CA bundles from the environment. Here the caller
sees the certificate of the very connection before it makes the request (the join's proofs cover it), the only trust is
in the context that it hands in, and no environment variable has a say.
"""

import asyncio
import ssl
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import h11

from fairlead.base.errors import OperatorError, Refused

MOST_HEADER_BYTES = 16 * 1024
_CHUNK = 64 * 1024


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request. ``Host``, unless given, ``Content-Length`` and ``Connection: close`` are added."""

    method: str
    path: str
    """Path and query as they go on the wire."""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Incoming:
    """A whole answer."""

    status: int
    headers: Sequence[tuple[str, str]]
    """Names in lower case, repeated ones too."""
    body: bytes = field(repr=False)
    certificate: bytes = field(repr=False)
    """The server's leaf, DER."""


class CertificateRefused(Refused):
    """The server's certificate did not verify; ``verify_code`` is OpenSSL's (X509_V_ERR_..., 10 = expired)."""

    def __init__(self, message: str, remedy: str, verify_code: int) -> None:
        super().__init__("FL-PEER-CERTIFICATE", message, remedy)
        self.verify_code = verify_code


async def request(address: str, port: int, context: ssl.SSLContext, server_name: str,
                  build: Callable[[bytes], Outgoing], *, timeout: float = 15.0,  # noqa: ASYNC109 - a deadline for all
                  most: int = 65536) -> Incoming:
    """Ask the server at *address*, which must verify in *context* as *server_name*; *build* gets its leaf (DER).

    *timeout* (seconds) is for all of it, *most* (bytes) for the answer's body. Raises OperatorError
    ``FL-PEER-UNREACHABLE``, CertificateRefused, or Refused ``FL-PEER-PROTOCOL``; what *build* raises passes.
    """
    where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await _connect(address, port, context, server_name, where)
            try:
                leaf = writer.get_extra_info("ssl_object").getpeercert(binary_form=True) or b""
                wanted = build(leaf)
                host = server_name or address
                status, headers, body = await _exchange(reader, writer, wanted, authority(host, port), most, where)
            finally:
                writer.transport.abort()  # the answer is whole or worthless: nothing to wait for
    except TimeoutError as error:
        raise _unreachable(where, f"no answer within {timeout:g} seconds") from error
    return Incoming(status, headers, body, leaf)


def authority(host: str, port: int = 443) -> str:
    """What a ``Host`` header and a URL say for *host* (a name or an IP address)."""
    bracketed = f"[{host}]" if ":" in host else host
    return bracketed if port == 443 else f"{bracketed}:{port}"


async def _connect(address: str, port: int, context: ssl.SSLContext, server_name: str,
                   where: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        return await asyncio.open_connection(address, port, ssl=context, server_hostname=server_name, limit=_CHUNK)
    except ssl.SSLCertVerificationError as error:
        raise CertificateRefused(
            f"the certificate of {where} does not verify as {server_name or 'that of the server'}: "
            f"{error.verify_message}", "see that nobody is in between, and that the clocks are right",
            error.verify_code) from error
    except ssl.SSLError as error:
        raise _protocol(where, f"no TLS that both sides accept ({error.reason or 'handshake failed'})") from error
    except TimeoutError:
        raise
    except OSError as error:
        raise _unreachable(where, error.strerror or str(error)) from error
    except UnicodeError as error:
        raise _unreachable(where, "that is no host name") from error


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, wanted: Outgoing, authority: str,
                    most: int, where: str) -> tuple[int, Sequence[tuple[str, str]], bytes]:
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MOST_HEADER_BYTES)
    for event in (_head(wanted, authority), h11.Data(data=wanted.body), h11.EndOfMessage()):
        writer.write(http.send(event) or b"")
    try:
        with suppress(ConnectionError):  # who refuses before he has read everything may have answered all the same
            await writer.drain()
        return await _answer(reader, http, most, where)
    except h11.RemoteProtocolError as error:
        raise _protocol(where, f"the answer is no whole HTTP message ({error})") from error
    except ssl.SSLError as error:
        raise _protocol(where, f"the connection failed ({error.reason or 'TLS'})") from error
    except ConnectionError as error:
        raise _protocol(where, "the connection was cut off before the answer was whole") from error


def _head(wanted: Outgoing, authority: str) -> h11.Request:
    headers = list(wanted.headers.items())
    if all(name.lower() != "host" for name in wanted.headers):
        headers.insert(0, ("host", authority))
    headers += [("content-length", str(len(wanted.body))), ("connection", "close")]
    return h11.Request(method=wanted.method, target=wanted.path, headers=headers)


async def _answer(reader: asyncio.StreamReader, http: h11.Connection, most: int,
                  where: str) -> tuple[int, Sequence[tuple[str, str]], bytes]:
    status, headers, body = 0, [], bytearray()
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(await reader.read(_CHUNK))  # empty at the end: h11 says whether that is too early
        elif isinstance(event, h11.Response):
            status = event.status_code
            headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in event.headers]
            _check_framed(status, dict(headers), most, where)
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > most:
                raise _protocol(where, f"the answer is larger than {most} bytes")
        elif isinstance(event, h11.EndOfMessage):
            return status, headers, bytes(body)
        elif isinstance(event, h11.ConnectionClosed):
            raise _protocol(where, "the connection was closed without an answer")


def _check_framed(status: int, headers: dict[str, str], most: int, where: str) -> None:
    """An answer that only the end of the connection ends could be cut short without a trace."""
    length = headers.get("content-length")
    if length is None and "transfer-encoding" not in headers and status not in (204, 304):
        raise _protocol(where, "the answer does not say how long it is")
    if length is not None and int(length) > most:  # h11 has seen that it is a number
        raise _protocol(where, f"the answer is larger than {most} bytes")


def _unreachable(where: str, why: str) -> OperatorError:
    return OperatorError("FL-PEER-UNREACHABLE", f"{where} cannot be reached: {why}",
                         "see that the address is right, that the port is open, and that the Controller runs")


def _protocol(where: str, why: str) -> Refused:
    return Refused("FL-PEER-PROTOCOL", f"{where} does not answer as a Controller does: {why}",
                   "see what listens there")

"""Posting to an address that staff wrote down: signed, without redirects, and not to where it must not go. No Django.

The signature is that of https://www.standardwebhooks.com, for which receivers have libraries.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import html
import http.client
import re
import secrets
import socket
import ssl
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Self
from urllib.parse import unquote, urlsplit

from machines.addresses import IPAddress, IPNetwork, parse_ip
from machines.notifications.reachable import objection

SECRET_PREFIX = "whsec_"  # noqa: S105 - the standard's
_SECRET_BYTES = 32
MAX_URL = 500
#: Seconds for a connection, and for what comes after; and for all of it.
_STEP, _WHOLE = 10, 20
#: So much of an answer is read, and shown.
_MAX_ANSWER = 500


class WebhookAddressError(ValueError):
    """An address cannot be posted to; the message says why."""


class DeliveryError(Exception):
    """A message did not arrive. `status` is the receiver's answer, None where there was none."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Target:
    """A webhook's address, taken apart."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def origin(self) -> str:
        """Without the path, which may be a secret."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = self.port == (443 if self.scheme == "https" else 80)
        return f"{self.scheme}://{host}" + ("" if usual else f":{self.port}")

    def check_plain_address(self, allowed: Sequence[IPNetwork]) -> None:
        """Raise WebhookAddressError where the host is an IP address that nothing is posted to."""
        address = parse_ip(self.host)
        if address and (why := objection(address, allowed)):
            raise WebhookAddressError(f"Nothing is sent there: {why}.")


def parse(url: str) -> Target:
    """Raises WebhookAddressError for what is no address to post to."""
    if not url.isascii() or not url.isprintable() or " " in url or len(url) > MAX_URL:
        raise WebhookAddressError(f"Write an address of at most {MAX_URL} ASCII characters, without spaces.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise WebhookAddressError("This is not a valid address; write it like https://chat.example.net/hook.") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise WebhookAddressError("Write it like https://chat.example.net/hook; http:// works too.")
    if parts.username is not None or parts.password is not None:
        raise WebhookAddressError("Leave out user and password: what is sent is signed instead.")
    if parts.fragment:
        raise WebhookAddressError("Leave out what follows the “#”: it is never sent.")
    if port == 0:
        raise WebhookAddressError("A port is between 1 and 65535.")
    path = parts.path or "/"
    return Target(
        parts.scheme,
        parts.hostname,
        port or (443 if parts.scheme == "https" else 80),
        f"{path}?{parts.query}" if parts.query else path,
    )


def new_secret() -> str:
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The value of the header `webhook-signature`."""
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    signed = f"{message_id}.{timestamp}.".encode() + body
    return f"v1,{base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()}"


def resolve(target: Target, allowed: Sequence[IPNetwork]) -> list[IPAddress]:
    """Where the target's name leads. Raises DeliveryError where one of the addresses must not be posted to."""
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise DeliveryError(f"The name {target.host} cannot be looked up: {error}") from None
    addresses = [ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    for address in addresses:
        if why := objection(address, allowed):
            raise DeliveryError(f"Nothing is sent to {target.host}: {why}.")
    return list(dict.fromkeys(addresses))


def post(target: Target, body: bytes, headers: Mapping[str, str], allowed: Sequence[IPNetwork] = ()) -> int:
    """Post `body` and return the status, 2xx. Raises DeliveryError; a redirect is an error as well.

    The connection goes to the address that was looked at, not to what the name leads to a moment later.
    """
    addresses = resolve(target, allowed)
    with _Watchdog(_WHOLE) as watchdog:
        connection = _connected(target, addresses, watchdog)
        try:
            connection.request("POST", target.path, body, {"Connection": "close", **headers})
            response = connection.getresponse()
            said = response.read(_MAX_ANSWER)
            # What was cut off looks like an answer.
            watchdog.check()
        except (OSError, http.client.HTTPException) as error:
            raise DeliveryError(f"{target.origin} took the connection and did not answer: {_told(error)}") from None
        finally:
            connection.close()
    if not 200 <= response.status < 300:
        redirect = ", a redirect, which is not followed" if 300 <= response.status < 400 else ""
        text = "".join(c for c in said.decode("utf-8", "replace") if c.isprintable()).strip()
        answer = f"{response.status} {response.reason}{redirect}"
        # Many servers repeat the path in what they answer, and it may be a secret.
        answer, text = (_without_path(told, target.path) for told in (answer, text))
        raise DeliveryError(f"{target.origin} answered {answer}" + (f": {text}" if text else ""), response.status)
    return response.status


def _without_path(text: str, path: str) -> str:
    """`text` without any part of `path` that may be a secret, as it stands there, quoted for HTML or decoded."""
    parts = {part for part in re.split(r"[/?&=]", path) if len(part) > 3}
    for part in sorted({path, *parts} - {"/"}, key=len, reverse=True):
        for form in {part, unquote(part), html.escape(part), html.escape(unquote(part))}:
            text = text.replace(form, "…")
    return text


def _connected(target: Target, addresses: Sequence[IPAddress], watchdog: _Watchdog) -> http.client.HTTPConnection:
    connection: http.client.HTTPConnection
    context = ssl.create_default_context() if target.scheme == "https" else None
    if context:
        connection = http.client.HTTPSConnection(target.host, target.port, timeout=_STEP, context=context)
    else:
        connection = http.client.HTTPConnection(target.host, target.port, timeout=_STEP)
    errors = []
    for address in addresses:
        try:
            watchdog.check()
            plain = socket.create_connection((str(address), target.port), _STEP)
        except OSError as error:
            errors.append(f"{address}: {_told(error)}")
            continue
        try:
            # The greeting of TLS as a whole has the time of one step.
            connection.sock = context.wrap_socket(plain, server_hostname=target.host) if context else plain
        except (OSError, ValueError) as error:
            plain.close()
            errors.append(f"{address}: {_told(error)}")
            continue
        watchdog.watch(connection.sock)
        return connection
    raise DeliveryError(f"{target.origin} cannot be reached: {'; '.join(errors)}")


class _Watchdog:
    """Hangs up after a time: time-outs of single steps do not end a receiver that sends a byte now and then."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._socket: socket.socket | None = None
        self._is_late = threading.Event()
        self._timer = threading.Timer(seconds, self._hang_up)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def watch(self, connected: socket.socket) -> None:
        self._socket = connected
        if self._is_late.is_set():
            self._hang_up()

    def check(self) -> None:
        """Raise TimeoutError where it is too late."""
        if self._is_late.is_set():
            raise TimeoutError(f"not within {self._seconds} s")

    def _hang_up(self) -> None:
        self._is_late.set()
        if self._socket:
            try:
                # Not SSL's own, which would wait for the other side.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
            except OSError:
                return


def _told(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error) or type(error).__name__

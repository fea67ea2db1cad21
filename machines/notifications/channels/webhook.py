"""Webhooks: the site posts events as signed JSON to a URL.

The signature follows https://www.standardwebhooks.com. Libraries for receivers exist.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import html
import json
import re
import secrets
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from http.client import responses
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, unquote, urlsplit

from django import forms
from django.conf import settings
from django.core.exceptions import ValidationError

from machines.addresses import IPNetwork, parse_ip
from machines.notifications import chat
from machines.notifications.channels.base import Channel, DeliveryError
from machines.notifications.reachable import objection

if TYPE_CHECKING:
    from machines.models.notification import NotificationRule

SECRET_PREFIX = "whsec_"  # noqa: S105 - the standard's
MAX_URL = 500
#: Seconds for a whole try: name look-up, connecting, TLS, sending, reading.
_TIMEOUT = 20
#: The number of bytes of an answer that are read and shown.
_MAX_ANSWER = 500
#: CURLOPT_QUICK_EXIT, which has no name in pycurl: close() does not wait for a name look-up.
_QUICK_EXIT = 322


class Webhook(Channel):
    form_fields = {"url": forms.URLInput(attrs={"class": "vURLField", "spellcheck": "false"})}
    is_signed = True

    def validate(self, rule: NotificationRule) -> None:
        # Host names are checked when a message is sent, because their addresses may change.
        address = parse_ip(parse(rule.url).hostname or "")
        if address and (reason := objection(address, settings.RESCUESITE_WEBHOOK_NETWORKS)):
            raise ValidationError({"url": f"The site does not send to this address: {reason}."})

    def destination(self, rule: NotificationRule) -> str:
        try:
            parts = parse(rule.url)
        except ValidationError:
            return ""
        return f"{parts.scheme}://{parts.netloc}"

    def send(self, rule: NotificationRule, payload: Mapping[str, Any], message_id: str) -> int:
        text = chat.plain(payload["text"])
        body = json.dumps({**payload, "text": text}, ensure_ascii=False).encode("utf-8", "replace")
        timestamp = int(time.time())
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "rescuesite",
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(rule.secret, message_id, timestamp, body),
        }
        return post(rule.url, body, headers, settings.RESCUESITE_WEBHOOK_NETWORKS)


def parse(url: str) -> SplitResult:
    """Parse the URL of a webhook. Raises ValidationError."""
    if not url.isascii() or not url.isprintable() or " " in url or len(url) > MAX_URL:
        raise ValidationError({"url": f"Enter a URL of at most {MAX_URL} ASCII characters without spaces."})
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValidationError(
            {"url": "This is not a valid URL. Enter it like https://chat.example.net/hook."}
        ) from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValidationError(
            {"url": "Enter a URL like https://chat.example.net/hook or http://chat.example.net/hook."}
        )
    if parts.username is not None or parts.password is not None:
        raise ValidationError({"url": "Remove the user and password. The site signs its messages instead."})
    if parts.fragment:
        raise ValidationError({"url": "Remove the part after the “#”. HTTP does not send it."})
    if port == 0:
        raise ValidationError({"url": "Enter a port between 1 and 65535."})
    return parts


def new_secret() -> str:
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """Return the value of the header `webhook-signature`."""
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    signed = f"{message_id}.{timestamp}.".encode() + body
    return f"v1,{base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()}"


def post(url: str, body: bytes, headers: Mapping[str, str], allowed: Sequence[IPNetwork] = ()) -> int:
    """Post `body` and return the status, 2xx. Raises DeliveryError, also for a redirect."""
    # Imported here, because pycurl is large: boot processes need not load it or fail if it is missing.
    import pycurl

    parts, paths = urlsplit(url), ssl.get_default_verify_paths()
    received = bytearray()
    refused: list[str] = []

    def open_socket(_: int, to: Any) -> Any:
        """Open a socket if the address is allowed. A host name may have several addresses, and they may change."""
        try:
            if not (reason := objection(ip_address(to.addr[0]), allowed)):
                return sockets.enter_context(socket.socket(to.family, to.socktype, to.protocol))
        except OSError as error:
            reason = f"{to.addr[0]}: {error.strerror}"
        refused.append(reason)
        return pycurl.SOCKET_BAD

    def read(part: bytes) -> int:
        received.extend(part)
        # A smaller number than the length of the part makes libcurl close the connection.
        return len(part) if len(received) < _MAX_ANSWER else 0

    options = {
        pycurl.URL: url,
        pycurl.PATH_AS_IS: 1,
        pycurl.HTTPHEADER: [f"{name}: {value}" for name, value in headers.items()],
        pycurl.POSTFIELDS: body,
        pycurl.OPENSOCKETFUNCTION: open_socket,
        pycurl.WRITEFUNCTION: read,
        pycurl.TIMEOUT_MS: int(_TIMEOUT * 1000),
        pycurl.NOSIGNAL: 1,
        _QUICK_EXIT: 1,
        pycurl.FOLLOWLOCATION: 0,
        pycurl.PROTOCOLS: pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS,
        pycurl.NOPROXY: "*",
        # The CA certificates of this system. The default of the library may be the path of another distribution.
        pycurl.CAINFO: paths.cafile,
        pycurl.CAPATH: paths.capath,
    }
    # pycurl uses a copy of each socket.
    with pycurl.Curl() as curl, ExitStack() as sockets:
        for option, value in options.items():
            curl.setopt(option, value)
        try:
            curl.perform()
        except pycurl.error as error:
            code, message = error.args
            if code != pycurl.E_WRITE_ERROR:
                is_sent = curl.getinfo(pycurl.REQUEST_SIZE)
                failed = "did not answer" if is_sent else "cannot be reached"
                raise _error(parts, f"{failed}: {'; '.join([*refused, message])}") from None
        status: int = curl.getinfo(pycurl.RESPONSE_CODE)
    if not 200 <= status < 300:
        redirect = ", a redirect, which the site does not follow" if 300 <= status < 400 else ""
        text = "".join(c for c in received[:_MAX_ANSWER].decode("utf-8", "replace") if c.isprintable()).strip()
        answer = f"answered {status} {responses.get(status, '')}".rstrip() + redirect
        raise _error(parts, answer + (f": {text}" if text else ""), status)
    return status


def _error(parts: SplitResult, message: str, status: int | None = None) -> DeliveryError:
    """Return the error without the path of the URL, which may be a secret. Many servers repeat it in their answers."""
    path = parts._replace(scheme="", netloc="").geturl()
    path_parts = {part for part in re.split(r"[/?&=]", path) if len(part) > 3}
    for secret in sorted({path, *path_parts} - {"", "/"}, key=len, reverse=True):
        for form in {secret, unquote(secret), html.escape(secret), html.escape(unquote(secret))}:
            message = message.replace(form, "…")
    return DeliveryError(f"{parts.scheme}://{parts.netloc} {message}", status)

"""Webhooks: what happens is posted as JSON, signed, to an address that staff wrote down.

The signature is that of https://www.standardwebhooks.com, for which receivers have libraries.
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
#: Seconds for all of a try: looking up the name, connecting, TLS, sending, reading.
_WHOLE = 20
#: So much of an answer is read, and shown.
_MAX_ANSWER = 500
#: CURLOPT_QUICK_EXIT, for which pycurl has no name: close() does not wait for a name look-up that hangs.
_QUICK_EXIT = 322


class Webhook(Channel):
    form_fields = {"url": forms.URLInput(attrs={"class": "vURLField", "spellcheck": "false"})}
    is_signed = True

    def validate(self, rule: NotificationRule) -> None:
        # A name is looked up when something is sent: where it leads now says nothing of then.
        address = parse_ip(parse(rule.url).hostname or "")
        if address and (why := objection(address, settings.RESCUESITE_WEBHOOK_NETWORKS)):
            raise ValidationError({"url": f"Nothing is sent there: {why}."})

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
    """Raises ValidationError for what is no address to post to."""
    if not url.isascii() or not url.isprintable() or " " in url or len(url) > MAX_URL:
        raise ValidationError({"url": f"Write an address of at most {MAX_URL} ASCII characters, without spaces."})
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValidationError(
            {"url": "This is not a valid address; write it like https://chat.example.net/hook."}
        ) from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValidationError({"url": "Write it like https://chat.example.net/hook; http:// works too."})
    if parts.username is not None or parts.password is not None:
        raise ValidationError({"url": "Leave out user and password: what is sent is signed instead."})
    if parts.fragment:
        raise ValidationError({"url": "Leave out what follows the “#”: it is never sent."})
    if port == 0:
        raise ValidationError({"url": "A port is between 1 and 65535."})
    return parts


def new_secret() -> str:
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The value of the header `webhook-signature`."""
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    signed = f"{message_id}.{timestamp}.".encode() + body
    return f"v1,{base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()}"


def post(url: str, body: bytes, headers: Mapping[str, str], allowed: Sequence[IPNetwork] = ()) -> int:
    """Post `body` and return the status, 2xx. Raises DeliveryError; a redirect is an error as well."""
    # Here, so that only who sends loads it: it is large, and no boot process may wait for it or fail with it.
    import pycurl

    parts, paths = urlsplit(url), ssl.get_default_verify_paths()
    said = bytearray()
    refused: list[str] = []

    def open_socket(_: int, to: Any) -> Any:
        """For a connection to exactly this address; a name may lead to several, and to others a moment later."""
        try:
            if not (why := objection(ip_address(to.addr[0]), allowed)):
                return sockets.enter_context(socket.socket(to.family, to.socktype, to.protocol))
        except OSError as error:
            why = f"{to.addr[0]}: {error.strerror}"
        refused.append(why)
        return pycurl.SOCKET_BAD

    def read(part: bytes) -> int:
        said.extend(part)
        # Less than it was given: libcurl hangs up.
        return len(part) if len(said) < _MAX_ANSWER else 0

    options = {
        pycurl.URL: url,
        pycurl.PATH_AS_IS: 1,
        pycurl.HTTPHEADER: [f"{name}: {value}" for name, value in headers.items()],
        pycurl.POSTFIELDS: body,
        pycurl.OPENSOCKETFUNCTION: open_socket,
        pycurl.WRITEFUNCTION: read,
        pycurl.TIMEOUT_MS: int(_WHOLE * 1000),
        pycurl.NOSIGNAL: 1,
        _QUICK_EXIT: 1,
        pycurl.FOLLOWLOCATION: 0,
        pycurl.PROTOCOLS: pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS,
        pycurl.NOPROXY: "*",
        # Whom this system trusts: the library looks where another distribution keeps that.
        pycurl.CAINFO: paths.cafile,
        pycurl.CAPATH: paths.capath,
    }
    # pycurl connects a copy of each socket.
    with pycurl.Curl() as curl, ExitStack() as sockets:
        for option, value in options.items():
            curl.setopt(option, value)
        try:
            curl.perform()
        except pycurl.error as error:
            code, why = error.args
            if code != pycurl.E_WRITE_ERROR:
                is_sent = curl.getinfo(pycurl.REQUEST_SIZE)
                failed = "took the connection and did not answer" if is_sent else "cannot be reached"
                raise _error(parts, f"{failed}: {'; '.join([*refused, why])}") from None
        status: int = curl.getinfo(pycurl.RESPONSE_CODE)
    if not 200 <= status < 300:
        redirect = ", a redirect, which is not followed" if 300 <= status < 400 else ""
        text = "".join(c for c in said[:_MAX_ANSWER].decode("utf-8", "replace") if c.isprintable()).strip()
        answer = f"answered {status} {responses.get(status, '')}".rstrip() + redirect
        raise _error(parts, answer + (f": {text}" if text else ""), status)
    return status


def _error(parts: SplitResult, what: str, status: int | None = None) -> DeliveryError:
    """Without the path, which may be a secret: many servers repeat it in what they answer, quoted or decoded."""
    path = parts._replace(scheme="", netloc="").geturl()
    parts_of_it = {part for part in re.split(r"[/?&=]", path) if len(part) > 3}
    for told in sorted({path, *parts_of_it} - {"", "/"}, key=len, reverse=True):
        for form in {told, unquote(told), html.escape(told), html.escape(unquote(told))}:
            what = what.replace(form, "…")
    return DeliveryError(f"{parts.scheme}://{parts.netloc} {what}", status)

"""A member of staff with a session, over plain HTTP."""

from __future__ import annotations

import re
from collections.abc import Mapping
from http.cookiejar import CookieJar
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, Request, build_opener

_TOKEN = re.compile(r'name="csrfmiddlewaretoken" value="([^"]+)"')


class Staff:
    """Logs in on creation. Raises AssertionError where that fails."""

    def __init__(self, url: str, password: str, name: str = "alice") -> None:
        self._url = url
        self._opener = build_opener(HTTPCookieProcessor(CookieJar()))
        assert "Log out" in self.post("/admin/login/?next=/admin/", username=name, password=password)

    def get(self, path: str) -> str:
        return self._open(Request(self._url + path))

    def post(self, path: str, **fields: str | list[str]) -> str:
        """Fill in the form at `path`; returns the page that it leads to."""
        body = urlencode({"csrfmiddlewaretoken": self._token(path), **fields}, doseq=True).encode()
        return self._open(Request(self._url + path, body))

    def upload(self, path: str, name: str, contents: bytes, fields: Mapping[str, str] | None = None) -> str:
        """Fill in the form at `path`, with a file."""
        fields = {"csrfmiddlewaretoken": self._token(path), **(fields or {})}
        parts = [f'form-data; name="{field}"\r\n\r\n{value}\r\n'.encode() for field, value in fields.items()]
        parts.append(f'form-data; name="{name}"; filename="upload"\r\n\r\n'.encode() + contents + b"\r\n")
        body = b"".join(b"--limit\r\nContent-Disposition: " + part for part in parts) + b"--limit--\r\n"
        kind = {"Content-Type": "multipart/form-data; boundary=limit"}
        return self._open(Request(self._url + path, body, kind))

    def delete(self, path: str, keys: list[str]) -> str:
        """Delete the rows of the list at `path` that are chosen by their keys."""
        return self.post(path, action="delete_selected", post="yes", _selected_action=keys)

    def _token(self, path: str) -> str:
        found = _TOKEN.search(self.get(path))
        assert found, path
        return found.group(1)

    def _open(self, request: Request) -> str:
        with self._opener.open(request, timeout=120) as response:
            text: str = response.read().decode()
            return text

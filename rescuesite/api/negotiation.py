"""The API reads and writes JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

from rest_framework.exceptions import ParseError
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser, JSONParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

from rescuesite.api.exceptions import TooLargeError

#: In bytes. Files use another parser.
MAX_JSON = 1 << 20


class JSONAlways(BaseContentNegotiation):
    """Ignores the Accept header: each URL has only one format."""

    def select_parser(self, request: Request, parsers: Iterable[BaseParser]) -> BaseParser | None:
        media_type = (request.content_type or "").partition(";")[0].strip().lower()
        return next((parser for parser in parsers if parser.media_type == media_type), None)

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        first = next(iter(renderers))
        return first, first.media_type or ""


class BoundedJSONParser(JSONParser):
    """Parses JSON with a limited length, and only with texts that the database can store."""

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        # A request without a length has no body.
        length = int((parser_context or {})["request"].META.get("CONTENT_LENGTH") or 0)
        if length > MAX_JSON:
            raise TooLargeError(f"The request has {length:,} bytes. The limit is {MAX_JSON:,} bytes.")
        try:
            data = super().parse(stream, media_type, parser_context)
            for text in _texts(data):
                if "\0" in text or not _is_unicode(text):
                    raise ParseError("JSON parse error - a text contains a zero byte or half a character.")
        except RecursionError:
            raise ParseError("JSON parse error - nested too deeply.") from None
        return data


def _is_unicode(text: str) -> bool:
    """Whether UTF-8 can encode the text. JSON can contain half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _texts(data: Any) -> Iterator[str]:
    if isinstance(data, str):
        yield data
    elif isinstance(data, list):
        for item in data:
            yield from _texts(item)
    elif isinstance(data, dict):
        for name, item in data.items():
            yield name
            yield from _texts(item)

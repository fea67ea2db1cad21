"""Additions to the OpenAPI schema."""

from __future__ import annotations

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema


class TokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "rescuesite.api.authentication.TokenAuthentication"
    name = "token"

    def get_security_definition(self, auto_schema: AutoSchema) -> dict[str, Any]:
        return {
            "type": "apiKey",
            "in": "header",
            "name": "Authorization",
            "description": "“Token rs_…” or “Bearer rs_…”, with a token from the admin.",
        }


_DETAIL = {"type": "object", "properties": {"detail": {"type": "string"}}, "required": ["detail"]}
_INVALID = {
    "type": "object",
    "description": "The messages for each wrong field. `detail` has errors that do not concern one field.",
    "properties": {"detail": {"type": "string"}},
    "additionalProperties": {"type": "array", "items": {"type": "string"}},
}
_ERRORS = {
    "400": ("InvalidRequest", "Something in the request is wrong."),
    "401": ("Error", "The token or session is missing or not valid."),
    "403": ("Error", "The user does not have the permission."),
    "404": ("Error", "Not found."),
    "409": ("Error", "This is not possible in the current state."),
    "429": ("Error", "Too many requests. Wait for the number of seconds in `Retry-After`."),
}


def add_errors(result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:
    """Add the common errors of all operations. This is a postprocessing hook."""
    result["components"]["schemas"] |= {"Error": _DETAIL, "InvalidRequest": _INVALID}
    for path, operations in result["paths"].items():
        for method, operation in operations.items():
            asks = {parameter["name"] for parameter in operation.get("parameters", ()) if parameter["in"] == "query"}
            possible = {"401", "403", "429"} | ({"404"} if "{" in path or "page" in asks else set())
            possible |= {"400"} if asks or method in {"post", "put", "patch"} else set()
            possible |= {"409"} if path.endswith(("/cancel/", "/retry/", "/try-again/")) else set()
            possible |= {"409"} if path.endswith("/rescue/") and method in {"post", "delete"} else set()
            for code in sorted(possible):
                name, text = _ERRORS[code]
                schema = {"$ref": f"#/components/schemas/{name}"}
                answer = {"description": text, "content": {"application/json": {"schema": schema}}}
                operation["responses"].setdefault(code, answer)
    return result

"""What OpenAPI is told beyond what the views say themselves."""

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
            "description": "“Token rs_…” with a token made in the admin; “Bearer” does too.",
        }


_DETAIL = {"type": "object", "properties": {"detail": {"type": "string"}}, "required": ["detail"]}
_INVALID = {
    "type": "object",
    "description": "For each field that is wrong its texts; `detail` for what concerns no single field.",
    "properties": {"detail": {"type": "string"}},
    "additionalProperties": {"type": "array", "items": {"type": "string"}},
}
_ERRORS = {
    "400": ("InvalidRequest", "Something in the request is wrong."),
    "401": ("Error", "No token or session, or one that does not work."),
    "403": ("Error", "The user lacks the permission."),
    "404": ("Error", "There is no such thing."),
    "409": ("Error", "This is not possible as things stand."),
    "429": ("Error", "Too many requests; `Retry-After` says how many seconds to wait."),
}


def add_errors(result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:
    """A postprocessing hook: the errors that operations have in common."""
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

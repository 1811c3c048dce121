"""How the REST API describes itself: what drf-spectacular cannot know from the views."""

from __future__ import annotations

from typing import Any

from drf_spectacular.openapi import AutoSchema
from rest_framework.permissions import SAFE_METHODS

#: What any call may be refused with; the others depend on the call.
REFUSALS = {
    "400": "Something in the request is wrong; `detail` names the field.",
    "401": "Nobody is logged in, or the token is no longer good.",
    "403": "A session without its CSRF token, or a token that may only read.",
    "404": "There is no such thing, or not for you.",
    "409": "Refused as things stand; `code` says why, `detail` what to do.",
    "429": "Too many requests in this minute; `Retry-After` has the seconds.",
}
ERROR = {
    "type": "object",
    "properties": {
        "detail": {"type": "string", "description": "A sentence that says what to do."},
        "code": {"type": "string", "description": "For machines; stable.", "pattern": "^[a-z_]+$"},
    },
    "required": ["detail", "code"],
}

#: For a GET that may be refused with 409; calls that change something have it anyway.
REFUSED = {"$ref": "#/components/schemas/Error"}
#: Marks a serializer that refuses fields it does not know: @extend_schema_serializer(extensions={STRICT: True}).
STRICT = "x-strict"


class Schema(AutoSchema):
    """Takes the first line of a method's docstring as title, and what the address is about as tag."""

    def get_summary(self) -> str | None:
        """Return the first line."""
        return super().get_description().split("\n", 1)[0] or None

    def get_description(self) -> str:  # type: ignore[override]
        """Return the rest."""
        return super().get_description().partition("\n")[2].strip()

    def get_tags(self) -> list[str]:
        """Return the last word of the address that names a kind of thing: a model's rounds are rounds."""
        words = [word for word in self.path.split("/")[3:] if word and not word.startswith("{")]
        return words[1:2] if words[0] == "models" and len(words) > 1 else words[:1]


def refusals_add(result: dict[str, Any], **_others: Any) -> dict[str, Any]:
    """Describe the refusals of every call in one shape, and what drf-spectacular leaves open about bodies."""
    result.setdefault("components", {}).setdefault("schemas", {})["Error"] = ERROR
    for calls in result["paths"].values():
        for method, call in calls.items():
            for status in _refusals(method, call):
                call["responses"].setdefault(status, _refusal(status))
            for sent in call.get("requestBody", {}).get("content", {}).values():
                # An empty body is no list.
                if sent["schema"].get("type") == "array":
                    call["requestBody"]["required"] = True
    for shape in result["components"]["schemas"].values():
        if shape.pop(STRICT, False):
            shape["additionalProperties"] = False
    return result


def _refusals(method: str, call: dict[str, Any]) -> list[str]:
    found = ["401", "404", "429"]
    if method.upper() not in SAFE_METHODS:
        found += ["400", "403", "409"]
    elif any(parameter["in"] == "query" for parameter in call.get("parameters", [])):
        found += ["400"]
    return sorted(found)


def _refusal(status: str) -> dict[str, Any]:
    return {
        "description": REFUSALS[status],
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }

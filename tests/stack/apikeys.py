"""The check of the `apikey` header that a Supabase project's gateway makes."""

import json

from tests.stack.messages import Reply, Request


class ApiKeys:
    """The keys that a project has given out."""

    def __init__(self) -> None:
        self.required = True
        self._tokens: dict[str, str] = {}

    def add(self, key: str, token: str | None = None) -> None:
        """Accept `key`; one of the new kind (`sb_secret_...`) stands for a `token`."""
        self._tokens[key] = token or key

    def refuse(self, request: Request) -> Reply | None:
        """Give the gateway's refusal, or None and a request that PostgREST understands."""
        key = request.headers.get("apikey")
        if key is None:
            return _unauthorized("No API key found in request") if self.required else None
        if key not in self._tokens:
            return _unauthorized("Invalid API key") if self.required else None
        if request.headers.get("authorization", f"Bearer {key}") == f"Bearer {key}":
            request.headers["authorization"] = f"Bearer {self._tokens[key]}"
        return None


def _unauthorized(message: str) -> Reply:
    body = json.dumps({"message": message}).encode()
    return Reply(401, (("content-type", "application/json"),), body)

"""JSON web tokens as a Supabase project signs them."""

import time
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import jwt


@dataclass(frozen=True)
class TokenSigner:
    """Signs tokens that PostgREST accepts when it was given the same secret."""

    secret: str = field(repr=False)

    def sign(self, role: str, *, expires_in_seconds: float = 86_400, **claims: Any) -> str:
        """Sign a token for `role`; a negative `expires_in_seconds` makes one that has expired."""
        now = time.time()
        payload = {
            "iss": "supabase",
            "role": role,
            "iat": int(now + min(expires_in_seconds, 0)),
            "exp": int(now + expires_in_seconds),
            "jti": str(uuid4()),
        }
        return jwt.encode(payload | claims, self.secret, algorithm="HS256")

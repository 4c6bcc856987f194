"""Whose bearer tokens may manage the books."""

from __future__ import annotations

import importlib.util
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from bursar.settings.values import Section, url_trouble

Role = Literal["viewer", "operator", "admin"]
Claim = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class OidcSettings(Section):
    """An OpenID provider, and which values of a claim stand for which role."""

    issuer: Annotated[str, StringConstraints(min_length=1, max_length=500)]
    """As the provider's tokens say it, such as `https://login.example.com/realms/main`."""
    audience: Claim
    """What its tokens for bursar are made out to."""
    role_claim: Claim = "roles"
    """The claim with the role or a list of them; dots lead into objects, as in `realm_access.roles`."""
    roles: Annotated[dict[Claim, Role], Field(min_length=1)]
    """From a value of the claim to a role: `{ "bursar-admins" = "admin" }`."""

    @model_validator(mode="after")
    def _can_be_used(self) -> OidcSettings:
        if trouble := url_trouble(self.issuer, insecure=False):
            raise ValueError(f"issuer {trouble}")
        if any(importlib.util.find_spec(module) is None for module in ("jwt", "cryptography")):
            raise ValueError("needs a library that is not installed: pip install 'bursar[oidc]'")
        return self

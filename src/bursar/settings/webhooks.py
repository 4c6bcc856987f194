"""Who is told of what happens: where, signed with what, and of which kinds."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints, model_validator

from bursar.settings.values import EnvName, Section, url_trouble

WebhookName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
EventKind = Literal["threshold", "exhausted", "overrun", "quarantine", "loop", "asking", "canary"]


class WebhookSettings(Section):
    """One receiver of what happens."""

    url: str = ""
    url_env: EnvName = ""
    """The variable that holds the address, where that is itself a secret, as Slack's is."""
    secret_env: EnvName = ""
    """The variable that holds what is signed with: `whsec_` and base64; several with blanks between them."""
    events: Annotated[tuple[EventKind, ...], Field(strict=False)] = ()
    """Empty: all."""
    format: Literal["json", "slack"] = "json"
    insecure: bool = False
    """Allows http to a public host."""

    @model_validator(mode="after")
    def _can_be_told(self) -> WebhookSettings:
        if bool(self.url) == bool(self.url_env):
            raise ValueError("a webhook has either url or url_env")
        if self.format == "json" and not self.secret_env:
            raise ValueError("a webhook needs secret_env, so that the receiver can tell who sends")
        if self.url:
            self.checked(self.url)
        return self

    def checked(self, url: str) -> str:
        """Give the address back that can be used; raises ValueError."""
        # Many receivers are known by a query, so that is let through.
        trouble = url_trouble(urlsplit(url)._replace(query="").geturl(), self.insecure)
        if trouble or not url.isascii() or any(character <= " " for character in url):
            what = "the variable url_env names" if self.url_env else repr(url)
            raise ValueError(f"url: {what} {trouble or 'is not a URL such as https://hooks.example.com/bursar'}")
        return url

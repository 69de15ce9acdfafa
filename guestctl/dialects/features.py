"""What only some families can do beyond talking: rich content, files, signing in, a published deployment.

Knows: what each of these is asked for. Must not know: any family, and which of them has what. A `Dialect`
hands out the part, or None; its `abilities` say the same to people (`guestctl apis`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from guestctl.core.model import Credential, Deployment, FormField, Message, NewSession, Outgoing, Session, SignIn
from guestctl.core.values import Json
from guestctl.core.wire import Request
from guestctl.dialects.flows import Flow


class RichContent(ABC):
    """Messages that offer something: options to pick, a form to fill in."""

    @abstractmethod
    def answer(
        self, outgoing: Outgoing, message: Message, pick: Sequence[str], form: Mapping[str, Json] | None
    ) -> Outgoing | None:
        """`outgoing` as the answer to `message`: what is picked of its options (by number, label, payload or
        date), or its form filled in (field -> value). None: it offers nothing of the kind. Raises UsageError
        for what it does not offer."""

    @abstractmethod
    def form_fields(self, message: Message) -> tuple[FormField, ...]:
        """The fields of the form in `message`; empty when it holds none."""

    @abstractmethod
    def history_omits(self, message: Message) -> bool:
        """Whether history will not show what a live message offers: it must be remembered to be answered."""


class FileTransfer(ABC):
    """Files that go with messages, either way."""

    @abstractmethod
    def upload(self, session: Session, name: str, mime: str, content: bytes) -> Flow[str]:
        """Upload one file; returns the attachment id once the service has accepted it."""

    @abstractmethod
    def discard(self, session: Session, attachment_id: str) -> Flow[None]:
        """Delete an uploaded file that no message refers to; nothing where an API has no such request."""

    @abstractmethod
    def download(self, session: Session, attachment_id: str) -> Flow[tuple[Request, str | None]]:
        """The request that fetches an attachment now (a fresh presigned address), and its offered name."""


class SigningIn(ABC):
    """Guests whom an identity provider knows. `obtain("sign-in", …)` renews what signing in has given."""

    @abstractmethod
    def sign_in(self, proof: SignIn) -> Flow[Credential]:
        """Exchange what the identity provider gave for a credential of kind `sign-in`."""

    @abstractmethod
    def sign_out(self, session: Session) -> Flow[Session]:
        """Revoke the sign-in; the service then logs every socket of the session out."""


class DeploymentConfiguration(ABC):
    """A deployment whose configuration anybody may read, and which a new session goes by."""

    @abstractmethod
    def fetch(self) -> Flow[Json]:
        """The configuration as published."""

    @abstractmethod
    def parse(self, configuration: Json) -> Deployment:
        """What it says of messaging."""

    @abstractmethod
    def auto_start(self, session: Session, deployment: Deployment, new: NewSession) -> Flow[Session]:
        """What a guest says right after a *new* session was confirmed (auto-start)."""

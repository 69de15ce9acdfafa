"""Features that only some APIs have: rich content, files, sign-in, a published deployment.

Knows: the operations of each feature. Must not know: which API has which feature. A `Dialect` returns the
feature or None; its `abilities` list the same for people (`guestctl apis`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from guestctl.core.model import Credential, Deployment, FormField, Message, NewSession, Outgoing, Session, SignIn
from guestctl.core.values import Json
from guestctl.core.wire import Request
from guestctl.dialects.flows import Flow


class RichContent(ABC):
    """Messages with options to pick or a form to fill in."""

    @abstractmethod
    def answer(
        self, outgoing: Outgoing, message: Message, pick: Sequence[str | int], form: Mapping[str, Json] | None
    ) -> Outgoing | None:
        """Return `outgoing` as the answer to `message`, or None if the message has no options or no form.

        `pick` selects options by number, label, payload or date. `form` maps fields to values. Raises UsageError
        for an option or a field that the message does not have.
        """

    @abstractmethod
    def form_fields(self, message: Message) -> tuple[FormField, ...]:
        """Return the fields of the form in `message`; empty if it has no form."""

    @abstractmethod
    def history_omits(self, message: Message) -> bool:
        """Return whether history leaves out the options or the form of a live message, so that they must be stored."""


class FileTransfer(ABC):
    """Files in messages, inbound and outbound."""

    @abstractmethod
    def upload(self, session: Session, name: str, mime: str, content: bytes) -> Flow[str]:
        """Upload one file and return its attachment id after the service has accepted it."""

    @abstractmethod
    def discard(self, session: Session, attachment_id: str) -> Flow[None]:
        """Delete an uploaded file that no message refers to."""

    @abstractmethod
    def download(self, session: Session, attachment_id: str) -> Flow[tuple[Request, str | None]]:
        """Return the request that downloads an attachment (a new presigned URL), and the file name if it is known."""


class SigningIn(ABC):
    """Guests whom an identity provider authenticates. `Dialect.obtain("sign-in", …)` renews the credential."""

    @abstractmethod
    def sign_in(self, proof: SignIn) -> Flow[Credential]:
        """Exchange the identity provider's proof for a credential of kind `sign-in`."""

    @abstractmethod
    def sign_out(self, session: Session) -> Flow[Session]:
        """Revoke the sign-in. The service then logs out every socket of the session."""


class DeploymentConfiguration(ABC):
    """A deployment with a public configuration that new sessions follow."""

    @abstractmethod
    def fetch(self) -> Flow[Json]:
        """Return the configuration as published."""

    @abstractmethod
    def parse(self, configuration: Json) -> Deployment:
        """Return the settings in the configuration that concern a guest."""

    @abstractmethod
    def auto_start(self, session: Session, deployment: Deployment, new: NewSession) -> Flow[Session]:
        """Send what auto-start demands after a *new* session was confirmed; otherwise return the session unchanged."""

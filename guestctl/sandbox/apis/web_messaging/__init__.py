"""The `web-messaging` API as the service implements it: web-messaging.md §11.

Knows: nothing itself. Each module next to it implements a part of that document and cites its sections. Must not know:
the server library, the client's dialect of the same name.
"""

from guestctl.sandbox.apis.web_messaging.api import WebMessaging

__all__ = ["WebMessaging"]

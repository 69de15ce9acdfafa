"""The documented guest API, seen from the service: web-messaging.md §11.

Knows: nothing itself; the modules beside it each carry out a part of that document, whose section
numbers they cite. Must not know: the server library, the client's dialect of the same name.
"""

from guestctl.sandbox.apis.web_messaging.api import WebMessaging

__all__ = ["WebMessaging"]

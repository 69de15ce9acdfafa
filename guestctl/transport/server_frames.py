"""Frames that a WebSocket server writes.

Knows: RFC 6455 §5.2. Must not know: connections, what a frame contains. The client's frames are in `frame_reader` and
`socket`, and the sandbox has framing of its own.
"""

from __future__ import annotations

import struct

_WHOLE_TEXT = 0x81


def text_frame(payload: bytes) -> bytes:
    """Return a whole text frame, unmasked. `payload` is UTF-8."""
    size = len(payload)
    if size < 126:
        head = bytes((_WHOLE_TEXT, size))
    elif size < 1 << 16:
        head = struct.pack("!BBH", _WHOLE_TEXT, 126, size)
    else:
        head = struct.pack("!BBQ", _WHOLE_TEXT, 127, size)
    return head + payload

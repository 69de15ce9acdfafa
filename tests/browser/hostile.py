"""Texts that try to become markup, scripts or styles. Each script would set `ran`, or call `alert`."""

from __future__ import annotations

MARKUP = [
    "<img src=x onerror=alert(1)><script>ran=1</script><svg onload=alert(1)>",
    "</script><script>ran=1</script><!--",
    "</script></noscript></title><script>ran=1</script>",
    "javascript:alert(1) data:text/html,<script>ran=1</script>",
    '"><iframe srcdoc="<script>parent.ran=1</script>"></iframe>',
    "{{constructor.constructor('ran=1')()}} ${alert(1)} `",
    "\x1b]0;title\x07\x1b[31m\x9b31m\r\n\x00\u202etxet\u2066\u2028\ufeff",
    "\ud800 \udfff \U0001f469\u200d\U0001f680 Zalgo" + "\u0301" * 500,
    "constructor __proto__ toString hasOwnProperty",
]
#: Every code point, in pieces that no page shortens.
_POINTS = "".join(map(chr, range(0x110000)))
EVERY_CODE_POINT = [_POINTS[start : start + 16384] for start in range(0, len(_POINTS), 16384)]
LONG = ["x" * 1_000_000, "\u0939\u093f " * 100_000, '{"a":' * 3000 + "1" + "}" * 3000]

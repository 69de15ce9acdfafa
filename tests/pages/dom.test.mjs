// The parts of dom.js that need no document.
import assert from "node:assert/strict";
import { test } from "node:test";
import { clock, duration, readable, stamp } from "../../guestctl/pages/static/dom.js";

test("lengths of time are short and never negative", () => {
  const shown = [0, -1, 0.0004, 0.0123, 0.9996, 1.239, 59.999, 123.4].map(duration);
  assert.deepEqual(shown, ["0.0 ms", "0.0 ms", "0.4 ms", "12 ms", "1.00 s", "1.24 s", "1 min 0 s", "2 min 3 s"]);
});

test("invisible and reordering characters are escaped, emoji stay whole", () => {
  assert.equal(readable("a\u202eb\u0000\u2028\ud800c\ufeff"), "a\\u{202e}b\\u{0}\\u{2028}\\u{d800}c\\u{feff}");
  assert.equal(readable("tab\t, line\n, 👩‍🚀 grün"), "tab\t, line\n, 👩‍🚀 grün");
});

test("times of no clock do not break a page", () => {
  assert.equal(stamp(1772615800.25), "2026-03-04T09:16:40.250Z");
  assert.deepEqual([stamp(Number.NaN), clock(1e300)], ["–", "–"]);
});

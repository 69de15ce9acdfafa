// Texts of events, and the conversation in them.
import assert from "node:assert/strict";
import { test } from "node:test";
import { curl, decoded, textOf } from "../../guestctl/pages/static/content.js";
import { Conversation } from "../../guestctl/pages/static/conversation.js";

test("a request becomes a command that a shell reads as it is", () => {
  const headers = { "Content-Type": "application/json", "Content-Length": "9", Host: "x" };
  const event = { method: "POST", url: "http://x/a?b=$(c)", headers, body: "it's `no` $HOME" };
  const lines = [
    "curl -X 'POST' 'http://x/a?b=$(c)'",
    "-H 'Content-Type: application/json'",
    "--data-raw 'it'\\''s `no` $HOME'",
  ];
  assert.equal(curl(event), lines.join(" \\\n  "));
  assert.equal(curl({ method: "GET", url: "http://x/", headers: null, body: "" }), "curl -X 'GET' 'http://x/'");
});

test("JSON inside of JSON is decoded, anything else stays", () => {
  assert.deepEqual(decoded('{"a":"{\\"b\\":[1]}","c":"[x","d":"1"}', true), { a: { b: [1] }, c: "[x", d: "1" });
  assert.equal(decoded("no"), undefined);
  assert.equal(textOf({ body: { a: 1 } }), '{"a":1}');
});

const spoken = (...events) => {
  const conversation = new Conversation();
  for (const [kind, value, members] of events)
    conversation.add({ kind, text: JSON.stringify(value), time: 1, n: 1, ...members });
  return conversation.bubbles.map(({ from, name, text }) => [from, name, text]);
};

test("web messaging: echoes are the guest's, each message once", () => {
  const message = (id, direction, text, more) => ({
    class: "StructuredMessage",
    body: { id, direction, text, type: "Text", ...more },
  });
  const found = spoken(
    ["frame_out", { action: "onMessage", message: { type: "Text", text: "hi" } }],
    ["frame_in", message("1", "Inbound", "hi")],
    ["frame_in", message("1", "Inbound", "hi")],
    ["frame_in", message("2", "Outbound", "hello", { originatingEntity: "Bot" })],
    ["frame_in", message("3", "Outbound", "", { events: [{ eventType: "Typing", typing: { type: "On" } }] })],
    [
      "frame_in",
      message("4", "Outbound", undefined, { events: [{ eventType: "Presence", presence: { type: "Disconnect" } }] }),
    ],
    ["frame_in", { class: "string", code: 400, body: "no" }],
  );
  assert.deepEqual(found, [
    ["guest", "guest", "hi"],
    ["service", "bot", "hello"],
    ["event", "", "The conversation was ended."],
  ]);
});

test("other APIs: messages in payloads, pages and posts", () => {
  const found = spoken(
    ["request", { text: "by post", messageId: "k" }, { method: "POST" }],
    ["response", { id: "m-1", messageId: "k", timestamp: "2026-03-04T09:15:27.412Z" }],
    [
      "frame_in",
      { type: "message", message: { id: "m-1", direction: "inbound", text: "by post", from: { role: "guest" } } },
    ],
    [
      "frame_in",
      {
        type: "message",
        payload: { id: "m-2", direction: "outbound", text: "pushed", from: { role: "agent", name: "Mina" } },
      },
    ],
    [
      "response",
      {
        messages: [
          { id: "m-2", direction: "outbound", text: "pushed" },
          { id: "m-3", direction: "outbound", text: "old" },
        ],
      },
    ],
  );
  assert.deepEqual(found, [
    ["guest", "guest", "by post"],
    ["service", "Mina", "pushed"],
    ["service", "service", "old"],
  ]);
});

test("an API without directions: what the guest sent is the guest's", () => {
  const found = spoken(
    ["frame_out", { type: "send", message: { text: "hi" } }],
    ["frame_in", { type: "message", message: { id: "1", text: "hi", from: { id: "g", name: "Ada" } } }],
    ["frame_in", { type: "message", message: { id: "2", text: "hi", from: { id: "b", name: "Bot" } } }],
  );
  assert.deepEqual(found, [
    ["guest", "Ada", "hi"],
    ["service", "Bot", "hi"],
  ]);
});

test("the answer to a button is its text, once", () => {
  const content = [
    { contentType: "ButtonResponse", buttonResponse: { type: "QuickReply", text: "Yes", payload: "y" } },
  ];
  const found = ["Yes", ""].map((text) =>
    spoken(["frame_in", { body: { id: "1", direction: "Inbound", text, content } }]),
  );
  assert.deepEqual(found, [[["guest", "guest", "Yes"]], [["guest", "guest", "Yes"]]]);
});

test("a message whose text is JSON stays a text", () => {
  const found = spoken(["frame_in", { body: { id: "1", direction: "Outbound", text: '{"a":1}' } }]);
  assert.deepEqual(found, [["service", "service", '{"a":1}']]);
});

test("no frame breaks the conversation", () => {
  for (const value of [null, 1, "x", [], [null], {}, { body: null, messages: [null, 1], entities: {}, message: [1] }])
    assert.deepEqual(spoken(["frame_in", value], ["frame_out", value], ["response", value]), []);
  const odd = { id: "1", text: "x", content: [null, 1, {}], events: [null], channel: { from: null, time: "no" } };
  assert.equal(spoken(["frame_in", { body: odd }]).length, 1);
});

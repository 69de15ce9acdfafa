// The web page of test_browser.py: the official client for browsers, with messages that are written and read by hand.
import { GrpcWebClientBase, MethodDescriptor, MethodType } from "grpc-web";
import jspb from "google-protobuf";

// Numbers of the fields of chat_stream.proto that the test uses.
const FIELDS = {
  ChatRequest: { after: 3, kinds: 4 },
  ChatMessage: { id: 1, kind: 2, record: 5, text: 6, resume_after: 11 },
  SendRequest: { idempotency_key: 3, text: 4 },
  SendResponse: { delivery: 1, message_id: 2, key: 3, record: 4 },
  HistoryRequest: {},
};

function written(kind, values) {
  const writer = new jspb.BinaryWriter();
  for (const [name, value] of Object.entries(values)) {
    for (const each of [].concat(value)) writer.writeString(FIELDS[kind][name], each);
  }
  return writer.getResultBuffer();
}

function read(kind, bytes) {
  const names = Object.fromEntries(Object.entries(FIELDS[kind]).map(([name, number]) => [number, name]));
  const reader = new jspb.BinaryReader(bytes);
  const found = {};
  while (reader.nextField()) {
    const name = names[reader.getFieldNumber()];
    if (name) found[name] = reader.readString();
    else reader.skipField();
  }
  return found;
}

function method(name, type, request, response) {
  return new MethodDescriptor(
    `/guestctl.relay.v1.ChatStream/${name}`,
    type,
    Object,
    Object,
    (values) => written(request, values),
    (bytes) => read(response, bytes),
  );
}

const METHODS = {
  Subscribe: method("Subscribe", MethodType.SERVER_STREAMING, "ChatRequest", "ChatMessage"),
  History: method("History", MethodType.SERVER_STREAMING, "HistoryRequest", "ChatMessage"),
  Send: method("Send", MethodType.UNARY, "SendRequest", "SendResponse"),
};

// Both functions report what happens to the test: `report({call, data | status})`.
window.stream = (url, key, format, name, request) => {
  const client = new GrpcWebClientBase({ format });
  const metadata = { authorization: `Bearer ${key}` };
  const call = `${name} ${format}`;
  client
    .serverStreaming(`${url}/guestctl.relay.v1.ChatStream/${name}`, request, metadata, METHODS[name])
    .on("data", (data) => window.report({ call, data }))
    .on("status", (status) => window.report({ call, status: status.code }))
    .on("error", (error) => window.report({ call, error: error.code, message: error.message }));
};

window.unary = (url, key, format, name, request) => {
  const client = new GrpcWebClientBase({ format });
  const metadata = { authorization: `Bearer ${key}` };
  const call = `${name} ${format}`;
  client
    .unaryCall(`${url}/guestctl.relay.v1.ChatStream/${name}`, request, metadata, METHODS[name])
    .then((data) => window.report({ call, data }))
    .catch((error) => window.report({ call, error: error.code, message: error.message }));
};

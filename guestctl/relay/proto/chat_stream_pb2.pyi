import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ChatRequest(_message.Message):
    __slots__ = ("conversation_id", "session", "after", "kinds", "strict", "typed_only")
    CONVERSATION_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    STRICT_FIELD_NUMBER: _ClassVar[int]
    TYPED_ONLY_FIELD_NUMBER: _ClassVar[int]
    conversation_id: str
    session: str
    after: str
    kinds: _containers.RepeatedScalarFieldContainer[str]
    strict: bool
    typed_only: bool
    def __init__(self, conversation_id: _Optional[str] = ..., session: _Optional[str] = ..., after: _Optional[str] = ..., kinds: _Optional[_Iterable[str]] = ..., strict: _Optional[bool] = ..., typed_only: _Optional[bool] = ...) -> None: ...

class ChatMessage(_message.Message):
    __slots__ = ("id", "kind", "conversation_id", "time", "record", "text", "direction", "sender", "sender_name", "message_id", "resume_after", "first_missing", "last_missing", "reason", "code")
    ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_ID_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    SENDER_NAME_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    RESUME_AFTER_FIELD_NUMBER: _ClassVar[int]
    FIRST_MISSING_FIELD_NUMBER: _ClassVar[int]
    LAST_MISSING_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    id: str
    kind: str
    conversation_id: str
    time: _timestamp_pb2.Timestamp
    record: str
    text: str
    direction: str
    sender: str
    sender_name: str
    message_id: str
    resume_after: str
    first_missing: str
    last_missing: str
    reason: str
    code: str
    def __init__(self, id: _Optional[str] = ..., kind: _Optional[str] = ..., conversation_id: _Optional[str] = ..., time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., record: _Optional[str] = ..., text: _Optional[str] = ..., direction: _Optional[str] = ..., sender: _Optional[str] = ..., sender_name: _Optional[str] = ..., message_id: _Optional[str] = ..., resume_after: _Optional[str] = ..., first_missing: _Optional[str] = ..., last_missing: _Optional[str] = ..., reason: _Optional[str] = ..., code: _Optional[str] = ...) -> None: ...

class SendRequest(_message.Message):
    __slots__ = ("conversation_id", "session", "idempotency_key", "text", "attributes", "pick", "form")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CONVERSATION_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    PICK_FIELD_NUMBER: _ClassVar[int]
    FORM_FIELD_NUMBER: _ClassVar[int]
    conversation_id: str
    session: str
    idempotency_key: str
    text: str
    attributes: _containers.ScalarMap[str, str]
    pick: _containers.RepeatedScalarFieldContainer[str]
    form: str
    def __init__(self, conversation_id: _Optional[str] = ..., session: _Optional[str] = ..., idempotency_key: _Optional[str] = ..., text: _Optional[str] = ..., attributes: _Optional[_Mapping[str, str]] = ..., pick: _Optional[_Iterable[str]] = ..., form: _Optional[str] = ...) -> None: ...

class SendResponse(_message.Message):
    __slots__ = ("delivery", "message_id", "key", "record")
    DELIVERY_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    delivery: str
    message_id: str
    key: str
    record: str
    def __init__(self, delivery: _Optional[str] = ..., message_id: _Optional[str] = ..., key: _Optional[str] = ..., record: _Optional[str] = ...) -> None: ...

class HistoryRequest(_message.Message):
    __slots__ = ("conversation_id", "session", "last", "since", "until", "all")
    CONVERSATION_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    ALL_FIELD_NUMBER: _ClassVar[int]
    conversation_id: str
    session: str
    last: int
    since: str
    until: str
    all: bool
    def __init__(self, conversation_id: _Optional[str] = ..., session: _Optional[str] = ..., last: _Optional[int] = ..., since: _Optional[str] = ..., until: _Optional[str] = ..., all: _Optional[bool] = ...) -> None: ...

"""The SQLite file that preserves a sandbox over a restart (`--state`).

Knows: how conversations, messages, grants and files are stored. Must not know: any API.

Rows are JSON, because nothing else queries the file. Everything reported about a session is stored. Totals over all
sessions start at zero in each run.
"""

from __future__ import annotations

import json
import os
import sqlite3
from dataclasses import asdict
from pathlib import Path
from typing import Any

from guestctl.sandbox.issued_tokens import Grant, Tokens
from guestctl.sandbox.service_state import Conversation, Service, StoredAttachment, StoredMessage

VERSION = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS conversations (id TEXT PRIMARY KEY, record TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS messages (conversation TEXT, sequence INTEGER, record TEXT NOT NULL,
    PRIMARY KEY (conversation, sequence)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS grants (token TEXT PRIMARY KEY, record TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS attachments (id TEXT PRIMARY KEY, conversation TEXT, record TEXT NOT NULL, data BLOB);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
#: Columns of a conversation. A file of an older version may lack some; they get their defaults.
_CONVERSATION = (
    "id",
    "api",
    "guest_id",
    "created",
    "last_activity",
    "state",
    "attributes",
    "notes",
    "memory",
    "handed_over",
    "complaints",
    "traces",
)


class StoreError(Exception):
    """The state file cannot be used; the text says why."""


class Store:
    """Stores the state of one service. Use it in one thread. One sandbox at a time can open a file."""

    def __init__(self, path: Path) -> None:
        """Open or create the file. Raises StoreError."""
        try:
            for companion in ("-wal", "-shm", "-journal"):  # SQLite opens these names by itself
                if os.path.islink(f"{path}{companion}"):
                    raise StoreError(f"{path}{companion} is a symbolic link")
            # In a shared directory, a symbolic link of another user would redirect the tokens to another file.
            if path.is_symlink():
                raise StoreError(f"{path} is a symbolic link; name the file itself")
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0), 0o600))
            self._db = sqlite3.connect(path, isolation_level=None, timeout=2.0)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
        try:
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            found = self._db.execute("PRAGMA user_version").fetchone()[0]
            if found not in (0, VERSION):
                raise StoreError(f"{path}: written by another version ({found}, not {VERSION})")
            self._db.executescript(_TABLES)
            self._db.execute(f"PRAGMA user_version={VERSION}")
        except (sqlite3.Error, StoreError) as error:
            self._db.close()
            raise error if isinstance(error, StoreError) else StoreError(f"{path}: {error}") from error

    def close(self) -> None:
        self._db.close()

    def key(self) -> str | None:
        """Return the signing key of the run that created the file."""
        row = self._db.execute("SELECT value FROM facts WHERE name='key'").fetchone()
        return str(row[0]) if row else None

    def save_key(self, key: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO facts VALUES ('key', ?)", (key,))

    def save_conversation(self, conversation: Conversation) -> None:
        record = {name: getattr(conversation, name) for name in _CONVERSATION}
        record |= {"deployment": conversation.deployment.id, "requests": dict(conversation.requests)}
        self._put("conversations", (conversation.id, json.dumps(record)))

    def save_message(self, conversation: Conversation, message: StoredMessage) -> None:
        self._put("messages", (conversation.id, message.sequence, json.dumps(asdict(message))))

    def save_grant(self, grant: Grant) -> None:
        self._put("grants", (grant.token, json.dumps(asdict(grant))))

    def delete_grant(self, token: str) -> None:
        self._db.execute("DELETE FROM grants WHERE token=?", (token,))

    def save_attachment(self, conversation: Conversation, attachment: StoredAttachment) -> None:
        record = asdict(attachment)
        data = record.pop("data")
        self._put("attachments", (attachment.id, conversation.id, json.dumps(record), data))

    def load(self, service: Service, tokens: Tokens) -> None:
        """Load everything into a service. Raises StoreError if the file was not written by a sandbox."""
        try:
            for (text,) in self._db.execute("SELECT record FROM conversations ORDER BY rowid"):
                service.add(_conversation(json.loads(text), service))
            for owner, text in self._db.execute("SELECT conversation, record FROM messages ORDER BY 1, sequence"):
                service.conversations[owner].add(StoredMessage(**json.loads(text)))
            for (text,) in self._db.execute("SELECT record FROM grants ORDER BY rowid"):
                tokens.restore(Grant(**json.loads(text)))
            for owner, text, data in self._db.execute("SELECT conversation, record, data FROM attachments"):
                attachment = StoredAttachment(**json.loads(text), data=data)
                service.conversations[owner].attached[attachment.id] = attachment
        except (sqlite3.Error, KeyError, TypeError, ValueError) as error:
            raise StoreError(f"the state file cannot be read: {error}") from error

    def _put(self, table: str, row: tuple[Any, ...]) -> None:
        marks = ",".join("?" * len(row))
        # An upsert preserves the rowid, and so the order; REPLACE would move the row to the end.
        columns = {"conversations": "id", "messages": "conversation, sequence", "grants": "token", "attachments": "id"}
        sets = "record=excluded.record" + (", data=excluded.data" if table == "attachments" else "")
        self._db.execute(
            f"INSERT INTO {table} VALUES ({marks}) ON CONFLICT ({columns[table]}) DO UPDATE SET {sets}", row
        )


def _conversation(record: dict[str, Any], service: Service) -> Conversation:
    deployments = service.deployments
    deployment = deployments.get(record.pop("deployment")) or next(iter(deployments.values()))
    requests = record.pop("requests")
    conversation = Conversation(deployment=deployment, **record)
    conversation.requests.update(requests)
    return conversation

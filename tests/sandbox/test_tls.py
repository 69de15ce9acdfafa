"""The temporary CA: strict verifiers accept it, nobody else can read it, and it is removed."""

from __future__ import annotations

import builtins
import socket
import ssl
import stat
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from guestctl.core.clock import SystemClock
from guestctl.sandbox.tls import Certificates, TlsUnavailable, certificates


@pytest.fixture
def made() -> Iterator[Certificates]:
    pytest.importorskip("cryptography")
    found = certificates(SystemClock())
    yield found
    found.remove()


def shake_hands(made: Certificates, name: str, context: ssl.SSLContext) -> str | None:
    """Return the version that both sides agree on, or raise the client's failure."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(made.certificate, made.key)
    near, far = socket.socketpair()
    near.settimeout(10)
    far.settimeout(10)

    def serve() -> None:
        try:
            with server.wrap_socket(far, server_side=True) as wrapped:
                wrapped.recv(1)
        except OSError:
            far.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with context.wrap_socket(near, server_hostname=name) as wrapped:
            return wrapped.version()
    finally:
        near.close()
        thread.join()


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1"])
def test_a_strict_client_that_trusts_the_ca_connects_by_every_loopback_name(made: Certificates, name: str) -> None:
    context = ssl.create_default_context(cafile=made.ca)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    assert shake_hands(made, name, context) in ("TLSv1.2", "TLSv1.3")


def test_other_names_and_clients_that_do_not_trust_the_ca_are_refused(made: Certificates) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(made, "shop.example", ssl.create_default_context(cafile=made.ca))
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(made, "localhost", ssl.create_default_context())


def test_the_files_are_private_and_are_removed(made: Certificates) -> None:
    directory = made.ca.parent
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(made.key.stat().st_mode) == 0o600
    assert sorted(path.name for path in directory.iterdir()) == ["ca.pem", "server.key", "server.pem"]
    made.remove()
    assert not directory.exists()
    made.remove()


def test_each_call_creates_its_own_authority(made: Certificates) -> None:
    other = certificates(SystemClock())
    try:
        with pytest.raises(ssl.SSLCertVerificationError):
            shake_hands(made, "localhost", ssl.create_default_context(cafile=other.ca))
    finally:
        other.remove()


def test_without_cryptography_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("cryptography"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(TlsUnavailable, match=r"guestctl\[tls\]"):
        certificates(SystemClock())

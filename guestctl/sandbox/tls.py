"""A temporary certificate authority and a server certificate for loopback.

Knows: X.509, with `cryptography` (the extra `guestctl[tls]`). Must not know: the server that uses it. The keys are in
a private temporary directory until `remove`. Nothing is installed.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from guestctl.core.clock import Clock

DAYS = 30  # long enough for a long-running sandbox, short enough that a forgotten copy expires
NAMES = ("localhost", "127.0.0.1", "::1")


class TlsUnavailable(RuntimeError):
    """`cryptography` is not installed."""

    def __init__(self) -> None:
        super().__init__("--tls needs the extra guestctl[tls]: pip install cryptography")


@dataclass(frozen=True)
class Certificates:
    """Paths of PEM files: the CA to trust, the server's certificate and its key."""

    ca: Path
    certificate: Path
    key: Path

    def remove(self) -> None:
        """Delete the files and their directory. A second call does nothing."""
        shutil.rmtree(self.ca.parent, ignore_errors=True)


def certificates(clock: Clock, names: Sequence[str] = NAMES) -> Certificates:
    """Create certificates for these host names and addresses. Raises TlsUnavailable."""
    try:
        from cryptography.hazmat.primitives import serialization
    except ImportError:
        raise TlsUnavailable from None
    (ca, certificate, key) = _issue(clock, names)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    directory = Path(tempfile.mkdtemp(prefix="guestctl-sandbox-"))  # mkdtemp creates it with mode 0700
    made = Certificates(directory / "ca.pem", directory / "server.pem", directory / "server.key")
    try:
        made.ca.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
        made.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        made.key.touch(mode=0o600)
        made.key.write_bytes(private)
    except BaseException:
        made.remove()
        raise
    return made


def _issue(clock: Clock, names: Sequence[str]) -> tuple[Any, Any, Any]:
    """Return the CA's certificate, the server's certificate and the server's key. The CA's key is never written."""
    from datetime import datetime, timedelta, timezone
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    now = datetime.fromtimestamp(clock.now(), tz=timezone.utc)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def name(common: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])

    def builder(subject: str, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name("guestctl sandbox CA"))
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))  # the clock of a client may be behind
            .not_valid_after(now + timedelta(days=DAYS))
            # Without both key identifiers, strict verifiers refuse the chain (Python 3.13 by default).
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        )

    def usage(*, ca: bool) -> x509.KeyUsage:
        return x509.KeyUsage(
            digital_signature=not ca,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=ca,
            crl_sign=ca,
            encipher_only=False,
            decipher_only=False,
        )

    def general(host: str) -> x509.GeneralName:
        try:
            return x509.IPAddress(ip_address(host))
        except ValueError:
            return x509.DNSName(host)

    ca_certificate = (
        builder("guestctl sandbox CA", ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage(ca=True), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    certificate = (
        builder("localhost", key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([general(host) for host in names]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    return ca_certificate, certificate, key

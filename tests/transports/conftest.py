"""A certificate authority of the tests' own, and what it has signed."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

CLIENT_SUBJECT = "CN=client.example,OU=tests"
CLIENT_EMAIL = "user@client.example"


@dataclass(frozen=True)
class Authority:
    """Files in one directory: ca.pem, and NAME.pem with NAME-key.pem for server, other, client and stranger."""

    directory: Path

    def path(self, name: str) -> str:
        return str(self.directory / name)

    def block(self, *more: str, server: str = "server") -> str:
        """A tls {} block for the configuration file."""
        lines = [f'cert_file: "{self.path(server + ".pem")}"', f'key_file: "{self.path(server + "-key.pem")}"', *more]
        return "tls {\n" + "\n".join(lines) + "\n}\n"

    @property
    def trusted(self) -> str:
        return f'ca_file: "{self.path("ca.pem")}"'

    def context(self, client: str = "") -> ssl.SSLContext:
        """What a client needs that trusts the authority, with a certificate of its own if named."""
        context = ssl.create_default_context(cafile=self.path("ca.pem"))
        if client:
            context.load_cert_chain(self.path(f"{client}.pem"), self.path(f"{client}-key.pem"))
        return context


def _write(directory: Path, name: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (directory / f"{name}-key.pem").write_bytes(secret)
    (directory / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
    )


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    directory = tmp_path_factory.mktemp("authority")
    ca = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests' authority")])
    root = _builder(issuer, issuer, ca).add_extension(x509.BasicConstraints(True, None), critical=True)
    _write(directory, "ca", ca, root.sign(ca, hashes.SHA256()))
    names: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]
    subjects: dict[str, tuple[x509.Name, list[x509.GeneralName]]] = {
        "server": (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")]), names),
        "other": (
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "other")]),
            [*names, x509.DNSName("other.example")],
        ),
        "client": (x509.Name.from_rfc4514_string(CLIENT_SUBJECT), [x509.RFC822Name(CLIENT_EMAIL)]),
    }
    for name, (subject, alternative) in subjects.items():
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(subject, issuer, key)
        builder = builder.add_extension(x509.SubjectAlternativeName(alternative), critical=False)
        _write(directory, name, key, builder.sign(ca, hashes.SHA256()))
    # One that the authority has not signed.
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name.from_rfc4514_string(CLIENT_SUBJECT)
    _write(directory, "stranger", key, _builder(subject, subject, key).sign(key, hashes.SHA256()))
    return Authority(directory)

"""TLS of client connections: contexts from the settings, and one connection's layer over OpenSSL's memory buffers.

    bytes of the socket -> feed -> read_into -> plain bytes           write(plain) -> take -> bytes for the socket

The library is the standard one. Sources of the rules: opts.go parseTLS and GenTLSConfig, client.go doTLSHandshake.
"""

from __future__ import annotations

import contextlib
import hashlib
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from shardbroker.errors import ConfigError
from shardbroker.options import TlsSettings

# Go's names of the suites that it has besides those of TLS 1.3 -> OpenSSL's.
_SUITES = {
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    # Behind allow_insecure_cipher_suites. OpenSSL has no RC4 and no 3DES any more.
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256": "ECDHE-ECDSA-AES128-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256": "ECDHE-RSA-AES128-SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256": "AES128-GCM-SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384": "AES256-GCM-SHA384",
    "TLS_RSA_WITH_AES_128_CBC_SHA256": "AES128-SHA256",
    "TLS_RSA_WITH_AES_128_CBC_SHA": "AES128-SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA": "AES256-SHA",
}
# All of these are always taken (crypto/tls: "TLS 1.3 ciphersuites are not configurable").
_SUITES_OF_1_3 = frozenset(("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"))
_GO_SUITES = {openssl: name for name, openssl in _SUITES.items()}
# What is taken when the file names none: forward secrecy and authenticated encryption only.
_SUITES_DEFAULT = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
    "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)
_CURVES = {
    "CurveP256": "prime256v1",
    "CurveP384": "secp384r1",
    "CurveP521": "secp521r1",
    "X25519": "X25519",
    "X25519MLKEM768": "X25519MLKEM768",  # OpenSSL 3.5 and newer
}
# A list of curves; else one.
TAKES_CURVES = hasattr(ssl.SSLContext, "set_groups")
_VERSIONS = {"": ssl.TLSVersion.TLSv1_2, "1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def server_context(settings: TlsSettings) -> ssl.SSLContext:
    """What a listener needs, its files read now. Raises ConfigError, naming the file that is wrong."""
    pairs = [(settings.cert_file, settings.key_file)] if settings.cert_file else []
    pairs += settings.certificates
    contexts = [_context(settings, cert, key) for cert, key in pairs]
    if len(contexts) > 1:
        _choose_by_name(contexts, [names_of(cert) for cert, _ in pairs])
    return contexts[0]


def _context(settings: TlsSettings, cert_file: str, key_file: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[settings.min_version]
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_COMPRESSION
    try:
        context.load_cert_chain(cert_file, key_file, password=_no_password)
    except (OSError, ValueError) as error:
        raise ConfigError(f"error parsing X509 certificate/key pair {cert_file}, {key_file}: {error}") from None
    _set_suites(context, settings.cipher_suites)
    _set_curves(context, settings.curve_preferences)
    if settings.verify or settings.verify_and_map:
        context.verify_mode = ssl.CERT_REQUIRED
        if not settings.ca_file:
            context.load_default_certs(ssl.Purpose.CLIENT_AUTH)
    if settings.ca_file:
        try:
            context.load_verify_locations(settings.ca_file)
        except (OSError, ValueError) as error:
            raise ConfigError(f"failed to parse root certificate {settings.ca_file}: {error}") from None
    return context


def _set_suites(context: ssl.SSLContext, names: tuple[str, ...]) -> None:
    """Use these suites below TLS 1.3 and no others. Raises ConfigError."""
    older = [name for name in names if name not in _SUITES_OF_1_3]
    if unknown := [name for name in older if name not in _SUITES]:
        raise ConfigError(f"tls: cipher_suites: OpenSSL does not have {', '.join(unknown)}")
    if names and not older:
        # None of TLS 1.2, so no TLS 1.2.
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.set_ciphers(":".join(_SUITES[name] for name in older) or _SUITES_DEFAULT)
    except ssl.SSLError as error:
        raise ConfigError(f"tls: cipher_suites: {', '.join(names)}: {error}") from None


def _set_curves(context: ssl.SSLContext, names: tuple[str, ...]) -> tuple[str, ...]:
    """Use these curves and no others, as far as the library takes them: all, or the first that it can. Those that count.
    Raises ConfigError."""
    if not names:
        return ()
    if TAKES_CURVES:
        try:
            context.set_groups(":".join(_CURVES[name] for name in names))  # type: ignore[attr-defined]
            return names
        except (OSError, ValueError) as error:
            raise ConfigError(f"tls: curve_preferences: {', '.join(names)}: {error}") from None
    for name in names:
        # Some builds of Python's ssl do not know X25519 here.
        with contextlib.suppress(OSError, ValueError):
            context.set_ecdh_curve(_CURVES[name])
            return (name,)
    raise ConfigError(f"tls: curve_preferences: this Python's ssl cannot use {' or '.join(names)} alone")


def curve_warning(names: tuple[str, ...]) -> str:
    """What is to be said of a list of curves; empty: all of them count. Raises ConfigError."""
    used = _set_curves(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), names)
    if used == names:
        return ""
    others = ", ".join(name for name in names if name not in used)
    return (
        f"curve_preferences: {used[0]} is used, and who cannot do it is refused; {others} are not used: before 3.15 Python's ssl "
        "takes one curve"
    )


def _no_password() -> str:
    raise ValueError("the key is encrypted, and there is nobody to ask for its password")


def names_of(cert_file: str) -> tuple[str, ...]:
    """The host names that a certificate is for, in lower case."""
    try:
        certificate = x509.load_pem_x509_certificate(Path(cert_file).read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return tuple(name.lower() for name in names.get_values_for_type(x509.DNSName))
    except (OSError, ValueError, x509.ExtensionNotFound):
        return ()


def certificate_end(settings: TlsSettings) -> int:
    """When the first certificate of a listener ends, nanoseconds since 1970; 0 when it cannot be read any more."""
    file = settings.cert_file or (settings.certificates[0][0] if settings.certificates else "")
    try:
        certificate = x509.load_pem_x509_certificate(Path(file).read_bytes())
    except (OSError, ValueError):
        return 0
    return int(certificate.not_valid_after_utc.timestamp()) * 1_000_000_000


def _choose_by_name(contexts: list[ssl.SSLContext], names: list[tuple[str, ...]]) -> None:
    """Answer a client that says whom it means (SNI) with the certificate for that name; else with the first."""

    def choose(connection: Any, name: str | None, _: ssl.SSLContext) -> None:
        wanted = (name or "").lower()
        for context, its in zip(contexts, names, strict=True):
            if any(wanted == n or (n.startswith("*.") and wanted.partition(".")[2] == n[2:]) for n in its):
                connection.context = context
                return

    contexts[0].sni_callback = choose


@dataclass(frozen=True, slots=True)
class TlsState:
    """What a handshake came to. `certificate`: the client's, in DER, when it had to show one; `names`: whom it names."""

    version: str
    cipher: str
    certificate: bytes = b""
    names: tuple[str, ...] = ()
    first: bool = False  # the handshake came before INFO

    @property
    def suite(self) -> str:
        """The cipher suite by the name that Go has for it."""
        return _GO_SUITES.get(self.cipher, self.cipher)

    def for_callout(self) -> dict[str, Any]:
        """`client_tls` of a callout's request (jwt.ClientTLS, auth_callout.go). Of the verified chain the client's own
        certificate, which is what a service looks at: the standard library tells no more before Python 3.13."""
        said: dict[str, Any] = {"version": self.version.removeprefix("TLSv"), "cipher": self.suite}
        if self.certificate:
            said["verified_chains"] = [[ssl.DER_cert_to_PEM_cert(self.certificate)]]
        return said


class TlsLayer:
    """One connection's TLS. Raises ssl.SSLError for what is no TLS; never blocks."""

    __slots__ = ("_incoming", "_object", "_outgoing", "done")

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.done = False  # the handshake

    def feed(self, data: bytes | memoryview) -> None:
        """Bytes that came from the socket; empty at its end."""
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def handshake(self) -> bool:
        """Go on with the handshake; whether it is done."""
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        self.done = True
        return True

    def read_into(self, buffer: memoryview) -> int:
        """Plain bytes that are there, as many as fit; 0: more is needed. Raises EOFError after the client's last."""
        n = 0
        room = len(buffer)
        try:
            while n < room:
                got = self._object.read(room - n, buffer[n:])
                if not got:
                    raise EOFError  # the client's close_notify
                n += got  # type: ignore[operator]
        except ssl.SSLWantReadError:
            pass
        except (EOFError, ssl.SSLZeroReturnError, ssl.SSLEOFError):
            if not n:
                raise EOFError from None
        return n

    def write(self, data: bytes | memoryview) -> None:
        """Plain bytes to send; `take` gives what comes of them."""
        self._object.write(data)

    def close(self) -> None:
        """Say goodbye (close_notify), if there is somebody to say it to."""
        with contextlib.suppress(ssl.SSLError, ValueError, OSError):
            self._object.unwrap()

    def take(self) -> bytes:
        """Bytes for the socket."""
        return self._outgoing.read()

    def state(self) -> TlsState:
        cipher = self._object.cipher()
        certificate = self._object.getpeercert(binary_form=True) if self.done else None
        names = certificate_names(certificate) if certificate else ()
        return TlsState(self._object.version() or "", cipher[0] if cipher else "", certificate or b"", names)


def certificate_names(certificate: bytes) -> tuple[str, ...]:
    """E-mail addresses, host names and URIs that a certificate in DER is for, then its subject (RFC 4514)."""
    parsed = x509.load_der_x509_certificate(certificate)
    names: list[str] = []
    with contextlib.suppress(x509.ExtensionNotFound, ValueError):
        alternative = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        for kind in (x509.RFC822Name, x509.DNSName, x509.UniformResourceIdentifier):
            names += alternative.get_values_for_type(kind)
    return (*names, parsed.subject.rfc4514_string())


def pinned(state: TlsState, pins: tuple[str, ...]) -> bool:
    """Whether the client's certificate has one of these public keys (opts.go pinned_certs: SHA-256 of it, in hex)."""
    if not state.certificate:
        return False
    key = x509.load_der_x509_certificate(state.certificate).public_key()
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest() in pins

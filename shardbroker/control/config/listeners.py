"""The blocks `tls {}` and `jetstream {}`. Source: opts.go parseTLS, parseJetStream."""

from __future__ import annotations

import re
from functools import partial
from typing import Any, Final

from shardbroker.control.config import values
from shardbroker.control.config.access import read_timeout
from shardbroker.control.config.blocks import Exact, Keys, Report, keys, read_block
from shardbroker.control.config.document import Entry
from shardbroker.errors import ConfigError
from shardbroker.options import JetStreamSettings, TlsSettings

# ciphersuites.go. The insecure ones need allow_insecure_cipher_suites.
CIPHER_SUITES: Final = frozenset(
    {
        "TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256",
        "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA", "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
        "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA", "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    }
)  # fmt: skip
INSECURE_CIPHER_SUITES: Final = frozenset(
    {
        "TLS_RSA_WITH_RC4_128_SHA", "TLS_RSA_WITH_3DES_EDE_CBC_SHA", "TLS_RSA_WITH_AES_128_CBC_SHA",
        "TLS_RSA_WITH_AES_256_CBC_SHA", "TLS_RSA_WITH_AES_128_CBC_SHA256", "TLS_RSA_WITH_AES_128_GCM_SHA256",
        "TLS_RSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA", "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
        "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA", "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
        "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    }
)  # fmt: skip
CURVES: Final = ("CurveP256", "CurveP384", "CurveP521", "X25519", "X25519MLKEM768")
# opts.go: what `auto` waits for a ClientHello before it sends INFO.
HANDSHAKE_FIRST_SECONDS: Final = 0.05


def read_tls(entry: Entry, report: Report) -> TlsSettings | None:
    """A `tls {}` block; None for an empty one."""
    if not values.read_map(entry):
        return None
    errors = len(report.errors)
    fields = read_block(entry, _tls_keys(report), report, 'error parsing tls config, unknown field "{key}"')
    if fields.get("cert_file") and fields.get("certificates"):
        report.error(entry, "error parsing tls config, cannot combine 'cert_file' option with 'certs' option")
    insecure = [name for name in fields.get("cipher_suites", ()) if name in INSECURE_CIPHER_SUITES]
    if insecure and not fields.pop("allow_insecure", False):
        report.error(
            entry,
            "insecure cipher suites configured without 'allow_insecure_cipher_suites' option set: "
            + ", ".join(insecure),
        )
    for name in ("insecure", "known_urls", "allow_insecure"):
        fields.pop(name, None)
    if fields.get("verify_and_map"):
        fields["verify"] = True
    first = fields.pop("handshake_first", None)
    if first is not None:
        fields["handshake_first"], fields["handshake_first_fallback"] = first
    if bool(fields.get("cert_file")) != bool(fields.get("key_file")):
        missing = "key_file" if fields.get("cert_file") else "cert_file"
        report.error(entry, f"missing '{missing}' in TLS configuration")
    elif not fields.get("cert_file") and not fields.get("certificates") and len(report.errors) == errors:
        report.error(entry, "tls needs a cert_file and a key_file")
    return TlsSettings(**fields) if len(report.errors) == errors else None


def read_client_tls(entry: Entry, report: Report) -> dict[str, Any]:
    """A `tls {}` block of connections that we make: what of it has an effect (ca_file, cert_file, key_file, insecure)."""
    values.read_map(entry)
    fields = read_block(entry, _tls_keys(report), report, 'error parsing tls config, unknown field "{key}"')
    if bool(fields.get("cert_file")) != bool(fields.get("key_file")):
        missing = "key_file" if fields.get("cert_file") else "cert_file"
        report.error(entry, f"missing '{missing}' in TLS configuration")
    used = {"ca_file", "cert_file", "key_file", "insecure"}
    for name in sorted(fields.keys() - used):
        report.warning(entry, f"{name}: of listeners; this has no effect on connections that the server makes")
    return {name: fields[name] for name in used & fields.keys()}


def _tls_keys(report: Report) -> Keys:
    windows = partial(_windows, report=report)
    return keys(
        {
            "cert_file": ("cert_file", values.read_string),
            "key_file": ("key_file", values.read_string),
            "ca_file": ("ca_file", values.read_string),
            "certs certificates": ("certificates", partial(_certificates, report=report)),
            "insecure": ("insecure", values.read_bool),  # of connections that we make
            "verify": ("verify", values.read_bool),
            "verify_and_map": ("verify_and_map", values.read_bool),
            "verify_cert_and_check_known_urls": ("known_urls", _only_for_routes),
            "allow_insecure_cipher_suites": ("allow_insecure", values.read_bool),
            "cipher_suites": ("cipher_suites", _cipher_suites),
            "curve_preferences": ("curve_preferences", partial(_curves, report=report)),
            "timeout": ("timeout", partial(read_timeout, report=report)),
            "connection_rate_limit": ("connection_rate_limit", values.read_int),
            "pinned_certs": ("pinned_certs", _pinned),
            "handshake_first first immediate": ("handshake_first", _handshake_first),
            "min_version": ("min_version", _min_version),
            "cert_store cert_match_by cert_match ca_certs_match cert_match_skip_invalid": (
                "insecure",
                windows,
            ),
            "ocsp_peer": ("insecure", partial(_ocsp, report=report)),
        }
    )


def _windows(entry: Entry, report: Report) -> bool:
    raise ValueError("certificates are read from files; there is no certificate store on this system")


def _ocsp(entry: Entry, report: Report) -> bool:
    if entry.value not in (False, {}):
        raise ValueError(
            "certificates of clients are not checked by OCSP, so the server would admit revoked ones"
        )
    return False


def _only_for_routes(entry: Entry) -> bool:
    if values.read_bool(entry):
        raise Exact("verify_cert_and_check_known_urls not supported in this context")
    return False


def _certificates(entry: Entry, report: Report) -> tuple[tuple[str, str], ...]:
    if not isinstance(entry.value, list):
        raise Exact(f"error parsing certificates config: unsupported type, got {values.shown(entry)}")
    pairs = []
    for item in entry.value:
        fields = read_block(
            item,
            {"cert_file": ("cert", values.read_string), "key_file": ("key", values.read_string)},
            report,
            'error parsing tls certs config, unknown field "{key}"',
        )
        if not fields.get("cert") or not fields.get("key"):
            raise Exact(
                "error parsing certificates config: both 'cert_file' and 'cert_key' options are required"
            )
        pairs.append((fields["cert"], fields["key"]))
    return tuple(pairs)


def _cipher_suites(entry: Entry) -> tuple[str, ...]:
    names = values.read_strings(entry) if entry.value != [] else ()
    if not names:
        raise Exact("error parsing tls config, 'cipher_suites' cannot be empty")
    for name in names:
        if name not in CIPHER_SUITES and name not in INSECURE_CIPHER_SUITES:
            raise Exact(f"unrecognized cipher {name}")
    return names


def _curves(entry: Entry, report: Report) -> tuple[str, ...]:
    names = values.read_strings(entry) if entry.value != [] else ()
    if not names:
        raise Exact("error parsing tls config, 'curve_preferences' cannot be empty")
    for name in names:
        if name not in CURVES:
            raise Exact(f"unrecognized curve preference {name}")
    if len(names) > 1:
        # It brings the TLS library with it.
        from shardbroker.shard.tls import curve_warning

        try:
            if said := curve_warning(names):
                report.warning(entry, said)
        except ConfigError as error:
            raise Exact(str(error)) from None
    return names


def _pinned(entry: Entry) -> tuple[str, ...]:
    prints = tuple(text.lower() for text in values.read_strings(entry))
    for text in prints:
        if not re.fullmatch(r"[0-9a-f]{64}", text):
            raise Exact(
                f"error parsing tls config, 'pinned_certs' key {text} does not look like hex-encoded sha256 of DER "
                "encoded SubjectPublicKeyInfo"
            )
    return prints


def _handshake_first(entry: Entry) -> tuple[bool, float]:
    """(on, seconds after which INFO goes out all the same; 0: never)."""
    if isinstance(entry.value, bool):
        return entry.value, 0.0
    text = values.read_string(entry) if isinstance(entry.value, str) else entry.text
    word = text.lower()
    if word in ("true", "on", "false", "off"):
        return word in ("true", "on"), 0.0
    if word in ("auto", "auto_fallback"):
        return True, HANDSHAKE_FIRST_SECONDS
    try:
        return True, values.duration(text)
    except ValueError:
        raise Exact(f'field "handshake_first"\'s value "{text}" is invalid') from None


def _min_version(entry: Entry) -> str:
    text = values.read_string(entry)
    if text not in ("1.2", "1.3"):
        known = text in ("1.0", "1.1")
        raise ValueError(
            f"{'unsupported' if known else 'unknown'} TLS version: {text}; 1.2 and 1.3 are served"
        )
    return text


# -- jetstream --


def read_jetstream(entry: Entry, report: Report) -> JetStreamSettings:
    if isinstance(entry.value, bool):
        return JetStreamSettings(enabled=entry.value)
    if isinstance(entry.value, str):
        word = entry.value.lower()
        if word not in ("enabled", "enable", "disabled", "disable"):
            raise Exact(f"Expected 'enabled' or 'disabled' for string value, got '{entry.value}'")
        return JetStreamSettings(enabled=word.startswith("en"))
    if not isinstance(entry.value, dict):
        raise Exact(f"Expected map, bool or string to define JetStream, got {values.shown(entry)}")
    fields = read_block(entry, _jetstream_keys(report), report)
    fields |= fields.pop("limits", {})
    fields.pop("ignored", None)
    return JetStreamSettings(**{"enabled": True} | fields)


def _jetstream_keys(report: Report) -> Keys:
    clustered = partial(_of_clusters, report=report)
    return keys(
        {
            "enable enabled": ("enabled", values.read_bool),
            "strict": ("strict", values.read_bool),
            "store store_dir storedir": ("store_dir", values.read_string),
            "sync sync_interval": ("sync_interval", _sync_interval),
            "max_memory_store max_mem_store max_mem": ("max_memory", read_storage_size),
            "max_file_store max_file": ("max_store", read_storage_size),
            "domain": ("domain", _domain),
            "key ek encryption_key prev_key prev_ek prev_encryption_key cipher tpm": ("ignored", _encryption),
            "extension_hint": ("ignored", clustered),
            "limits": ("limits", partial(_jetstream_limits, report=report)),
            "unique_tag": ("ignored", clustered),
            "max_outstanding_catchup meta_compact meta_compact_size meta_compact_sync": (
                "ignored",
                clustered,
            ),
            "request_queue_limit": ("request_queue_limit", values.read_int),
            "max_buffered_size max_buffered_msgs info_queue_limit max_concurrent_io": (
                "ignored",
                partial(_other_means, report=report),
            ),
        }
    )


def _of_clusters(entry: Entry, report: Report) -> None:
    report.warning(
        entry, f"{entry.key}: this is about replicas and other servers, of which there are none: it has no effect"
    )


def _other_means(entry: Entry, report: Report) -> None:
    report.warning(
        entry, f"{entry.key}: the broker bounds this by other means (see docs/configuration.md): it has no effect"
    )


def _encryption(entry: Entry) -> None:
    if entry.value not in ("", False, {}):
        raise ValueError(
            "stores are not encrypted, so messages would lie in the clear; put store_dir on an encrypted file system instead "
            "(LUKS, fscrypt: docs/security.md)"
        )


def _domain(entry: Entry) -> str:
    """A token of the subjects `$JS.<domain>.API.>` (jetstream.go validateJetStreamOptions)."""
    name = values.read_string(entry)
    if re.search(r"[.*>]", name):
        raise Exact("invalid domain name: may not contain ., * or >")
    if re.search(r"[\s\x00]", name):
        raise Exact(f'invalid domain name: derived "$JS.{name}.API.>" is not a valid subject')
    return name


def _sync_interval(entry: Entry) -> float:
    if isinstance(entry.value, str) and entry.value.lower() == "always":
        return 0.0
    seconds = values.read_duration(entry)
    if seconds <= 0:
        raise ValueError("needs to be positive, or always")
    return seconds


def _jetstream_limits(entry: Entry, report: Report) -> dict[str, Any]:
    fields = read_block(
        entry,
        keys(
            {
                "max_ack_pending": ("max_ack_pending", values.read_int),
                "max_ha_assets": ("ignored", partial(_of_clusters, report=report)),
                "max_request_batch": ("max_request_batch", values.read_int),
                "duplicate_window": ("duplicate_window", values.read_duration),
                "batch": ("batch", partial(_other_means, report=report)),
            }
        ),
        report,
    )
    for name in ("batch", "ignored"):
        fields.pop(name, None)
    return fields


def read_storage_size(entry: Entry) -> int:
    """A number with the file's suffixes, or text that ends in K, M, G or T, times 1024 each (opts.go getStorageSize)."""
    if type(entry.value) is int:
        return entry.value
    text = values.read_string(entry)
    if not text:
        return 0
    match = re.fullmatch(r"(-?\d+)([KMGT])", text)
    if match is None:
        raise ValueError("sizes defined as strings must end in K, M, G, T")
    return int(match[1]) << (10 * (" KMGT".index(match[2])))

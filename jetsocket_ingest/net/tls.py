"""TLS for clients: contexts from files, and what a failed handshake means."""

from __future__ import annotations

import os
import ssl
from functools import cache
from pathlib import Path

from jetsocket_ingest.errors import ConfigError, DialError, OperatorError

# OpenSSL's numbers of what made a certificate fail (X509_V_ERR_…), to what an operator can do.
_VERIFY_ADVICE = {
    9: "the certificate is not valid yet; check this machine's clock",
    10: "the certificate has expired; the provider must renew it (check this machine's clock, too)",
    18: "the certificate is signed by itself; set tls.ca_file to trust it",
    19: "the chain ends in an authority unknown here; set tls.ca_file to trust it",
    20: "the authority that signed the certificate is unknown here; set tls.ca_file to trust it",
    62: "the certificate is for another host name; check the URL, or set tls.server_name",
    64: "the certificate is for another address; check the URL, or set tls.server_name",
}


def client_context(
    ca_file: str | os.PathLike[str] | None = None,
    cert_file: str | os.PathLike[str] | None = None,
    key_file: str | os.PathLike[str] | None = None,
    key_password: str | None = None,
    *,
    dangerously_skip_verification: bool = False,
) -> ssl.SSLContext:
    """A context for `DialOptions.tls`.

    Args:
        ca_file: PEM file with the authorities to trust instead of the system's.
        cert_file: PEM file with the client's certificate and its chain.
        key_file: PEM file with the certificate's key, where `cert_file` does not hold it.
        key_password: of the key, where it is encrypted.
        dangerously_skip_verification: take any certificate for any host: anybody in between can read and forge.

    Raises ConfigError where the arguments do not go together, OperatorError where a file cannot be used; reads files,
    so call it once and not for each connection.
    """
    if key_file is not None and cert_file is None:
        raise ConfigError(
            "tls.key_file is set without tls.cert_file: a key is only used with its certificate"
        )
    if dangerously_skip_verification and ca_file is not None:
        raise ConfigError(
            "tls.ca_file has no effect with tls.dangerously_skip_verification: remove one of them"
        )
    if ca_file is not None:
        _check_readable("tls.ca_file", ca_file)
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError as error:
        raise OperatorError(
            f"tls.ca_file: expected certificates in PEM form in {os.fspath(ca_file or '')}, found none: {_words(error)}"
        ) from None
    # A peer that is free to choose could answer in HTTP/2, where a WebSocket begins differently.
    context.set_alpn_protocols(["http/1.1"])
    if dangerously_skip_verification:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if cert_file is not None:
        _load_client_certificate(context, cert_file, key_file, key_password)
    return context


@cache
def default_context() -> ssl.SSLContext:
    """The system's trust store, verification on. Loading it takes milliseconds, so it is done once."""
    return client_context()


def _load_client_certificate(
    context: ssl.SSLContext,
    cert_file: str | os.PathLike[str],
    key_file: str | os.PathLike[str] | None,
    key_password: str | None,
) -> None:
    _check_readable("tls.cert_file", cert_file)
    if key_file is not None:
        _check_readable("tls.key_file", key_file)
    asked = False

    def password() -> str:
        # Without this, OpenSSL would ask on the terminal.
        nonlocal asked
        asked = True
        return key_password or ""

    where = os.fspath(key_file or cert_file)
    try:
        context.load_cert_chain(cert_file, key_file, password)
    except ssl.SSLError as error:
        if asked:
            state = "is wrong for" if key_password else "is missing for"
            raise OperatorError(f"tls.key_password {state} the encrypted key in {where}") from None
        if error.reason == "KEY_VALUES_MISMATCH":
            raise OperatorError(
                f"tls.key_file: the key in {where} does not belong to the certificate in {os.fspath(cert_file)}"
            ) from None
        raise OperatorError(
            f"tls.cert_file: expected a certificate and its key in PEM form in {os.fspath(cert_file)} and {where}: "
            f"{_words(error)}"
        ) from None


def _check_readable(key: str, path: str | os.PathLike[str]) -> None:
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        raise OperatorError(f"{key}: cannot read {os.fspath(path)}: {error.strerror}") from None


def tls_error(error: ssl.SSLError, place: str) -> DialError:
    """A failed TLS handshake in words; `fatal` where repeating cannot help."""
    if isinstance(error, ssl.SSLCertVerificationError):
        advice = _VERIFY_ADVICE.get(error.verify_code, "see tls.ca_file and tls.server_name")
        return DialError(
            f"the TLS certificate of {place} does not verify ({error.verify_message}): {advice}", fatal=True
        )
    reason = getattr(error, "reason", None) or ""
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE"):
        return DialError(f"{place} does not speak TLS on this port; expected wss://, the peer may want ws://")
    if "CERTIFICATE_REQUIRED" in reason or "BAD_CERTIFICATE" in reason or "UNKNOWN_CA" in reason:
        return DialError(
            f"{place} does not accept our client certificate ({_words(error)}): "
            "set tls.cert_file and tls.key_file to one it knows",
            fatal=True,
        )
    return DialError(f"TLS with {place} failed: {_words(error)}")


def _words(error: ssl.SSLError) -> str:
    """OpenSSL's reason without numbers and source lines."""
    return (getattr(error, "reason", None) or str(error)).replace("_", " ").lower()

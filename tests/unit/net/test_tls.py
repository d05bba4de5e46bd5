"""TLS contexts: what files and arguments may be, and what is said where they may not."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from jetsocket_ingest.errors import ConfigError, OperatorError
from jetsocket_ingest.net.tls import client_context, default_context, tls_error


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(authority: trustme.CA, tmp_path: Path) -> Path:
    """A folder with ca.pem, cert.pem, key.pem, locked.pem (password `open sesame`), other.pem (key) and junk.pem."""
    leaf, other = authority.issue_cert("client@localhost"), authority.issue_cert("other@localhost")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    leaf.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    leaf.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    other.private_key_pem.write_to_path(str(tmp_path / "other.pem"))
    key = serialization.load_pem_private_key(leaf.private_key_pem.bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"open sesame"),
    )
    (tmp_path / "locked.pem").write_bytes(locked)
    (tmp_path / "junk.pem").write_text("not a certificate")
    return tmp_path


def test_verification_is_on_by_default() -> None:
    context = client_context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert default_context() is default_context()
    assert default_context().verify_mode is ssl.CERT_REQUIRED


def test_verification_goes_off_only_by_its_dangerous_name() -> None:
    context = client_context(dangerously_skip_verification=True)
    assert context.verify_mode is ssl.CERT_NONE
    assert not context.check_hostname


def test_a_private_authority_replaces_the_systems(files: Path) -> None:
    assert len(client_context(files / "ca.pem").get_ca_certs()) == 1


def test_a_client_certificate_loads_with_its_key_and_password(files: Path) -> None:
    client_context(cert_file=files / "cert.pem", key_file=files / "key.pem")
    client_context(cert_file=files / "cert.pem", key_file=files / "locked.pem", key_password="open sesame")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"ca_file": "missing.pem"}, ["tls.ca_file", "missing.pem", "No such file"]),
        ({"ca_file": "junk.pem"}, ["tls.ca_file", "junk.pem", "PEM"]),
        ({"ca_file": "."}, ["tls.ca_file", "directory"]),
        ({"cert_file": "missing.pem"}, ["tls.cert_file", "missing.pem"]),
        ({"cert_file": "cert.pem", "key_file": "missing.pem"}, ["tls.key_file", "missing.pem"]),
        ({"cert_file": "junk.pem"}, ["tls.cert_file", "junk.pem", "PEM"]),
        ({"cert_file": "cert.pem"}, ["tls.cert_file", "cert.pem", "PEM"]),
        (
            {"cert_file": "cert.pem", "key_file": "other.pem"},
            ["tls.key_file", "other.pem", "does not belong"],
        ),
        ({"cert_file": "cert.pem", "key_file": "locked.pem"}, ["tls.key_password is missing", "locked.pem"]),
        (
            {"cert_file": "cert.pem", "key_file": "locked.pem", "key_password": "hush"},
            ["tls.key_password is wrong", "locked.pem"],
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    files: Path, arguments: dict[str, str], words: list[str]
) -> None:
    given = {key: value if key == "key_password" else str(files / value) for key, value in arguments.items()}
    with pytest.raises(OperatorError) as raised:
        client_context(**given)  # type: ignore[arg-type]  # the one bool is not among them
    for word in words:
        assert word in str(raised.value)
    assert "hush" not in str(raised.value)


def test_arguments_that_do_not_go_together_are_the_configs_mistake(files: Path) -> None:
    with pytest.raises(ConfigError, match=r"tls\.key_file is set without tls\.cert_file"):
        client_context(key_file=files / "key.pem")
    with pytest.raises(ConfigError, match=r"tls\.ca_file has no effect"):
        client_context(ca_file=files / "ca.pem", dangerously_skip_verification=True)


def test_an_unknown_tls_error_is_told_without_openssls_source_lines() -> None:
    error = tls_error(ssl.SSLError(1, "[SSL: NO_PROTOCOLS] no protocols available (_ssl.c:1006)"), "h:443")
    assert not error.fatal
    assert str(error).startswith("TLS with h:443 failed")

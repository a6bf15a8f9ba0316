"""The TLS of the control server's two ports, and of the operator's tool.

TLS 1.3 only. The groups offered are OpenSSL's default: from 3.5 on they begin with X25519MLKEM768, so that
key exchange is post-quantum wherever both ends have it. (ssl.SSLContext.set_groups of newer Pythons would
only repeat that.)
"""

import ssl
from pathlib import Path

from milkyway_formats.errors import UnavailableError


def server_context(certificate: Path, client_ca: Path, *, clients_required: bool) -> ssl.SSLContext:
    """Return a server's context; unless *clients_required*, a client may show no certificate, but never a bad one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context)
    # No tickets: every connection shows its certificate again, so nothing outlives a revocation.
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_REQUIRED if clients_required else ssl.CERT_OPTIONAL
    _load(context, certificate, client_ca)
    return context


def client_context(certificate: Path, server_ca: Path) -> ssl.SSLContext:
    """Return a client's context, which trusts *server_ca* only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context)
    _load(context, certificate, server_ca)
    return context


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.set_alpn_protocols(["http/1.1"])


def _load(context: ssl.SSLContext, certificate: Path, ca: Path) -> None:
    try:
        context.load_cert_chain(certificate)
    except (OSError, ssl.SSLError) as error:
        raise UnavailableError(f"cannot read {certificate}: {error.strerror or error}") from error
    try:
        context.load_verify_locations(ca)
    except (OSError, ssl.SSLError) as error:
        raise UnavailableError(f"cannot read {ca}: {error.strerror or error}") from error

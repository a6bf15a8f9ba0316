"""The uplink's TLS: our certificate and the pinned authority, all from messages; and its errors, in words.

``ssl`` reads certificates and keys only from paths. Here the path is /proc/self/fd/N of a sealed memory
file, so the uplink opens no file on any file system.
"""

import os
import ssl

from milkyway_agent.ipc.messages import Connect
from milkyway_agent.ipc.sealed_memory import seal
from milkyway_formats.errors import RefusedError


class CredentialsRefusedError(RefusedError):
    """The key, certificate or authority from the verifier is not valid."""


def client_context(where: Connect) -> ssl.SSLContext:
    """Return the context for *where*: TLS 1.3, only its authority, our certificate if there is one.

    Key exchange is OpenSSL's choice: from 3.5 on, X25519MLKEM768 where the peer supports it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_verify_locations(cadata=where.ca)
        if where.certificate:
            _load_certificate(context, where.private_key + where.certificate)
    except (ssl.SSLError, ValueError) as error:
        raise CredentialsRefusedError(f"cannot connect to {where.host}: key, certificate or authority: {error}") from error
    return context


def explain(error: BaseException | None) -> str:
    """Return in words why a connection failed: TLS's own reason, searched for in *error* and its causes."""
    first = error
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {error.verify_message}"
        if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
            # in TLS 1.3 the client gets the alert after its handshake, in place of the first answer
            alert = str(error.reason).partition("ALERT_")[2].replace("_", " ").lower()
            return f"it refused our certificate ({alert})"
        if isinstance(error, ssl.SSLError) and error.reason:
            return f"TLS: {error.reason.replace('_', ' ').lower()}"
        if isinstance(error, OSError) and error.strerror:
            return error.strerror
        error = error.__cause__ or error.__context__
    return str(first) or "the connection broke"


def _load_certificate(context: ssl.SSLContext, pem: str) -> None:
    fd = seal(pem.encode(), name="certificate")
    try:
        context.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)

"""Certificate authorities for connections: who may speak to the control server, never who may command a machine.

There are two, made by ``milkyway control init``: one for machines and the agent endpoint, one
for operators and the operator API. Certificates name their holder in a URI subject
alternative name (``milkyway:machine:<id>``, ``milkyway:operator:<name>``); the common name is
for people. Everything is P-256 and strict enough for X509_STRICT (key usage, AKI, SKI).
The time comes from the caller, the randomness of serial numbers from the library.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from milkyway_formats.errors import RefusedError

CA_LIFE = timedelta(days=3650)
SERVER_LIFE = timedelta(days=825)
OPERATOR_LIFE = timedelta(days=365)
MACHINE_LIFE = timedelta(days=30)
# A peer whose clock is a little slow still accepts a certificate that was made just now.
BACKDATED = timedelta(minutes=10)


class CsrRefusedError(RefusedError):
    """A certificate signing request that is malformed, not self-signed, or of another kind of key."""


@dataclass(frozen=True)
class Authority:
    """A CA certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> str:
        """The certificate, for those who should trust it."""
        return _certificate_pem(self.certificate)

    @property
    def key_pem(self) -> str:
        """The private key, for the file that only the control server reads."""
        return _key_pem(self.key)

    @classmethod
    def create(cls, name: str, now: datetime) -> "Authority":
        """Make a new authority that signs leaves and nothing else."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(name)
        certificate = (
            _builder(subject, subject, key.public_key(), now, CA_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(ca=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @classmethod
    def read(cls, certificate_pem: bytes, key_pem: bytes) -> "Authority":
        """Return the authority with this certificate and key."""
        key = serialization.load_pem_private_key(key_pem, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey), "the CA key is not the P-256 key that init made"
        return cls(x509.load_pem_x509_certificate(certificate_pem), key)

    def issue_server(self, hosts: Sequence[str], now: datetime) -> str:
        """Return a new key and its certificate (together as PEM) for a server reached as *hosts*, names or addresses."""
        names = [_host_name(host) for host in hosts]
        return self._issue_with_new_key(hosts[0], names, ExtendedKeyUsageOID.SERVER_AUTH, now, SERVER_LIFE)

    def issue_client(self, name: str, uri: str, now: datetime) -> str:
        """Return a new key and its certificate (together as PEM) for a client that is known as *uri*."""
        uris = [x509.UniformResourceIdentifier(uri)]
        return self._issue_with_new_key(name, uris, ExtendedKeyUsageOID.CLIENT_AUTH, now, OPERATOR_LIFE)

    def issue_for(self, public_key: ec.EllipticCurvePublicKey, name: str, uri: str, now: datetime) -> str:
        """Return the certificate (PEM) of a machine's own *public_key*. Everything else in its CSR is ignored."""
        uris = [x509.UniformResourceIdentifier(uri)]
        return _certificate_pem(self._leaf(public_key, name, uris, ExtendedKeyUsageOID.CLIENT_AUTH, now, MACHINE_LIFE))

    def _issue_with_new_key(
        self, name: str, names: Sequence[x509.GeneralName], usage: x509.ObjectIdentifier, now: datetime, life: timedelta
    ) -> str:
        key = ec.generate_private_key(ec.SECP256R1())
        return _key_pem(key) + _certificate_pem(self._leaf(key.public_key(), name, names, usage, now, life))

    def _leaf(
        self,
        public_key: ec.EllipticCurvePublicKey,
        name: str,
        names: Sequence[x509.GeneralName],
        usage: x509.ObjectIdentifier,
        now: datetime,
        life: timedelta,
    ) -> x509.Certificate:
        issuer = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        return (
            _builder(_name(name), self.certificate.subject, public_key, now, life)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False)
            .sign(self.key, hashes.SHA256())
        )


def read_csr(pem: str) -> ec.EllipticCurvePublicKey:
    """Return the P-256 key for which *pem*, a CSR signed by that key, requests a certificate."""
    try:
        csr = x509.load_pem_x509_csr(pem.encode())
        key = csr.public_key()
        signed = csr.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise CsrRefusedError("cannot read certificate request: it is malformed") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CsrRefusedError("cannot accept certificate request: its key is not a P-256 key")
    if not signed:
        raise CsrRefusedError("cannot accept certificate request: it is not signed by its own key")
    return key


def public_der(key: ec.EllipticCurvePublicKey) -> bytes:
    """Return *key* as SubjectPublicKeyInfo, the form that enrolment documents use."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    assert now.tzinfo is UTC, "certificates are dated in UTC"
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + life)
    )


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_usage(*, ca: bool) -> x509.KeyUsage:
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


def _certificate_pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()

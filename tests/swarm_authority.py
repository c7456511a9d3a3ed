"""A certificate authority for a swarm whose key the test has: so it can make a worker's
certificate that expired yesterday, as that of a node which was off for months."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from dockers import DockerNode

DAY = timedelta(days=1)


class Authority:
    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "swarm-ca")])
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        self._certificate = self._signed(
            self._name, self._key, datetime.now(UTC) + 1000 * DAY, constraints
        )

    def rule(self, manager: DockerNode) -> None:
        """Takes over a swarm; its members follow by themselves."""
        certificate, key = manager.folder / "ca.crt", manager.folder / "ca.key"
        certificate.write_bytes(self._certificate.public_bytes(Encoding.PEM))
        key.write_bytes(_text(self._key))
        files = ("--ca-cert", str(certificate), "--ca-key", str(key))
        manager.docker("swarm", "ca", "--rotate", "--quiet", *files)

    def expire(self, node: DockerNode) -> None:
        """Replaces the certificate of a worker, whose dockerd is down, by one of yesterday."""
        folder = node.data / "swarm/certificates"
        present = x509.load_pem_x509_certificate((folder / "swarm-node.crt").read_bytes())
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.DNSName("swarm-worker")
        late = self._signed(
            present.subject, key, datetime.now(UTC) - DAY, x509.SubjectAlternativeName([name])
        )
        (folder / "swarm-node.crt").write_bytes(late.public_bytes(Encoding.PEM))
        (folder / "swarm-node.key").write_bytes(_text(key))

    def _signed(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        until: datetime,
        extension: x509.ExtensionType,
    ) -> x509.Certificate:
        builder = x509.CertificateBuilder(
            subject_name=subject,
            issuer_name=self._name,
            public_key=key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=datetime.now(UTC) - 90 * DAY,
            not_valid_after=until,
        )
        return builder.add_extension(extension, critical=True).sign(self._key, hashes.SHA256())


def _text(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

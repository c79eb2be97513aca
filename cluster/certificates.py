"""Who gets in: Dask runs code for whoever connects, so all its traffic is mutual TLS with a study's own certificate.

Made anew by each driver. The authority's key is never written down, so nobody can ever make a second certificate; the
runners of a driver that died hold one that the next driver turns away.
"""

from __future__ import annotations

import datetime
import shutil
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from distributed.security import Security

# Longer than any study runs without a restart of its driver.
_VALID_FOR = datetime.timedelta(days=400)
# Clocks of a login node and of compute nodes differ a little.
_CLOCK_SKEW = datetime.timedelta(hours=1)


@dataclass(frozen=True)
class TlsFiles:
    """Where a study's certificates lie: in a folder that its owner alone can enter, on the shared file system."""

    folder: Path

    @property
    def authority(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def certificate(self) -> Path:
        return self.folder / "cert.pem"

    @property
    def key(self) -> Path:
        return self.folder / "key.pem"

    def security(self) -> Security:
        """What Dask's scheduler, workers and clients take: both sides of a connection show the certificate."""
        ends = {
            f"tls_{role}_{part}": str(path)
            for role in ("scheduler", "worker", "client")
            for part, path in (("cert", self.certificate), ("key", self.key))
        }
        return Security(require_encryption=True, tls_ca_file=str(self.authority), **ends)


def create_certificates(folder: Path, study_name: str) -> TlsFiles:
    """Make an authority and the one certificate that it will ever sign, in place of those in the folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    files = TlsFiles(folder)
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = _name("Switchyard authority", study_name)
    ca = (
        _certificate(subject=authority, issuer=authority, public_key=authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    certificate = (
        _certificate(subject=_name("Switchyard", study_name), issuer=authority, public_key=key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
            critical=False,
        )
        .sign(authority_key, hashes.SHA256())
    )
    _write_privately(files.authority, ca.public_bytes(serialization.Encoding.PEM))
    _write_privately(files.certificate, certificate.public_bytes(serialization.Encoding.PEM))
    _write_privately(
        files.key,
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
    return files


def _name(role: str, study_name: str) -> x509.Name:
    # X.520 ends a common name after 64 characters.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{role} {study_name}"[:64])])


def _certificate(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + _VALID_FOR)
        # Python 3.13 checks strictly (RFC 5280) that it is there.
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _write_privately(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)

"""Dask runs code for whoever connects: only who holds the study's certificate does."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client, SpecCluster

from cluster.certificates import TlsFiles, create_certificates
from cluster.quiet_dask import QuietScheduler, QuietWorker
from tests.cluster.stranger import connect_as_stranger


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> TlsFiles:
    return create_certificates(tmp_path_factory.mktemp("study") / "tls", "demo")


@pytest.fixture(scope="module")
def cluster(files: TlsFiles) -> Iterator[SpecCluster]:
    """A scheduler and a worker on the loopback, as the driver of a Slurm site has them."""
    options = {"protocol": "tls://", "security": files.security(), "host": "127.0.0.1", "dashboard": False}
    with SpecCluster(
        scheduler={"cls": QuietScheduler, "options": options},
        workers={0: {"cls": QuietWorker, "options": {**options, "nthreads": 1}}},
        security=files.security(),
        silence_logs=True,
    ) as cluster:
        yield cluster


def test_who_holds_the_certificate_gets_in(cluster: SpecCluster, files: TlsFiles) -> None:
    with Client(cluster.scheduler_address, security=files.security(), timeout=10) as client:
        assert client.submit(sum, (1, 2)).result(timeout=10) == 3


def test_a_plain_client_is_turned_away(cluster: SpecCluster) -> None:
    assert "TLS" in connect_as_stranger(cluster.scheduler_address)
    connect_as_stranger(cluster.scheduler_address.replace("tls://", "tcp://"))


def test_a_client_with_another_study_s_certificate_is_turned_away(cluster: SpecCluster, tmp_path: Path) -> None:
    other = create_certificates(tmp_path / "tls", "demo")
    keys = {"tls_client_cert": other.certificate, "tls_client_key": other.key}
    assert "CERTIFICATE_VERIFY_FAILED" in connect_as_stranger(
        cluster.scheduler_address, tls_ca_file=other.authority, **keys
    )


def test_a_client_that_trusts_the_study_but_has_another_certificate_is_turned_away(
    cluster: SpecCluster, files: TlsFiles, tmp_path: Path
) -> None:
    other = create_certificates(tmp_path / "tls", "demo")
    keys = {"tls_client_cert": other.certificate, "tls_client_key": other.key}
    known = set(cluster.scheduler.clients)
    # It is the scheduler that refuses here: the client is content with what it was shown, and may not be told why.
    assert "CommClosedError" in connect_as_stranger(cluster.scheduler_address, tls_ca_file=files.authority, **keys)
    assert set(cluster.scheduler.clients) == known


def test_nobody_else_can_read_the_key(files: TlsFiles) -> None:
    assert files.folder.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in files.folder.iterdir()} == {
        "ca.pem": 0o600,
        "cert.pem": 0o600,
        "key.pem": 0o600,
    }


def test_the_key_of_the_authority_is_nowhere(files: TlsFiles) -> None:
    # Neither is it the one key that there is: the authority's certificate does not fit it.
    with pytest.raises(ssl.SSLError):
        ssl.create_default_context().load_cert_chain(files.authority, files.key)


def test_a_new_driver_s_certificates_replace_the_old_ones(tmp_path: Path) -> None:
    first = create_certificates(tmp_path / "tls", "demo").certificate.read_bytes()
    assert create_certificates(tmp_path / "tls", "demo").certificate.read_bytes() != first

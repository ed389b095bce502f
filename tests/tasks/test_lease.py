"""One attempt for a fingerprint on all hosts: a slot of Prefect's that a process of its own renews."""

import time
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client

from tasks import lease as leases
from tasks.lease import Lease, LeaseLostError, attempt_lease


@pytest.fixture
def limit(prefect_server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A server that other hosts reach. The name of the limit of the test's own fingerprint."""
    monkeypatch.setenv("PREFECT_API_URL", prefect_server)
    monkeypatch.setattr(leases, "_RENEW_SECONDS", 0.3)
    monkeypatch.setattr(leases, "_ASK_SECONDS", 0.2)
    return fingerprint(request.node.name)


def fingerprint(name: str) -> str:
    return f"{abs(hash(name)):016x}"[:16]


def slots(limit: str) -> int:
    with get_client(sync_client=True) as client:
        return client.read_global_concurrency_limit_by_name(f"{leases.PREFIX}{limit}").active_slots


def revoke(lease: Lease) -> None:
    """What the server does to a lease that was not renewed in time."""
    with get_client(sync_client=True) as client:
        client.release_concurrency_slots_with_lease(lease_id=lease._id)


def wait_for_the_end_of(lease: Lease) -> None:
    lease._renewal.wait(timeout=20)


def test_one_at_a_time(limit: str, tmp_path: Path):
    with attempt_lease(limit, tmp_path, "busy") as lease:
        assert lease is not None
        assert slots(limit) == 1
        assert leases._ask(f"{leases.PREFIX}{limit}") is None
        lease.confirm()
    assert slots(limit) == 0
    assert lease._renewal.poll() is not None
    with attempt_lease(limit, tmp_path, "busy"):
        pass


def test_it_is_renewed_by_another_process(limit: str, tmp_path: Path):
    with attempt_lease(limit, tmp_path, "busy") as lease:
        assert lease is not None
        time.sleep(2)
        lease.look()
        assert lease._renewal.poll() is None
        revoke(lease)
        wait_for_the_end_of(lease)


def test_a_lease_that_ran_out_is_taken_again(limit: str, tmp_path: Path):
    with attempt_lease(limit, tmp_path, "busy") as lease:
        assert lease is not None
        before: UUID = lease._id
        revoke(lease)
        wait_for_the_end_of(lease)
        lease.look()
        assert lease._id != before
        assert lease._renewal.poll() is None
        assert slots(limit) == 1
    assert slots(limit) == 0


def test_an_attempt_that_another_has_taken_over_stops(limit: str, tmp_path: Path):
    with attempt_lease(limit, tmp_path, "busy") as lease:
        assert lease is not None
        revoke(lease)
        wait_for_the_end_of(lease)
        with attempt_lease(limit, tmp_path / "other", "busy") as other:
            assert other is not None
            with pytest.raises(LeaseLostError, match="nothing of this attempt is published"):
                lease.look()
            with pytest.raises(LeaseLostError):
                lease.confirm()
        # The slot of the other one was not given back by the first.
    assert slots(limit) == 0


def test_a_killed_attempt_of_this_host_is_not_waited_for(limit: str, tmp_path: Path):
    name = f"{leases.PREFIX}{limit}"
    killed = leases._ask(name)
    (tmp_path / "lease").write_text(str(killed))
    assert leases._ask(name) is None
    with attempt_lease(limit, tmp_path, "busy") as lease:
        assert lease is not None
        assert lease._id != killed
    assert not (tmp_path / "lease").exists()


def test_a_run_with_a_server_of_its_own_needs_none(tmp_path: Path):
    with attempt_lease("f" * 64, tmp_path, "busy") as lease:
        assert lease is None

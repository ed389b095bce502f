"""The proxy of docs/security.md, which speaks TLS before both servers: nginx with that page's own lines."""

import re
import shutil
import ssl
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from browser import opened
from ports import free_port
from started_services import ROOT, Up, services, wait_for

pytestmark = pytest.mark.services

DOMAIN = "example.org"
PREFECT, MLFLOW = f"prefect.{DOMAIN}", f"mlflow.{DOMAIN}"


def site(port: int, upstreams: dict[str, int], folder: Path) -> str:
    """nginx's configuration, of the documented block for each name; only ports and files are others."""
    text = (ROOT / "docs" / "security.md").read_text()
    (block,) = re.findall(r"^server \{\n.*?^\}$", text, re.MULTILINE | re.DOTALL)
    (zone,) = re.findall(r"# http \{ (.*;) \}", block)
    servers = ""
    for name, upstream in upstreams.items():
        own = block.replace(PREFECT, name).replace("127.0.0.1:4200", f"127.0.0.1:{upstream}")
        servers += own.replace("listen 443", f"listen 127.0.0.1:{port}").replace("/etc/ssl", str(folder)) + "\n"
    paths = "".join(
        f"{what}_temp_path {folder / what};" for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return (
        f"daemon off; pid {folder / 'pid'}; error_log {folder / 'error.log'}; events {{}}\n"
        f"http {{ access_log off; {paths} {zone}\n{servers}}}\n"
    )


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, registered_prefect: Path) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("t")
    shutil.copytree(registered_prefect, folder / ".prefect")
    with services(folder, with_password=True, RLHF_ALLOWED_HOSTS=f"{PREFECT},{MLFLOW}") as started:
        yield started
        started.stop()


@pytest.fixture(scope="module")
def proxy(up: Up, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """Its port, and the certificate that it shows."""
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed: apt-get install nginx-light")
    folder = tmp_path_factory.mktemp("nginx")
    key, certificate = folder / f"{DOMAIN}.key", folder / f"{DOMAIN}.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={DOMAIN}"]
    make += ["-addext", f"subjectAltName=DNS:*.{DOMAIN}", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(make, check=True, capture_output=True)
    port = free_port()
    file = folder / "nginx.conf"
    file.write_text(site(port, {PREFECT: up.prefect_port, MLFLOW: up.mlflow_port}, folder))
    process = subprocess.Popen(["nginx", "-c", str(file)])
    try:
        wait_for(lambda: process.poll() is not None or (folder / "pid").is_file(), 30)
        assert process.poll() is None, (folder / "error.log").read_text()
        yield port, certificate
    finally:
        process.terminate()
        process.wait(30)


def ask(proxy: tuple[int, Path], method: str, name: str, path: str, **keywords: object) -> httpx.Response:
    """As one who knows the name by DNS; the certificate is verified."""
    port, certificate = proxy
    trusted = ssl.create_default_context(cafile=str(certificate))
    with httpx.Client(verify=trusted, timeout=30) as client:
        headers = {"Host": f"{name}:{port}", **keywords.pop("headers", {})}  # type: ignore[dict-item]
        url, sni = f"https://127.0.0.1:{port}{path}", {"sni_hostname": name}
        return client.request(method, url, headers=headers, extensions=sni, **keywords)  # type: ignore[arg-type]


SEARCH = "/api/2.0/mlflow/experiments/search?max_results=5"


@pytest.mark.parametrize(("name", "path"), [(PREFECT, "/api/work_pools/rlhf"), (MLFLOW, SEARCH)])
def test_both_servers_through_it(up: Up, proxy: tuple[int, Path], name: str, path: str):
    assert ask(proxy, "GET", name, path).status_code == 401
    assert ask(proxy, "GET", name, path, auth=up.login).status_code == 200
    own, foreign = {"Origin": f"https://{name}:{proxy[0]}"}, {"Origin": "https://evil.example.org"}
    assert ask(proxy, "GET", name, path, auth=up.login, headers=own).status_code == 200
    assert ask(proxy, "GET", name, path, auth=up.login, headers=foreign).status_code == 403


def test_it_slows_down_who_guesses(proxy: tuple[int, Path]):
    port, certificate = proxy
    begun = time.monotonic()
    with httpx.Client(verify=ssl.create_default_context(cafile=str(certificate)), timeout=60) as client:

        def guess(number: int) -> int:
            url, headers = f"https://127.0.0.1:{port}/api/admin/version", {"Host": f"{PREFECT}:{port}"}
            sni, auth = {"sni_hostname": PREFECT}, ("rlhf", f"guess {number}")
            return client.get(url, headers=headers, auth=auth, extensions=sni).status_code

        with ThreadPoolExecutor(16) as pool:
            answers = Counter(pool.map(guess, range(1500)))
    assert answers.keys() == {401, 503}
    assert answers[401] <= 201 + 50 * (time.monotonic() - begun)


def test_prefects_pages_in_a_browser(up: Up, proxy: tuple[int, Path]):
    flags = (f"--host-resolver-rules=MAP *.{DOMAIN} 127.0.0.1", "--ignore-certificate-errors")
    with opened(*flags) as page:
        page.goto(f"https://{PREFECT}:{proxy[0]}/deployments")
        assert up.login is not None
        page.locator("input").first.fill(":".join(up.login))
        page.get_by_role("button", name="Login").click()
        page.goto(f"https://{PREFECT}:{proxy[0]}/deployments")
        page.get_by_role("link", name="demo", exact=True).wait_for()

"""The operator's side without Flower's processes: keys, gateway, supervisor, run folders."""

import ssl
import sys
import threading
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from federation import play, settings
from fedgrpo.common.cli import keys
from fedgrpo.common.cli.ports import check_ports, free_ports
from fedgrpo.common.cli.service import Service
from fedgrpo.common.cli.supervisor import supervise
from fedgrpo.common.errors import ConfigError, RunError
from fedgrpo.common.storage.jsonl import append_line
from fedgrpo.server.operator.gateway import gateway
from fedgrpo.server.operator.server_folder import Gateway, ServerFolder, ServerSettings, write_app
from fedgrpo.server.run.lock import locked
from fedgrpo.server.run.status import RunStatus
from fedgrpo.server.run.store import Store
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient


def test_private_files_are_private_and_nothing_is_overwritten(tmp_path):
    keys.make_authority(tmp_path)
    keys.make_server(tmp_path, ["fed.example.org", "192.0.2.7"])
    keys.make_secret(tmp_path / "secret")
    keys.make_node(tmp_path / "node")
    for name in ("ca.key", "server.key", "secret", "node"):
        assert (tmp_path / name).stat().st_mode & 0o077 == 0, name
    for again in (
        lambda: keys.make_authority(tmp_path),
        lambda: keys.make_server(tmp_path, []),
        lambda: keys.make_node(tmp_path / "node"),
    ):
        with pytest.raises(ConfigError, match="exists already"):
            again()


def test_the_certificate_holds_its_hosts_and_the_ca_vouches_for_it(tmp_path):
    keys.make_authority(tmp_path)
    keys.make_server(tmp_path, ["fed.example.org", "192.0.2.7"])
    certificate = x509.load_pem_x509_certificate((tmp_path / "server.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["fed.example.org", "localhost"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["192.0.2.7", "127.0.0.1"]
    authority = x509.load_pem_x509_certificate((tmp_path / "ca.crt").read_bytes())
    certificate.verify_directly_issued_by(authority)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    keys.make_authority(tmp_path / "other")
    with pytest.raises(ConfigError, match="neither a host name nor"):
        keys.make_server(tmp_path / "other", ["münchen"])


def test_a_nodes_key_is_what_flower_reads(tmp_path):
    public = keys.make_node(tmp_path / "node")
    private = serialization.load_ssh_private_key((tmp_path / "node").read_bytes(), None)
    spki = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    own = private.public_key().public_bytes(*spki)
    assert serialization.load_ssh_public_key(public.read_bytes()).public_bytes(*spki) == own
    assert keys.fingerprint(public).count(":") == 31
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ConfigError, match="neither a certificate nor"):
        keys.fingerprint(tmp_path / "text")


@pytest.fixture
def outside(monkeypatch):
    """The gateway as the network sees it, before a SuperLink that says what reached it."""
    reached = []

    async def anything(request):
        reached.append((request.method, request.url.path, await request.body(), dict(request.headers)))
        return Response(b"answer", headers={"x-kept": "yes"})

    inside = Starlette(routes=[Route("/{path:path}", anything, methods=["GET", "POST", "PUT", "DELETE"])])
    import httpx

    real = httpx.AsyncClient
    monkeypatch.setattr(
        httpx, "AsyncClient", lambda **given: real(transport=httpx.ASGITransport(inside), base_url=given["base_url"])
    )
    return TestClient(gateway("http://superlink", None, 1000)), reached


def test_the_gateway_lets_the_fleet_through_as_it_is(outside):
    client, reached = outside
    answer = client.post("/v1/fleet/pull-messages", content=b"body", headers={"x-signature": "s"})
    assert (answer.status_code, answer.content, answer.headers["x-kept"]) == (200, b"answer", "yes")
    ((method, path, body, headers),) = reached
    assert (method, path, body, headers["x-signature"]) == ("POST", "/v1/fleet/pull-messages", b"body", "s")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/start-run",
        "/v1/runtime/pull-task",
        "/v1/fleet",
        "/v1/fleet/",
        "/v1/fleet/../control/start-run",
        "/v1/fleet/%2e%2e/control",
        "/v1/fleet/pull-messages/more",
        "/v1/fleet/UPPER",
        "/",
        "/docs",
        "/openapi.json",
    ],
)
def test_the_gateway_lets_nothing_else_through(outside, path):
    client, reached = outside
    for method in ("POST", "GET", "PUT", "DELETE"):
        assert client.request(method, path).status_code in (404, 405)
    assert client.get("/v1/fleet/pull-messages").status_code == 405
    assert reached == []


def test_the_gateway_refuses_long_bodies_announced_or_not(outside):
    client, reached = outside
    assert client.post("/v1/fleet/push-object", content=b"x" * 1001).status_code == 413
    assert client.post("/v1/fleet/push-object", content=(b"x" * 100 for _ in range(11))).status_code == 413
    assert client.post("/v1/fleet/push-object", headers={"content-length": "-5"}, content=b"").status_code == 413
    assert reached == []
    assert client.post("/v1/fleet/push-object", content=b"x" * 1000).status_code == 200


def service(tmp_path, code, **more):
    return Service("child", [sys.executable, "-c", code], tmp_path / "child.log", **more)


def run_until(condition, services, tmp_path, seconds=20.0):
    """Supervise until a condition holds; what was said."""
    said, stop = [], threading.Event()

    def watch():
        deadline = time.monotonic() + seconds
        while not condition(said) and time.monotonic() < deadline:
            time.sleep(0.05)
        stop.set()

    threading.Thread(target=watch).start()
    supervise(services, tmp_path / "lock", said.append, stop)
    return said


def test_what_dies_is_started_again_and_everything_ends_in_the_end(tmp_path):
    child = service(tmp_path, f"open({str(tmp_path / 'lives')!r}, 'a').write('x')")
    run_until(lambda said: len(said) > 4, [child], tmp_path)
    assert len((tmp_path / "lives").read_text()) >= 2
    assert not child.alive


def test_a_child_that_ignores_sigterm_is_ended_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("fedgrpo.common.cli.service.GRACE_S", 0.5)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    child = service(tmp_path, code)
    child.ready = lambda: "up" in child.last_words()
    start = time.monotonic()
    run_until(lambda said: "ready" in said, [child], tmp_path)
    assert not child.alive
    assert time.monotonic() - start < 15


def test_a_child_that_can_only_fail_ends_the_whole_with_what_to_do(tmp_path):
    child = service(tmp_path, "raise SystemExit('bad key 2004')", hopeless={"2004": "register the key."})
    child.log.write_text("2003\n")
    with pytest.raises(RunError, match=r"register the key\.\n.*child\.log, ends:\nbad key 2004"):
        run_until(lambda said: False, [child], tmp_path)


def test_the_last_words_are_those_of_this_life(tmp_path):
    (tmp_path / "child.log").write_text("bad key 2004\n")
    child = service(tmp_path, "raise SystemExit('something else')", hopeless={"2004": "register the key."})
    said = run_until(lambda said: len(said) > 3, [child], tmp_path)  # and not the RunError of an earlier life's words
    assert "child ended with status 1" in said
    assert "bad key" not in child.last_words()
    assert "something else" in child.last_words()


def test_what_a_log_line_means_is_announced_once_until_it_changes(tmp_path):
    code = """import time
print('node id: 7'); print('attempt failed'); print('attempt failed'); print('successful'); time.sleep(60)"""
    meanings = {"node id": "connected", "attempt failed": "connection lost", "successful": "connected"}
    child = service(tmp_path, code, announcements=meanings, loading="loading")
    said = run_until(lambda lines: lines.count("connected") == 2, [child], tmp_path)
    assert [line for line in said if "connect" in line] == ["connected", "connection lost", "connected"]
    assert said.index(f"{child.name} is ready") < said.index("connected")


def test_a_second_supervisor_is_kept_out_also_by_children_left_behind(tmp_path):
    child = service(tmp_path, "import time; time.sleep(60)")
    with (tmp_path / "lock").open("w") as lock:
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX)
        child.start(lock.fileno())
    try:
        with pytest.raises(ConfigError, match=r"is in use.*fuser"):
            supervise([], tmp_path / "lock", print, threading.Event())
    finally:
        child.end()


def test_a_port_that_is_taken_is_named(tmp_path):
    (port,) = free_ports(1)
    check_ports([("gateway.port", "127.0.0.1", port)])
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with pytest.raises(ConfigError, match=f"gateway.port is {port}"):
            check_ports([("gateway.port", "127.0.0.1", port)])


def test_an_operators_folder_reads_back_and_is_not_made_twice(tmp_path):
    made = ServerFolder.create(tmp_path / "fed", ServerSettings(gateway=Gateway(hosts=("fed.example.org",), port=8443)))
    again = ServerFolder.read(tmp_path / "fed")
    assert again.settings == made.settings
    assert (tmp_path / "fed").stat().st_mode & 0o077 == 0
    with pytest.raises(ConfigError, match="exists already"):
        ServerFolder.create(tmp_path / "fed", ServerSettings())
    with pytest.raises(ConfigError, match="fedgrpo server init"):
        ServerFolder.read(tmp_path)


def test_the_app_that_is_submitted_is_two_stubs(tmp_path):
    write_app(tmp_path)
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"pyproject.toml", "server/app.py", "client/app.py"}
    assert "from fedgrpo.client.main import app" in (tmp_path / "client" / "app.py").read_text()


def test_the_status_of_a_run_is_read_from_its_folder(tmp_path):
    config = settings(tmp_path)
    play(config)
    found = RunStatus.read(tmp_path / "run")
    assert (found.state, found.round, found.rounds) == ("finished", 3, 3)
    assert sorted(found.clients) == [f"client-{k}" for k in range(4)]
    journal = tmp_path / "run" / "journal.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:-1]))
    assert RunStatus.read(tmp_path / "run").state == "interrupted"
    Store(tmp_path / "run").stopped("the disk is full")
    assert (RunStatus.read(tmp_path / "run").state, RunStatus.read(tmp_path / "run").reason) == (
        "stopped",
        "the disk is full",
    )
    with locked(tmp_path / "run"):
        assert RunStatus.read(tmp_path / "run").state == "running"


def test_a_node_may_not_take_part_under_another_name(tmp_path):
    names = tmp_path / "nodes.jsonl"
    for node, name in ((2, "client-0"), (3, "client-1"), (4, "client-7"), (9, "client-3")):
        append_line(names, {"node": node, "organisation": name})
    config = settings(tmp_path, federation__rounds=1, federation__start_clients=2).with_values(
        {"output.nodes": str(names)}
    )
    run = play(config)
    assert sorted(run.rounds[0].clients) == ["client-0", "client-1"]

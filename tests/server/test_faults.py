"""What happens when things die: every row of docs/reliability.md that needs no real network is a test here."""

import contextlib
import os
import random
import shutil
import signal

import numpy as np
import pytest
from federation import client_app, grid, honest, metrics, play, schema, settings
from fedgrpo.common.errors import ProtocolError
from fedgrpo.common.messages import wire
from fedgrpo.common.messages.messages import Capabilities, TaskId
from fedgrpo.server.federation import exchange
from fedgrpo.server.federation.intake import read_update
from fedgrpo.server.main import run_federation
from fedgrpo.server.run.journal import Committed, Finished
from fedgrpo.server.run.reader import Run
from fedgrpo.server.run.store import Store
from flwr.app import Error, Message

pytestmark = pytest.mark.e2e

DURABLE = ("fsync", "replace", "ftruncate")


def dies_at(config, number):
    """Run the federation in a child process that is killed before its `number`-th durable step. Whether it was."""
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    count = 0

    def counted(step):
        def durable(*args):
            nonlocal count
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(*args)

        return durable

    for name in DURABLE:
        setattr(os, name, counted(getattr(os, name)))
    with contextlib.redirect_stderr(open(os.devnull, "w")):
        play(config)
    os._exit(0)


def committed_once(run):
    rounds = [line.round for line in run.journal.of(Committed)]
    assert rounds == sorted(set(rounds)), "a round counted twice"
    assert [line.round for line in run.rounds] == rounds


STATEFUL = {
    "aggregation__server_optimizer": "momentum",
    "aggregation__weights": "relative-gain",
    "intake__clip_to_median": 1.0,
    "compression__up": "int8",
    "compression__down": "int8",
    "gate__enabled": True,
}
"""A run whose server carries all it can from round to round."""


@pytest.mark.parametrize(("values", "every"), [pytest.param({}, 1, marks=pytest.mark.e2e), (STATEFUL, 5)])
def test_a_server_killed_at_any_durable_step_ends_with_the_same_adapter(tmp_path, values, every):
    whole = play(settings(tmp_path, output__run="whole", **values))
    kills = 0
    for number in range(1, 500, every):
        config = settings(tmp_path, output__run=f"killed-{number}", **values)
        if not dies_at(config, number):
            break
        kills += 1
        resumed = play(config)
        assert resumed.result()["adapter_sha256"] == whole.result()["adapter_sha256"], number
        assert resumed.result()["finished"]
        committed_once(resumed)
    assert kills >= 50 / every


def test_a_server_that_is_killed_again_and_again_still_arrives(tmp_path):
    whole = play(settings(tmp_path, output__run="whole"))
    config = settings(tmp_path, output__run="again")
    kills = 0
    while dies_at(config, 10 + 3 * kills):  # each life is a little longer than the one before
        kills += 1
    assert kills >= 3
    assert Run.read(tmp_path / "again").result()["adapter_sha256"] == whole.result()["adapter_sha256"]
    committed_once(Run.read(tmp_path / "again"))


def test_a_hundred_rounds_with_thirty_percent_dropouts_lose_none(tmp_path):
    chance = random.Random(0)
    dropped = []

    def unreliable(number, header, reply):
        if header["kind"] == "train" and chance.random() < 0.3:
            dropped.append((number, header["round"]))
            if chance.random() < 0.5:
                raise RuntimeError("the client crashed")
            return wire.pack({"error": "internal"})
        return reply

    values = {"federation__rounds": 100, "federation__max_void_rounds": 50, "federation__quorum": 0.5}
    config = settings(tmp_path, **values, evaluation__every=0).with_values({"federation.retry-wait-s": 0.0})
    run = play(config, unreliable)
    assert len(dropped) >= 100
    assert [line.round for line in run.rounds] == list(range(1, 101))
    assert all(len(line.clients) >= 2 for line in run.rounds)
    committed_once(run)


def test_clients_may_come_and_go_between_rounds(tmp_path):
    """A node leaves for a while, and another takes its place; nobody waits for the one that is away."""
    config = settings(tmp_path, federation__rounds=8, federation__start_clients=3, evaluation__every=0)
    last = [0]

    def seen(number, header, reply):
        last[0] = max(last[0], header.get("round", 0))
        return reply

    net = grid(config, client_app(config, seen))
    net.get_node_ids = lambda: [2, 3, 4] if last[0] < 2 else [2, 3] if last[0] < 4 else [2, 3, 4, 5]
    try:
        run_federation(net, config)
    finally:
        net.close()
    run = Run.read(tmp_path / "run")
    sizes = [len(line.clients) for line in run.rounds]
    assert (sizes[0], sizes[2], sizes[-1]) == (3, 2, 4)
    assert len(sizes) == 8
    committed_once(run)


def test_ten_thousand_duplicates_and_replays_are_never_counted(tmp_path):
    """Replies of other rounds, attempts, nonces and federations, all of them sound once: none is taken."""
    config = settings(tmp_path)
    own = schema(config)
    keys = ("federation", "round", "attempt", "nonce")
    now = {"federation": "fed-1", "round": 50, "attempt": 2, "nonce": "aa"}
    hashes = {"schema-sha256": own.sha256, "config-sha256": config.sha256}
    member = Capabilities(
        organisation="a",
        schema=own,
        base_model_sha256="",
        reward_names=("correctness",),
        metrics=tuple(metrics()),
        examples=9,
        prompts_too_long=0,
    )
    chance, refused = random.Random(1), 0
    while refused < 10_000:
        then = {
            "federation": chance.choice(["fed-1", "fed-0"]),
            "round": chance.randint(45, 52),
            "attempt": chance.randint(1, 3),
            "nonce": chance.choice(["aa", "ab", ""]),
        }
        if all(then[key] == now[key] for key in keys):
            continue
        counts = {"num-steps": 1, "num-examples": 4}
        reply = wire.with_metrics(
            wire.pack({**then, **hashes, **counts}, array=wire.packed(np.ones(own.size, "f4"))), metrics()
        )
        with pytest.raises(ProtocolError):
            read_update(reply, member, TaskId(**now, schema_sha256=own.sha256, config_sha256=config.sha256), config)
        refused += 1


def test_a_reply_that_the_network_doubles_counts_once(tmp_path):
    config = settings(tmp_path, federation__rounds=2, evaluation__every=0)
    net = grid(config, client_app(config, honest))
    pull = net.pull_messages
    net.pull_messages = lambda ids: [reply for reply in pull(ids) for _ in range(2)]
    try:
        run_federation(net, config)
    finally:
        net.close()
    whole = play(settings(tmp_path, federation__rounds=2, evaluation__every=0, output__run="whole"))
    doubled = Run.read(tmp_path / "run")
    assert doubled.result()["adapter_sha256"] == whole.result()["adapter_sha256"]
    assert doubled.rounds[0].bytes_up == whole.rounds[0].bytes_up


@pytest.mark.parametrize("damage", ["a bit flipped", "cut off"])
def test_a_damaged_checkpoint_is_found_at_two_hundred_places(tmp_path, damage):
    config = settings(tmp_path)
    play(config)
    folder = tmp_path / "run"
    hashes = Run.read(folder).journal.adapters
    file = folder / "adapters" / "0003" / "adapter_model.safetensors"
    sound = file.read_bytes()
    found = 0
    for offset in np.linspace(0, len(sound) - 1, 200).astype(int):
        bad = bytearray(sound)
        bad[offset] ^= 1 << (int(offset) % 8)
        file.write_bytes(bytes(bad) if damage == "a bit flipped" else sound[:offset])
        state = Store(folder).recover(config)
        assert state.round in (2, 3)
        assert state.adapter.sha256 == hashes[state.round]  # never an adapter that nobody committed
        found += state.round == 2
    assert found >= 190  # a bit of the header's padding or of a frozen factor's name may not matter
    file.write_bytes(sound)
    assert Store(folder).recover(config).round == 3


def test_a_damaged_checkpoint_costs_one_round_and_nothing_else(tmp_path):
    whole = play(settings(tmp_path, output__run="whole"))
    config = settings(tmp_path, output__run="damaged")
    play(config)
    file = tmp_path / "damaged" / "adapters" / "0003" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    again = play(config)
    assert again.result()["adapter_sha256"] == whole.result()["adapter_sha256"]
    shutil.rmtree(tmp_path / "damaged")


def test_a_torn_journal_line_is_passed_over(tmp_path):
    whole = play(settings(tmp_path, output__run="whole"))
    text = (tmp_path / "whole" / "journal.jsonl").read_bytes()
    last = text.rstrip().rfind(b"\n") + 1
    for end in range(last, len(text), 7):
        folder = tmp_path / f"torn-{end}"
        shutil.copytree(tmp_path / "whole", folder)
        (folder / "journal.jsonl").write_bytes(text[:end])
        config = settings(tmp_path, output__run=folder.name)
        assert play(config).result()["adapter_sha256"] == whole.result()["adapter_sha256"]
        assert isinstance(Run.read(folder).journal.lines[-1], Finished)


def test_a_client_whose_process_dies_is_asked_again_and_counts_once(tmp_path, monkeypatch):
    """Fifty deaths over six rounds: no round is void, and the adapter is that of a run without a death."""
    monkeypatch.setattr(exchange, "AGAIN_PAUSE_S", 0.01)
    values = {"federation__rounds": 6, "evaluation__every": 0, "federation__quorum": 1.0}
    whole = play(settings(tmp_path, output__run="whole", **values))
    config = settings(tmp_path, **values)
    net = grid(config, client_app(config, honest))
    pull, chance, deaths = net.pull_messages, random.Random(3), []

    def dying(ids):
        for reply in pull(ids):
            if reply.metadata.message_type == "train" and chance.random() < 0.7:
                deaths.append(reply)
                reply = Message(Error(chance.choice((5, 8)), "gone"), reply_to=reply)
            yield reply

    net.pull_messages = dying
    try:
        run_federation(net, config)
    finally:
        net.close()
    run = Run.read(tmp_path / "run")
    assert len(deaths) >= 50
    assert run.result()["adapter_sha256"] == whole.result()["adapter_sha256"]
    assert run.result()["void_rounds"] == 0
    committed_once(run)


def test_a_client_that_stays_dead_holds_nobody_up_for_long(tmp_path, monkeypatch):
    monkeypatch.setattr(exchange, "AGAIN_PAUSE_S", 0.01)
    config = settings(tmp_path, federation__rounds=1, evaluation__every=0, federation__ask_again_s=0.2)
    net = grid(config, client_app(config, honest))
    pull = net.pull_messages

    def dying(ids):
        for reply in pull(ids):
            gone = reply.metadata.message_type == "train" and reply.metadata.src_node_id == 2
            yield Message(Error(8, "gone"), reply_to=reply) if gone else reply

    net.pull_messages = dying
    try:
        run_federation(net, config)
    finally:
        net.close()
    (line,) = Run.read(tmp_path / "run").rounds
    assert line.refused == {"client-0": "client-crashed"}


def test_a_reply_that_is_lost_is_asked_for_again(tmp_path, monkeypatch):
    """A SuperLink that dies while a reply comes in loses it without a word. The client's ping gives it away."""
    values = {"federation__rounds": 3, "evaluation__every": 0, "federation__quorum": 1.0}
    whole = play(settings(tmp_path, output__run="whole", **values))
    config = settings(tmp_path, federation__ask_again_s=0.1, **values)
    app = client_app(config, honest)

    @app.query("ping")
    def ping(message, context):
        return Message(wire.pack({}), reply_to=message)

    net = grid(config, app)
    pull, lost = net.pull_messages, []

    def losing(ids):
        for reply in pull(ids):
            if reply.metadata.message_type == "train" and len(lost) < 5:
                lost.append(reply)
            else:
                yield reply

    net.pull_messages = losing
    try:
        run_federation(net, config)
    finally:
        net.close()
    run = Run.read(tmp_path / "run")
    assert len(lost) == 5
    assert run.result()["adapter_sha256"] == whole.result()["adapter_sha256"]
    assert run.result()["void_rounds"] == 0
    committed_once(run)

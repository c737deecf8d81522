"""When a node counts as silent, and the lines of `server submit` about clients that go away."""

import sqlite3
import time

import pytest
from fedgrpo.server.operator import heartbeats
from fedgrpo.server.operator.heartbeats import NodeWatch, last_heartbeats


@pytest.fixture
def database(tmp_path):
    """Where Flower's SuperLink would write, and a function that writes a node's last heartbeat."""
    path = tmp_path / "state.db"
    with sqlite3.connect(path) as connection:
        connection.execute(
            "CREATE TABLE node (node_id INTEGER, status TEXT, online_until REAL, heartbeat_interval REAL)"
        )

    def beat(node, seconds_ago, status="online"):
        with sqlite3.connect(path) as connection:
            connection.execute("DELETE FROM node WHERE node_id = ?", (node,))
            until = time.time() - seconds_ago + 60
            connection.execute("INSERT INTO node VALUES (?, ?, ?, 30.0)", (node, status, until))

    return path, beat


def test_the_columns_are_those_of_flowers_own_table():
    models = pytest.importorskip("flwr.supercore.state.schema.linkstate_models")
    columns = set(models.Node.__table__.columns.keys())
    assert {"node_id", "status", "online_until", "heartbeat_interval"} <= columns


def test_the_age_of_a_heartbeat_is_read_also_for_ids_above_2_63(database):
    path, beat = database
    beat(-1, 12)
    age, interval = last_heartbeats(path)[(1 << 64) - 1]
    assert age == pytest.approx(12, abs=2)
    assert interval == 30


def test_a_client_that_goes_away_and_comes_back_is_a_line_each(database, monkeypatch):
    path, beat = database
    monkeypatch.setattr(heartbeats, "LOOK_S", 0.0)
    said = []
    watch = NodeWatch(path, lambda: {7: "clinic-a"}, said.append)
    for seconds_ago, status in ((1, "online"), (50, "online"), (60, "offline"), (1, "online"), (2, "online")):
        beat(7, seconds_ago, status)
        watch.look()
    assert said == ["clinic-a went away (silent for 50 s)", "clinic-a is back"]


def test_a_database_that_is_absent_or_of_another_shape_tells_nothing(tmp_path):
    assert last_heartbeats(tmp_path / "absent.db") == {}
    sqlite3.connect(tmp_path / "other.db").close()
    (tmp_path / "other.db").touch()
    assert last_heartbeats(tmp_path / "other.db") == {}

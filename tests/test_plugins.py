"""Packages that add methods, robust rules, weights, codecs and rewards; and the tables they add to."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from checkout import ROOT
from federation import metrics, play, schema, settings
from fedgrpo.client import main as client_main
from fedgrpo.client.learner.rewards import BUILT_IN, FUNCTIONS, load_rewards
from fedgrpo.common.adapter.adapter import l2_norm
from fedgrpo.common.adapter.compression import CODECS, most_bytes, packed, rounded, unpacked
from fedgrpo.common.adapter.methods import METHODS
from fedgrpo.common.adapter.peft_files import read_peft
from fedgrpo.common.aggregation.robust import RULES
from fedgrpo.common.aggregation.weights import WEIGHTS
from fedgrpo.common.cli import main as cli
from fedgrpo.common.errors import ConfigError, ProtocolError
from fedgrpo.common.messages import wire
from fedgrpo.common.settings.aggregation import OPTIMIZERS, Aggregation, Compression
from fedgrpo.common.settings.run_config import RunConfig
from fedgrpo.server.aggregation.methods import AGGREGATORS
from fedgrpo.server.aggregation.server_optimizers import SERVER_OPTIMIZERS
from fedgrpo.simulations.engine.grid import identify_process
from flwr.app import Context, Message, RecordDict
from plugins import install, install_example, on_path

RULE = "from fedgrpo.common.aggregation.robust import Rule\nR = Rule(combine=lambda block, f: block[0], summary='x')\n"
TABLES = {"Methods": METHODS, "Weights": WEIGHTS, "Robust rules": RULES, "Codecs": CODECS}


@pytest.fixture
def example(tmp_path, monkeypatch):
    """examples/plugin, installed."""
    install_example(tmp_path / "site")
    on_path(tmp_path / "site", monkeypatch)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Install packages for one test."""

    def make(*packages):
        for name, groups, modules in packages:
            install(tmp_path / "own", name, groups, modules)
        on_path(tmp_path / "own", monkeypatch)

    return make


# The example


def sent(reply):
    return np.frombuffer(reply["vector"]["vector"].data, dtype="<f4")


def test_a_federation_runs_with_a_method_of_a_plug_in(example, tmp_path):
    deltas = {}

    def ten_times_longer(number, header, reply):
        if header["kind"] != "train":
            return reply
        vector = sent(reply)
        deltas.setdefault(header["round"], {})[number] = vector
        if number == 0:
            reply["vector"] = wire.packed(vector * np.float32(10))
        return reply

    longer = play(settings(tmp_path, aggregation__method="equal-length"), ten_times_longer)
    plain = play(settings(tmp_path, aggregation__method="equal-length", output__run="plain"))
    assert [len(line.clients) for line in longer.rounds] == [4, 4, 4]
    assert longer.rounds[0].aggregation_error > 0.01  # it is not the mean
    one, other = (read_peft(run.folder / "adapters" / "0001").vector for run in (longer, plain))
    lengths = np.array([l2_norm(deltas[1][k]) for k in range(4)])
    stretch = (lengths.sum() + 9 * lengths[0]) / lengths.sum()  # the mean length counts; the direction is the same
    np.testing.assert_allclose(one, stretch * other, rtol=1e-3)


def test_a_federation_runs_with_a_robust_rule_of_a_plug_in(example, tmp_path):
    def long(number, header, reply):
        if header["kind"] == "train" and number == 0:
            reply["vector"] = wire.packed(sent(reply) * np.float32(20))
        return reply

    run = play(settings(tmp_path, aggregation__rule="norm-filter", aggregation__hostile=1), long)
    shares = {name: part.share for name, part in run.rounds[0].clients.items()}
    assert shares == pytest.approx({"client-0": 0.0, "client-1": 1 / 3, "client-2": 1 / 3, "client-3": 1 / 3})
    assert len(run.rounds) == 3


def test_a_federation_runs_with_a_weight_of_a_plug_in(example, tmp_path):
    def four_steps(number, header, reply):
        if header["kind"] == "train" and number == 0:
            reply["header"]["num-steps"], reply["header"]["num-examples"] = 4, 16
            wire.with_metrics(reply, metrics(12.0, 16))
        return reply

    own = settings(
        tmp_path, aggregation__weights="root-examples", train__steps_per_round=4, train__seconds_per_round=1.0
    )
    run = play(own, four_steps)
    shares = {name: part.share for name, part in run.rounds[0].clients.items()}
    assert shares == pytest.approx({"client-0": 0.4, "client-1": 0.2, "client-2": 0.2, "client-3": 0.2})


def test_a_federation_runs_with_a_codec_of_a_plug_in(example, tmp_path):
    seen = []

    def watch(number, header, reply):
        if header["kind"] == "train":
            seen.append((reply["vector"]["vector"].stype, len(reply["vector"]["vector"].data)))
        return reply

    config = settings(tmp_path, compression__up="sign")
    run = play(config, watch)
    assert len(run.rounds) == 3
    assert all(len(line.clients) == 4 for line in run.rounds)
    assert set(seen) == {("fedgrpo.sign", most_bytes(schema(config).size, "sign"))}


def test_the_codec_of_the_example_keeps_what_a_codec_promises(example):
    vector = np.random.default_rng(0).normal(size=77).astype(np.float32)
    for own in (vector, 0 * vector, vector[:1], vector * np.float32(1e-38)):
        on_grid = rounded(own, "sign")
        assert (rounded(on_grid, "sign") == on_grid).all()
        assert (unpacked(packed(on_grid, "sign"), own.size, "sign") == on_grid).all()
    assert rounded(np.float32([4.0, -3.0, 5.0]), "sign").tolist() == [4.0, -4.0, 4.0]
    for damaged in (b"", b"\x7f" + bytes(10), bytes(12), bytes(3)):
        with pytest.raises(ProtocolError, match="damaged"):
            unpacked(damaged, 77, "sign")
    with pytest.raises(ConfigError, match="does not go this way"):
        Compression(down="sign")
    with pytest.raises(ConfigError, match="Set error-feedback to true"):
        Compression(up="sign", error_feedback=False)


def test_a_reward_of_a_plug_in_is_scored_listed_and_mixed(example, monkeypatch, capsys, tmp_path):
    def run(*words):
        monkeypatch.setattr("sys.argv", ["fedgrpo", "rewards", *words, "--format", "json"])
        with pytest.raises(SystemExit):
            cli.main()
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    found = run("score", "correctness,brief=0.5", "--completion", "<answer>42</answer>", "--answer", "42")
    assert found["rows"] == [{"correctness": 2.0, "brief": 1 - 19 / 400, "total": 2.0 + 0.5 * (1 - 19 / 400)}]
    assert run("list")["functions"]["brief"].startswith("1.0 for an empty completion")
    (reward,) = load_rewards("brief")
    assert reward.source == str(tmp_path / "site/fedgrpo_example/reward.py")  # its text is part of a run's inputs


def test_settings_take_the_names_of_plug_ins_and_suggest_them(example):
    assert RunConfig().with_values({"aggregation.rule": "norm-filter"}).aggregation.rule == "norm-filter"
    with pytest.raises(ConfigError, match=r"must be one of: .*norm-filter\. Did you mean norm-filter\?"):
        Aggregation(rule="norm-filte")
    with pytest.raises(ConfigError, match=r"no reward 'breif'\. Did you mean brief\?"):
        load_rewards("breif")
    with pytest.raises(ConfigError, match="Use sgd"):
        Aggregation(method="equal-length", server_optimizer="adam")
    assert [*CODECS] == [*CODECS.built_in, "sign"]


# What can be wrong


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("aggregation.method", "equal-length"),
        ("aggregation.rule", "norm-filter"),
        ("aggregation.weights", "root-examples"),
        ("compression.up", "sign"),
    ],
)
def test_a_client_without_the_plug_in_refuses_the_run_and_says_what_to_install(setting, value, tmp_path, caplog):
    identify_process()
    config = {**settings(tmp_path).flat(), setting: value}
    context = Context(1, 7, {"partition-id": 0}, RecordDict(), config)
    reply = client_main.app(Message(wire.pack({"config-sha256": "0"}), 7, "query.join"), context)
    assert wire.header_of(reply.content)["error"] == "config"
    assert f"{setting} is {value!r}, but must be one of" in caplog.text
    assert "install that package here too" in caplog.text


def test_a_name_that_is_built_in_names_both_packages(site):
    site(("rival-rules", {"robust_rules": {"median": "rival:R"}}, {"rival.py": RULE}))
    for name in ("median", "mean", "other"):
        with pytest.raises(ConfigError, match=r"'median' in fedgrpo.robust_rules: fedgrpo and rival-rules"):
            Aggregation(rule=name)


def test_a_name_of_a_reward_set_is_taken_too(site):
    site(("rival", {"rewards": {"gsm8k": "rival:f"}}, {"rival.py": "def f(completions, **_): ..."}))
    with pytest.raises(ConfigError, match=r"'gsm8k' in fedgrpo.rewards: fedgrpo and rival"):
        list(FUNCTIONS)


def test_a_name_of_two_plug_ins_names_both_packages(site):
    own = {"robust_rules": {"mine": "rival:R"}}
    site(("first-rules", own, {"rival.py": RULE}), ("second-rules", own, {}))
    with pytest.raises(ConfigError, match=r"'mine' in fedgrpo.robust_rules: first-rules and second-rules"):
        Aggregation(rule="mine")


@pytest.mark.parametrize("name", ["a.py", "a b", "a" * 65])
def test_a_name_that_settings_cannot_hold_is_refused(site, name):
    site(("odd-names", {"rewards": {name: "odd:f"}}, {"odd.py": ""}))
    with pytest.raises(ConfigError, match=r"The package odd-names registers the name"):
        load_rewards("none-such")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("raise RuntimeError('no licence')", r"cannot be loaded from broken:R: RuntimeError\('no licence'\)"),
        ("import not_there", "No module named 'not_there'"),
        ("raise SystemExit(3)", "SystemExit"),
        ("", "has no attribute 'R'"),
        ("R = 3", "broken:R is not a fedgrpo.common.aggregation.robust.Rule"),
        (RULE.replace("combine=lambda block, f: block[0], ", ""), "must have one function"),
    ],
)
def test_a_plug_in_that_does_not_load_is_named_with_its_package_and_what_to_do(site, text, says):
    site(("broken-rules", {"robust_rules": {"mine": "broken:R"}}, {"broken.py": text}))
    Aggregation(rule="median")  # nothing is imported until it is used
    for use in (lambda: Aggregation(rule="mine"), lambda: dict(RULES)):
        with pytest.raises(ConfigError, match=says) as caught:
            use()
        assert "The plug-in mine (fedgrpo.robust_rules) of the package broken-rules" in str(caught.value)
        assert "pip uninstall broken-rules" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ("holds=('A',)", "holds"),
        ("trains=(('A',),)", "trains"),
        ("trains=()", "trains"),
        ("holds=('R',), trains=(('R',),), mixed_ranks=True", "mixed_ranks"),
        ("linear=True, aggregate=print", "must either be linear"),
        ("linear=False", "must either be linear"),
    ],
)
def test_a_method_that_cannot_work_is_refused_as_it_is_loaded(site, changes, says):
    text = (
        "from fedgrpo.common.adapter.methods import Method\n"
        "own = dict(holds=('B',), trains=(('B',),), mixed_ranks=False, linear=True, source='', summary='')\n"
        f"M = Method(**own | dict({changes}))\n"
    )
    site(("odd-methods", {"aggregation_methods": {"odd": "odd:M"}}, {"odd.py": text}))
    with pytest.raises(ConfigError, match=f"odd-methods .*{says}"):
        Aggregation(method="odd")


def test_a_linear_method_of_a_plug_in_is_averaged(site, tmp_path):
    text = (
        "from fedgrpo.common.adapter.methods import Method\n"
        "M = Method(holds=('A', 'B'), trains=(('A',), ('B',)), mixed_ranks=False, linear=True, source='', summary='')\n"
    )
    site(("turns", {"aggregation_methods": {"a-first": "turns:M"}}, {"turns.py": text}))
    run = play(settings(tmp_path, aggregation__method="a-first"))
    assert [line.aggregation_error < 1e-5 for line in run.rounds] == [True] * 3


def test_a_weight_that_is_no_number_costs_that_client_its_update_only(site, tmp_path):
    text = (
        "from fedgrpo.common.aggregation.weights import Weight\n"
        "W = Weight(of=lambda report: 2.0 - report.metrics['reward/mean'], summary='')\n"
    )
    site(("odd-weights", {"weights": {"odd": "odd_weight:W"}}, {"odd_weight.py": text}))

    def proud(number, header, reply):
        if header["kind"] == "train" and number == 1:
            wire.with_metrics(reply, {**metrics(), "reward/mean": 3.0})
        return reply

    run = play(settings(tmp_path, aggregation__weights="odd"), proud)
    assert run.rounds[0].refused == {"client-1": "weight"}


def test_common_imports_no_plug_in_and_settings_only_the_ones_they_name(tmp_path):
    install_example(tmp_path)
    code = (
        "import sys, pkgutil, importlib, fedgrpo.common\n"
        "for m in pkgutil.walk_packages(fedgrpo.common.__path__, 'fedgrpo.common.'): importlib.import_module(m.name)\n"
        "from fedgrpo.common.settings.run_config import RunConfig\n"
        "RunConfig(); own = lambda: sorted(m for m in sys.modules if m.startswith('fedgrpo_example.'))\n"
        "print(own()); RunConfig().with_values({'compression.up': 'sign'}); print(own())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(tmp_path)}
    )
    assert done.stdout.split("\n")[:2] == ["[]", "['fedgrpo_example.codec']"]


# The tables


@pytest.mark.parametrize("title", [*TABLES, "Server optimizers"])
def test_the_documentation_has_a_row_for_each_entry_and_no_other(title):
    text = (ROOT / "docs" / "aggregation.md").read_text(encoding="utf-8")
    section = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\| `([^`]+)`", section.group(1), re.MULTILINE)
    assert rows == [*(TABLES[title].built_in if title in TABLES else SERVER_OPTIMIZERS)]


def formula(needed):
    """The text of a linear function of f, as the documentation writes it: `2f + 3`."""
    offset, slope = needed(0), needed(1) - needed(0)
    assert [needed(f) for f in range(9)] == [slope * f + offset for f in range(9)], "write another formula here"
    terms = [f"{slope if slope > 1 else ''}f"] * bool(slope) + [str(offset)] * bool(offset or not slope)
    return " + ".join(terms)


def test_the_documented_facts_are_those_of_the_entries():
    text = (ROOT / "docs" / "aggregation.md").read_text(encoding="utf-8")
    cells = {row[0].split("`")[1]: row for row in (line.strip("| \n").split(" | ") for line in text.splitlines())
             if row[0].startswith("`")}  # fmt: skip
    for name, weight in WEIGHTS.built_in.items():
        assert all(metric in cells[name][-1] for metric in weight.metrics)
    for name, rule in RULES.built_in.items():
        assert cells[name][1] == ("coordinates" if rule.by_coordinate else "clients")
        assert cells[name][-1] == formula(rule.updates_needed)
    for name, codec in CODECS.built_in.items():
        assert cells[name][1] == ", ".join(codec.ways)
    for name, method in METHODS.built_in.items():
        assert cells[name][4] == ("yes" if method.mixed_ranks else "no")


def test_the_servers_tables_are_in_step_with_those_of_the_settings():
    assert AGGREGATORS.keys() == METHODS.built_in.keys()
    assert tuple(SERVER_OPTIMIZERS) == OPTIMIZERS


def test_every_entry_says_in_a_line_what_it_is_for_plug_ins_too(example):
    for table in TABLES.values():
        assert all(entry.summary and "\n" not in entry.summary for entry in table.values())
    assert set(BUILT_IN) < set(FUNCTIONS)


def test_a_codec_that_says_it_is_exact_is():
    vector = np.random.default_rng(1).normal(size=1000).astype(np.float32)
    for name, codec in CODECS.built_in.items():
        sizes = {len(packed(rounded(v, name, top_share=0.5), name)) for v in (vector, 0 * vector)}
        assert (sizes == {most_bytes(1000, name, 0.5)}) == codec.exact

"""What simulated clients leave in a run folder: which answers were right, each once, resumed or not."""

import json
import logging

import pytest
from fedgrpo.client.learner.data.problems import Problem
from fedgrpo.common.errors import ConfigError
from fedgrpo.common.messages.messages import EvaluateTask, Tally
from fedgrpo.common.settings.run_config import RunConfig
from fedgrpo.common.storage.jsonl import read_lines
from fedgrpo.server.run.journal import Journal
from fedgrpo.server.run.metrics import EvaluationMetrics
from fedgrpo.server.run.reader import Run
from fedgrpo.server.run.store import Store
from fedgrpo.simulations.engine.progress import LOGGER, Reporter, keeping
from fedgrpo.simulations.engine.runner import all_at_once, scenario
from fedgrpo.simulations.engine.simulated_clients import answered_by


class Answer:
    def __init__(self, strict):
        self.text, self.strict = "42", strict


def tell(number, of, right, *, after=2, temperature=1.0):
    """Have client `number` of `of` report one 0 or 1 per problem it answers."""
    LOGGER.setLevel(logging.INFO)
    config = RunConfig().with_values({"simulation.clients": of})
    held_out = answered_by(number, config, len(right))
    problems = [Problem(f"question {i}", "42") for i in held_out]
    answers = [Answer(right[i] == "1") for i in held_out]
    task = EvaluateTask(federation="f", round=after, adapter=None, temperature=temperature)
    Reporter(f"client-{number}", held_out).answers(task, problems, answers, answers)


def evaluated(folder, after, decoding):
    Store(folder).add_metrics(
        EvaluationMetrics(round=after, decoding=decoding, clients=("client-0",), total=Tally(), classes={})
    )


def test_the_answers_of_all_clients_make_up_the_held_out_list(tmp_path):
    config = scenario("builtin").with_values({"federation.rounds": 2})
    with keeping(tmp_path):
        for number in range(3):
            tell(number, 3, "1001101")
            tell(number, 3, "0000001", temperature=0.0)
            tell(number, 3, "0000000", after=1)
    run = Run(tmp_path, config, Journal(), [], [], [])
    assert [int(run.outcomes("sampled")[i]) for i in range(7)] == [1, 0, 0, 1, 1, 0, 1]
    assert sum(run.outcomes("greedy").values()) == 1
    assert json.loads((tmp_path / "answers.jsonl").read_text().splitlines()[0])["problems"] == [0, 3, 6]


def test_a_resumed_run_keeps_answers_that_count_and_replaces_those_that_do_not(tmp_path):
    with keeping(tmp_path):
        tell(0, 2, "11", after=1)
        tell(1, 2, "11", after=1)
        evaluated(tmp_path, 1, "sampled")
        tell(0, 2, "11")  # and then the process is killed, before the evaluation is written down
    with keeping(tmp_path):
        tell(1, 2, "00", after=1)
        tell(0, 2, "00")
        tell(1, 2, "00")
        tell(1, 2, "11")
    lines = read_lines(tmp_path / "answers.jsonl")
    assert [(line["round"], line["client"], line["right"]) for line in lines] == [
        (1, "client-0", "1"),
        (1, "client-1", "1"),
        (2, "client-0", "0"),
        (2, "client-1", "0"),
    ]
    assert len(read_lines(tmp_path / "samples.jsonl")) == 4


@pytest.mark.parametrize("only", [0, 3])
def test_a_client_that_is_alone_begins_by_itself_and_answers_everything(only):
    config = all_at_once(scenario("builtin").with_values({"simulation.only": only}))
    assert config.simulation.taking_part == (only,)
    assert (config.federation.start_clients, config.federation.min_clients) == (1, 1)
    assert list(answered_by(only, config, 9)) == list(range(9))
    assert config.sha256 != all_at_once(scenario("builtin")).sha256


@pytest.mark.parametrize("only", [-2, 4])
def test_a_client_that_does_not_exist_cannot_be_alone(only):
    with pytest.raises(ConfigError, match=f"simulation.only is {only}, .*clients are 0 to 3"):
        RunConfig().with_values({"simulation.only": only})

"""Where completions come from: the model itself, and vLLM as far as its interfaces go; with_vllm has the real one."""

import json
import math
import os
import subprocess
import sys
import threading
import time
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from fedgrpo.client.learner.samplers import (
    Sampling,
    child_guard,
    own_model,
    server_process,
    shrinking,
    temp_folder,
    vllm_engine,
)
from fedgrpo.client.learner.samplers.adapter_folder import HotAdapter
from fedgrpo.client.learner.samplers.own_model import OwnModelSampler
from fedgrpo.client.learner.samplers.vllm_engine import Serving, VllmEngine
from fedgrpo.client.learner.samplers.vllm_server import VllmServer
from fedgrpo.client.learner.training.evaluate import prompt_texts
from fedgrpo.common.adapter.adapter import Adapter
from fedgrpo.common.adapter.peft_files import read_peft
from fedgrpo.common.errors import ConfigError, SamplerError
from learners import PROBLEMS

END = 2


def moved(schema, by=0.3):
    return Adapter.initial(schema).plus(np.full(schema.size, by, np.float32))


@pytest.fixture
def adapted(model):
    model.trainer.adapted.load(moved(model.schema))
    return model.trainer.adapted


@pytest.fixture
def prompts(model):
    texts = prompt_texts(model.tokenizer, PROBLEMS[:3], "")
    return model.tokenizer(texts, add_special_tokens=False)["input_ids"]


@pytest.fixture
def hot(adapted, tmp_path):
    return HotAdapter(adapted, "builtin", tmp_path)


# the model itself


def test_a_prompt_that_is_read_once_is_completed_as_one_read_for_each_completion(model, adapted, prompts):
    own = OwnModelSampler(adapted, model.tokenizer)
    sampling = Sampling(max_tokens=20, temperature=1.0, seed=5)
    shared = own.sample(prompts, sampling, count=4)
    apart = own.sample([ids for ids in prompts for _ in range(4)], sampling)
    assert [one for group in shared for one in group] == [one for (one,) in apart]
    assert len({tuple(one.tokens) for group in shared for one in group}) > 3


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "count"), [(0.0, 0, 1.0, 1), (1.0, 0, 1.0, 4), (0.7, 9, 0.9, 2)]
)
def test_a_batch_that_shrinks_has_the_same_completions(
    model, adapted, prompts, monkeypatch, temperature, top_k, top_p, count
):
    own, rows = OwnModelSampler(adapted, model.tokenizer), []
    sampling = Sampling(max_tokens=60, temperature=temperature, top_k=top_k, top_p=top_p, seed=3)
    expected = own.sample(prompts, sampling, count=count)
    monkeypatch.setattr(own_model, "shrinks", lambda model: True)
    hook = adapted.model.register_forward_pre_hook(
        lambda _, __, inputs: rows.append(len(inputs["input_ids"])), with_kwargs=True
    )
    found = own.sample(prompts, sampling, count=count)
    hook.remove()
    assert found == expected
    assert rows[1] == len(prompts) * count
    lengths = sorted(len(one.tokens) for group in found for one in group)
    assert rows[-1] < rows[1] or lengths[0] == lengths[-1]
    assert sum(rows[1:]) <= rows[1] * lengths[-1]


def test_small_models_do_not_shrink_their_batches(adapted):
    assert not shrinking.shrinks(adapted.model)


def test_a_completion_ends_with_its_end_or_is_cut_off(model, adapted, prompts):
    own = OwnModelSampler(adapted, model.tokenizer)
    found = [one for (one,) in own.sample(prompts, Sampling(max_tokens=60, temperature=1.0, seed=1), base=True)]
    assert all(one.ended and one.tokens[-1] in own.ends for one in found)
    assert not any(end in one.tokens[:-1] for one in found for end in own.ends)
    (short,), *_ = own.sample(prompts, Sampling(max_tokens=1, temperature=0.0))
    assert not short.ended
    assert len(short.tokens) == 1


def test_base_is_the_model_without_its_adapter(model, adapted, prompts):
    own, greedy = OwnModelSampler(adapted, model.tokenizer), Sampling(max_tokens=8, temperature=0.0)
    with_adapter = own.sample(prompts, greedy)
    base = own.sample(prompts, greedy, base=True)
    adapted.load(Adapter.initial(model.schema))
    assert own.sample(prompts, greedy) == base != with_adapter


def test_sampling_leaves_the_model_in_the_mode_it_was_in(model, adapted, prompts):
    for training in (True, False):
        adapted.model.train(training)
        OwnModelSampler(adapted, model.tokenizer).sample(prompts, Sampling(max_tokens=2, temperature=1.0))
        assert adapted.model.training == training


# the adapter's files


def test_a_changed_adapter_goes_to_a_new_folder_and_an_unchanged_one_nowhere(model, adapted, hot):
    first, changed = hot.folder()
    assert changed
    assert hot.folder() == (first, False)
    adapted.load(moved(model.schema, 0.5))
    second, changed = hot.folder()
    assert changed
    assert second != first
    assert not first.exists()
    assert read_peft(second).sha256 == moved(model.schema, 0.5).sha256


def test_scratch_folders_of_dead_processes_are_removed(monkeypatch, tmp_path):
    monkeypatch.setattr(temp_folder, "IN_MEMORY", tmp_path)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left, other = tmp_path / f"{temp_folder.NAME}-{dead.pid}-x", tmp_path / f"{temp_folder.NAME}-{os.getppid()}-x"
    left.mkdir()
    other.mkdir()
    own = temp_folder.make_temp_folder()
    assert own.parent == tmp_path
    assert own.stat().st_mode & 0o077 == 0
    assert not left.exists()
    assert other.exists()


# an engine in this process


class FakeEngine:
    """Completes prompt i with [i, END], and keeps what it was asked."""

    def __init__(self, **made):
        self.made, self.asked, self.loaded = made, [], []
        self.llm_engine = types.SimpleNamespace(add_lora=self.loaded.append)

    def generate(self, inputs, parameters, use_tqdm, lora_request):
        self.asked.append((inputs, parameters, lora_request))
        chosen = types.SimpleNamespace(logprob=-0.5)
        return [
            types.SimpleNamespace(
                outputs=[
                    types.SimpleNamespace(
                        token_ids=(7, END), logprobs=[{7: chosen}, {END: chosen}], finish_reason="stop"
                    )
                    for _ in range(one.n)
                ]
            )
            for _, one in zip(inputs, parameters, strict=True)
        ]


@pytest.fixture
def vllm(monkeypatch):
    record = lambda **values: types.SimpleNamespace(**values)  # noqa: E731
    request = lambda name, number, path, load_inplace=False: record(number=number, path=path, again=load_inplace)  # noqa: E731
    vllm, lora, requests = (
        types.ModuleType("vllm"),
        types.ModuleType("vllm.lora"),
        types.ModuleType("vllm.lora.request"),
    )
    vllm.LLM, vllm.SamplingParams, requests.LoRARequest = FakeEngine, record, request
    for name, module in (("vllm", vllm), ("vllm.lora", lora), ("vllm.lora.request", requests)):
        monkeypatch.setitem(sys.modules, name, module)
    vllm_engine._engine.cache_clear()
    yield
    vllm_engine._engine.cache_clear()


def serving(**changes):
    values = {
        "model": Path("model"), "dtype": "float32", "quantization": "none", "max_tokens": 100, "max_rank": 8,
        "memory_share": 0.3, "on_cpu": True, "ends": (END,),
    }  # fmt: skip
    return Serving(**values | changes)


def test_the_engine_loads_an_adapter_over_the_last_one_and_never_uses_what_another_computed(vllm, model, adapted, hot):
    sampler = VllmEngine(serving(), hot)
    engine, sampling = sampler._llm, Sampling(max_tokens=5, temperature=1.0)
    ((one, _),) = sampler.sample([[1, 2]], sampling, count=2)
    assert (one.tokens, one.ended, one.logprobs) == ([7, END], True, [-0.5, -0.5])
    sampler.sample([[1, 2]], sampling)
    adapted.load(moved(model.schema, 0.9))
    sampler.sample([[1, 2]], sampling)
    sampler.sample([[1, 2]], sampling, base=True)
    requests = [request for _, _, request in engine.asked]
    assert [request and request.again for request in requests] == [False, False, False, None]  # read once, not per step
    assert [(load.again, load.path) for load in engine.loaded] == [(True, requests[0].path), (True, requests[2].path)]
    assert len({request.number for request in [*requests[:3], *engine.loaded]}) == 1
    salts = [inputs[0]["cache_salt"] for inputs, _, _ in engine.asked]
    assert salts[0] == salts[1]
    assert len(set(salts)) == 3
    assert engine.made["logprobs_mode"] == "processed_logprobs"
    assert engine.made["max_lora_rank"] == 8


@pytest.mark.parametrize("failure", [RuntimeError("no room"), KeyboardInterrupt()])
def test_an_adapter_that_the_engine_could_not_load_is_loaded_before_the_next_completions(
    vllm, model, adapted, hot, monkeypatch, failure
):
    sampler, sampling = VllmEngine(serving(), hot), Sampling(max_tokens=5, temperature=1.0)
    sampler.sample([[1]], sampling)
    adapted.load(moved(model.schema, 0.7))
    engine = sampler._llm
    with monkeypatch.context() as patch:
        patch.setattr(engine.llm_engine, "add_lora", lambda request: (_ for _ in ()).throw(failure))
        with pytest.raises((SamplerError, KeyboardInterrupt)):
            sampler.sample([[1]], sampling)
    sampler.sample([[1]], sampling)
    assert len(engine.loaded) == 2
    assert engine.loaded[-1].path == engine.asked[-1][2].path


def test_two_models_of_a_process_share_an_engine_and_have_each_an_adapter(vllm, hot):
    one, other = VllmEngine(serving(), hot), VllmEngine(serving(), hot)
    assert one._llm is other._llm
    assert one._number != other._number
    with pytest.raises(ConfigError, match="has a vLLM engine for other settings"):
        VllmEngine(serving(max_tokens=200), hot)


def test_a_seed_gives_every_prompt_its_own(vllm, hot):
    sampler = VllmEngine(serving(), hot)
    sampler.sample([[1], [2]], Sampling(max_tokens=5, temperature=1.0, seed=3))
    sampler.sample([[1], [2]], Sampling(max_tokens=5, temperature=1.0))
    (_, seeded, _), (_, free, _) = sampler._llm.asked
    assert seeded[0].seed != seeded[1].seed
    assert [one.seed for one in free] == [None, None]


def test_an_engine_that_fails_is_a_samplers_error(vllm, hot, monkeypatch):
    sampler = VllmEngine(serving(), hot)
    monkeypatch.setattr(sampler._llm, "generate", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("out of memory")))
    with pytest.raises(SamplerError, match="out of memory"):
        sampler.sample([[1]], Sampling(max_tokens=5, temperature=1.0))


# a server


class FakeServer(BaseHTTPRequestHandler):
    def do_GET(self):
        models = [{"id": "policy", "parent": "base"}, {"id": "base", "parent": None}]
        self._answer({"data": models} if self.path == "/v1/models" else {})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, body, self.headers.get("Authorization")))
        if self.path == "/v1/completions":
            choice = {"token_ids": self.server.tokens, "logprobs": {"token_logprobs": [-0.25, None]}}
            self._answer(
                {"choices": [{"index": i, "finish_reason": "length", **choice} for i in range(body["n"])][::-1]}
            )
        else:
            self._answer({}, self.server.lora_status)

    def _answer(self, body, status=200):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeServer)
    server.asked, server.tokens, server.lora_status = [], [7, 8], 200
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_server_gets_the_adapter_when_it_has_changed_and_one_request_a_prompt(
    server, model, adapted, hot, monkeypatch
):
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    sampler, sampling = VllmServer((END,), hot, url=server.url), Sampling(max_tokens=5, temperature=1.0, seed=1)
    first, second = sampler.sample([[1, 2], [3]], sampling, count=2)
    assert first[0].tokens == [7, 8]
    assert first[0].logprobs[0] == -0.25
    assert math.isnan(first[0].logprobs[1])
    assert not second[1].ended
    adapted.load(moved(model.schema, 0.9))
    sampler.sample([[1, 2]], sampling)
    sampler.sample([[1, 2]], sampling, base=True)
    paths = [path for path, _, _ in server.asked]
    assert paths.count("/v1/load_lora_adapter") == 2
    loads = [body for path, body, _ in server.asked if path == "/v1/load_lora_adapter"]
    unloads = [body["lora_name"] for path, body, _ in server.asked if "unload_lora" in path]
    assert not any(body.get("load_inplace") for body in loads)  # it would be read again at every decoding step
    assert len({(body["lora_name"], body["lora_path"]) for body in loads}) == 2
    assert unloads == [loads[0]["lora_name"]]
    asked = [body for path, body, _ in server.asked if path == "/v1/completions"]
    assert sorted(len(body["prompt"]) for body in asked) == [1, 2, 2, 2]
    assert [body["model"] for body in asked] == [loads[0]["lora_name"]] * 2 + [loads[1]["lora_name"], "base"]
    assert len({body["seed"] for body in asked[:2]}) == 2
    assert len({body["cache_salt"] for body in asked}) == 3
    assert all("/" not in body["cache_salt"] for body in asked)
    assert {key for _, _, key in server.asked} == {"Bearer secret"}
    sampler.close()
    assert server.asked[-1][0] == "/v1/unload_lora_adapter"


def test_a_server_that_takes_no_adapters_is_told_how_to_be_started(server, hot):
    server.lora_status = 404
    sampler = VllmServer((END,), hot, url=server.url)
    with pytest.raises(SamplerError, match=r"--enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"):
        sampler.sample([[1]], Sampling(max_tokens=5, temperature=1.0))


def test_a_server_that_returns_no_token_ids_or_is_gone_is_an_error(server, hot):
    sampler = VllmServer((END,), hot, url=server.url)
    server.tokens = None
    with pytest.raises(SamplerError, match="does not return token ids"):
        sampler.sample([[1]], Sampling(max_tokens=5, temperature=1.0))
    with pytest.raises(SamplerError, match="does not answer"):
        VllmServer((END,), hot, url="http://127.0.0.1:9")


SERVES = """#!{python}
import os, socket, sys
if "--uds" not in sys.argv or "--port" in sys.argv:
    sys.exit(2)
print("lora", os.environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"], flush=True)
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[sys.argv.index("--uds") + 1])
listener.listen()
while True:
    connection, _ = listener.accept()
    connection.recv(10000)
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n")
    connection.close()
"""


@pytest.fixture
def python(tmp_path, monkeypatch):
    """An executable that stands in for the Python of an environment with vLLM."""
    monkeypatch.setattr(server_process, "_RUNNING", {})
    file = tmp_path / "python"
    file.write_text(SERVES.format(python=sys.executable))
    file.chmod(0o700)
    return str(file)


def test_a_server_of_our_own_is_started_once_replaced_when_it_must_be_and_ended(python):
    one = server_process.own_server(python, serving())
    assert server_process.own_server(python, serving()) is one
    assert "lora 1" in one.last_words()
    assert one.socket.parent.stat().st_mode & 0o077 == 0  # nobody else reaches it
    other = server_process.own_server(python, serving(max_tokens=200))
    assert one.process.poll() is not None
    other.end()
    again = server_process.own_server(python, serving(max_tokens=200))
    assert again is not other
    again.end()


def test_a_server_that_does_not_start_says_its_last_words(tmp_path, monkeypatch):
    monkeypatch.setattr(server_process, "_RUNNING", {})
    file = tmp_path / "python"
    file.write_text("#!/bin/sh\necho no such model; exit 3\n")
    file.chmod(0o700)
    with pytest.raises(SamplerError, match="no such model"):
        server_process.own_server(str(file), serving())


def test_what_is_kept_dies_with_its_keepers_parent(tmp_path):
    """The parent is killed, and can do nothing more: the command and its children end all the same."""
    mark = tmp_path / "pid"
    child = f"import os, time; open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    code = (
        "import subprocess, sys, time\n"
        f"command = [sys.executable, {child_guard.__file__!r}, sys.executable, '-c', {child!r}]\n"
        "subprocess.Popen(command, stdin=subprocess.PIPE)\n"
        "time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 20
    while not (mark.exists() and mark.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    pid = int(mark.read_text())
    parent.kill()
    parent.wait()
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()

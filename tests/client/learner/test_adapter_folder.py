"""A vLLM server that could not load an adapter is asked again, and never sampled with the one before."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from fedgrpo.client.learner.samplers import Sampling
from fedgrpo.client.learner.samplers.adapter_folder import HotAdapter
from fedgrpo.client.learner.samplers.vllm_server import VllmServer
from fedgrpo.common.adapter.adapter import Adapter
from fedgrpo.common.errors import SamplerError


class Fake(BaseHTTPRequestHandler):
    """Answers as vLLM does, and keeps the folder of the adapter it has; it can be told to fail to load one."""

    has, fails = "", False

    def do_GET(self):
        self._say(200, {"data": [{"id": "base"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "lora" in self.path:
            if not Fake.fails:
                Fake.has = body.get("lora_path", Fake.has)
            return self._say(500 if Fake.fails else 200, {})
        number = int(Path(Fake.has).name)
        choice = {"index": 0, "token_ids": [number], "logprobs": {"token_logprobs": [0.0]}, "finish_reason": "stop"}
        return self._say(200, {"choices": [choice]})

    def _say(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Fake) as http:
        Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def test_an_adapter_that_could_not_be_loaded_is_loaded_before_the_next_completions(model, server, tmp_path):
    adapted = model.trainer.adapted
    sampler = VllmServer((0,), HotAdapter(adapted, "builtin", tmp_path / "scratch"), url=server)

    def sample():
        return sampler.sample([[1, 2]], Sampling(max_tokens=1, temperature=1.0))[0][0].tokens

    start = Adapter.initial(model.schema)
    adapted.load(start)
    assert sample() == sample() == [1]
    adapted.load(start.plus(np.full(model.schema.size, 0.01, np.float32)))
    Fake.fails = True
    with pytest.raises(SamplerError, match="refused /v1/load_lora_adapter"):
        sample()
    Fake.fails = False
    assert sample() == [3]  # asked for with the next number; without asking, the server still had folder 1
    assert (tmp_path / "scratch").is_dir()
    sampler.close()
    assert list(tmp_path.iterdir()) == []  # in /dev/shm it would be memory

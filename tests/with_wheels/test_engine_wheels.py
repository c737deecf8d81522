"""Our calls of vLLM and Unsloth against their real source: `pytest -m wheels tests/with_wheels`.

Both need a GPU to be imported, so their wheels are fetched (0.7 GB into build/wheels, without what they depend on),
read and not run. A call of ours that the newest or the oldest allowed version does not know fails here, before anyone
rents a GPU to see it.
"""

import ast
import re
from pathlib import Path

import pytest
from checkout import ROOT
from fedgrpo.client.learner.models import unsloth_backend
from fedgrpo.client.learner.samplers import server_process, vllm_engine, vllm_server
from fedgrpo.simulations.doctor import versions
from wheels import MissingWheelError, Wheel, calls, parameters, read_from_kwargs, routes

pytestmark = [pytest.mark.wheels, pytest.mark.timeout(900)]
ENGINE = "client/learner/samplers/vllm_engine.py"
SERVER = "client/learner/samplers/vllm_server.py"
UNSLOTH = "client/learner/models/unsloth_backend.py"
SERVING = vllm_engine.Serving(
    model=Path("model"),
    dtype="bfloat16",
    quantization="bitsandbytes",
    max_tokens=1,
    max_rank=8,
    memory_share=0.3,
    on_cpu=True,
    ends=(),
)


def fetched(name, version):
    try:
        return Wheel(name, version)
    except MissingWheelError as error:
        pytest.skip(f"the wheel cannot be fetched: {error}")


@pytest.fixture(scope="module", params=["0.31.0", versions.SETS["vllm"]["vllm"]])
def vllm(request):
    """The oldest and the newest version that is allowed."""
    return fetched("vllm", request.param)


@pytest.fixture(scope="module", params=["2026.10.7", versions.SETS["learner,unsloth"]["unsloth"]])
def unsloth(request):
    """The oldest and the newest version that is allowed."""
    return fetched("unsloth", request.param)


def accepts(function, our_calls, also=()):
    """Whether each of our calls fits the function's signature; arguments it takes out of `**kwargs` are known too."""
    places, names = parameters(function)
    for count, keywords in our_calls:
        assert count <= len(places)
        assert not keywords & set(places[:count])
        assert keywords <= {*names, *also}, keywords - names - {*also}


def string_keys(function):
    """Constant keys of all dictionaries that a function of ours writes."""
    dicts = [node for node in ast.walk(function) if isinstance(node, ast.Dict)]
    return {key.value for node in dicts for key in node.keys if isinstance(key, ast.Constant)}


def our_method(path, name):
    nodes = ast.walk(ast.parse((ROOT / path).read_text()))
    return next(n for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) and n.name == name)


def test_the_oldest_that_are_read_here_are_those_that_the_package_allows(vllm, unsloth):
    assert versions.BOUNDS["vllm"][0] == "0.31"
    assert versions.BOUNDS["unsloth"][0] == "2026.10.7"


# vLLM, in this process


def test_the_engine_knows_each_of_our_settings(vllm):
    init = vllm.method("LLM", "__init__", "vllm/entrypoints/llm.py")
    accepts(init, calls(ENGINE, "LLM"), vllm.fields("EngineArgs", "vllm/engine/arg_utils.py"))
    assert "quantization" in parameters(init)[1]  # `**quantized`
    assert '"LLM": ".entrypoints.llm:LLM"' in vllm.files["vllm/__init__.py"]
    choices = re.search(r"LogprobsMode = Literal\[([^]]*)\]", vllm.files["vllm/config/model.py"]).group(1)
    assert '"processed_logprobs"' in choices


def test_sampling_parameters_and_adapters_have_the_fields_we_set(vllm):
    fields = vllm.fields("SamplingParams", "vllm/sampling_params.py")
    for count, keywords in calls(ENGINE, "SamplingParams"):
        assert (count, keywords - set(fields)) == (0, set())
    fields = vllm.fields("LoRARequest", "vllm/lora/request.py")
    assert fields[:3] == ["lora_name", "lora_int_id", "lora_path"]
    assert all((count, keywords - set(fields)) == (3, set()) for count, keywords in calls(ENGINE, "LoRARequest"))


def test_prompts_go_in_and_completions_come_out_as_we_read_them(vllm):
    accepts(vllm.method("LLM", "generate", "vllm/entrypoints/llm.py"), calls(ENGINE, "_llm.generate"))
    keys = {key for key in string_keys(our_method(ENGINE, "sample")) if key is not None}
    assert keys == {"prompt_token_ids", "cache_salt"}
    assert keys <= set(vllm.fields("TokensPrompt", "vllm/inputs/"))
    assert {"token_ids", "logprobs", "finish_reason"} <= set(vllm.fields("CompletionOutput", "vllm/outputs.py"))
    assert "outputs" in parameters(vllm.method("RequestOutput", "__init__", "vllm/outputs.py"))[1]
    assert "logprob" in vllm.fields("Logprob", "vllm/logprobs.py")
    assert "self.llm_engine = LLMEngine" in vllm.files["vllm/entrypoints/llm.py"]
    accepts(vllm.method("LLMEngine", "add_lora", "vllm/v1/engine/llm_engine.py"), calls(ENGINE, "llm_engine.add_lora"))


def test_environment_variables_are_ones_it_reads(vllm):
    ours = {**vllm_engine.QUIET, **vllm_engine.ON_CPU, **server_process.ENVIRONMENT, vllm_server.KEY: ""}
    read = vllm.files["vllm/envs.py"]
    for name in ours:
        assert f'"{name}"' in read or not name.startswith("VLLM_"), name
    assert '"DO_NOT_TRACK"' in read


# vLLM, over HTTP


def test_the_server_starts_as_we_start_it(vllm):
    path = server_process.MODULE.replace(".", "/") + ".py"
    assert 'if __name__ == "__main__":' in vllm.files[path]
    assert "DeprecationWarning" not in vllm.files[path]
    words = server_process._options(SERVING, Path("socket"))
    flags = {word[2:].replace("-", "_") for word in words if word.startswith("--")}
    (arguments,) = {p for p, text in vllm.files.items() if "class FrontendArgs(" in text}
    known = {*vllm.fields("EngineArgs", "vllm/engine/arg_utils.py"), *vllm.fields("FrontendArgs", arguments)}
    assert len(flags) == 11
    assert flags <= known, flags - known


def test_the_server_has_every_route_that_we_ask(vllm):
    source = "".join((ROOT / path).read_text() for path in (SERVER, server_process.__file__))
    ours = set(re.findall(r'"(?:http://own-server)?(/[a-z0-9_/]+)"', source))
    assert ours == {"/v1/models", "/v1/completions", "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/health"}
    known = routes(vllm, "vllm/entrypoints/")
    gets = {"/v1/models", "/health"}
    asked = {("GET" if path in gets else "POST", path) for path in ours}
    assert asked <= known, asked - known


def test_requests_and_replies_have_the_fields_that_we_write_and_read(vllm):
    """The server takes unknown fields without a word, so a renamed one would only show in the samples."""
    completion = "vllm/entrypoints/openai/completion/protocol.py"
    ours = string_keys(our_method(SERVER, "sample"))
    assert {"prompt", "seed", "cache_salt", "return_token_ids"} <= ours
    request = set(vllm.fields("CompletionRequest", completion))
    assert ours <= request, ours - request
    (lora,) = {p for p, text in vllm.files.items() if "class LoadLoRAAdapterRequest(" in text}
    assert string_keys(our_method(SERVER, "_load")) <= set(vllm.fields("LoadLoRAAdapterRequest", lora))
    assert string_keys(our_method(SERVER, "_unload")) <= set(vllm.fields("UnloadLoRAAdapterRequest", lora))
    choice = set(vllm.fields("CompletionResponseChoice", completion))
    assert {"token_ids", "logprobs", "finish_reason", "index"} <= choice
    assert "token_logprobs" in vllm.fields("CompletionLogProbs", completion)
    assert {"id", "parent"} <= set(vllm.fields("ModelCard", "vllm/entrypoints/"))


def test_vllm_and_flower_still_exclude_each_other(vllm):
    """Why a learner with vLLM has an environment without flwr. Where this fails, one environment may do."""
    operator, version = vllm.below("fastapi")
    assert operator == "<"
    assert versions.as_numbers(version) < versions.as_numbers(versions.FASTAPI_OF_FLWR)


# Unsloth


def test_unsloth_takes_our_arguments(unsloth):
    load = unsloth.method("FastLanguageModel", "from_pretrained", "unsloth/models/loader.py")
    accepts(load, calls(UNSLOTH, "FastLanguageModel.from_pretrained"), read_from_kwargs(load))
    pairs = [len(n.value.elts) for n in ast.walk(load) if isinstance(n, ast.Return) and isinstance(n.value, ast.Tuple)]
    assert set(pairs) == {2}  # the model and its tokenizer
    adapt = unsloth.method("FastLlamaModel", "get_peft_model", "unsloth/models/llama.py")
    accepts(adapt, calls(UNSLOTH, "FastLanguageModel.get_peft_model"))
    assert parameters(adapt)[0][0] == "model"
    assert (
        unsloth.class_of("FastLanguageModel", "unsloth/models/loader.py").bases[0].id,
        re.search(r"from \.loader import (FastLanguageModel)\b", unsloth.files["unsloth/models/__init__.py"]).group(1),
    ) == ("FastLlamaModel", "FastLanguageModel")


def test_what_its_import_raises_on_a_machine_without_gpu_is_what_we_catch(unsloth):
    zoo = fetched("unsloth_zoo", "2026.10.9")
    handlers = [n for n in ast.walk(our_method(UNSLOTH, "import_unsloth")) if isinstance(n, ast.ExceptHandler)]
    caught = {name.id for handler in handlers for name in handler.type.elts}
    for tree in (unsloth.tree("unsloth/device_type.py"), zoo.tree("unsloth_zoo/device_type.py")):
        raised = {n.exc.func.id for n in ast.walk(tree) if isinstance(n, ast.Raise) and isinstance(n.exc, ast.Call)}
        assert raised
        assert raised <= caught


def test_the_doctor_knows_which_versions_it_refuses(unsloth):
    for package, below in versions.BESIDE_UNSLOTH.items():
        operator, version = unsloth.below(package)
        numbers = versions.as_numbers(version)
        first_refused = (*numbers[:-1], numbers[-1] + 1) if operator == "<=" else numbers
        assert _padded(first_refused) == _padded(versions.as_numbers(below)), package


def _padded(numbers):
    """A release without the zeros at its end."""
    while numbers and numbers[-1] == 0:
        numbers = numbers[:-1]
    return numbers


def test_our_backend_names_what_unsloth_must_precede(unsloth):
    """Unsloth only warns where these were imported before it; we refuse."""
    theirs = re.search(r"critical_modules = \[([^]]*)\]", unsloth.files["unsloth/_gpu_init.py"]).group(1)
    assert set(re.findall(r'"(\w+)"', theirs)) == set(unsloth_backend.REWRITTEN)

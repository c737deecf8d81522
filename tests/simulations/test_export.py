"""`fedgrpo export`: which adapter, the PEFT folder, the card, the folder that is whole or not there, the Hub."""

import json
import subprocess
import sys
from dataclasses import replace

import export_runs
import httpx
import huggingface_hub
import numpy as np
import pytest
import torch
import yaml
from fedgrpo.client.learner.models.adapted_model import attach
from fedgrpo.client.learner.models.base_model import load_base
from fedgrpo.common.adapter.methods import METHODS
from fedgrpo.common.adapter.peft_files import read_peft
from fedgrpo.common.cli import main as cli
from fedgrpo.common.errors import ConfigError, RunError
from fedgrpo.server.run.layout import ANSWERS
from fedgrpo.simulations.engine.simulated_clients import BUILTIN_POLICY
from fedgrpo.simulations.evaluation.target import locate as evaluated_target
from fedgrpo.simulations.export import push
from fedgrpo.simulations.export.card import card as model_card
from fedgrpo.simulations.export.output_folder import RECORD, new_folder
from fedgrpo.simulations.export.peft_folder import write_adapter, write_base
from fedgrpo.simulations.export.source import locate
from fedgrpo.simulations.export.steps import quantized_base
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM

IDS = torch.arange(20, 40)[None]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return export_runs.make_base(tmp_path_factory.mktemp("models") / "local-base", "qwen2")


@pytest.fixture
def run(tmp_path, base):
    export_runs.make_run(tmp_path / "run-7", base, export_runs.settings(str(base)), voids=2)
    return tmp_path / "run-7"


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Run `fedgrpo ...` in this process: (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        monkeypatch.setattr("sys.argv", ["fedgrpo", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return caught.value.code, *capsys.readouterr()

    return call


def test_the_last_committed_round_is_taken_or_the_one_that_was_asked_for(run, base):
    last, first, best = locate(run, None, False), locate(run, 1, False), locate(run, None, True)
    assert (last.round, first.round, best.round) == (2, 1, 1)
    assert first.adapter.sha256 == best.adapter.sha256 != last.adapter.sha256
    assert locate(run / "adapters" / "0001", None, False).round == 1
    assert last.base.public == "local-base"
    assert locate(run, None, False, "org/name").base.on_hub


@pytest.mark.parametrize(("words", "says"), [
    (["nowhere"], "neither a run folder nor one of its adapters (RUN/adapters/NUMBER), nor a PEFT adapter"),
    (["run-7/adapters/0000"], "run-7 was not committed: it is the untrained start"),
    (["run-7/adapters/0007"], "run-7 was not committed. The rounds are 1 to 2"),
    (["run-7", "--round", "3"], "Round 3 of run-7 was not committed. The rounds are 1 to 2"),
    (["run-7", "--round", "0"], "Round 0 of run-7 was not committed"),
    (["run-7", "--round", "1", "--best"], "Use only one of them"),
    (["run-7/adapters/0001", "--best"], "is not a run folder"),
    (["run-7", "--type", "f32"], "--type is for --to gguf"),
    (["run-7", "--to", "gguf", "--dtype", "float16"], "--dtype is for --to merged"),
    (["run-7", "--base-model", "/home/me/base"], "is not of the form ORG/NAME"),
    (["run-7", "--public"], "there is no --push"),
    (["run-7", "--push", "name"], "not of the form ORG/NAME"),
    (["run-7", "--push", "org/name"], "HF_TOKEN; it is not set"),
    (["run-7", "--push", "org/my--name"], "is not a valid name on the Hub"),
    (["run-7", "--to", "gguf", "--type", "q4_k_m"], "llama-quantize is not on PATH"),
])  # fmt: skip
def test_what_cannot_be_is_said_in_one_message(run, command, monkeypatch, tmp_path, words, says):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    status, out, err = command("export", *words)
    assert (status, out) == (1, "")
    assert says in " ".join(err.split())
    assert not (tmp_path / "exports").exists()


def test_an_adapter_that_the_journal_does_not_name_is_refused(run):
    (run / "adapters" / "0002").rename(run / "adapters" / "x")
    (run / "adapters" / "0001").rename(run / "adapters" / "0002")
    with pytest.raises(ConfigError, match="is not the one in the journal"):
        locate(run, None, False)


@pytest.mark.parametrize("method", METHODS)
def test_the_peft_folder_of_every_method_opens_in_peft_and_answers_as_the_adapter(tmp_path, base, command, method):
    config = export_runs.settings(str(base), aggregation__method=method)
    adapters = export_runs.make_run(tmp_path / "run", base, config, correct=(0, 5))
    status, out, _ = command("export", "run", "--out", "made", "--format", "json")
    result = json.loads(out.splitlines()[-1])
    assert status == 0
    assert result["adapter_sha256"] == adapters[1].sha256
    cpu = torch.device("cpu")
    adapted = attach(load_base(base, "float32", cpu), adapters[1])
    opened = PeftModel.from_pretrained(load_base(base, "float32", cpu), str(tmp_path / "made"))
    with torch.no_grad():
        plain = load_base(base, "float32", cpu)(input_ids=IDS).logits
        expected, found = (m.eval()(input_ids=IDS).logits for m in (adapted.model, opened))
    assert (expected - plain).abs().max() > 0.1
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-3)
    if "W" not in METHODS[method].holds:
        assert read_peft(tmp_path / "made").sha256 == adapters[1].sha256
    else:
        assert "--max-lora-rank" in result["warnings"][0]


def test_the_folder_tells_nothing_of_this_machine_or_of_an_organisation(run, command, tmp_path, base):
    assert command("export", "run-7", "--out", "made")[0] == 0
    described = json.loads((tmp_path / "made" / "adapter_config.json").read_text())
    assert described["base_model_name_or_path"] == "local-base"
    for path in (tmp_path / "made").iterdir():
        text = path.read_bytes().decode(errors="replace")
        for secret in (str(tmp_path), str(base.parent), "clinic", "oncology", "secret_rule", "run-7"):
            assert secret not in text, (path.name, secret)
    names = {path.name for path in (tmp_path / "made").iterdir()}
    assert not any("token" in name for name in names)
    record = json.loads((tmp_path / "made" / RECORD).read_text())
    assert {f["name"] for f in record["files"]} == names - {RECORD}
    assert record["differences"]["weights"] < 1e-6


def test_an_adapter_of_a_taught_model_says_that_it_fits_no_other(run, command, tmp_path, base):
    (base / "sft.json").write_text("{}")
    status, out, _ = command("export", "run-7", "--out", "made", "--base-model", "org/untaught", "--format", "json")
    assert status == 0
    told = json.loads(out)["warnings"][0]
    assert "adapter fits that model, not the one it was made from. Unless org/untaught is a copy" in told
    assert " ".join(told.split()) in " ".join((tmp_path / "made" / "README.md").read_text().split())


def card(command, tmp_path, *words):
    status, _, err = command("export", "run-7", "--out", "made", "--force", *words)
    assert status == 0, err
    text = (tmp_path / "made" / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), " ".join(body.split())


def test_the_card_says_what_the_run_was_and_came_to(run, command, tmp_path):
    front, body = card(command, tmp_path, "--base-model", "org/base")
    assert front["base_model"] == "org/base"
    assert (front["library_name"], front["base_model_relation"]) == ("peft", "adapter")
    adapter = read_peft(run / "adapters" / "0002")
    for said in (
        adapter.sha256,
        "| rounds | 2 of 3 planned; 2 void attempts",
        "| clients | 2 |",
        "0.00 MB, 0.01 MB",
        "20 held-out problems, those of 2 organisations",
        "sampled at temperature 1, strict | 0.0% | 35.0% | +35.0 points (95 % interval ",
        "0.250 in round 1, 0.500 in round 2",
        "Privacy spent: no differential privacy was used",
        "`aggregation.rule` | `mean`",
        "Method `naive` (FedIT",
        "'org/base'",
    ):
        assert said in body, said
    assert "This round was chosen" not in body
    best = card(command, tmp_path, "--best")[1]
    assert "This round was chosen because it has the highest" in best
    assert "| rounds | 1 of 3 planned" in best


def test_what_one_organisation_alone_found_is_not_published_unless_simulated(tmp_path, base, command):
    config = export_runs.settings(str(base), simulation__rewards="correctness,/home/me/mine.py:brief=0.5")
    export_runs.make_run(tmp_path / "run-7", base, config, clients=("clinic-a",))
    body = card(command, tmp_path)[1]
    assert "35.0%" not in body
    assert "is its own, and is left out here" in body
    assert "Mean reward" not in body
    (tmp_path / "run-7" / ANSWERS).write_text("")
    simulated = card(command, tmp_path)[1]
    assert "35.0%" in simulated
    assert "`correctness`, functions of an own file" in simulated
    assert "/home/me" not in simulated


def test_an_adapter_without_its_run_says_that_nothing_is_known(run, command, tmp_path):
    (run / "adapters" / "0002").rename(tmp_path / "alone")
    status, _, err = command("export", "alone", "--out", "made")
    assert status == 0, err
    assert "knows nothing of the training" in (tmp_path / "made" / "README.md").read_text().replace("\n", " ")


def test_a_folder_is_whole_or_not_there_and_nothing_else_is_replaced(tmp_path):
    target = tmp_path / "made"
    with pytest.raises(FileNotFoundError), new_folder(target, False) as aside:
        (aside / "half").write_bytes((tmp_path / "absent").read_bytes())
    assert list(tmp_path.iterdir()) == []
    target.mkdir()
    (target / "mine.txt").write_text("precious")
    for force in (False, True):
        with (
            pytest.raises(ConfigError, match="not empty" if not force else "is not an export"),
            new_folder(target, force),
        ):
            pass
    assert (target / "mine.txt").read_text() == "precious"
    (target / RECORD).write_text("{}")
    with pytest.raises(FileNotFoundError), new_folder(target, True):
        (tmp_path / "absent").read_bytes()
    assert (target / "mine.txt").exists()
    with new_folder(target, True) as aside:
        (aside / "new").write_text("y")
    assert [path.name for path in tmp_path.rglob("*")] == ["made", "new"]


def test_an_adapter_is_exported_without_torch(run, tmp_path):
    code = (
        "import sys\nfor name in ('torch', 'transformers', 'peft', 'gguf'): sys.modules[name] = None\n"
        "sys.argv = ['fedgrpo', 'export', 'run-7', '--out', 'made']\nfrom fedgrpo.common.cli.main import main\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "made" / "adapter_model.safetensors").is_file()


def test_without_jinja_the_extra_is_named(run, command, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert "pip install 'fedgrpo[export]'" in command("export", "run-7", "--out", "made")[2]


class FakeHub:
    """What HfApi is asked; `failure` is raised instead of an upload."""

    endpoint = "https://hub.example"
    calls: list
    failure: Exception | None = None
    private = True

    def __init__(self, token):
        self.calls.append(("token", token))

    def create_repo(self, name, **options):
        self.calls.append(("create", name, options))

    def repo_info(self, name, repo_type):
        return self

    def upload_folder(self, *, folder_path, **options):
        if self.failure:
            raise self.failure
        self.calls.append(("upload", sorted(path.name for path in folder_path.iterdir()), options))


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    kind = type("Hub", (FakeHub,), {"calls": []})
    monkeypatch.setattr(huggingface_hub, "HfApi", kind)
    return kind


def test_an_export_is_pushed_privately_with_the_token_of_the_environment(run, command, hub):
    status, out, err = command("export", "run-7", "--out", "made", "--push", "org/name", "--format", "json")
    assert status == 0
    assert json.loads(out)["pushed"] == "https://hub.example/org/name"
    assert hub.calls[0] == ("token", "hf_secret")
    assert hub.calls[1][2]["private"] is True
    assert "README.md" in hub.calls[2][1]
    assert hub.calls[2][2]["ignore_patterns"] == [RECORD]
    assert "hf_secret" not in out + err
    assert command("export", "run-7", "--out", "made", "--force", "--push", "org/name", "--public")[0] == 0
    assert hub.calls[4][2]["private"] is False


def refused(status):
    response = httpx.Response(status, request=httpx.Request("POST", "https://hub.example/hf_secret"))
    return huggingface_hub.errors.HfHubHTTPError("said hf_secret", response=response)


@pytest.mark.parametrize(("failure", "says"), [
    (httpx.ConnectError("no route for hf_secret"), "The Hub cannot be reached (ConnectError)"),
    (huggingface_hub.errors.OfflineModeIsEnabled("offline"), "HF_HUB_OFFLINE is not set"),
    (refused(403), "refuses the token in HF_TOKEN (status 403)"),
    (refused(500), "answered with status 500"),
])  # fmt: skip
def test_where_the_hub_fails_the_export_stays_and_the_token_is_not_told(tmp_path, hub, failure, says):
    hub.failure = failure
    (tmp_path / "README.md").write_text("x")
    with pytest.raises(RunError) as caught:
        push.push(tmp_path, "org/name", public=False, message="m")
    assert says in str(caught.value)
    assert "hf_secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_repository_that_is_public_already_is_not_pushed_to_unasked(tmp_path, hub):
    hub.private = False
    with pytest.raises(ConfigError, match="is already public"):
        push.push(tmp_path, "org/name", public=False, message="m")
    assert not [call for call in hub.calls if call[0] == "upload"]


def test_a_change_is_the_product_and_the_residual(base):
    config = export_runs.settings(str(base), aggregation__method="fedex")
    adapter = export_runs.some_adapter(base, config)
    module = adapter.schema.modules[3]
    parts = adapter.parts()
    want = 2.0 * np.matmul(parts[module.name, "B"], parts[module.name, "A"]) + parts[module.name, "W"]
    np.testing.assert_allclose(adapter.change(module), want, atol=1e-5)


@pytest.mark.parametrize("bits", ["none", "4bit"])
def test_a_base_of_fewer_bits_than_the_one_merged_into_is_said(run, bits):
    source = locate(run, None, False)
    assert source.run
    config = source.run.config.with_values({"backend.quantization": bits, "aggregation.method": "svd"})
    found = quantized_base(replace(source, run=replace(source.run, config=config)))
    assert len(found) == (bits != "none")
    assert all("trained on the base model in 4bit" in text for text in found)


@pytest.fixture
def built_in_run(tmp_path):
    export_runs.make_run(tmp_path / "run-7", BUILTIN_POLICY, export_runs.settings("builtin"))
    return tmp_path / "run-7"


def test_an_adapter_for_the_built_in_model_brings_it_and_opens_by_its_folder_alone(command, built_in_run, tmp_path):
    status, out, err = command("export", built_in_run, "--out", tmp_path / "made", "--format", "json")
    assert status == 0, err
    assert json.loads(out)["base_model"] == "builtin"
    base = AutoModelForCausalLM.from_pretrained(BUILTIN_POLICY)
    wanted = PeftModel.from_pretrained(base, tmp_path / "made").eval()(IDS).logits
    opened = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "made").eval()
    assert torch.equal(opened(IDS).logits, wanted)


def test_the_card_of_a_built_in_base_says_how_to_load_it_and_its_lines_do(command, built_in_run, tmp_path, monkeypatch):
    assert command("export", built_in_run, "--out", tmp_path / "made")[0] == 0
    moved = tmp_path / "moved"
    (tmp_path / "made").rename(moved)
    card = (moved / "README.md").read_text()
    assert "AutoPeftModelForCausalLM.from_pretrained` opens it as well, as long as the folder stays" in card
    code = card.split("```python\n")[1].split("```")[0].replace('"FOLDER"', repr(str(moved)))
    names = {}
    exec(code, names)  # the card's own lines
    assert names["model"](IDS).logits.shape[1] == 20
    assert locate(moved, None, False).base.public == "builtin"
    assert evaluated_target(moved, None).config.model.name == str(moved / "base_model")


def test_a_pushed_adapter_for_the_built_in_model_names_no_path_and_says_what_does_not_work(built_in_run, tmp_path):
    source = locate(built_in_run, None, False)
    folder = tmp_path / "made"
    write_adapter(source.adapter, source.base, folder)
    write_base(source.base, folder, None)
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "builtin"
    text = model_card(source, "adapter", repository="org/name", differences={}, warnings=[])
    assert "`AutoPeftModelForCausalLM` does not open this adapter" in text
    assert 'snapshot_download("org/name")' in text

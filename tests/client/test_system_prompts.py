"""System prompts: by name, or from a text file; never the file's name."""

import pytest
from fedgrpo.client.learner.data.system_prompts import SYSTEM_PROMPTS, system_prompt
from fedgrpo.common.cli import main as cli
from fedgrpo.common.errors import ConfigError


def test_a_name_or_a_file_with_or_without_a_byte_order_mark(tmp_path):
    assert system_prompt("xml") == SYSTEM_PROMPTS["xml"]
    for text in ("Answer in capitals.\n", "\ufeffAnswer in capitals."):
        (tmp_path / "prompt.txt").write_text(text)
        assert system_prompt(str(tmp_path / "prompt.txt")) == "Answer in capitals."


@pytest.mark.parametrize("text", ["prompt.txt", "Answer in capitals.", ".", "a\0b", "x" * 5000, ""])
def test_anything_else_is_refused_with_what_is_known(text):
    with pytest.raises(ConfigError, match="is neither one of none, xml, think, hash nor a text file: "):
        system_prompt(text)


def test_sft_refuses_a_prompt_that_is_no_file_before_it_loads_a_model(monkeypatch, capsys, tmp_path):
    (tmp_path / "d.jsonl").write_text('{"question": "2+2?", "completion": "4"}\n')
    words = ["sft", str(tmp_path / "d.jsonl"), "--model", "none/such", "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["fedgrpo", *words, "--system", str(tmp_path / "promt.txt")])
    with pytest.raises(SystemExit):
        cli.main()
    assert "promt.txt' is neither one of" in " ".join(capsys.readouterr().err.split())

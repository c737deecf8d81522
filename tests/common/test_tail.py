"""A file that grows is read on, whole lines only, and from the start where it is another file."""

import pytest
from fedgrpo.common.errors import RunError
from fedgrpo.common.storage.tail import Tail


def test_only_whole_new_lines_are_read(tmp_path):
    file = tmp_path / "a.jsonl"
    tail = Tail(file)
    assert tail.new() == []
    file.write_text('{"n":1}\n{"n":2')
    assert tail.new() == [{"n": 1}]
    assert tail.new() == []
    with file.open("a") as more:
        more.write('}\n{"n":3}\n')
    assert tail.new() == [{"n": 2}, {"n": 3}]
    assert not tail.began_again


@pytest.mark.parametrize("how", ["shorter", "another"])
def test_a_file_that_began_again_is_read_from_its_start(tmp_path, how):
    file = tmp_path / "a.jsonl"
    file.write_text('{"n":1}\n{"n":2}\n')
    tail = Tail(file)
    assert len(tail.new()) == 2
    if how == "another":
        (tmp_path / "b").write_text('{"n":7}\n{"n":8}\n{"n":9}\n')
        (tmp_path / "b").replace(file)
    else:
        file.write_text('{"n":7}\n')
    assert tail.new()[0] == {"n": 7}
    assert tail.began_again


def test_a_file_that_is_gone_has_no_lines(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"n":1}\n')
    tail = Tail(file)
    tail.new()
    file.unlink()
    assert tail.new() == []
    assert tail.began_again


def test_a_damaged_line_is_named_by_its_number_in_the_file(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"n":1}\n')
    tail = Tail(file)
    tail.new()
    with file.open("a") as more:
        more.write('{"n":2}\n[3]\n')
    with pytest.raises(RunError, match=r"a\.jsonl, line 3 is damaged"):
        tail.new()

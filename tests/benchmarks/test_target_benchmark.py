"""The benchmark of steps for targets: what ends it before anything is compiled."""

import pytest

from benchmarks import targets
from benchmarks.command import end_with_sentence
from ragaf_jax.errors import UserError


@pytest.mark.parametrize("content", ["words", "[]", '{"rows": [{}]}'])
def test_a_file_of_another_is_refused(tmp_path, monkeypatch, content):
    (tmp_path / "rows.json").write_text(content)
    monkeypatch.setattr("sys.argv", ["targets", f"--json={tmp_path / 'rows.json'}"])
    with pytest.raises(SystemExit, match=r"^error: --json=.*rows.json has no rows of this"):
        end_with_sentence(targets.main)
    assert (tmp_path / "rows.json").read_text() == content


def test_an_unknown_target_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["targets", "--only=nonsense"])
    with pytest.raises(SystemExit):
        targets.main()
    assert "invalid choice: 'nonsense'" in capsys.readouterr().err


def test_what_the_user_can_put_right_ends_with_a_sentence():
    def main():
        raise UserError("No compiler.")

    with pytest.raises(SystemExit, match=r"^error: No compiler\.$"):
        end_with_sentence(main)

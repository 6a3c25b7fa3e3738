import pytest

from raysr.cli import fail
from raysr.errors import text_of


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("no such file"), "no such file"),
        (NotImplementedError(), "NotImplementedError"),
        (RuntimeError(" \n"), "RuntimeError"),
        (OSError(2, "No such file or directory"), "[Errno 2] No such file or directory"),
        (KeyError("scale"), "KeyError: 'scale'"),
        (KeyError(), "KeyError"),
    ],
)
def test_an_exception_says_what_it_is_where_its_text_does_not(error: Exception, text: str) -> None:
    assert text_of(error) == text


def test_a_job_that_fails_of_an_exception_without_text_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fail(MemoryError())
    assert capsys.readouterr().err == "error: MemoryError\n"

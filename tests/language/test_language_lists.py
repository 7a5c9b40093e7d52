from __future__ import annotations

import pytest

from kinfold.errors import InputError
from kinfold.language import read_words


def test_words_are_lines_without_the_space_around_them(tmp_path):
    file = tmp_path / "words.txt"
    file.write_bytes("\ufeffdog\r\n\n  sea urchin \n\t\nÉclair\ndog".encode())
    assert read_words(file) == ("dog", "sea urchin", "Éclair", "dog")


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe\x00", b"a\0b\n"])
def test_what_is_no_list_of_words_is_refused_by_name(tmp_path, content):
    file = tmp_path / "words.txt"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"words\.txt"):
        read_words(file)


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.txt"):
        read_words(tmp_path / "none.txt")

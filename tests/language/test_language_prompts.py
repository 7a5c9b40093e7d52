from __future__ import annotations

import pytest

from kinfold.errors import InputError
from kinfold.language import PLAIN, TEMPLATES, fill


def test_the_templates_are_the_seven_of_the_paper():
    assert TEMPLATES == (
        "itap of a {}.",
        "a bad photo of the {}.",
        "a origami {}.",
        "a photo of the large {}.",
        "a {} in a video game.",
        "art of the {}.",
        "a photo of the small {}.",
    )


def test_words_are_put_in_as_they_are_those_of_one_word_together():
    texts = fill(TEMPLATES[:2], ["Siamese cat", "{}", "100 % {x}"])
    assert texts == [
        "itap of a Siamese cat.",
        "a bad photo of the Siamese cat.",
        "itap of a {}.",
        "a bad photo of the {}.",
        "itap of a 100 % {x}.",
        "a bad photo of the 100 % {x}.",
    ]
    assert fill(PLAIN, ["x"]) == ["x"]
    assert fill(TEMPLATES, []) == []


@pytest.mark.parametrize("templates", [[], "a {}.", ["a photo"], ["{} and {}"], [None], None, {"{}"}])
def test_templates_without_one_place_for_the_word_are_refused(templates):
    with pytest.raises(InputError, match=r"\{\}"):
        fill(templates, ["x"])

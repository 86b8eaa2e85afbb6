import pytest

from jaxvid.errors import InputError
from jaxvid.models import grammar

WORDS = ("space", "time", "mlp")


@pytest.mark.parametrize(
    ("line", "groups"),
    [
        ("space mlp time mlp", (("space",), ("mlp",), ("time",), ("mlp",))),
        ("space+time mlp", (("space", "time"), ("mlp",))),
        (" space + time+mlp ", (("space", "time", "mlp"),)),
    ],
)
def test_words_in_a_row_and_side_by_side(line, groups):
    assert grammar.parse(line, WORDS) == groups


@pytest.mark.parametrize(
    ("line", "culprit"),
    [
        ("space mlp tmie mlp", "tmie"),
        ("space+", "+"),
        ("+ mlp", "+"),
        ("space ++ time", "+ time"),
        ("", ""),
    ],
)
def test_a_mistake_is_pointed_at_and_the_known_words_are_listed(line, culprit):
    with pytest.raises(InputError) as error:
        grammar.parse(line, WORDS)
    said, shown, marks = str(error.value).split("\n")
    assert "mlp, space, time" in said
    assert shown[marks.index("^") :].startswith(culprit)


def test_the_nearest_word_is_suggested():
    with pytest.raises(InputError, match="did you mean 'time'"):
        grammar.parse("tmie", WORDS)

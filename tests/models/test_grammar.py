import dataclasses

import pytest

from jaxvid.config import POSITIVE
from jaxvid.errors import InputError
from jaxvid.models import grammar
from jaxvid.models.grammar import Word, argument


@dataclasses.dataclass
class Plain:
    config: object


@dataclasses.dataclass
class Windowed:
    config: object
    frames: int = argument(4, POSITIVE)
    rows: int = argument(4, POSITIVE)
    round: bool = False


WORDS = {"space": Plain, "time": Plain, "mlp": Plain, "window": Windowed}


def words(*names):
    return tuple(tuple(map(Word, name.split("+"))) for name in names)


@pytest.mark.parametrize(
    ("text", "stacks"),
    [
        ("space mlp time mlp", [(words("space", "mlp", "time", "mlp"), None)]),
        ("space+time mlp", [(words("space+time", "mlp"), None)]),
        (" space + time+mlp\n", [(words("space+time+mlp"), None)]),
        ("8*(space mlp) 4*(time)", [(words("space", "mlp"), 8), (words("time"), 4)]),
        (
            "space 2 * ( time+mlp )mlp mlp",
            [(words("space"), None), (words("time+mlp"), 2), (words("mlp", "mlp"), None)],
        ),
    ],
)
def test_words_in_a_row_side_by_side_and_repeated(text, stacks):
    assert grammar.parse(text, WORDS) == tuple(stacks)


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("window", {}),
        ("window()", {}),
        ("window(2,3)", dict(frames=2, rows=3)),
        ("window( 2 , rows = 3 )", dict(frames=2, rows=3)),
        ("window(round=True)", dict(round=True)),
    ],
)
def test_arguments_are_those_of_a_call(text, arguments):
    for whole, at in ((f"mlp+{text} mlp", 1), (f"3*({text} mlp)", 0)):
        [(line, _)] = grammar.parse(whole, WORDS)
        assert line[0][at] == Word("window", tuple(arguments.items()))


@pytest.mark.parametrize(
    ("text", "culprit", "line"),
    [
        ("space mlp tmie mlp", "tmie", "unknown word 'tmie', did you mean 'time'"),
        ("2*(space) 3*(mlp tmie)", "tmie", "did you mean 'time'"),
        ("space+", "+", "a word on either side"),
        ("+ mlp", "+", "a word on either side"),
        ("space ++ time", "+ time", "a word on either side"),
        ("space + 2*(mlp)", "+ 2", "a word on either side"),
        ("", "", "an empty line"),
        ("space 2*( )", " )", "an empty line"),
        ("8*space", "8", "unknown word '8'"),
        ("(space mlp)", "(", "out of place"),
        ("space (3)", "(3", "out of place"),
        ("space mlp)", ")", "out of place"),
        ("3*(space", "(space", "never closed"),
        ("window(4", "(4", "never closed"),
        ("0*(space)", "0*", "at least once"),
        ("2*(space 3*(mlp))", "3*(mlp", "cannot be nested"),
        ("space(2)", "2", "too many arguments; 'space' takes no arguments"),
        ("window(1,2,True,4)", "1,2", r"frames=4 \(an integer of at least 1\), rows=4"),
        ("window(frame=4)", "frame=4", r"unknown argument 'frame', did you mean 'frames'\?; 'wi"),
        ("window(2, rows=0)", "rows=0", "'rows' must be an integer of at least 1; 'window' takes"),
        ("window(2.5)", "2.5", "'frames' must be an integer"),
        ("window(round=1)", "round=1", "'round' must be True or False"),
        ("window(True)", "True", "'frames' must be an integer"),
        ("window(2, frames=2)", "frames=2)", "'frames' is given twice"),
        ("window(exit())", "exit()", "'frames' must be an integer"),
        ("window(*[1,2])", "*[1", "'frames' must be an integer"),
        ("window(**{'rows': 1})", "**", "unknown argument 'None'"),
        ("window(4 4)", "4 4", "cannot be read"),
    ],
)
def test_a_mistake_is_pointed_at_and_explained(text, culprit, line):
    with pytest.raises(InputError, match=line) as error:
        grammar.parse(text, WORDS)
    _, shown, marks = str(error.value).split("\n")
    assert shown[marks.index("^") :].startswith(culprit)


def test_the_known_words_are_listed():
    with pytest.raises(InputError, match="known: mlp, space, time, window,"):
        grammar.parse("tmie", WORDS)


def test_the_blocks_of_older_runs_are_put_into_words():
    assert grammar.with_window("window+space mlp", [2, 4, 4]) == "window(2,4,4)+space mlp"
    assert grammar.with_window("window(3) mlp", (2, 4, 4)) == "window(3) mlp"
    assert grammar.from_stacks([["space mlp", 8], ["time", 1]]) == "8*(space mlp) 1*(time)"

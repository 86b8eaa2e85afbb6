import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.conditions.label import Label
from jaxvid.data.clips import Clip
from jaxvid.errors import InputError
from tests.conditions.cases import LABEL, network


@pytest.mark.parametrize(
    ("value", "index"), [("square", 1), ("triangle", 2), ("0", 0), ("2", 2), ("02", 2)]
)
def test_a_class_is_asked_for_by_name_or_number(value, index):
    label = LABEL.parse(value, frames=4)
    assert (label, label.dtype, label.shape) == (index, np.int32, ())


def test_names_that_look_like_numbers_come_first():
    assert Label(3, ("2", "1", "0")).parse("2", frames=4) == 0


@pytest.mark.parametrize(
    ("condition", "value", "message"),
    [
        (LABEL, "squre", "--label=squre: did you mean 'square'. .*3 classes, from 0: circle, squ"),
        (LABEL, "3", "--label=3: the model has 3 classes"),
        (LABEL, "-1", "--label=-1: the model has 3 classes"),
        (LABEL, "1.0", "--label=1.0: the model has"),
        (LABEL, "", "--label=: the model has"),
        (Label(2), "square", "--label=square: the model has 2 classes, from 0$"),
    ],
)
def test_a_class_that_is_not_there_is_one_line_with_those_that_are(condition, value, message):
    with pytest.raises(InputError, match=message) as caught:
        condition.parse(value, frames=4)
    assert "\n" not in str(caught.value)


def test_the_label_of_a_clip_and_the_null_of_a_clip_without():
    clip = Clip(np.zeros(1, np.float32), lambda index: None, label=2)
    assert LABEL.encode({"label": np.array(2)}, clip) == 2
    assert LABEL.encode({"label": np.array(-1)}, None) == -1
    assert LABEL.by_default(np.full(4, -1, np.int32)).tolist() == [0, 1, 2, 0]


def test_a_class_is_described_by_its_name_or_number():
    described = [c.describe(np.array(i, np.int32)) for c in (LABEL, Label(3)) for i in (1, -1)]
    assert described == ["square", "", "class 1", ""]


def test_classes_differ_and_the_null_is_one_of_its_own():
    apply, params = network(LABEL)
    frame = apply(params, {"label": jnp.arange(-1, 3, dtype=jnp.int32)})["label"].frame[:, 0]
    apart = jax.vmap(lambda x: jnp.abs(frame - x).max(axis=-1))(frame)
    assert (apart[~np.eye(4, dtype=bool)] > 1e-3).all()

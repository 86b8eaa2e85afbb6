import numpy as np
import pytest

from jaxvid.conditions.action import read_actions
from jaxvid.errors import InputError
from tests.conditions.cases import ACTION, B, D, T, network, seen


def test_a_table_of_actions_is_known_as_far_as_it_goes(tmp_path):
    path = tmp_path / "actions.csv"
    path.write_text("# x, y\n1,2\n-3, 4.5\n", encoding="utf-8-sig")
    asked = ACTION.parse(str(path), frames=3)
    np.testing.assert_array_equal(asked["action"][:2], [[1, 2], [-3, 4.5]])
    np.testing.assert_array_equal(asked["mask"], [True, True, False])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"1,2,3\n", "1 rows of 3 numbers: give 1 to 3 rows, one per frame, of 2 finite numbers"),
        (b"1,2\n" * 4, "4 rows of 2"),
        (b"", "0 rows"),
        (b"1,nan\n", "of 2 finite numbers"),
        (b"1,2\n3\n", "not a table of numbers"),
        (b"left,right\n", "not a table of numbers"),
        (b"\xff\x00\x93NUMPY", "not a table of numbers"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_table_that_does_not_fit_is_one_line(tmp_path, table, message):
    path = tmp_path / "actions.csv"
    if table is not None:
        path.write_bytes(table)
    with pytest.raises(InputError, match=rf"actions\.csv: .*{message}") as caught:
        read_actions(path, frames=3, width=2)
    assert "\n" not in str(caught.value)


def test_in_a_longer_video_actions_are_those_of_its_frames_and_unknown_past_their_end():
    arrays = {
        "action": np.arange(2 * 5 * 2, dtype=np.float32).reshape(2, 5, 2),
        "mask": np.array([[True] * 5, [True, True, True, False, False]]),
    }
    part = ACTION.window(arrays, np.arange(2, 6))
    np.testing.assert_array_equal(part["mask"], [[1, 1, 1, 0], [1, 0, 0, 0]])
    np.testing.assert_array_equal(part["action"][:, :3], arrays["action"][:, 2:])
    beyond = ACTION.window(arrays, np.arange(90, 94))
    assert beyond["action"].shape == (2, 4, 2)
    assert not beyond["mask"].any()


@pytest.mark.parametrize("per_patch", [1, 2])
def test_an_action_reaches_its_own_patch_of_frames_and_each_frame_has_its_null(per_patch):
    arrays = seen((ACTION,))["action"]
    apply, params = network(ACTION, per_patch=per_patch)

    def frame(**changes):
        return apply(params, {"action": arrays | changes})["action"].frame

    action, mask = arrays["action"], arrays["mask"]
    assert frame().shape == (B, T // per_patch, D)
    for changes in (
        {"action": action.at[:, 3].add(1.0)},
        {"mask": mask.at[:, 3].set(False)},
    ):
        moved = np.abs(frame(**changes) - frame()).max(axis=(0, 2)) > 1e-4
        np.testing.assert_array_equal(moved, np.arange(T // per_patch) == 3 // per_patch)
    swapped = action[:, np.array([1, 0, 2, 3, 4, 5])]
    assert np.abs(frame(action=swapped) - frame())[:, 0].max() > 1e-4

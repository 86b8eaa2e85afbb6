import dataclasses

import numpy as np
import pytest
from jaxvid.data.conditions import check_conditions, read_actions
from ml_collections import ConfigDict

from configs import base
from jaxvid.data.clips import Clip
from jaxvid.data.pipeline import blank_batch, make_dataset
from jaxvid.data.sources import make_source
from jaxvid.errors import InputError

OFF = dict(text_length=0, text_embeddings="", text_dim=0, action_dim=0, low_res=0)


@dataclasses.dataclass
class Every:
    """64 records that all are `clip`, but for record 1, which is damaged."""

    clip: Clip
    labels: tuple[str, ...] = ()
    fingerprint: str = ""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        if index == 1:
            raise InputError("record 1 is damaged")
        return self.clip


def clip(**fields):
    time = np.arange(9, dtype=np.float32)
    return Clip(time, lambda index: np.zeros((len(index), 8, 8, 3), np.uint8), **fields)


def config(**changes) -> ConfigDict:
    data = base.get_config().data
    data.update(dict(source="clips", frames=4, size=8, **OFF) | changes)
    return data


PLAIN = clip()
RICH = clip(caption="hop", action=np.ones((9, 2), np.float32), text=np.ones((3, 5), np.float16))


@pytest.mark.parametrize(
    ("of", "asked", "message"),
    [
        (PLAIN, dict(text_length=8), r"data\.text_length=8, but .* no captions.*NAME\.txt"),
        (PLAIN, dict(action_dim=2), r"data\.action_dim=2, but .* no actions.*action_dim=0"),
        (PLAIN, dict(text_length=8, text_embeddings="t5", text_dim=5), "t5.*write_embeddings"),
        (RICH, dict(text_embeddings="t5", text_dim=5), "set data.text_length"),
        (RICH, dict(text_length=8, text_embeddings="t5", text_dim=4), "set data.text_dim=5"),
        (RICH, dict(action_dim=3), "set data.action_dim=2"),
        (RICH, dict(action_dim=2, flip=True), "data.flip=True would make the clips' actions"),
        (RICH, dict(action_dim=2, crop=0.9), "data.crop=0.9 would make the clips' actions"),
        (RICH, dict(text_length=8, reverse=True), "data.reverse=True would make .* captions"),
        (
            RICH,
            dict(text_length=8, text_embeddings="t5", text_dim=5, flip=True),
            "data.flip=True would make the clips' embedded captions",
        ),
    ],
)
def test_what_the_data_lacks_or_would_lose_is_one_line(of, asked, message):
    with pytest.raises(InputError, match=message) as caught:
        check_conditions(Every(of), config(**asked))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("of", "asked"),
    [
        (PLAIN, dict(flip=True, reverse=True, crop=0.5)),
        (RICH, dict(text_length=8, action_dim=2)),
        (RICH, dict(text_length=8, flip=True, crop=0.5)),
        (RICH, dict(text_length=8, text_embeddings="t5", text_dim=5)),
    ],
)
def test_what_the_data_has_is_let_through(of, asked):
    check_conditions(Every(of), config(**asked))


def test_the_synthetic_world_has_captions_and_actions_that_survive_augmentation():
    data = config(source="synthetic", text_length=40, action_dim=2, flip=True, reverse=True)
    check_conditions(make_source(data), data)


@pytest.mark.parametrize(
    ("asked", "count"),
    [
        ({}, 3),
        (dict(low_res=4), 4),
        (dict(text_length=8, action_dim=2), 7),
        (dict(text_length=8, text_embeddings="t5", text_dim=5, action_dim=2), 7),
    ],
)
def test_a_blank_batch_is_like_a_real_one(asked, count):
    def form(batch):
        return {name: (x.shape, x.dtype) for name, x in batch.items() if name != "bad"}

    data = config(**asked)
    blank, real = blank_batch(data, 2), make_dataset(Every(RICH), data, seed=0, batch_size=2)[0]
    plain = make_dataset(Every(PLAIN), data, seed=0, batch_size=2)[0]
    assert form(blank) == form(real) == form(plain)
    assert len(blank) == count
    for name in (name for name in blank if name.endswith("_mask")):
        assert not blank[name].any()
        assert not plain[name].any()
        assert real[name][:, :3].all()


def test_a_clip_of_another_width_is_bad():
    data = config(action_dim=3)
    with pytest.raises(InputError, match=r"are all bad.*set data.action_dim=2"):
        make_dataset(Every(RICH), data, seed=0, batch_size=1)[0]


def test_low_resolution_video_is_the_mean_of_the_very_frames_that_are_shown():
    data = config(source="synthetic", size=16, low_res=4, crop=0.5, brightness=0.2, contrast=0.2)
    batch = make_dataset(make_source(data), data, seed=0, batch_size=4)[0]
    mean = batch["video"].reshape(4, 4, 4, 4, 4, 4, 3).mean((3, 5))
    assert batch["low_res"].dtype == np.uint8
    assert mean.std() > 10
    np.testing.assert_allclose(batch["low_res"], mean, atol=0.5)


def test_a_table_of_actions_is_known_as_far_as_it_goes(tmp_path):
    path = tmp_path / "actions.csv"
    path.write_text("# x, y\n1,2\n-3, 4.5\n", encoding="utf-8-sig")
    action, mask = read_actions(path, frames=3, width=2)
    np.testing.assert_array_equal(action[:2], [[1, 2], [-3, 4.5]])
    np.testing.assert_array_equal(mask, [True, True, False])


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

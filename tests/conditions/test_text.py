import pickle

import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.conditions.text import neighbours
from jaxvid.data.clips import Clip
from jaxvid.errors import InputError
from tests.conditions.cases import EMBEDDED, TEXT, B, D, E, L, network, seen

TIME = np.zeros(1, np.float32)


def test_a_caption_is_its_bytes_whether_it_is_of_a_clip_or_asked_for():
    of_clip = TEXT.encode({"caption": np.array("a naïve cat")}, None)
    asked = TEXT.parse("a naïve cat", frames=4)
    np.testing.assert_equal(of_clip, asked)
    assert bytes(asked["bytes"]) == "a naïve cat".encode()[:L]
    assert asked["mask"].all()
    assert TEXT.parse("cat", frames=4)["mask"].sum() == 3
    assert TEXT.describe(asked) == "a naïve c"
    assert not TEXT.parse("", frames=4)["mask"].any()


def test_an_embedding_is_read_from_a_file_and_is_then_as_that_of_a_clip(tmp_path):
    path, tokens = tmp_path / "a.npy", np.random.default_rng(0).normal(size=(3, E))
    of_clip = EMBEDDED.encode({}, Clip(TIME, lambda i: None, text=tokens.astype(np.float16)))
    for dtype in (np.float64, np.float32, np.float16):
        np.save(path, tokens.astype(dtype))
        asked = EMBEDDED.parse(str(path), frames=4)
        np.testing.assert_array_equal(asked["mask"], of_clip["mask"])
        np.testing.assert_allclose(asked["embedding"], of_clip["embedding"], rtol=2e-3)
        assert asked["embedding"].dtype == np.float16
    np.save(path, np.ones((L + 5, E)))
    assert EMBEDDED.parse(str(path), frames=4)["embedding"].shape == (L, E)
    for none in (Clip(TIME, lambda i: None), None):
        assert not EMBEDDED.encode({}, none)["mask"].any()


class Trap:
    """Unpickled, it would leave a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_is_refused_and_not_opened(tmp_path):
    trap = Trap(tmp_path / "sprung")
    np.save(tmp_path / "a.npy", np.array([[trap]], dtype=object), allow_pickle=True)
    (tmp_path / "b.npy").write_bytes(pickle.dumps(trap))
    for name in ("a.npy", "b.npy"):
        with pytest.raises(InputError, match=r"--caption=.*give a \.npy file"):
            EMBEDDED.parse(str(tmp_path / name), frames=4)
    assert not trap.path.exists()


def damaged(folder):
    """Files that are no embedding, with what is said of them."""
    np.save(folder / "good.npy", np.ones((3, E)))
    good = (folder / "good.npy").read_bytes()
    for name, data, message in [
        ("cut.npy", good[:-8], r"give a \.npy file"),
        ("empty.npy", b"", r"give a \.npy file"),
        ("text.npy", b"a cat", r"give a \.npy file"),
    ]:
        (folder / name).write_bytes(data)
        yield name, message
    np.savez(folder / "many.npz", np.ones((3, E)))
    yield "many.npz", r"give a \.npy file"
    yield "missing.npy", r"give a \.npy file .*No such file"
    for name, array, message in [
        ("flat.npy", np.ones(E), rf"float64 of shape \(5,\); give floats of shape \(tokens, {E}\)"),
        ("integers.npy", np.ones((3, E), int), "give floats"),
        ("wide.npy", np.ones((3, E + 1)), rf"set config\.conditions\.text\.dim={E + 1}"),
        ("large.npy", np.full((3, E), 1e6), "not finite in float16"),
        ("nan.npy", np.full((3, E), np.nan), "not finite in float16"),
    ]:
        np.save(folder / name, array)
        yield name, message


def test_what_is_no_embedding_is_one_line(tmp_path):
    for name, message in damaged(tmp_path):
        with pytest.raises(InputError, match=message) as caught:
            EMBEDDED.parse(str(tmp_path / name), frames=4)
        assert "\n" not in str(caught.value), name


def test_more_padding_changes_no_token_and_the_order_of_bytes_does():
    text = seen((TEXT,))["text"]
    apply, params = network(TEXT)

    def tokens(data, mask):
        entry = apply(params, {"text": {"bytes": data, "mask": mask}})["text"]
        valid = np.arange(entry.tokens.shape[1]) < np.asarray(entry.lengths)[:, None]
        return np.where(valid[..., None], entry.tokens, 0)

    data, mask = (np.asarray(text[name]) for name in ("bytes", "mask"))
    pad = ((0, 0), (0, 5))
    longer = tokens(np.pad(data, pad, constant_values=7), np.pad(mask, pad))
    np.testing.assert_allclose(longer[:, :L], tokens(data, mask), atol=1e-5)
    full = np.ones_like(mask)
    turned = tokens(data[:, ::-1].copy(), full)[:, ::-1]
    assert np.abs(turned - tokens(data, full)).max() > 0.1


def test_a_clip_without_a_caption_has_one_token_and_the_others_their_own():
    for c in (TEXT, EMBEDDED):
        apply, params = network(c)
        arrays = seen((c,))["text"]
        mask = np.ones((B, L), bool)
        mask[1] = False
        entry = apply(params, {"text": arrays | {"mask": mask}})["text"]
        assert entry.tokens.shape == (B, L, D)
        assert entry.lengths.tolist() == [L, 1, L, L]


def test_embeddings_of_an_outside_encoder_go_through_one_layer():
    params = network(EMBEDDED)[1]["params"]["text"]
    assert set(params) == {"embeddings", "mean", "null"}


def test_a_byte_sees_its_neighbours_and_nothing_beyond_the_ends():
    x = jnp.arange(1.0, 5.0)[None, :, None]
    expected = [[0, 0, 1, 2, 3], [0, 1, 2, 3, 4], [1, 2, 3, 4, 0], [2, 3, 4, 0, 0]]
    np.testing.assert_array_equal(neighbours(x, 2)[0], expected)

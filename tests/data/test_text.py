import itertools
import json
import pickle

import msgpack
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from configs import base
from jaxvid.conditions.text import Text
from jaxvid.data import pipeline, records, text
from jaxvid.data.sources import make_source
from jaxvid.errors import InputError

SHARDS = {"clips-00000.array_record": ["a cat", "", "a dog"], "clips-00001.array_record": ["a cat"]}


@pytest.fixture
def folder(tmp_path):
    frames, time = np.zeros((4, 8, 8, 3), np.uint8), np.arange(4, dtype=np.float32) / 8
    for shard, captions in SHARDS.items():
        writer = ArrayRecordWriter(str(tmp_path / shard), "group_size:1,uncompressed")
        for caption in captions:
            record = dict(label=0, source="v.mp4", quality=95, caption=caption)
            writer.write(records.encode(frames, time, **record))
        writer.close()
    manifest = {"version": 1, "size": 8, "fps": 8.0, "frames": 4, "labels": []}
    manifest["shards"] = {shard: len(captions) for shard, captions in SHARDS.items()}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path


def encode(captions):
    """A token per letter: its place in the alphabet, and 1."""
    return [np.array([[ord(letter) - 96, 1.0] for letter in caption]) for caption in captions]


def config(folder, **changes):
    data = base.get_config().data
    data.update(source="clips", path=str(folder), frames=2, size=8, prefetch=1)
    data.update(dict(text_embeddings="toy") | changes)
    return data


@pytest.mark.parametrize(("length", "kept"), [(3, "zé"), (5, "zé"), (9, "zé→!")])
def test_captions_are_bytes_of_fixed_length(length, kept):
    data, there = text.to_bytes("zé→!", length)
    assert (len(data), data.dtype, there.dtype) == (length, np.uint8, bool)
    assert bytes(data[there]) == "zé→!".encode()[:length]
    assert not data[~there].any()
    assert text.from_bytes(data, there) == kept
    assert not text.to_bytes("", length)[1].any()


def test_a_batch_has_the_embedding_of_each_clip(folder):
    text.write_embeddings(folder, "toy", encode)
    source = make_source(config(folder))
    expected = {"a cat": [1, -64, 3, 1], "a dog": [1, -64, 4, 15], "": [0, 0, 0, 0]}
    for i, caption in enumerate(itertools.chain(*SHARDS.values())):
        clip = source[i]
        assert clip.caption == caption
        tokens, there = text.pad(clip.text.reshape(-1, 2), 4)
        assert tokens[:, 0].tolist() == expected[caption]
        assert there.tolist() == [bool(caption)] * 4
    encode_given = Text(length=4, dim=2).encode
    given = pipeline.make_dataset(source, config(folder), encode_given, seed=0, batch_size=4)[0][
        "given"
    ]
    assert (given["embedding"].shape, given["embedding"].dtype) == ((4, 4, 2), np.float16)
    rows = {tuple(tokens[:, 0]): mask.all() for tokens, mask in zip(
        given["embedding"], given["mask"], strict=True)}  # fmt: skip
    assert rows == {tuple(row): any(row) for row in expected.values()}


def test_a_caption_is_encoded_once_and_a_second_run_does_what_is_left(folder):
    asked = []

    def note(captions):
        asked.extend(captions)
        if "a dog" in captions and len(asked) == 2:
            raise KeyboardInterrupt
        return encode(captions)

    with pytest.raises(KeyboardInterrupt):
        text.write_embeddings(folder, "toy", note)
    target = text.folder_of(folder, "toy")
    assert not list(target.iterdir())
    text.write_embeddings(folder, "toy", note, batch_size=1)
    assert asked == ["a cat", "a dog"] * 2 + ["a cat"]
    assert sorted(path.name for path in target.iterdir()) == sorted(SHARDS)
    (target / "clips-00001.array_record").unlink()
    with pytest.raises(InputError, match=r"lacks 1 of the 2 .*clips-00001.*write_embeddings"):
        make_source(config(folder))
    text.write_embeddings(folder, "toy", note)
    assert asked[5:] == ["a cat"]
    assert len(make_source(config(folder))) == 4


@pytest.mark.parametrize("wrong", [[1.0, 2.0], [[np.nan]], [[1e6]]])
def test_what_is_no_embedding_is_refused_and_leaves_nothing(folder, wrong):
    with pytest.raises(InputError, match="check what the encoder returns"):
        text.write_embeddings(folder, "toy", lambda captions: [np.array(wrong)] * len(captions))
    assert not list(text.folder_of(folder, "toy").iterdir())


def test_a_missing_shard_or_array_is_one_line(folder):
    with pytest.raises(InputError, match="given 2 captions and returned 1 arrays"):
        text.write_embeddings(folder, "toy", lambda captions: encode(captions)[:1])
    (folder / "clips-00000.array_record").unlink()
    with pytest.raises(InputError, match="lacks clips-00000"):
        text.write_embeddings(folder, "toy", encode)


def test_damaged_embeddings_raise_and_are_never_unpickled(folder):
    record = text.encode_tokens(np.ones((2, 3)))
    np.testing.assert_array_equal(text.decode_tokens(record), np.ones((2, 3)))
    fields = msgpack.unpackb(record)
    for damage in (
        b"",
        record[:-1],
        pickle.dumps(fields),
        msgpack.packb(fields | {"version": 2}),
        msgpack.packb(fields | {"shape": [2, 4]}),
        msgpack.packb(fields | {"shape": 6}),
        msgpack.packb({"version": 1}),
    ):
        with pytest.raises(InputError, match="damaged"):
            text.decode_tokens(damage)


def test_clips_whose_record_is_damaged_have_no_embedding(folder):
    shard = folder / "clips-00000.array_record"
    data = shard.read_bytes()
    at = data.index(b"a dog")
    shard.write_bytes(data[:at] + b"\0" * 5 + data[at + 5 :])
    text.write_embeddings(folder, "toy", encode)
    reader = ArrayRecordReader(str(text.folder_of(folder, "toy") / shard.name))
    assert [len(text.decode_tokens(record)) for record in reader.read_all()] == [5, 0, 0]

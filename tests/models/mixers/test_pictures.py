"""docs/images/words/*.svg against the words: the gradient of one token says which tokens it sees.

A clip in a picture has frames of 4x4 tokens, a token apart, and 1 is the side of a token.
"""

import itertools
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxvid.models import embeddings, grammar
from jaxvid.models.mixers import MIXERS, Context, MixerConfig
from tests.commands import ROOT

SVG = "{http://www.w3.org/2000/svg}"
PICTURES = sorted((ROOT / "docs/images/words").glob("*.svg"))
FRAMES, SIDE, WIDTH = 6, 4, 12


def clips_of(path):
    """The clips in a picture, and for each chip of text whether a token sees it."""
    picture = ElementTree.parse(path)
    chips = [r.get("class").split() for r in picture.iter(f"{SVG}rect") if "class" in r.attrib]
    words = np.array(["key" in chip for chip in chips if "text" in chip], bool)
    return [group for group in picture.iter(f"{SVG}g") if group.get("data-words")], words


def words_of(clip):
    ((line, _),) = grammar.parse(clip.get("data-words"), MIXERS)
    return [word for (word,) in line]


def cells(shape):
    """The tokens [T, h, w] that a rectangle covers."""
    x, y, width, height = (int(shape.get(name, 0)) for name in ("x", "y", "width", "height"))
    covered = np.zeros((FRAMES, SIDE, SIDE), bool)
    frame, column = divmod(x, SIDE + 1)
    covered[frame, y : y + height, column : column + width] = True
    return covered


def seen(word, causal, repeat, query, length):
    """Which tokens, and which of the text of `length` tokens, move the update of a token."""
    config = MixerConfig(heads=1, mlp_ratio=2, dtype=jnp.dtype("float32"), causal=causal)
    module = MIXERS[word.name](config=config, **dict(word.arguments))
    seconds, at = jnp.arange(FRAMES)[None] / 8.0, embeddings.grid(SIDE, SIDE)
    turns = {
        "space": embeddings.rotary(WIDTH, place=at),
        "time": embeddings.rotary(WIDTH, seconds),
        "both": embeddings.rotary(WIDTH, seconds, at),
    }

    rng = np.random.default_rng(0)

    def context(text):
        return Context(seconds, turns, text, jnp.array([length]), repeat, (SIDE, SIDE))

    def update(x, text):
        y = module.apply(params, x, context(text))
        return jnp.sum(y.reshape(*query.shape, WIDTH)[query])

    x, text = (rng.normal(size=(1, *n, WIDTH)).astype("float32") for n in ((FRAMES, SIDE**2), (5,)))
    shapes = nn.meta.unbox(jax.eval_shape(module.init, jax.random.key(0), x, context(text)))
    params = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape) / 4, a.dtype), shapes)
    gradient = jax.jit(jax.grad(update, (0, 1)))
    of_tokens, of_text = (np.abs(g).max(-1)[0] > 0 for g in gradient(x, text))
    return of_tokens.reshape(query.shape), of_text


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.stem)
def test_a_picture_shows_the_tokens_that_a_token_sees(path):
    clips, text = clips_of(path)
    assert clips
    for clip in clips:
        (query,) = map(cells, clip.findall(f"{SVG}rect[@class='query']"))
        keys = sum(map(cells, clip.findall(f"{SVG}g[@class='keys']/{SVG}rect")), query)
        repeat, forms = int(clip.get("data-repeat", 0)), clip.get("data-causal").split()
        for word, form in itertools.product(words_of(clip), forms):
            tokens, of_text = seen(word, form == "true", repeat, query, max(1, text.sum()))
            np.testing.assert_array_equal(tokens, keys, str(clip.attrib))
            np.testing.assert_array_equal(of_text[: len(text)], text, str(clip.attrib))


def test_every_word_has_a_picture():
    drawn = {w.name for path in PICTURES for clip in clips_of(path)[0] for w in words_of(clip)}
    ours = {name for name, word in MIXERS.items() if word.__module__.startswith("jaxvid.")}
    assert drawn == ours

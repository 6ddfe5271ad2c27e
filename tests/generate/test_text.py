import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from fmzoo import generate, models
from fmzoo.errors import InputError
from fmzoo.generate import decoding
from fmzoo.text import ByteTokenizer

KEY = jax.random.key(0)
CONFIG = models.DecoderConfig(
    vocab_size=258,
    d_model=32,
    num_layers=2,
    context_length=256,
    attention=models.AttentionConfig(num_heads=4, num_kv_heads=2, head_dim=8),
    mlp=models.MlpConfig(d_ff=48),
    dtype="float64",
)


@functools.cache
def random_model():
    module = models.Decoder(CONFIG)
    params = jax.jit(module.init)(KEY, jnp.zeros((1, 2), jnp.int32))["params"]
    params = jax.tree.map(lambda a: jnp.asarray(1.5 * a, CONFIG.dtype), params)
    return models.Pretrained(module, params, CONFIG, ByteTokenizer())


def reciting(script):
    """A decoder that says the same text whatever it reads: its logits hang on the position alone."""
    tokens = [256, *script.encode(), 257]
    size = max(32, len(tokens))
    config = models.replace(
        CONFIG, d_model=size, context_length=size, position="learned", num_layers=1, dtype="float32"
    )
    module = models.Decoder(config)
    shapes = jax.eval_shape(module.init, KEY, jnp.zeros((1, 2), jnp.int32))["params"]
    params = jax.tree.map(lambda a: jnp.zeros(a.shape), shapes)
    head = np.zeros((size, config.vocab_size), np.float32)
    head[np.arange(len(tokens) - 1), tokens[1:]] = 50
    params |= {"position_embed": jnp.eye(size), "head": jnp.asarray(head), "final_norm": {"scale": jnp.ones(size)}}
    return models.Pretrained(module, params, config, ByteTokenizer())


SCRIPT = "Größe 42 €\nEND of the €ND"


@pytest.mark.parametrize(
    ("prompt", "stop", "expected", "ended_by"),
    [
        ("", (), SCRIPT, "id"),
        ("what", (), SCRIPT[3:], "id"),  # four bytes of the script are passed over
        ("", "\n", "Größe 42 €", "string"),
        ("", ["€ND", "E"], "Größe 42 €\n", "string"),
        ("", ["never"], SCRIPT, "id"),
        ("", "€", "Größe 42 ", "string"),
        ("", "<eos>", SCRIPT, "id"),
    ],
)
def test_stops_and_streams_alike(prompt, stop, expected, ended_by):
    model = reciting(SCRIPT)
    options = {"max_new_tokens": len(SCRIPT.encode()) + 1 - len(prompt), "temperature": 0, "stop": stop}
    (whole,) = generate.text(model, [prompt], KEY, **options)
    assert (whole.text, whole.ended_by) == (expected, ended_by)
    for chunk in (1, 3, 50):
        pieces = list(generate.stream(model, prompt, KEY, chunk=chunk, **options))
        assert "".join(pieces) == expected
        assert not any("\ufffd" in piece or piece == "" for piece in pieces)


def test_a_special_token_ends_by_its_id():
    model = reciting("ab")
    stopped = generate.text(model, "", KEY, max_new_tokens=9, temperature=0, stop=["<eos>"])
    assert [(c.text, c.tokens, c.ended_by) for c in stopped] == [("ab", (97, 98, 257), "id")]


def test_the_limit_ends():
    (short,) = generate.text(reciting(SCRIPT), "", KEY, max_new_tokens=3, temperature=0)
    assert (short.text, short.ended_by, len(short.tokens)) == ("Gr\ufffd", "length", 3)


def test_a_row_depends_on_its_example_alone(x64):
    model, prompts = random_model(), ["a longer prompt", "", "third"]
    options = {"max_new_tokens": 10, "top_p": 0.95, "repetition_penalty": 1.1}
    together = generate.text(model, prompts, KEY, example_ids=[7, 8, 9], **options)
    turned = generate.text(model, prompts[::-1], KEY, example_ids=[9, 8, 7], **options)[::-1]
    for one, other in zip(together, turned, strict=True):
        assert one.tokens == other.tokens
        np.testing.assert_allclose(one.log_probs, other.log_probs, rtol=0, atol=1e-9)
    (alone,) = generate.text(model, prompts[1], KEY, example_ids=[8], **options)
    assert alone.tokens == together[1].tokens
    (other_id,) = generate.text(model, prompts[1], KEY, example_ids=[9], **options)
    assert other_id.tokens != alone.tokens
    assert "".join(generate.stream(model, prompts[1], KEY, example_id=8, **options)) == alone.text


def test_text_is_decode_with_words(x64):
    model, ids = random_model(), [256, *b"Hello"]
    (completion,) = generate.text(model, "Hello", KEY, max_new_tokens=20, top_k=30)
    keys = jax.random.fold_in(KEY, 0)[None]
    sampling = generate.SamplingConfig(top_k=30)
    out = generate.decode(
        model.module, model.params, jnp.array([ids]), None, keys, max_new_tokens=20, sampling=sampling, stop_ids=[257]
    )
    length = int(out.length[0])
    assert completion.tokens == tuple(out.tokens[0, :length].tolist())
    np.testing.assert_allclose(completion.log_probs, out.log_probs[0, :length], rtol=0, atol=1e-9)
    np.testing.assert_allclose(completion.model_log_probs, out.model_log_probs[0, :length], rtol=0, atol=1e-9)
    assert (completion.log_probs > completion.model_log_probs).all()  # thirty tokens share what all had


def test_on_text_hears_every_piece_in_order(x64):
    model, heard = random_model(), ["", ""]

    def listen(row, piece):
        heard[row] += piece

    options = {"max_new_tokens": 30, "stop": "a"}
    completions = generate.text(model, ["one", "two two"], KEY, on_text=listen, **options)
    assert heard == [c.text for c in completions]
    assert heard == [c.text for c in generate.text(model, ["one", "two two"], KEY, **options)]


def test_rows_spread_over_a_mesh(x64):
    model = random_model()
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    prompts = [f"prompt {i}" * (i % 3 + 1) for i in range(8)]
    replicated = jax.device_put(model.params, NamedSharding(mesh, P()))
    spread = models.Pretrained(model.module, replicated, model.config, model.tokenizer)
    many = generate.text(spread, prompts, KEY, max_new_tokens=8, stop="e", sharding=NamedSharding(mesh, P("data")))
    one = generate.text(model, prompts, KEY, max_new_tokens=8, stop="e")
    assert [c.tokens for c in many] == [c.tokens for c in one]


def test_prompts_within_a_bucket_share_a_program(x64):
    model = random_model()
    generate.text(model, ["x" * 20, "y"], KEY, max_new_tokens=17, stop="never")
    sizes = decoding.begin._cache_size(), decoding.advance._cache_size()
    for length, count in ((25, 20), (30, 32), (17, 30)):
        generate.text(model, ["z" * length, "ab"], KEY, max_new_tokens=count, stop="other", temperature=0.1 * length)
    assert (decoding.begin._cache_size(), decoding.advance._cache_size()) == sizes


def test_token_prompts_need_no_tokenizer(x64):
    model = random_model()
    bare = models.Pretrained(model.module, model.params, model.config)
    (one,) = generate.text(bare, [[256, 72, 105]], KEY, max_new_tokens=5)
    (same,) = generate.text(bare, np.array([256, 72, 105]), KEY, max_new_tokens=5)
    assert one.text == ""
    assert len(one.tokens) == 5
    assert one.tokens == same.tokens == generate.text(model, ["Hi"], KEY, max_new_tokens=5)[0].tokens


@pytest.mark.parametrize(
    ("arguments", "options", "sentence"),
    [
        (([],), {}, "prompts is an empty list"),
        (([[1], []],), {}, "prompt 1 is empty"),
        (([[1, 258]],), {}, "prompt 0 holds token 258; tokens from 0 to 257"),
        (([[-1]],), {}, "prompt 0 holds token -1"),
        ((["x" * 300],), {}, "a prompt of 301 tokens and max_new_tokens=128 make 429; at most context_length=256"),
        ((["x" * 200],), {}, "a prompt of 201 tokens and max_new_tokens=128 make 329"),
        ((["x"],), {"max_new_tokens": 0}, "max_new_tokens is 0"),
        ((["x"],), {"temperature": -1}, "temperature is -1"),
        ((["x"],), {"top_p": 2}, "top_p is 2"),
        ((["x"],), {"stop": ["a", ""]}, "stop holds an empty text"),
        ((["x"],), {"example_ids": [1, 2]}, "example_ids has 2 numbers for 1 prompts"),
    ],
)
def test_refuses(x64, arguments, options, sentence):
    with pytest.raises(InputError, match=sentence):
        generate.text(random_model(), *arguments, KEY, **options)


@pytest.mark.parametrize(
    ("prompt", "options", "what"),
    [("a", {}, "prompt 0"), ([1], {"stop": "x"}, "stop"), ([1], {"on_text": print}, "on_text")],
)
def test_refuses_text_without_a_tokenizer(x64, prompt, options, what):
    model = random_model()
    bare = models.Pretrained(model.module, model.params, model.config)
    with pytest.raises(InputError, match=f"{what} is text and the model has no tokenizer"):
        generate.text(bare, [prompt], KEY, **options)


def test_stream_refuses_before_the_first_piece(x64):
    model = random_model()
    bare = models.Pretrained(model.module, model.params, model.config)
    with pytest.raises(InputError, match="no tokenizer"):
        generate.stream(bare, [1], KEY)
    with pytest.raises(InputError, match="chunk is 0"):
        generate.stream(model, "a", KEY, chunk=0)
    with pytest.raises(InputError, match="min_p is 3"):
        generate.stream(model, "a", KEY, min_p=3)

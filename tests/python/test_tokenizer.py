"""The tokenizer against Hugging Face tokenizers with the same vocabulary and merges.

SOTTO_TEST_BIN is the folder of the built programs, SOTTO_TEST_MODEL a GGUF file of SmolLM2.
"""

import json
import os
import pathlib
import random
import subprocess

import pytest

gguf = pytest.importorskip("gguf")
tokenizers = pytest.importorskip("tokenizers")

MODEL = os.environ.get("SOTTO_TEST_MODEL")
PROGRAM = pathlib.Path(os.environ.get("SOTTO_TEST_BIN", "build/release/bin")) / "sotto_tokenize"

pytestmark = pytest.mark.skipif(
    not MODEL or not PROGRAM.exists(), reason="SOTTO_TEST_MODEL or sotto_tokenize is missing"
)

TEXTS = {
    "empty": "",
    "one": "a",
    "spaces": "  a   b \t\t c \n\n\n d   \n  e      ",
    "only_spaces": " " * 1000,
    "windows_lines": "one\r\ntwo\r\n\r\nthree\rfour \r\n five",
    "other_spaces": "a\u00a0b\u2003\u2003c\u3000d\u0085e\u180ef\u200bg\u2028h\u2029i\x0bj\x0ck\ufeff",
    "contractions": "I'm you're it's he'd they've we'll DON'T I'M 'tis rock'n'roll it''s ’s",
    "digits": "0 12 345 6789 1e10 ٣٤٥ ⅷ ² ½ १२३ 𝟘𝟙 ①",
    "controls": "".join(map(chr, range(32))) + "\x7f" + "".join(map(chr, range(0x80, 0xA0))),
    "latin_1": "".join(map(chr, range(0xA0, 0x180))),
    "scripts": "Привет мир, 你好世界。こんにちは 한국어 עברית العربية हिन्दी ไทย Ελληνικά ქართული",
    "marks": "e\u0301 n\u0303o a\u0308\u0323 ก\u0e33 \u0915\u094d\u0937",
    "emoji": "😀👍🏽👩‍👩‍👧‍👦🇩🇪 ☃️ 🏴\U000e0067\U000e0062\U000e007f",
    "planes": "\U00010000 \U0001F9FF \U00020000 \U000E0001 \U00040000 \U000FFFFF \U0010FFFF \uffff",
    "special": "<|endoftext|><|im_start|>user\n<|im_end|> <repo_name>",
    "code": "def f(x):\n\treturn x**2  # 😀\n\n\nif(a&&b||!c){y=\"q\\n\";}//end\n",
    "symbols": "!@#$%^&*()_+-=[]{};:'\",.<>/?\\|`~ §±€£ ,,, ... --- ===",
}


@pytest.fixture(scope="module")
def vocabulary():
    fields = gguf.GGUFReader(MODEL).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]
    return {token: i for i, token in enumerate(tokens)}, merges


@pytest.fixture(scope="module")
def peer(vocabulary):
    pre = tokenizers.pre_tokenizers
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(*vocabulary))
    tokenizer.pre_tokenizer = pre.Sequence(
        [pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer


def encode(model, data):
    result = subprocess.run([PROGRAM, model], input=data, capture_output=True, check=True)
    return [int(line) for line in result.stdout.split()]


@pytest.mark.parametrize("name", TEXTS)
def test_same_ids(peer, name):
    assert encode(MODEL, TEXTS[name].encode()) == peer.encode(TEXTS[name]).ids


def test_same_ids_on_random_text(peer):
    rng = random.Random(0)
    ranges = [(0, 0x80), (0, 0x80), (0x80, 0x800), (0x800, 0xD800), (0x10000, 0x11000), (9, 14)]
    text = "".join(
        chr(rng.randrange(*rng.choice(ranges))) * rng.choice([1, 1, 1, 2, 5]) for _ in range(20000)
    )
    # Unicode assigns new characters every year; a category may differ only for those.
    text = "".join(c for c in text if c.isprintable() or c.isspace())
    assert encode(MODEL, text.encode()) == peer.encode(text).ids


def test_what_is_no_utf_8_is_read_as_replacement_characters(peer):
    rng = random.Random(1)
    cases = [b"\xff", b"a\xc3", b"\xe2\x82x\xe2", b"\xed\xa0\x80 \xf4\x90\x80\x80 \xc0\xaf", b"\xf0\x9f\x98"]
    cases.append(bytes(rng.randrange(256) for _ in range(2000)))
    for data in cases:
        assert encode(MODEL, data) == peer.encode(data.decode(errors="replace")).ids


def pre_tokenizers():
    pre = tokenizers.pre_tokenizers
    regex = tokenizers.Regex
    llama3 = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    plain = pre.ByteLevel(add_prefix_space=False, use_regex=False)
    return {
        "gpt2": pre.ByteLevel(add_prefix_space=False),
        "prefix": pre.ByteLevel(add_prefix_space=True),
        "whole": plain,
        "digits": pre.Sequence([pre.Digits(individual_digits=False), plain]),
        "llama3": pre.Sequence([pre.Split(regex(llama3), "isolated"), plain]),
        "kept": pre.Sequence([pre.Split(regex(r"\S+"), "removed", invert=True), plain]),
        "removed": pre.Sequence([pre.Split(" ", "removed"), pre.ByteLevel(add_prefix_space=True)]),
        "empty_matches": pre.Sequence([pre.Split(regex(r"(?=[A-Z])|\d"), "isolated"), plain]),
    }


@pytest.mark.parametrize("name", pre_tokenizers())
@pytest.mark.parametrize("ignore_merges", [False, True])
def test_tokenizer_json(vocabulary, tmp_path, name, ignore_merges):
    """The same through tokenizer.json, with every kind of pre-tokenizer that is supported."""
    np = pytest.importorskip("numpy")
    save_file = pytest.importorskip("safetensors.numpy").save_file

    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE(*vocabulary, ignore_merges=ignore_merges)
    )
    tokenizer.pre_tokenizer = pre_tokenizers()[name]
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    config = {"model_type": "llama", "num_hidden_layers": 1, "hidden_size": 4}
    config |= {"intermediate_size": 4, "num_attention_heads": 1, "tie_word_embeddings": True}
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": len(vocabulary[0])}))
    shapes = {"input_layernorm": (4,), "post_attention_layernorm": (4,)}
    shapes |= {f"self_attn.{x}_proj": (4, 4) for x in "qkvo"}
    shapes |= {f"mlp.{x}_proj": (4, 4) for x in ("gate", "up", "down")}
    shapes = {f"layers.0.{part}": shape for part, shape in shapes.items()}
    shapes |= {"norm": (4,), "embed_tokens": (len(vocabulary[0]), 4)}
    tensors = {f"model.{part}.weight": np.zeros(shape, "f4") for part, shape in shapes.items()}
    save_file(tensors, tmp_path / "model.safetensors")

    text = "\n".join(TEXTS.values())
    assert encode(tmp_path, text.encode()) == tokenizer.encode(text).ids

"""Q, K and V of a real language model: a Llama-architecture GGUF file in NumPy, fp32.

Needs gguf and tokenizers. Without windows, caches or speed: enough to look at attention's inputs.
"""

import gguf
import numpy as np
import tokenizers


def tokenize(reader, text):
    """As the files of SmolLM2 ask for: digits one by one, byte-level BPE."""
    vocabulary = {token: i for i, token in enumerate(reader.fields["tokenizer.ggml.tokens"].contents())}
    merges = [tuple(merge.split(" ")) for merge in reader.fields["tokenizer.ggml.merges"].contents()]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
    pre = tokenizers.pre_tokenizers
    tokenizer.pre_tokenizer = pre.Sequence([pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)])
    return tokenizer.encode(text).ids


def rms_norm(x, weight, epsilon):
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + epsilon) * weight


def rotate(x, theta):
    """Interleaved pairs, as GGUF stores Llama's Q and K."""
    length, _, dim = x.shape
    angles = np.outer(np.arange(length), theta ** (-np.arange(0, dim, 2) / dim))[:, None, :]
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    even, odd = x[..., 0::2], x[..., 1::2]
    return np.stack([even * cos - odd * sin, odd * cos + even * sin], axis=-1).reshape(x.shape)


def layers(model, text, length, attend):
    """Yields (q, k, v), [length, heads, dim], of each layer over the text's first tokens.

    attend(q, k, v) is causal attention.
    """
    reader = gguf.GGUFReader(model)
    tensors = {t.name: t for t in reader.tensors}

    def weight(name):
        return gguf.quants.dequantize(tensors[name].data, tensors[name].tensor_type).astype(np.float32)

    def setting(name):
        return reader.fields[f"llama.{name}"].contents()

    ids = tokenize(reader, text)[:length]
    if len(ids) < length:
        raise SystemExit(f"the text has {len(ids)} tokens, {length} are needed")
    epsilon = setting("attention.layer_norm_rms_epsilon")
    heads, heads_kv = setting("attention.head_count"), setting("attention.head_count_kv")
    x = weight("token_embd.weight")[ids]
    for layer in range(setting("block_count")):
        block = f"blk.{layer}."
        normed = rms_norm(x, weight(block + "attn_norm.weight"), epsilon)
        q, k, v = (
            (normed @ weight(f"{block}attn_{name}.weight").T).reshape(length, count, -1)
            for name, count in (("q", heads), ("k", heads_kv), ("v", heads_kv))
        )
        q, k = (rotate(part, setting("rope.freq_base")) for part in (q, k))
        yield q, k, v
        x = x + attend(q, k, v).reshape(length, -1) @ weight(block + "attn_output.weight").T
        normed = rms_norm(x, weight(block + "ffn_norm.weight"), epsilon)
        gate = normed @ weight(block + "ffn_gate.weight").T
        up = normed @ weight(block + "ffn_up.weight").T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ weight(block + "ffn_down.weight").T

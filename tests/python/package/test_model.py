"""Whole models: modules that call torch's attention, Hugging Face decoders with their caches."""

import copy
import os
import threading

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

import sotto
from quality import sqnr

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")


class Attention(nn.Module):
    def forward(self, x):
        return scaled_dot_product_attention(x, x, x, is_causal=True)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = Attention()

    def forward(self, x):
        return x + self.attention(x)


@pytest.fixture
def blocks():
    return nn.Sequential(Block(), Block(), Block())


@pytest.fixture
def x(randn):
    return randn(1, 2, 48, 64)


def replaced(sites):
    return [site.recipe for site in sites]


@torch.inference_mode()
def test_modules_that_call_torchs_attention(blocks, x):
    exact = blocks(x)
    expected = x
    for _ in range(3):
        expected = expected + sotto.sdpa(expected, expected, expected, is_causal=True)
    sites = sotto.apply_low_precision_attention(blocks)
    assert [site.name for site in sites] == ["0.attention", "1.attention", "2.attention"]
    assert str(sites).startswith("3 of 3 attention modules are low-precision")
    assert torch.equal(blocks(x), expected)
    assert not torch.equal(expected, exact)
    sotto.remove_low_precision_attention(blocks)
    assert torch.equal(blocks(x), exact)


def test_which_modules(blocks):
    def recipes(**arguments):
        sites = sotto.apply_low_precision_attention(blocks, **arguments)
        sotto.remove_low_precision_attention(blocks)
        return replaced(sites)

    assert recipes(skip_first=1) == [None, "int8qk", "int8qk"]
    assert recipes(skip_last=2, recipe="fp8") == ["fp8", None, None]
    assert recipes(skip_first=2, skip_last=2, layers={0: "high"}) == ["high", None, None]
    assert recipes(layers={"1.attention": None, -1: "fp8"}) == ["int8qk", None, "fp8"]
    assert recipes(recipe="fp8", hadamard="qkv")[0] == "fp8+hadamard=qkv"


@torch.inference_mode()
def test_other_models_and_threads_are_as_before(blocks, x):
    other = copy.deepcopy(blocks)
    exact = other(x)
    sotto.apply_low_precision_attention(blocks)
    ours = blocks(x)
    results = {}

    def run(name, model):
        with torch.inference_mode():
            results[name] = [model(x) for _ in range(20)]

    threads = [threading.Thread(target=run, args=pair) for pair in (("a", blocks), ("b", other))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(result, ours) for result in results["a"])
    assert all(torch.equal(result, exact) for result in results["b"])


@torch.inference_mode()
def test_a_copy_of_a_model_stands_alone(blocks, x):
    exact = blocks(x)
    sotto.apply_low_precision_attention(blocks)
    twin = copy.deepcopy(blocks)
    sotto.remove_low_precision_attention(blocks)
    assert torch.equal(blocks(x), exact)
    assert not torch.equal(twin(x), exact)


@torch.inference_mode()
def test_a_forward_that_somebody_else_has_put_there(blocks, x):
    attention = blocks[0].attention
    before = attention.forward = lambda x: Attention.forward(attention, x) * 2
    exact = blocks(x)
    sotto.apply_low_precision_attention(blocks)
    assert sqnr(blocks(x), exact) > 20
    sotto.remove_low_precision_attention(blocks)
    assert attention.forward is before


@torch.inference_mode()
def test_compiled_afterwards(blocks, x):
    sotto.apply_low_precision_attention(blocks)
    expected = blocks(x)
    compiled = torch.compile(blocks, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), expected)
    with pytest.raises(RuntimeError, match="model: is compiled"):
        sotto.remove_low_precision_attention(compiled)


WRONG = {
    "recipe": ({"recipe": "fp9"}, ValueError, "recipe: unknown name 'fp9'; known: exact"),
    "decode": ({"decode": "fp9"}, ValueError, "decode: unknown name 'fp9'"),
    "hadamard": ({"hadamard": "k"}, ValueError, "hadamard"),
    "backend": ({"backend": "cudnn"}, ValueError, "backend: no backend is named 'cudnn'"),
    "skip": ({"skip_first": -1}, ValueError, "skip_first: must be a count of at least 0, got -1"),
    "name": ({"layers": {"9": "fp8"}}, ValueError, "layers: must name one of 3 modules .0.att"),
    "index": ({"layers": {3: "fp8"}}, ValueError, "layers: must name one of 3 modules .*got 3"),
    "layer": ({"layers": {0: "fp9"}}, ValueError, r"layers\[0\]: unknown name 'fp9'"),
    "type": ({"recipe": 8}, TypeError, "recipe: must be a str, got int"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_change_nothing(blocks, case):
    arguments, error, text = WRONG[case]
    with pytest.raises(error, match=text):
        sotto.apply_low_precision_attention(blocks, **arguments)
    with pytest.raises(RuntimeError, match="model: has no low-precision attention to remove"):
        sotto.remove_low_precision_attention(blocks)


def test_wrong_models(blocks):
    with pytest.raises(TypeError, match="model: must be a torch.nn.Module, got int"):
        sotto.apply_low_precision_attention(3)
    with pytest.raises(ValueError, match="model: has no module that can be replaced"):
        sotto.apply_low_precision_attention(nn.Linear(2, 2))

    class OtherAttention(nn.Module):
        def __init__(self):
            super().__init__()
            self.projection = nn.Linear(2, 2)

    with pytest.raises(ValueError, match="computes attention in some other way"):
        sotto.apply_low_precision_attention(nn.Sequential(OtherAttention()))
    with pytest.raises(ValueError, match="MultiheadAttention computes inside of torch"):
        sotto.apply_low_precision_attention(nn.MultiheadAttention(64, 1))
    with pytest.raises(RuntimeError, match="model: is compiled: apply"):
        sotto.apply_low_precision_attention(torch.compile(blocks))
    sotto.apply_low_precision_attention(blocks)
    with pytest.raises(RuntimeError, match="remove_low_precision_attention.model. first"):
        sotto.apply_low_precision_attention(blocks[0])


FAMILIES = {
    "llama": (transformers.LlamaForCausalLM, transformers.LlamaConfig, {}),
    "qwen3": (transformers.Qwen3ForCausalLM, transformers.Qwen3Config, {}),
    "mistral, windows": (
        transformers.MistralForCausalLM,
        transformers.MistralConfig,
        {"sliding_window": 16},
    ),
    "gemma2, softcap": (
        transformers.Gemma2ForCausalLM,
        transformers.Gemma2Config,
        {"attn_implementation": "eager", "attn_logit_softcapping": 5.0, "sliding_window": 16},
    ),
    "gpt-oss, sinks": (
        transformers.GptOssForCausalLM,
        transformers.GptOssConfig,
        {"attn_implementation": "eager", "num_local_experts": 2, "num_experts_per_tok": 1},
    ),
}


def decoder(device, family="llama"):
    kind, config, more = FAMILIES[family]
    torch.manual_seed(0)
    return kind(
        config(
            vocab_size=99, hidden_size=64, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, head_dim=32,
            max_position_embeddings=128, pad_token_id=0, **more,
        )
    ).to(device, torch.bfloat16).eval()  # fmt: skip


@pytest.fixture
def tokens(device):
    return torch.randint(1, 99, (2, 40), device=device)


def prefill_and_decode(model, tokens):
    """Logits of a prompt, then of each token after it, over the model's own cache."""
    past = transformers.DynamicCache(config=model.config)
    logits = [model(tokens[:, :30], past_key_values=past).logits]
    for t in range(30, 40):
        logits.append(model(tokens[:, t : t + 1], past_key_values=past).logits)
    return logits


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_decoders(device, tokens, family):
    model = decoder(device, family)
    if device.type == "cuda" and family not in ("llama", "qwen3"):
        pytest.skip("dense masks are refused on a GPU")
    exact = prefill_and_decode(model, tokens)
    for decode in ("exact", None):
        sites = sotto.apply_low_precision_attention(model, decode=decode)
        assert replaced(sites) == ["int8qk"] * 2
        low = prefill_and_decode(model, tokens)
        assert not torch.equal(low[0], exact[0])
        assert all(sqnr(one, other) > 20 for one, other in zip(low, exact, strict=True))
        sotto.remove_low_precision_attention(model)
    assert torch.equal(model(tokens[:, :30]).logits, exact[0])


@torch.inference_mode()
def test_prefill_and_decode_by_their_own_rules(device, tokens):
    model = decoder(device)
    exact = prefill_and_decode(model, tokens)
    calls = []

    def recorded(**arguments):
        sotto.apply_low_precision_attention(model, **arguments)
        logits = prefill_and_decode(model, tokens)
        requests = sotto.explain(prefill_and_decode, model, tokens)
        calls.append([explanation.request for explanation in requests])
        sotto.remove_low_precision_attention(model)
        return logits

    # Prefill in torch's place by the exact recipe: nothing but rounding differs anywhere.
    for one, other in zip(recorded(recipe="exact"), exact, strict=True):
        assert sqnr(one, other) > 30
    low, torchs = recorded(), recorded(decode=None)
    assert all(sqnr(one, other) > 20 for one, other in zip(low, exact, strict=True))
    assert torch.equal(low[0], torchs[0]) and not torch.equal(low[0], exact[0])
    exact_rule, default, no_rule = calls
    assert all("exact" in request for request in exact_rule)
    assert ["int8qk" in request for request in default] == [True] + [False] * 10
    assert len(no_rule) == 1  # the prefill alone comes to us


@torch.inference_mode()
def test_generation(device, tokens):
    model = decoder(device)
    expected = model.generate(tokens, max_new_tokens=8, do_sample=False)
    sotto.apply_low_precision_attention(model, recipe="exact")
    for cache in ("dynamic", "static"):
        if device.type == "cuda" and cache == "static":
            continue  # its masks are dense
        found = model.generate(
            tokens, max_new_tokens=8, do_sample=False, cache_implementation=cache,
            disable_compile=True,
        )  # fmt: skip
        assert found.shape == expected.shape
        assert (found == expected).double().mean() > 0.9


@torch.inference_mode()
def test_padding(device, tokens):
    if device.type == "cuda":
        pytest.skip("dense masks are refused on a GPU")
    model = decoder(device)
    mask = torch.ones_like(tokens)
    mask[1, :15] = 0
    exact = model(tokens, attention_mask=mask).logits
    sotto.apply_low_precision_attention(model)
    low = model(tokens, attention_mask=mask).logits
    assert sqnr(low[0], exact[0]) > 20
    assert sqnr(low[1, 15:], exact[1, 15:]) > 20


@torch.inference_mode()
def test_models_of_one_configuration_are_apart(device, tokens):
    model = decoder(device)
    other = transformers.LlamaForCausalLM(model.config).to(device, torch.bfloat16).eval()
    exact = other(tokens).logits
    sotto.apply_low_precision_attention(model)
    assert torch.equal(other(tokens).logits, exact)
    assert model.config._attn_implementation == "sdpa"


@torch.inference_mode()
def test_transformers_own_interface(device, tokens):
    import sotto.transformers  # noqa: F401

    model = decoder(device)
    exact = model(tokens).logits
    sites = sotto.apply_low_precision_attention(model)
    low = model(tokens).logits
    sotto.remove_low_precision_attention(model)
    assert [site.module for site in sites] == ["LlamaAttention"] * 2
    model.set_attn_implementation("sotto")
    assert torch.equal(model(tokens).logits, low)
    model.set_attn_implementation("sdpa")
    assert torch.equal(model(tokens).logits, exact)


@torch.inference_mode()
def test_position_biases_are_refused(device, tokens):
    config = transformers.T5Config(
        vocab_size=99, d_model=64, d_kv=32, d_ff=64, num_layers=1, num_heads=2
    )
    model = transformers.T5EncoderModel(config).to(device).eval()
    sotto.apply_low_precision_attention(model)
    with pytest.raises(ValueError, match="position_bias: must be None(.|\n)*leave this model's"):
        model(tokens)


def test_what_a_model_is_refused(device, tokens):
    model = decoder(device)
    sotto.apply_low_precision_attention(model)
    with pytest.raises(
        RuntimeError, match="no backend takes this request(.|\n)*has no backward pass"
    ):
        model(tokens)
    sotto.remove_low_precision_attention(model)
    for module in model.modules():
        if isinstance(module, transformers.models.llama.modeling_llama.LlamaAttention):
            module.config = copy.copy(module.config)
            module.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(ValueError, match="its attention is 'flash_attention_2': call"):
        sotto.apply_low_precision_attention(model)

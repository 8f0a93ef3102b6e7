"""explain() and the choice of a backend."""

import os
import subprocess
import sys

import pytest
import torch

import sotto


@pytest.fixture
def q(randn):
    return randn(1, 2, 16, 64)


def test_a_refused_call(q):
    (explanation,) = sotto.explain(sotto.sdpa, q, q, q, dropout_p=0.1)
    assert not any(answer.chosen for answer in explanation.answers)
    assert all(answer.reasons for answer in explanation.answers)
    with pytest.raises(RuntimeError) as error:
        sotto.sdpa(q, q, q, dropout_p=0.1)
    assert str(explanation).rstrip() in str(error.value)


def test_a_call_that_runs(q, device):
    (explanation,) = sotto.explain(sotto.sdpa, q, q, q, is_causal=True)
    (chosen,) = [answer.backend for answer in explanation.answers if answer.chosen]
    assert chosen == ("cpu" if device.type == "cpu" else "sm90")
    assert explanation.request.startswith("sdpa by int8qk")


def test_a_table_for_notebooks(q):
    page = sotto.explain(sotto.sdpa, q, q, q, dropout_p=0.1)._repr_html_()
    assert page.startswith("<table>") and "dropout_p &gt; 0" in page and "<td>cpu</td>" in page


def test_a_wrong_call(q):
    with pytest.raises(RuntimeError, match="^key: head size must be 64"):
        sotto.explain(sotto.sdpa, q, q[..., :32], q)


def test_a_whole_model_names_each_request_once(q):
    layer = torch.nn.Linear(64, 64, dtype=q.dtype, device=q.device).requires_grad_(False)

    def model(x):
        for _ in range(3):
            x = sotto.sdpa(layer(x), x, x)
        return sotto.quantize(x)

    explanations = sotto.explain(model, q)
    assert [text.request.split(" ")[0] for text in explanations] == ["sdpa", "quantize"]


def test_nothing_is_written(randn, ints):
    new, cache = randn(1, 1, 2, 64), torch.zeros_like(randn(1, 16, 2, 64))
    explanations = sotto.explain(
        sotto.attention_with_kv_cache, new, cache, cache.clone(), ints([0]), new, new
    )
    assert len(explanations) == 2
    assert not cache.any()


def test_a_log_of_each_new_choice():
    code = "import torch, sotto; q = torch.ones(1, 2, 8, 64); [sotto.sdpa(q, q, q) for _ in 'ab']"
    process = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "SOTTO_LOG": "explain"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (process.stdout + process.stderr).count("sotto: sdpa by int8qk") == 1


def test_backends(q):
    names = [backend.name for backend in sotto.backends.list()]
    assert "cpu" in names and "reference" in names
    assert sotto.backends.current() is None
    sotto.backends.activate("reference")
    try:
        assert sotto.backends.current() == "reference"
        (explanation,) = sotto.explain(sotto.sdpa, q.cpu(), q.cpu(), q.cpu())
        assert [answer.backend for answer in explanation.answers if answer.chosen] == ["reference"]
        # A plan that was kept for another backend is not used.
        before = sotto.sdpa(q.cpu(), q.cpu(), q.cpu())
    finally:
        sotto.backends.restore()
    assert not torch.equal(sotto.sdpa(q.cpu(), q.cpu(), q.cpu(), recipe="fp8"), before)
    with pytest.raises(RuntimeError, match="no backend is named 'fast'; known: .*cpu"):
        sotto.backends.activate("fast")

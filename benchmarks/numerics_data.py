"""Kinds of data that attention in 8 bits finds easy or hard; docs/numerics.md describes them.

Each function draws q, k, v as [len, heads, dim] in fp32.
"""

import math

import numpy as np

LEN, HEADS, DIM = 1024, 8, 128


def normal(random, len_q=LEN, len_k=LEN, heads=HEADS, dim=DIM):
    return tuple(random.standard_normal((n, heads, dim), np.float32) for n in (len_q, len_k, len_k))


def bias(random, low, high, dim=DIM):
    return (random.uniform(low, high, dim) * random.choice([-1, 1], dim)).astype(np.float32)


def outlier_channels(random):
    q, k, v = normal(random)
    q[..., 3:64:16] *= 20
    k[..., 3:64:16] *= 20
    # Scores of standard deviation 2.
    return q * 2 * np.float32(math.sqrt(DIM / (4 * 400**2 + DIM))), k, v


def rare_outliers(random):
    def draw():
        rare = random.random((LEN, HEADS, DIM)) < 0.001
        return (random.standard_normal(rare.shape) + 10 * random.standard_normal(rare.shape) * rare).astype(np.float32)

    return draw(), draw(), draw()


def biased_k(random):
    q, k, v = normal(random)
    return q, k + bias(random, 5, 10), v


def biased_qk(random):
    q, k, v = biased_k(random)
    return q + bias(random, 1, 2), k, v


def biased_v(random):
    q, k, v = normal(random)
    return q, k, v + bias(random, 3, 6)


def sink(random):
    q, k, v = normal(random)
    sign = np.where(np.arange(DIM) % 3, 1, -1).astype(np.float32)
    k[0], v[0] = sign, v[0] * 0.01
    return q + np.float32(0.9) * sign, k, v


KINDS = {
    "N(0, 1)": normal,
    "outlier channels": outlier_channels,
    "rare outliers": rare_outliers,
    "K biased": biased_k,
    "Q and K biased": biased_qk,
    "V biased": biased_v,
    "sink token": sink,
}

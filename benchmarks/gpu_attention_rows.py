"""The table of benchmarks/gpu_attention.py: shapes, who runs on them, and which ratios are wanted.

A row's contenders are timed in turns; names are those of gpu_attention_sotto.OURS and
gpu_attention_peers.PEERS. A figure divides our speed by that of the fastest of its `over`.
"""

from dataclasses import dataclass

K = 1024
SHORT = 100  # launches of a turn where each takes microseconds


@dataclass(frozen=True)
class Shape:
    len_q: int
    len_k: int = 0  # 0: as len_q
    heads: int = 32
    dim_qk: int = 128
    dim_v: int = 0  # 0: as dim_qk
    causal: bool = False
    batch: int = 1

    def __post_init__(self):
        object.__setattr__(self, "len_k", self.len_k or self.len_q)
        object.__setattr__(self, "dim_v", self.dim_v or self.dim_qk)

    @property
    def flops(self):
        """2 (dim_qk + dim_v) for every query, head and key that the mask shows."""
        pairs = self.len_q * self.len_k
        if self.causal:  # top left
            n = min(self.len_q, self.len_k)
            pairs = n * (n + 1) // 2 + (self.len_q - n) * self.len_k
        return 2 * (self.dim_qk + self.dim_v) * pairs * self.heads * self.batch

    def __str__(self):
        length = short(self.len_q) if self.len_q == self.len_k else f"{short(self.len_q)}x{short(self.len_k)}"
        dim = self.dim_qk if self.dim_qk == self.dim_v else f"{self.dim_qk}/{self.dim_v}"
        return f"{length} {'causal' if self.causal else 'full'} D={dim} H={self.heads}"


def short(length):
    return f"{length // K}k" if length % K == 0 else str(length)


@dataclass(frozen=True)
class Figure:
    what: str
    ours: str  # a contender
    over: tuple  # contenders: the fastest that ran counts
    least: float | None = None  # None: for information
    goal: float | None = None
    # True: the figure is our time over theirs, and `least` the most that it may be.
    time: bool = False


@dataclass(frozen=True)
class Row:
    name: str
    shape: Shape
    contenders: tuple
    figures: tuple
    launches: int = 0  # of a turn; 0: by the work
    launch: str = "graph"  # or "stream": one by one, the time of launching included
    sets: int = 1  # of tensors that are used in turn, where one would stay in the L2 cache


FP8_ROOF = ("cuBLAS fp8",)
CUDNN_16_BIT = ("torch cuDNN", "cuDNN bf16")
PEERS_16_BIT = ("torch flash", *CUDNN_16_BIT, "FA3 bf16")
COPY = ("copy", "copy kernel")


def roof_figure(name, label, least=None, goal=None):
    return Figure(f"{label}, over the FP8 roof", name, FP8_ROOF, least, goal)


def attention_rows():
    """The attention kernel alone, dim 128, inputs in its own layout."""
    ours = ("fp8", "fp8 plain", "int8qk", "e4m3 tensors", "bf16", "fp8, e4m3 out")
    peers = (*PEERS_16_BIT, "cuDNN fp8", "FA3 fp8", "cuBLAS fp8", "cuBLAS bf16")
    # (length, causal): (least, goal) of fp8, fp8 plain, int8qk, e4m3 tensors, bf16
    none = (None, None)
    goals = {
        (4 * K, False): ((0.72, 0.88), none, none, none, none),
        (4 * K, True): ((0.60, 0.78), none, none, none, none),
        (16 * K, False): ((0.78, 0.95), (0.84, 0.97), (0.64, 0.85), (0.66, 0.88), (1.10, 1.20)),
        (16 * K, True): ((0.76, 0.92), (0.82, 0.95), (0.62, 0.82), (0.64, 0.86), (1.10, 1.20)),
    }
    for (length, causal), (fp8, plain, int8qk, caller, bf16) in goals.items():
        shape = Shape(length, causal=causal)
        figures = (
            roof_figure("fp8", "`fp8`", *fp8),
            roof_figure("fp8 plain", "`fp8+accumulation=plain`", *plain),
            roof_figure("int8qk", "`int8qk`", *int8qk),
            roof_figure("e4m3 tensors", "caller's e4m3 tensors, pre-pass included", *caller),
            roof_figure("cuDNN fp8", "(cuDNN's FP8)"),
            roof_figure("FA3 fp8", "(FlashAttention-3's FP8)"),
            Figure("16-bit forward, over cuDNN's 16-bit", "bf16", CUDNN_16_BIT, *bf16),
            Figure("FP8 output, time over bf16 output's", "fp8, e4m3 out", ("fp8",), 1.01, 1.00, time=True),
        )
        yield Row(f"attention {shape}", shape, (*ours, *peers), figures)
    ours = ("fp8", "int8qk", "bf16")
    for dim, least, goal in ((64, 0.55, 0.75), (256, 0.65, 0.90)):
        shape = Shape(16 * K, dim_qk=dim)
        figures = (
            roof_figure("fp8", "`fp8`", least, goal),
            roof_figure("int8qk", "`int8qk`"),
            Figure("16-bit forward, over cuDNN's 16-bit", "bf16", CUDNN_16_BIT),
        )
        yield Row(f"attention {shape}", shape, (*ours, *peers), figures)


def model_rows():
    """Whole sdpa, quantisation included, on shapes of models."""
    mla = Shape(4 * K, heads=128, dim_qk=192, dim_v=128, causal=True)
    dit = Shape(30 * K, heads=24)
    for name, shape, least, goal in (
        ("MLA", mla, 1.3, 1.9),
        ("DiT", dit, 1.4, 2.0),
        ("cross-attention", Shape(30 * K, 8 * K, heads=24), 1.4, 2.0),
        ("cross-attention", Shape(30 * K, 512, heads=24), 1.4, 2.0),
    ):
        figures = (
            Figure("`fp8` sdpa, over cuDNN's 16-bit", "fp8 sdpa", CUDNN_16_BIT, least, goal),
            Figure("`int8qk` sdpa, over cuDNN's 16-bit", "int8qk sdpa", CUDNN_16_BIT),
        )
        ours = ("fp8 sdpa", "int8qk sdpa", "fp8", "int8qk", "bf16")
        yield Row(f"{name} {shape}", shape, (*ours, *PEERS_16_BIT), figures)


def length_rows():
    """Whole sdpa against length, for the plots, too; the attention kernel alone beside it."""
    goals = {  # length: (least, goal) of fp8 and of int8qk
        1 * K: ((0.85, 1.2), (0.7, 1.1)),
        4 * K: ((1.3, 1.6), (1.1, 1.4)),
        8 * K: ((1.5, 1.8), (1.2, 1.6)),
        128 * K: ((1.7, 2.1), (1.35, 1.8)),
    }
    ours = ("fp8 sdpa", "int8qk sdpa", "fp8", "int8qk", "bf16")
    for length in (1 * K, 2 * K, 4 * K, 8 * K, 16 * K, 32 * K, 64 * K, 128 * K):
        shape = Shape(length, causal=True)
        fp8, int8qk = goals.get(length, ((None, None), (None, None)))
        figures = (
            Figure("`fp8` sdpa, over the best 16-bit peer", "fp8 sdpa", PEERS_16_BIT, *fp8),
            Figure("`int8qk` sdpa, over the best 16-bit peer", "int8qk sdpa", PEERS_16_BIT, *int8qk),
        )
        yield Row(f"sdpa {shape}", shape, (*ours, *PEERS_16_BIT), figures, launches=SHORT if length <= 2 * K else 0)


def quantize_rows():
    goals = {1 * K: ((0.45, 0.7), (5, 10)), 8 * K: ((0.60, 0.85), (1.5, 2)), 128 * K: ((0.75, 0.95), (1.1, 1.5))}
    ours = ("int8qk quantize RoPE", "int8qk quantize", "fp8 quantize RoPE", "fp8 quantize")
    for length, (copy, torchao) in goals.items():
        shape = Shape(length)
        sets = max(2, min(8, 32 * K // length))
        launches = SHORT if length <= 2 * K else 24
        figures = (
            Figure("quantise by `int8qk` with RoPE, over a copy of the bytes", "int8qk quantize RoPE", COPY, *copy),
            Figure("the same without RoPE", "int8qk quantize", COPY),
            Figure("quantise by `fp8` with RoPE, over a copy of the bytes", "fp8 quantize RoPE", COPY),
            Figure("the same without RoPE", "fp8 quantize", COPY),
            Figure("quantise by `fp8` with RoPE, over torchao, in a graph", "fp8 quantize RoPE", ("torchao RoPE",)),
        )
        yield Row(f"quantize {shape}", shape, (*ours, "torchao RoPE", *COPY), figures, launches=launches,
                  sets=sets)  # fmt: skip
        figure = Figure("quantise by `fp8` with RoPE, over torchao", "fp8 quantize RoPE", ("torchao RoPE",),
                        *torchao)  # fmt: skip
        yield Row(f"quantize launched {shape}", shape, ("fp8 quantize RoPE", "torchao RoPE"), (figure,),
                  launches=launches, launch="stream", sets=sets)  # fmt: skip


def all_rows():
    return [*attention_rows(), *model_rows(), *quantize_rows(), *length_rows()]

"""The fused operations: each runs compiled on CPU tensors in fp32 or bf16, and in plain torch everywhere else.

Both ways give the same numbers to rounding. The compiled one computes in fp32 whatever the storage, gives bitwise the
same results at every call and number of threads, and those of a row or sequence do not depend on its neighbours.

Shapes in names: N tokens, D size, H query heads, K key and value heads, E head size, B rows of a cache, T trained
tokens, V vocabulary.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from steep.models.kernels.build import kernel, library_for


def compiled(*tensors: Tensor) -> bool:
    """Whether operations on such tensors run compiled: there is a library, and they are on the CPU in fp32 or bf16."""
    return library_for(*tensors) is not None


def call(function: Callable[..., Any], *arguments: object) -> Any:
    """Call a kernel with tensors as pointers; holding the tensors here keeps their memory until it returns."""
    return function(*(x.data_ptr() if isinstance(x, Tensor) else x for x in arguments))


def differentiable(function: type[torch.autograd.Function], *arguments: object) -> Any:
    return function.apply(*arguments)  # type: ignore[no-untyped-call]  # torch leaves it without types


def as_floats(x: Tensor | None) -> Tensor | None:
    """Weights as the kernels read them."""
    return None if x is None else x.detach().float().contiguous()


# --- RMSNorm ---------------------------------------------------------------------------------------------------------


def rms_norm(x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """x [..., D] over the root of its mean square, times the weight; in x's dtype."""
    if not compiled(x):
        return functional.rms_norm(x, weight_D.shape, weight_D.to(x.dtype), eps)
    result: Tensor = differentiable(RMSNorm, x, weight_D, eps)
    return result


class RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor, eps: float) -> Tensor:
        x = x.contiguous()
        y = torch.empty_like(x)
        size = len(weight_D)
        call(kernel("rms_norm", x.dtype), x.numel() // size, size, eps, x, as_floats(weight_D), y)
        ctx.save_for_backward(x, weight_D)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_D = ctx.saved_tensors
        grad = grad.contiguous()
        grad_x, grad_weight_D = torch.empty_like(x), torch.empty_like(weight_D, dtype=torch.float32)
        size = len(weight_D)
        call(
            kernel("rms_norm_backward", x.dtype),
            *(x.numel() // size, size, ctx.eps, x, as_floats(weight_D), grad, grad_x, grad_weight_D),
        )
        return grad_x, grad_weight_D.to(weight_D.dtype), None


# --- QK norm and RoPE ------------------------------------------------------------------------------------------------


def rope_norm(
    qkv: Tensor,
    q_weight_E: Tensor | None,
    k_weight_E: Tensor | None,
    eps: float,
    cos_PE: Tensor,
    sin_PE: Tensor,
    positions_N: Tensor,
    heads: int,
    kv_heads: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Split rows qkv [N, (H + 2K) * E] into q_NHE, k_NKE, v_NKE; RMSNorm q and k where there is a weight; rotate them.

    cos and sin are fp32 tables over all P positions; rotated are halves (as in Llama's Hugging Face weights).
    """
    if compiled(qkv):
        q, k, v = differentiable(
            RopeNorm, qkv, q_weight_E, k_weight_E, eps, cos_PE, sin_PE, positions_N, heads, kv_heads
        )
        return q, k, v
    cos, sin = (table[positions_N].unsqueeze(1).to(qkv.dtype) for table in (cos_PE, sin_PE))
    heads_NXE = qkv.reshape(len(qkv), heads + 2 * kv_heads, -1)
    q, k, v = torch.split(heads_NXE, [heads, kv_heads, kv_heads], dim=1)
    q = q if q_weight_E is None else rms_norm(q, q_weight_E, eps)
    k = k if k_weight_E is None else rms_norm(k, k_weight_E, eps)
    return rotate(q, cos, sin), rotate(k, cos, sin), v.contiguous()


def rotate(x_NHE: Tensor, cos_N1E: Tensor, sin_N1E: Tensor) -> Tensor:
    low, high = x_NHE.chunk(2, -1)
    return x_NHE * cos_N1E + torch.cat([-high, low], -1) * sin_N1E


class RopeNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        q_weight_E: Tensor | None,
        k_weight_E: Tensor | None,
        eps: float,
        cos_PE: Tensor,
        sin_PE: Tensor,
        positions_N: Tensor,
        heads: int,
        kv_heads: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        tokens, limit, size = len(qkv), len(cos_PE), cos_PE.shape[1]
        if qkv.shape != (tokens, (heads + 2 * kv_heads) * size) or positions_N.shape != (tokens,):
            raise ValueError(f"{tuple(qkv.shape)} is not [N, (H + 2K) * E] of {len(positions_N)} positions")
        qkv, positions_N = qkv.contiguous(), positions_N.long().contiguous()
        cos_PE, sin_PE = cos_PE.float().contiguous(), sin_PE.float().contiguous()
        q, k, v = (qkv.new_empty(tokens, count, size) for count in (heads, kv_heads, kv_heads))
        valid = call(
            kernel("rope_norm", qkv.dtype),
            *(tokens, heads, kv_heads, size, eps, qkv, as_floats(q_weight_E), as_floats(k_weight_E)),
            *(cos_PE, sin_PE, positions_N, limit, q, k, v),
        )
        if not valid:
            raise IndexError(f"a position is not in [0, {limit})")
        ctx.save_for_backward(qkv, q_weight_E, k_weight_E, cos_PE, sin_PE, positions_N)
        ctx.shape = (tokens, heads, kv_heads, size, eps)
        return q, k, v

    @staticmethod
    def backward(ctx: Any, grad_q: Tensor, grad_k: Tensor, grad_v: Tensor) -> tuple[Tensor | None, ...]:
        qkv, q_weight_E, k_weight_E, cos_PE, sin_PE, positions_N = ctx.saved_tensors
        grad_qkv = torch.empty_like(qkv)
        grad_weights = torch.empty(2, cos_PE.shape[1])
        call(
            kernel("rope_norm_backward", qkv.dtype),
            *(*ctx.shape, qkv, as_floats(q_weight_E), as_floats(k_weight_E), cos_PE, sin_PE, positions_N),
            *(grad_q.contiguous(), grad_k.contiguous(), grad_v.contiguous(), grad_qkv, grad_weights),
        )
        grad_q_weight, grad_k_weight = (
            None if weight is None else grad.to(weight.dtype)
            for weight, grad in zip((q_weight_E, k_weight_E), grad_weights, strict=True)
        )
        return grad_qkv, grad_q_weight, grad_k_weight, None, None, None, None, None, None


# --- the gate of the MLP ---------------------------------------------------------------------------------------------


def silu_mul(gate_up: Tensor) -> Tensor:
    """silu(gate) * up, [..., F], of gate and up side by side, [..., 2 * F]."""
    if not compiled(gate_up):
        gate, up = gate_up.chunk(2, -1)
        return functional.silu(gate) * up
    result: Tensor = differentiable(SiluMul, gate_up)
    return result


class SiluMul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate_up = gate_up.contiguous()
        size = gate_up.shape[-1] // 2
        y = gate_up.new_empty(*gate_up.shape[:-1], size)
        call(kernel("silu_mul", gate_up.dtype), y.numel() // size, size, gate_up, y)
        ctx.save_for_backward(gate_up)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        grad, grad_gate_up = grad.contiguous(), torch.empty_like(gate_up)
        rows, size = grad.numel() // grad.shape[-1], grad.shape[-1]
        call(kernel("silu_mul_backward", gate_up.dtype), rows, size, gate_up, grad, grad_gate_up)
        return grad_gate_up


# --- attention over packed sequences ---------------------------------------------------------------------------------


def packed_attention(
    q_NHE: Tensor, k_NKE: Tensor, v_NKE: Tensor, offsets: Tensor, trees: Tensor | None = None
) -> Tensor:
    """Causal attention within each of S segments that lie one after another, from offsets[s] to offsets[s + 1].

    Segments trees[t] to trees[t + 1] are a tree: the first is its stem, which the others go on from, each for itself.
    Without `trees`, each segment is a sequence alone. Scores are scaled by E ** -0.5; query heads share key heads in
    consecutive groups of H / K. `offsets`, [S + 1], and `trees` are int64 on the CPU.
    """
    trees = torch.arange(len(offsets)) if trees is None else trees
    bounds, forks = offsets.tolist(), trees.tolist()
    if bounds[0] != 0 or bounds[-1] != len(q_NHE) or bounds != sorted(bounds):
        raise ValueError(f"offsets do not rise from 0 to the {len(q_NHE)} tokens")
    if forks[0] != 0 or forks[-1] != len(bounds) - 1 or forks != sorted(set(forks)):
        raise ValueError(f"trees do not rise from 0 to the {len(bounds) - 1} segments")
    if compiled(q_NHE, k_NKE, v_NKE):
        result: Tensor = differentiable(PackedAttention, q_NHE, k_NKE, v_NKE, offsets, trees)
        return result
    mixed = []
    for first, last in pairwise(forks):
        stem = slice(bounds[first], bounds[first + 1])
        for start, end in pairwise(bounds[first : last + 1]):
            q, k, v = (x[start:end].transpose(0, 1) for x in (q_NHE, k_NKE, v_NKE))
            if start != stem.start:
                k, v = (torch.cat([x[stem].transpose(0, 1), own], dim=1) for x, own in ((k_NKE, k), (v_NKE, v)))
            seen = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool, device=q.device).tril(k.shape[1] - q.shape[1])
            mixed.append(functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True))
    return torch.cat(mixed, dim=1).transpose(0, 1).contiguous()


class PackedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_NHE: Tensor, k_NKE: Tensor, v_NKE: Tensor, offsets: Tensor, trees: Tensor) -> Tensor:
        tokens, heads, size = q_NHE.shape
        kv_heads = k_NKE.shape[1]
        if not q_NHE.dtype == k_NKE.dtype == v_NKE.dtype:
            raise TypeError(f"queries, keys and values differ in dtype: {q_NHE.dtype}, {k_NKE.dtype}, {v_NKE.dtype}")
        if heads % kv_heads or not k_NKE.shape == v_NKE.shape == (tokens, kv_heads, size):
            raise ValueError(f"{tuple(q_NHE.shape)} and {tuple(k_NKE.shape)} are not queries and keys of one batch")
        q_NHE, k_NKE, v_NKE, offsets, trees = (x.contiguous() for x in (q_NHE, k_NKE, v_NKE, offsets, trees))
        out_NHE, lse_NH = torch.empty_like(q_NHE), torch.empty(tokens, heads)
        ctx.shape = (len(trees) - 1, trees, offsets, heads, kv_heads, size)
        call(kernel("packed_attention", q_NHE.dtype), *ctx.shape, q_NHE, k_NKE, v_NKE, out_NHE, lse_NH)
        ctx.save_for_backward(q_NHE, k_NKE, v_NKE, out_NHE, lse_NH)
        return out_NHE

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        grads = [torch.empty_like(x) for x in saved[:3]]
        call(kernel("packed_attention_backward", grad.dtype), *ctx.shape, *saved, grad.contiguous(), *grads)
        return *grads, None, None


# --- the head --------------------------------------------------------------------------------------------------------


def head(x_ND: Tensor, weight_VD: Tensor) -> Tensor:
    """fp32 logits_NV, computed in fp32 on both sides, sampler and trainer (arXiv 2506.13585).

    The gradient of x is a product in its dtype, as those of the layers under autocast; that of the weight is fp32. In
    bf16 it cost 1 to 2% of the loss of a small model.
    """
    logits_NV: Tensor = differentiable(Head, x_ND, weight_VD)
    return logits_NV


class Head(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_VD: Tensor) -> Tensor:
        ctx.save_for_backward(x_ND, weight_VD)
        with torch.autocast(x_ND.device.type, enabled=False):
            return functional.linear(x_ND.float(), weight_VD.float())

    @staticmethod
    def backward(ctx: Any, grad_NV: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, weight_VD = ctx.saved_tensors
        for_x, for_weight = ctx.needs_input_grad
        with torch.autocast(x_ND.device.type, enabled=False):
            grad_ND = grad_NV.to(x_ND.dtype) @ weight_VD.to(x_ND.dtype) if for_x else None
            return grad_ND, (grad_NV.T @ x_ND.float()).to(weight_VD.dtype) if for_weight else None


# --- log-probabilities -----------------------------------------------------------------------------------------------


def token_logprobs(logits_TV: Tensor, targets_T: Tensor) -> tuple[Tensor, Tensor]:
    """The log-probability of each target and, without gradient, the entropy of each distribution; nats, fp32."""
    if compiled(logits_TV):
        logprobs_T, entropy_T = differentiable(TokenLogprobs, logits_TV, targets_T)
        return logprobs_T, entropy_T
    all_TV = logits_TV.float().log_softmax(-1)
    with torch.no_grad():
        entropy_T = torch.special.entr(all_TV.exp()).sum(-1)
    return all_TV.gather(-1, targets_T[:, None]).squeeze(-1), entropy_T


class TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_TV: Tensor, targets_T: Tensor) -> tuple[Tensor, Tensor]:
        rows, size = logits_TV.shape
        if targets_T.shape != (rows,):
            raise ValueError(f"{tuple(targets_T.shape)} is not one target for each of {rows} rows of logits")
        logits_TV, targets_T = logits_TV.contiguous(), targets_T.long().contiguous()
        logprobs_T, entropy_T, lse_T = (torch.empty(rows) for _ in range(3))
        function = kernel("token_logprobs", logits_TV.dtype)
        if not call(function, rows, size, logits_TV, targets_T, logprobs_T, entropy_T, lse_T):
            raise IndexError(f"a target is not in [0, {size})")
        ctx.save_for_backward(logits_TV, targets_T, lse_T)
        ctx.mark_non_differentiable(entropy_T)
        return logprobs_T, entropy_T

    @staticmethod
    def backward(ctx: Any, grad_T: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        logits_TV, targets_T, lse_T = ctx.saved_tensors
        grad_TV = torch.empty_like(logits_TV)
        function = kernel("token_logprobs_backward", logits_TV.dtype)
        call(function, *logits_TV.shape, logits_TV, targets_T, lse_T, grad_T.contiguous(), grad_TV)
        return grad_TV, None

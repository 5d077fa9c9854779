#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""PolyNorm on a GPU elsewhere: PyTorch eager, torch.compile, a plain Triton kernel, Liger-Kernel
(where it is installed). Forward alone, and backward alone, at the sizes of row_kernels_benchmark.

usage: poly_norm_cuda_peer.py
"""
import torch
import torch._functorch.config
import triton
import triton.language as tl

EPSILON = 1e-6
torch._functorch.config.donated_buffer = False  # the backward pass is timed by itself, repeatedly


def poly_norm(x, a):
    """a_0 + sum_p a_p n(x^p), in f32 as the activations' precision allows."""
    t = x.float()
    y = a[0]
    for p in (1, 2, 3):
        power = t**p
        y = y + a[p] * power * torch.rsqrt(power.square().mean(-1, keepdim=True) + EPSILON)
    return y.to(x.dtype)


@triton.jit
def forward_kernel(x_rows, a, y_rows, width, epsilon, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, block)
    inside = i < width
    x = tl.load(x_rows + row * width + i, mask=inside, other=0.0).to(tl.float32)
    x2 = x * x
    x3 = x2 * x
    r1 = tl.rsqrt(tl.sum(x2) / width + epsilon)
    r2 = tl.rsqrt(tl.sum(x2 * x2) / width + epsilon)
    r3 = tl.rsqrt(tl.sum(x3 * x3) / width + epsilon)
    y = tl.load(a) + tl.load(a + 1) * r1 * x + tl.load(a + 2) * r2 * x2 + tl.load(a + 3) * r3 * x3
    tl.store(y_rows + row * width + i, y.to(y_rows.dtype.element_ty), mask=inside)


@triton.jit
def backward_kernel(x_rows, g_rows, a, d_x_rows, d_a_rows, width, epsilon, block: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, block)
    inside = i < width
    x = tl.load(x_rows + row * width + i, mask=inside, other=0.0).to(tl.float32)
    g = tl.load(g_rows + row * width + i, mask=inside, other=0.0).to(tl.float32)
    x2 = x * x
    x3 = x2 * x
    r1 = tl.rsqrt(tl.sum(x2) / width + epsilon)
    r2 = tl.rsqrt(tl.sum(x2 * x2) / width + epsilon)
    r3 = tl.rsqrt(tl.sum(x3 * x3) / width + epsilon)
    s1 = tl.sum(g * x)
    s2 = tl.sum(g * x2)
    s3 = tl.sum(g * x3)
    a1 = tl.load(a + 1)
    a2 = tl.load(a + 2)
    a3 = tl.load(a + 3)
    pull1 = a1 * r1 * r1 * r1 * s1 / width
    pull2 = 2 * a2 * r2 * r2 * r2 * s2 / width
    pull3 = 3 * a3 * r3 * r3 * r3 * s3 / width
    d_x = g * (a1 * r1 + 2 * a2 * r2 * x + 3 * a3 * r3 * x2)
    d_x -= x * (pull1 + pull2 * x2 + pull3 * x2 * x2)
    tl.store(d_x_rows + row * width + i, d_x.to(d_x_rows.dtype.element_ty), mask=inside)
    tl.store(d_a_rows + row * 4, tl.sum(g))
    tl.store(d_a_rows + row * 4 + 1, r1 * s1)
    tl.store(d_a_rows + row * 4 + 2, r2 * s2)
    tl.store(d_a_rows + row * 4 + 3, r3 * s3)


def triton_forward(x, a, y, warps):
    rows, width = x.shape
    forward_kernel[(rows,)](x, a, y, width, EPSILON, triton.next_power_of_2(width), num_warps=warps)


def triton_backward(x, g, a, d_x, d_a_rows, warps):
    rows, width = x.shape
    backward_kernel[(rows,)](
        x, g, a, d_x, d_a_rows, width, EPSILON, triton.next_power_of_2(width), num_warps=warps
    )
    return d_a_rows.sum(0)


def milliseconds(work):
    return triton.testing.do_bench(work, warmup=50, rep=200, return_mode="median")


def report(name, shape, time, floor_bytes, copy):
    rate = floor_bytes / time * 1e3
    print(f"{name:28} {shape[0]:7} x {shape[1]:5} {time:9.4f} ms {rate * 1e-12:6.2f} TB/s "
          f"{100 * rate / copy:5.1f} % of copy", flush=True)


def autograd_peer(name, function, x, g, a, copy):
    x = x.detach().requires_grad_()
    a = a.detach().requires_grad_()
    bytes_of_x = x.numel() * x.element_size()
    with torch.no_grad():
        time = milliseconds(lambda: function(x, a))
    report(name + " forward", x.shape, time, 2 * bytes_of_x, copy)
    y = function(x, a)
    time = milliseconds(lambda: torch.autograd.grad(y, (x, a), g, retain_graph=True))
    report(name + " backward", x.shape, time, 3 * bytes_of_x, copy)


def relative_error(value, reference):
    return ((value.float() - reference.float()).norm() / reference.float().norm()).item()


def main():
    big = torch.randint(0, 127, (2 << 30,), dtype=torch.uint8, device="cuda")
    to = torch.empty_like(big)
    copy = 2 * big.numel() / milliseconds(lambda: to.copy_(big)) * 1e3
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}, "
          f"device copy {copy * 1e-12:.2f} TB/s")
    del big, to
    for rows, width in ((131072, 1536), (16384, 8256)):
        x = torch.randn(rows, width, device="cuda", dtype=torch.bfloat16)
        g = torch.randn_like(x)
        a = torch.tensor([0.0, 1 / 3, 1 / 3, 1 / 3], device="cuda")
        bytes_of_x = x.numel() * x.element_size()
        y, d_x = torch.empty_like(x), torch.empty_like(x)
        d_a_rows = torch.empty(rows, 4, device="cuda")
        # The Triton kernels are right before they are timed.
        sample_x = x[:256].detach().clone().requires_grad_()
        sample_a = a.clone().requires_grad_()
        sample_y = poly_norm(sample_x, sample_a)
        sample_d = torch.autograd.grad(sample_y, (sample_x, sample_a), g[:256])
        triton_forward(x[:256], a, y[:256], 8)
        sample_d_a = triton_backward(x[:256], g[:256], a, d_x[:256], d_a_rows[:256], 8)
        assert relative_error(y[:256], sample_y) < 1e-2
        assert relative_error(d_x[:256], sample_d[0]) < 1e-2
        assert relative_error(sample_d_a, sample_d[1]) < 1e-2
        best = min(milliseconds(lambda: triton_forward(x, a, y, w)) for w in (1, 2, 4, 8, 16))
        report("triton forward", x.shape, best, 2 * bytes_of_x, copy)
        best = min(
            milliseconds(lambda: triton_backward(x, g, a, d_x, d_a_rows, w)) for w in (1, 2, 4, 8, 16)
        )
        report("triton backward", x.shape, best, 3 * bytes_of_x, copy)
        compiled = torch.compile(poly_norm, mode="max-autotune-no-cudagraphs")
        autograd_peer("torch.compile", compiled, x, g, a, copy)
        autograd_peer("torch eager", poly_norm, x, g, a, copy)
        try:
            from liger_kernel.ops import poly_norm as liger
        except ImportError as error:
            print(f"liger is not measured: {error}")
            continue
        # Its weights start with the cubic term's; the bias is a_0. The gradient replaces d_y.
        weight, bias = a[1:].flip(0).contiguous(), a[:1].contiguous()
        with torch.no_grad():
            _, flat, inv_rms, block, warps = liger.poly_norm_forward(x, weight, bias, EPSILON)
            time = milliseconds(lambda: liger.poly_norm_forward(x, weight, bias, EPSILON))
            report("liger forward", x.shape, time, 2 * bytes_of_x, copy)
            time = milliseconds(
                lambda: liger.poly_norm_backward(g, flat, weight, inv_rms, block, warps, True)
            )
            report("liger backward", x.shape, time, 3 * bytes_of_x, copy)


if __name__ == "__main__":
    main()

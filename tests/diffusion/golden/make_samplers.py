"""Writes samplers.npz: what the schedulers of diffusers make of the same noise and denoiser.

    pip install torch diffusers && python tests/diffusion/golden/make_samplers.py

The file was made with diffusers 0.42.1 and torch 2.13.0+cpu. For each scheduler it holds
`NAME.alpha`, `NAME.sigma` [11], the levels visited, `NAME.x` [11, 1, 2, 2, 2, 3], the start and x
after each step, and for DDPM `ddpm.z` [10, ...], the noise drawn in each. The denoiser is
x0_hat = tanh(1.5 x_t - alpha).
"""

from pathlib import Path

import diffusers
import numpy as np
import torch

STEPS = 10
SHAPE = (1, 2, 2, 2, 3)

# The noise schedule of Stable Diffusion, with a network that predicts x0.
VP = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
VP |= dict(prediction_type="sample")
SCHEDULERS = {
    "ddim": diffusers.DDIMScheduler(**VP, clip_sample=False),
    "ddpm": diffusers.DDPMScheduler(**VP, clip_sample=False),
    "dpmpp_2m": diffusers.DPMSolverMultistepScheduler(**VP, solver_type="midpoint"),
    "unipc": diffusers.UniPCMultistepScheduler(**VP, solver_type="bh2"),
    "euler": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    "heun": diffusers.FlowMatchHeunDiscreteScheduler(),
}


def levels(name, scheduler):
    """alpha and sigma before the first step, between and after the last."""
    if name in ("ddim", "ddpm"):
        variance = 1 - torch.cat([scheduler.alphas_cumprod[scheduler.timesteps], torch.ones(1)])
        return torch.sqrt(1 - variance), torch.sqrt(variance)
    sigmas = scheduler.sigmas
    if name == "heun":
        sigmas = torch.cat([sigmas[::2], sigmas[-1:]])
    if name in ("euler", "heun"):
        return 1 - sigmas, sigmas
    return scheduler._sigma_to_alpha_sigma_t(sigmas)


def trajectory(name, scheduler):
    scheduler.set_timesteps(STEPS)
    alpha, sigma = levels(name, scheduler)
    assert len(alpha) == len(sigma) == STEPS + 1
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    drawn = torch.Generator().manual_seed(1)
    z = [torch.randn(SHAPE, generator=drawn) for _ in range(STEPS)]
    drawn.manual_seed(1)

    states = [x]
    evaluations = 2 if name == "heun" else 1
    for call, t in enumerate(scheduler.timesteps):
        # Heun's second evaluation in a step is at the level where the step ends.
        k = (call + 1) // 2 if name == "heun" else call
        output = torch.tanh(1.5 * x - alpha[k])
        if name in ("euler", "heun"):
            output = (x - output) / sigma[k]
        noise = dict(generator=drawn) if name == "ddpm" else {}
        x = scheduler.step(output, t, x, **noise).prev_sample
        if (call + 1) % evaluations == 0 or call + 1 == len(scheduler.timesteps):
            states.append(x)
    arrays = {"alpha": alpha, "sigma": sigma, "x": torch.stack(states)}
    if name == "ddpm":
        arrays["z"] = torch.stack(z)
    return {f"{name}.{key}": np.asarray(value, np.float32) for key, value in arrays.items()}


if __name__ == "__main__":
    print("diffusers", diffusers.__version__, "torch", torch.__version__)
    golden = {}
    for name, scheduler in SCHEDULERS.items():
        golden |= trajectory(name, scheduler)
    np.savez_compressed(Path(__file__).with_name("samplers.npz"), **golden)

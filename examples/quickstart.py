"""A variational diffusion model of handwritten digits: trained, measured and sampled in half a minute on a CPU.

Run from the top folder of the repository: python -m examples.quickstart
"""

import torch

from pipeline import bound
from pipeline.config.load import load_params
from pipeline.datasets import digits
from pipeline.samplers import ancestral, trajectory
from pipeline.store import models, splits
from pipeline.training import loop

params, data, cpu = load_params("params.yaml"), digits.load(digits.Config(test_fraction=0.2)), torch.device("cpu")
train, test = splits.Split.of(*data.split("train")), splits.Split.of(*data.split("test"))
run, sampler = params.runs["vdm"], ancestral.Config(kind="ancestral", variance="model", clip=True, spacing="trailing")
run.model["schedule"]["gamma_min"] = -7.9  # 17 grey levels need less log SNR than the 256 of FashionMNIST
state = loop.State(models.build(run, data.data_spec, "runs.vdm"), run.training)
for report in loop.fit(train, state, run.training, run.seed, cpu):
    print(f"step {report.step} of {run.training.steps}: {report.parts['model/diffusion']:.2f} bits/dim", end="\r")
state.average.swap(state.model.eval())  # the averaged weights are the model that is measured
found = bound.estimate(state.model, test, len(test), params.bounds["vdm"], cpu, "bound")
print(f"{bound.bits_per_dim(found, dimensions=64)['total'].mean():.3f} bits/dim on test images; a uniform guess has 4.087")
for rows in trajectory.sample(state.model, sampler, shape=(8, 1, 8, 8), steps=50, seed=0)[:, 0].unbind(1):
    print("  ".join("".join(" .:+#@"[int(2.99 * x.clamp(-1, 1) + 3)] * 2 for x in row) for row in rows))

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
train = splits.Split.of(data.train_images, data.train_labels, data.levels)
test = splits.Split.of(data.test_images, data.test_labels, data.levels)
run = params.runs["vdm"]
run.model["schedule"]["gamma_min"] = -7.9  # 17 grey levels need less log SNR than the 256 of FashionMNIST
model = models.build(run, data.data_spec, "runs.vdm")
state = loop.State(model, run.training)
for report in loop.fit(train, state, run.training, run.seed, cpu):
    if report.step % 60 == 0:
        print(f"step {report.step}: {report.parts['model/diffusion']:.2f} bits/dim")
state.average.swap(model.eval())  # the averaged weights are the model that is measured
draws = bound.draw(model, test, len(test), params.bounds["vdm"], cpu, "bound")
print(f"{bound.bits_per_dim(draws, dimensions=64)['total'].mean():.3f} bits/dim on test images; a uniform guess has 4.087")
sampler = ancestral.Config(kind="ancestral", variance="model", clip=True, spacing="trailing")
for rows in trajectory.sample(model, sampler, shape=(8, 1, 8, 8), steps=50, seed=0).clamp(-1, 0.99)[:, 0].unbind(1):
    print("  ".join("".join(" .:+#@"[int(3 * x + 3)] * 2 for x in row) for row in rows))

import numpy as np
import pytest
import torch

from pipeline.core.contracts import DataSpec
from pipeline.families.ddgan.discriminator import DiscriminatorConfig, MinibatchStd, group_std

SPEC = DataSpec((2, 8, 12), 256, 3)


def small(labels=False, spec=SPEC):
    """With random weights everywhere: layers that begin at zero hide what lies before them."""
    torch.manual_seed(0)
    network = DiscriminatorConfig(widths=(8, 16, 16), embedding=8).build(spec, labels)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return network.requires_grad_(False)


def drawn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def given(count=4, seed=1):
    return {
        "z_s": drawn(count, 2, 8, 12, seed=seed),
        "z_t": drawn(count, 2, 8, 12, seed=seed + 1),
        "time": torch.rand(count, generator=torch.Generator().manual_seed(seed)),
        "y": torch.arange(count) % 3,
    }


def test_group_std_by_hand():
    """Four images in two groups of two, which are neighbours at distance two: 1 with 5, 2 with 2.

    Deviations are 2 and 0 in the first channel; in the second 0 and 3: means over both are 1 and 1.5.
    """
    h = torch.tensor([[1.0, 7.0], [2.0, -3.0], [5.0, 7.0], [2.0, 3.0]])[:, :, None, None].expand(4, 2, 3, 3)
    torch.testing.assert_close(group_std(h, 2), torch.tensor([1.0, 1.5, 1.0, 1.5]), rtol=0, atol=1e-3)
    # All four together: variances 2.25 and 18.75 about the means 2.5 and 3.5.
    expected = (np.std([1, 2, 5, 2]) + np.std([7, -3, 7, 3])) / 2
    torch.testing.assert_close(group_std(h, 4), torch.full((4,), float(expected)), rtol=1e-5, atol=0)


def test_a_batch_smaller_than_its_group_is_one_group():
    h = drawn(3, 2, 4, 4)
    expected = h.double().numpy().std(0).mean()
    torch.testing.assert_close(group_std(h, 4), torch.full((3,), float(expected)), rtol=1e-5, atol=1e-6)
    assert group_std(h[:1], 4).tolist() == pytest.approx([1e-4])
    with pytest.raises(AssertionError, match="check_training"):
        group_std(drawn(6, 2, 4, 4), 4)


def test_minibatch_std_in_training_and_evaluation():
    layer, h = MinibatchStd(group=2), drawn(4, 3, 5, 6)
    made = layer(h)
    assert made.shape == (4, 4, 5, 6)
    torch.testing.assert_close(made[:, :3], h)
    torch.testing.assert_close(made[:, 3, 2, 4], group_std(h, 2))
    layer(3 * h)
    usual = 2 * float(group_std(h, 2).mean())
    layer.eval()
    for count in (1, 3, 7):  # any size, and nothing of the batch
        made = layer(10 * drawn(count, 3, 5, 6))
        torch.testing.assert_close(made[:, 3], torch.full((count, 5, 6), usual), rtol=1e-5, atol=0)


def test_the_running_mean_forgets():
    layer = MinibatchStd(group=2, momentum=0.1)
    h = drawn(4, 3, 5, 6)
    for _ in range(50):
        layer(h)
    for _ in range(60):
        layer(0 * h)
    assert 0 < float(layer.usual) < 0.01 * float(group_std(h, 2).mean())


@pytest.mark.parametrize("change", ["z_s", "z_t", "time", "y"])
def test_everything_it_is_given_matters_to_its_own_logit_only(change):
    network = small(labels=True).eval()
    before = network(**given())
    assert before.shape == (4,)
    assert before.dtype == torch.float32
    changed = given()
    changed[change][0] = given(seed=5)[change][1]
    after = network(**changed)
    assert abs(float(after[0] - before[0])) > 1e-3
    torch.testing.assert_close(after[1:], before[1:], rtol=1e-4, atol=1e-4)


def test_z_s_and_z_t_are_not_interchangeable():
    network, images = small().eval(), given()
    one = network(images["z_s"], images["z_t"], images["time"])
    other = network(images["z_t"], images["z_s"], images["time"])
    assert float((one - other).abs().min()) > 1e-3


def test_in_training_an_image_is_judged_with_its_group():
    network = small().train()
    images = {name: value for name, value in given(8).items() if name != "y"}
    before = network(**images)
    images["z_s"] = images["z_s"].clone()
    images["z_s"][0] = 4 * images["z_s"][0]
    moved = (network(**images) - before).abs() > 1e-6
    # Groups of 4 in a batch of 8: image 0 stands with 2, 4 and 6.
    assert moved.tolist() == [True, False, True, False, True, False, True, False]


def test_odd_sizes():
    """28 halves to 14, 7 and 3."""
    network = DiscriminatorConfig(widths=(8, 8, 8, 8)).build(DataSpec((1, 28, 28), 256, 10), False).eval()
    z = drawn(2, 1, 28, 28)
    assert bool(network(z, z, torch.rand(2)).isfinite().all())
    with pytest.raises(ValueError, match=r"discriminator\.widths has 6 levels, .* images of 28x28: fewer levels"):
        DiscriminatorConfig(widths=(8,) * 6).build(DataSpec((1, 28, 28), 256, 10), False)


def test_logits_begin_of_size_one():
    """Weights that keep the variance: with torch's own the image is lost on its way."""
    for seed in range(3):
        torch.manual_seed(seed)
        network = DiscriminatorConfig().build(DataSpec((1, 28, 28), 256, 10), False).eval()
        logits = network(drawn(64, 1, 28, 28), drawn(64, 1, 28, 28, seed=2), torch.rand(64)).detach()
        assert 0.05 < float(logits.std()) < 20

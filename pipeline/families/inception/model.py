"""torchvision's Inception-v3 as a metric space: pool3 features (2048), in which the Frechet distance is called FID.

Codes go to [-1, 1] (code 0 to -1, the last code to 1), grey images are repeated to 3 channels, and images are resized to
299 x 299 bilinearly without corner alignment, in float32. The pooling of torchvision's blocks differs from the TensorFlow
graph of 2015 that published FIDs use: compare numbers of one weights hash only.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.models import Inception3

from pipeline.config.family import PretrainedConfig
from pipeline.core.contracts import DataSpec, FeatureExtractor, Pretrained

SIDE = 299
# The modules of Inception3 in the order of its forward pass, up to each level's last one.
LEVELS = (
    ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"),
    ("maxpool1", "Conv2d_3b_1x1", "Conv2d_4a_3x3"),
    ("maxpool2", "Mixed_5b", "Mixed_5c", "Mixed_5d"),
    ("Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
    ("Mixed_7a", "Mixed_7b", "Mixed_7c"),
)


class Config(PretrainedConfig):
    """`weights`: a state dict of torchvision.models.inception_v3; its auxiliary head is not needed."""


class Model(Pretrained, FeatureExtractor):
    distance_name = "fid"
    knows_classes = False
    images_per_pass = 50

    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        if spec.levels is None:
            raise ValueError("weights are those of a network for images with levels, the data are latents; measure images")
        if spec.shape[0] not in (1, 3):
            raise ValueError(
                f"weights are those of a network for 1 or 3 channels, images have {spec.shape[0]}; name a trained extractor"
            )
        self.levels = spec.levels
        # transform_input would turn ImageNet-normalised inputs into [-1, 1]; images are given in [-1, 1] at once.
        self.network = Inception3(num_classes=1000, aux_logits=False, transform_input=False, init_weights=False)
        self.head, self.network.fc = self.network.fc, nn.Identity()

    def adopt(self, state: Mapping[str, Tensor]) -> None:
        own = {
            f"head.{name.removeprefix('fc.')}" if name.startswith("fc.") else f"network.{name}": tensor
            for name, tensor in state.items()
            if not name.startswith("AuxLogits.")
        }
        try:
            self.load_state_dict(own)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"does not hold the weights of torchvision's Inception-v3: {reason}") from None

    def features_of_codes(self, codes: Tensor, levels: int) -> Tensor:
        return self._pool3(codes.float() * (2 / (levels - 1)) - 1)

    def features(self, x: Tensor) -> Tensor:
        return self._pool3(self._between_ends(x))

    def maps(self, x: Tensor) -> list[Tensor]:
        found, h = [], _input(self._between_ends(x))
        for level in LEVELS:
            for name in level:
                h = self.network.get_submodule(name)(h)
            found.append(h)
        return found

    def logits(self, features: Tensor) -> Tensor:
        found: Tensor = self.head(features)
        return found

    def _pool3(self, x: Tensor) -> Tensor:
        found: Tensor = self.network(_input(x))
        return found

    def _between_ends(self, x: Tensor) -> Tensor:
        """Bin centres of model space to [-1, 1] with the first code at -1 and the last at 1, as Inception was trained."""
        return x * (self.levels / (self.levels - 1))


def _input(x: Tensor) -> Tensor:
    """(B, 1 or 3, H, W) -> (B, 3, 299, 299)."""
    return interpolate(x.expand(-1, 3, -1, -1), size=(SIDE, SIDE), mode="bilinear", align_corners=False)


def build(config: Config, spec: DataSpec) -> Model:
    return Model(spec)

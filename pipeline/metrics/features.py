"""The metric space: what turns images into features and class probabilities, with a name and a hash beside every number.

Two sources. A classifier that this project trained (any roles.FeatureExtractor), since no pretrained weights come with the
repository; distances in it are called FD. And torchvision's Inception-v3 with weights from a file that the user has;
distances in it, and in it alone, are called FID.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate

from pipeline.core.contracts import DataSpec, FeatureExtractor
from pipeline.core.pixels import dequantize

INCEPTION = "inception"
INCEPTION_SIDE = 299


@dataclass(frozen=True)
class Features:
    """features (N, F) float32; probabilities (N, K) float32, softmax over the extractor's K classes."""

    features: NDArray[np.float32]
    probabilities: NDArray[np.float32]


class Extractor(Protocol):
    """name: `inception` or a name under extractors:; hash: sha256 of the weights file; feature_dim: F.

    distance: what the Frechet distance in its features is called, fd or fid; knows_classes: whether its classes are the data's.
    """

    name: str
    hash: str
    feature_dim: int
    distance: str
    knows_classes: bool
    device: torch.device

    def __call__(self, codes: NDArray[np.uint8]) -> Features:
        """(N, C, H, W) codes 0..levels - 1 -> Features. ValueError for another shape or type, or a code beyond the levels."""


class ClassifierExtractor:
    """A trained classifier as a metric space. `model`, a network, maps bin centres in [-1, 1] to (N, feature_dim)."""

    distance = "fd"
    knows_classes = True

    def __init__(
        self,
        model: FeatureExtractor,
        spec: DataSpec,
        *,
        name: str,
        hash: str,
        device: torch.device | str = "cpu",
        batch: int = 250,
    ) -> None:
        assert isinstance(model, nn.Module), "a classifier is a network"
        self.model, self.spec, self.name, self.hash = model, spec, name, hash
        self.device, self.batch = torch.device(device), batch
        model.to(self.device).eval()
        with torch.inference_mode():
            self.feature_dim = model.features(torch.zeros(1, *spec.shape, device=self.device)).shape[1]

    def __call__(self, codes: NDArray[np.uint8]) -> Features:
        features, logits = [], []
        with torch.inference_mode():
            for part, levels in _batches(codes, self.spec, self.batch):
                found = self.model.features(dequantize(part.to(self.device), levels))
                features.append(found.float().cpu())
                logits.append(self.model.logits(found).float().cpu())
        return _gather(features, logits)


class InceptionExtractor:
    """torchvision's Inception-v3, pool3 features (2048).

    Grey images are repeated to 3 channels; codes go to [-1, 1] (code 0 to -1, the last code to 1), and images are resized to
    299 x 299 bilinearly without corner alignment, in float32. The pooling of torchvision's blocks differs from the TensorFlow
    graph of 2015 that published FIDs use: compare numbers of one weights hash only.

    weights: a safetensors file, or a torch state dict (read with weights_only=True). ValueError for any other file.
    """

    name = INCEPTION
    feature_dim = 2048
    distance = "fid"
    knows_classes = False

    def __init__(self, weights: str | Path, spec: DataSpec, *, device: torch.device | str = "cpu", batch: int = 50) -> None:
        from torchvision.models import Inception3

        if spec.shape[0] not in (1, 3):
            raise ValueError(f"images have {spec.shape[0]} channels; Inception takes 1 or 3, name a trained extractor instead")
        state = _inception_state(Path(weights))
        with open(weights, "rb") as file:
            self.hash = hashlib.file_digest(file, "sha256").hexdigest()
        self.spec, self.device, self.batch = spec, torch.device(device), batch
        # transform_input would turn ImageNet-normalised inputs into [-1, 1]; images are given in [-1, 1] at once.
        model = Inception3(num_classes=1000, aux_logits=False, transform_input=False, init_weights=False)
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{weights} does not hold the weights of torchvision's Inception-v3: {reason}") from None
        self.head, model.fc = model.fc, nn.Identity()
        self.model, self.head = model.to(self.device).eval(), self.head.to(self.device).eval()

    def __call__(self, codes: NDArray[np.uint8]) -> Features:
        features, logits = [], []
        with torch.inference_mode():
            for part, levels in _batches(codes, self.spec, self.batch):
                found = self.model(_inception_input(part.to(self.device), levels))
                features.append(found.cpu())
                logits.append(self.head(found).cpu())
        return _gather(features, logits)


def matrix(features: NDArray[np.floating], least: int) -> NDArray[np.float64]:
    """Features as (N, d) float64. ValueError if they have other dimensions, fewer rows than `least`, or NaN or infinity."""
    points = np.asarray(features, dtype=np.float64)
    if points.ndim != 2:
        raise ValueError(f"features have the shape {points.shape}; allowed is (images, width)")
    if len(points) < least:
        raise ValueError(f"there are features of {len(points)} images; this metric needs {least} or more")
    broken = int((~np.isfinite(points)).any(axis=1).sum())
    if broken:
        raise ValueError(f"features of {broken} of {len(points)} images are not finite; the metric would be meaningless")
    return points


def _batches(codes: NDArray[np.uint8], spec: DataSpec, batch: int) -> Iterator[tuple[Tensor, int]]:
    """(codes of a batch, levels), once all codes have been found to be such."""
    if spec.levels is None:
        raise ValueError("the data are latents without levels; images are measured as codes, so decode them first")
    if codes.ndim != 4 or codes.shape[1:] != spec.shape or codes.dtype != np.uint8 or len(codes) == 0:
        expected = ", ".join(str(size) for size in spec.shape)
        raise ValueError(f"images have the shape {codes.shape} and type {codes.dtype}; allowed is (N, {expected}) of uint8")
    if int(codes.max()) >= spec.levels:
        raise ValueError(f"images have a code {int(codes.max())}; allowed are 0 to {spec.levels - 1}")
    for start in range(0, len(codes), batch):
        # A copy: torch does not take read-only memory maps.
        yield torch.from_numpy(np.array(codes[start : start + batch])), spec.levels


def _gather(features: list[Tensor], logits: list[Tensor]) -> Features:
    return Features(torch.cat(features).numpy(), torch.cat(logits).softmax(dim=1).numpy())


def _inception_input(codes: Tensor, levels: int) -> Tensor:
    """(B, 1 or 3, H, W) codes -> (B, 3, 299, 299) in [-1, 1]."""
    x = codes.float().expand(-1, 3, -1, -1) * (2 / (levels - 1)) - 1
    return interpolate(x, size=(INCEPTION_SIDE, INCEPTION_SIDE), mode="bilinear", align_corners=False)


def _inception_state(file: Path) -> dict[str, Tensor]:
    """The state dict without the auxiliary classifier, which features do not need."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not file.is_file():
        raise ValueError(f"evaluate.inception_weights is {str(file)!r}, which is no file; name one of Inception-v3 weights")
    try:
        if file.suffix == ".safetensors":
            state = load_file(str(file))
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{file} is neither a safetensors file nor a plain torch state dict: {reason}") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{file} holds something else than a state dict; save model.state_dict() of Inception-v3 alone")
    return {name: tensor for name, tensor in state.items() if not name.startswith("AuxLogits.")}

"""What stages ask of a family's own block of params.yaml, whatever the family: real members, with answers by default."""

from __future__ import annotations

from typing import Annotated, Protocol

from pydantic import Field

from pipeline.config.base import StrictConfig


class TrainingSettings(Protocol):
    """What a family may ask of a `training` block."""

    @property
    def steps(self) -> int: ...

    @property
    def batch(self) -> int: ...


class FamilyConfig(StrictConfig):
    """The `model` block of a run, a codec or an extractor: what stages ask of every family.

    The answers here are those of a family that knows no classes and refuses nothing.
    """

    @property
    def class_conditional(self) -> bool:
        """Whether the model is trained on classes, and must be told one for every image that it makes."""
        return False

    @property
    def unconditional_probability(self) -> float | None:
        """How often training hides the class (p_uncond of Ho and Salimans 2022); None: the model cannot be guided."""
        return None

    @property
    def pretrained(self) -> bool:
        """Whether the weights come from a file: such an entry has no `training`."""
        return False

    def check_training(self, training: TrainingSettings) -> None:
        """Raises ValueError, beginning with a key of the run, where `training` does not go with this block."""

    def check_data(self, discrete: bool) -> None:
        """Raises ValueError, beginning with a key of this block, where the loss needs levels, as only `discrete` data have."""

    def check_sampling(self) -> None:
        """Raises ValueError, which goes on from the name of the run, where the trained model can make no image by itself."""


class PretrainedConfig(FamilyConfig):
    """`weights`: the path of a file that the user has; `sha256`: its hash, which stands for the file where DVC looks."""

    weights: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]

    @property
    def pretrained(self) -> bool:
        return True


class ClassConditional(FamilyConfig):
    """`labels`: the network is told the classes."""

    labels: bool = False

    @property
    def class_conditional(self) -> bool:
        return self.labels


class Guidable(ClassConditional):
    """`label_dropout`: with labels, the share of the classes that training hides, for classifier-free guidance."""

    label_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1

    @property
    def unconditional_probability(self) -> float | None:
        return self.label_dropout

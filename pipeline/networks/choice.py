"""The networks that a family may be given, chosen by `kind`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipeline.networks.unet import UNetConfig
from pipeline.networks.variational_unet import VariationalUNetConfig

Network = Annotated[UNetConfig | VariationalUNetConfig, Field(discriminator="kind")]

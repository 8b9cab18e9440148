"""The configuration of what a run exports while it trains."""

from typing import Self

from pydantic import Field, model_validator

from .section import Section


class MetricsConfig(Section):
    """`[metrics]`: the Prometheus exporter of each rank."""

    enabled: bool = Field(default=True, description="serve /metrics and /health on every rank")
    host: str = Field(
        default="127.0.0.1", description="address to listen on; 0.0.0.0: all interfaces, open to the network"
    )
    port: int = Field(
        default=9464,
        ge=0,
        le=65535,
        description="port of local rank 0; rank r listens on port + r, or on the next free one",
    )
    targets_dir: str | None = Field(
        default=None,
        description="folder in which each run lists its addresses for Prometheus (file_sd); default: "
        "uml-dist/targets in $XDG_STATE_HOME, or in ~/.local/state; empty: none",
    )
    textfile_dir: str | None = Field(
        default=None,
        description="write the metrics into a file per rank of this folder, for the textfile collector of "
        "node_exporter, instead of listening",
    )
    certificate: str | None = Field(
        default=None, description="PEM file with the certificate, and those of its issuers, for HTTPS; needs key"
    )
    key: str | None = Field(
        default=None, description="PEM file with the private key of certificate, without a password"
    )
    token_file: str | None = Field(
        default=None, description="file with the bearer token without which every request is refused"
    )
    tensorboard: bool = Field(default=False, description="also write events for TensorBoard into the run folder")

    @model_validator(mode="after")
    def _can_be_served(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            given, missing = ("certificate", "key") if self.certificate is not None else ("key", "certificate")
            raise ValueError(f"{given} is set without {missing}: HTTPS needs both")
        if self.textfile_dir is not None and (self.certificate or self.token_file):
            raise ValueError("nothing listens with textfile_dir: leave out certificate, key and token_file")
        if self.textfile_dir == "":
            raise ValueError("textfile_dir is empty: name a folder, or leave it out")
        return self

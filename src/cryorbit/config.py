"""Configuration of a run: one frozen object, checked before any file is read, saved with the results."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cryorbit.errors import ConfigurationError

PresetName = Literal["fast", "paper"]
DefocusPrior = Literal["given", "micrograph", "blind"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PreprocessingConfig(_Part):
    """How particle images become network input."""

    box_size: int = Field(64, ge=16, le=1024, description="Width in pixels after Fourier cropping.")
    particle_diameter_A: float | None = Field(
        None,
        gt=0,
        description="Diameter of the particle in Angstrom; background is measured outside. "
        "Default: three quarters of the box.",
    )
    invert: bool | None = Field(
        None, description="Whether to change the sign of the images (dark particles). Default: detected."
    )
    shard_images: int = Field(4096, ge=1, description="Images in one file of the cache.")


class ModelConfig(_Part):
    """Architecture and loss of the VAE-GAN."""

    architecture: Literal["convolutional", "projection"] = Field(
        "projection",
        description="Encoder and decoder: the paper's stacks of convolutions, or perceptrons on the coordinates along "
        "the set's principal images.",
    )
    principal_images: int = Field(256, ge=2, le=4096, description="Principal images (projection).")
    hidden_width: int = Field(512, ge=8, description="Width of the perceptrons (projection).")
    hidden_layers: int = Field(3, ge=1, le=8, description="Layers of the perceptrons (projection).")
    latent_dim: int = Field(4, ge=2, le=64, description="Latent dimension: 3 or 4 in the paper.")
    base_width: int = Field(16, ge=1, description="Channels after the encoder's first block (convolutional).")
    n_blocks: int = Field(4, ge=1, le=8, description="Blocks of encoder and decoder (convolutional).")
    discriminator_width: int = Field(8, ge=1, description="Channels after the discriminator's first block.")
    discriminator_blocks: int = Field(4, ge=1, le=8, description="Blocks of the discriminator.")
    likelihood: Literal["bernoulli", "gaussian"] = Field(
        "gaussian",
        description="Reconstruction loss: the paper's cross-entropy on images scaled to [0, 1], or a "
        "Gaussian on standardised intensities.",
    )
    scale_head: bool = Field(False, description="Whether the decoder learns a per-pixel scale (convolutional).")
    lambda_reg: float = Field(1.0, ge=0, description="Weight of the Kullback-Leibler term.")
    lambda_GAN: float = Field(0.01, ge=0, description="Weight of the adversarial term; 0 leaves the GAN out.")
    lambda_cone: float = Field(0.0, ge=0, description="Weight of the paper's cone term.")
    lambda_pose: float = Field(
        10.0,
        ge=0,
        description="Weight of the pose term, by which the latent space is told angle and defocus where the training "
        "is guided; 0 leaves the guidance out.",
    )

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        if self.scale_head and self.architecture == "projection":
            raise ValueError("scale_head is true, which only the convolutional architecture has: set it to false")
        for name in ("lambda_cone", "lambda_pose"):
            if getattr(self, name) > 0 and self.latent_dim < 3:
                raise ValueError(
                    f"{name} is {getattr(self, name)} but the cone needs three latent axes and latent_dim is "
                    f"{self.latent_dim}: set latent_dim to 3 or 4, or {name} to 0"
                )
        return self


class TrainingConfig(_Part):
    """Optimisation."""

    epochs: int = Field(40, ge=1, description="Most epochs.")
    images_budget: int | None = Field(
        80_000,
        ge=1,
        description="Stop after the epoch in which this many images were shown; a large set needs fewer epochs.",
    )
    learn_from: int | None = Field(
        20_000,
        ge=10,
        description="Particles to train on and to validate with, drawn at random where there are more; the others are "
        "only embedded. None trains on all.",
    )
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(2e-3, gt=0)
    schedule: Literal["constant", "cosine"] = "cosine"
    betas: tuple[float, float] = (0.9, 0.999)
    turn_images: bool = Field(
        True,
        description="Show every image under a new random in-plane turn: it acts as the group acts, and "
        "fills the orbits.",
    )
    guide: Literal["none", "alignment"] = Field(
        "alignment",
        description="What the latent space is told during training: nothing, as in the paper, or angle and defocus of "
        "the training particles as the alignment finds them, where it does.",
    )
    drawn_per_image: float = Field(
        3.0,
        ge=0,
        le=100,
        description="Images drawn from the class average, whose angle and defocus are known exactly, for every "
        "particle image of a guided training.",
    )
    validation_fraction: float = Field(0.2, ge=0, lt=1)
    patience: int = Field(10, ge=1, description="Stop after this many epochs without a better validation loss.")
    discriminator_floor: float = Field(
        0.7,
        ge=0,
        description="Leave the discriminator alone while its loss is below this (a balanced game "
        "gives 1.39); 0 trains it at every step, as the paper does.",
    )
    precision: Literal["auto", "32-true", "bf16-mixed"] = Field(
        "auto", description="bf16 where the processor has it and it is faster, else float32."
    )
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    tensorboard: bool = Field(False, description="Whether to log for TensorBoard as well (extra `tensorboard`).")


class EstimationConfig(_Part):
    """Outliers, angle and defocus."""

    method: Literal["orbit", "latent"] = Field(
        "orbit",
        description="Estimator of what is written: alignment against the set's own average, or the latent space "
        "alone, as the paper does.",
    )
    chart: Literal["orbit", "pca"] = Field(
        "orbit",
        description="How the latent space is read: through the orbits of turned copies, or by the paper's "
        "polar coordinates in the plane of two principal components.",
    )
    defocus_prior: DefocusPrior | None = Field(
        None,
        description="given: trust the file's defocus; micrograph: search near it (the latent method keeps it); blind: "
        "ignore it and search the whole range. Default: given where the file has defocus, else blind.",
    )
    defocus_range_um: tuple[float, float] | None = Field(
        None,
        description="Range in which the orbit method searches, by default 0.3 to 4 um; and the known range for the "
        "paper's equation 7, by default the distribution of the file's defocus where it has any and the prior is not "
        "blind, else 0.5 to 2.5 um.",
    )
    outlier_method: Literal["auto", "evidence", "isolation_forest", "robust_covariance", "local_outlier_factor"] = (
        Field(
            "auto",
            description="What decides: the evidence of the alignment together with the latent space, or one of the "
            "paper's detectors on the latent space alone; all are computed and reported. auto: the evidence with the "
            "orbit method, else robust_covariance.",
        )
    )
    outlier_features: Literal["orbit", "latent"] = Field(
        "orbit",
        description="What the detector looks at: features of the latent orbit that no turn changes, or "
        "the latent points themselves, as the paper does.",
    )
    outlier_threshold: float = Field(
        0.5, gt=0, lt=1, description="Particles with a higher outlier probability are dropped."
    )

    @model_validator(mode="after")
    def _range_is_ordered(self) -> Self:
        if self.defocus_range_um is not None:
            low, high = self.defocus_range_um
            if not 0 < low < high < 20:
                raise ValueError(
                    f"defocus_range_um is {low}:{high}; expected two values in micrometres, 0 < low < high < 20"
                )
        return self


class AlignmentConfig(_Part):
    """The orbit method."""

    box_size: int = Field(128, ge=32, le=512, description="Width in pixels to which larger images are brought down.")
    learn_from: int = Field(
        5000, ge=20, description="Particles, drawn at random, that the average is learnt from; all are aligned to it."
    )
    starts: int = Field(2, ge=1, description="Random starts to choose from.")


class ClassificationConfig(_Part):
    """Many views at once."""

    views: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="Classes to begin with. Default: as many as images that were held out are better explained by.",
    )
    particles_per_view: int = Field(
        50, ge=10, description="With views left out: no more classes than leave so many particles for each."
    )
    mirror: Literal["separate", "tied"] = Field(
        "separate",
        description="Whether a view and its reflection, which is the view from the other side, are two classes or one.",
    )
    box_size: int = Field(96, ge=32, le=256, description="Width in pixels to which larger images are brought down.")
    learn_from: int = Field(
        20_000, ge=20, description="Particles, drawn at random, that the classes are learnt from; all are classified."
    )


class RunConfig(_Part):
    """Everything that decides the result of a run, apart from the particles."""

    preset: PresetName = "fast"
    seed: int = Field(12345, ge=0, lt=2**32)
    preprocessing: PreprocessingConfig = PreprocessingConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    alignment: AlignmentConfig = AlignmentConfig()
    classification: ClassificationConfig = ClassificationConfig()
    estimation: EstimationConfig = EstimationConfig()

    @model_validator(mode="after")
    def _box_fits_the_blocks(self) -> Self:
        for blocks, which in (
            (self.model.n_blocks, "n_blocks"),
            (self.model.discriminator_blocks, "discriminator_blocks"),
        ):
            if self.preprocessing.box_size % 2**blocks:
                raise ValueError(
                    f"box_size is {self.preprocessing.box_size}, which {which} = {blocks} cannot halve that "
                    f"often: choose a multiple of {2**blocks}"
                )
        return self


PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    # What a user without a GPU waits for: narrow, 64 px, the noise model that cryo-EM images have.
    "fast": {},
    # Miolane et al. 2020, and the authors' notebooks of 2019 where the text is silent.
    "paper": {
        "preprocessing": {"box_size": 128},
        "model": {
            "architecture": "convolutional", "latent_dim": 3, "base_width": 64, "n_blocks": 5,
            "discriminator_width": 64, "discriminator_blocks": 4, "likelihood": "bernoulli", "scale_head": True,
            "lambda_reg": 1.0, "lambda_GAN": 1.0, "lambda_cone": 1.0, "lambda_pose": 0.0,
        },
        "training": {
            "epochs": 257, "images_budget": None, "learn_from": None, "batch_size": 16, "learning_rate": 1e-3,
            "schedule": "constant", "turn_images": False, "guide": "none", "patience": 257,
            "discriminator_floor": 0.0,
        },
    },
}  # fmt: skip


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping with changes made to it, nested mappings merged key by key."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _problem(item: Mapping[str, Any]) -> str:
    """One finding of pydantic's as part of a sentence, with the value that was found."""
    where = ".".join(map(str, item["loc"])) or "configuration"
    value = item["input"]
    found = f" (found {value!r})" if isinstance(value, str | int | float | tuple | list) else ""
    return f"{where}: {item['msg'].removeprefix('Value error, ')}{found}"


def make_config(preset: str = "fast", changes: Mapping[str, Any] | None = None, file: Path | None = None) -> RunConfig:
    """Configuration from a preset, a TOML file and single changes, the later winning.

    Parameters
    ----------
    preset
        Name of a preset, overridden by ``preset = "..."`` in the file.
    changes
        Nested mapping such as ``{"training": {"epochs": 3}}``.
    file
        TOML file with the same nesting.

    Raises
    ------
    ConfigurationError
        If the file is not TOML, or a name or value is not allowed.
    """
    from_file: dict[str, Any] = {}
    if file is not None:
        try:
            from_file = tomllib.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigurationError(f"{file}: cannot be read ({error.strerror}).") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{file}: is not a TOML file ({error}).") from error
    preset = str(from_file.get("preset", preset))
    if preset not in PRESETS:
        raise ConfigurationError(f"Preset {preset!r} is unknown: choose one of {', '.join(PRESETS)}.")
    values = merge(merge(PRESETS[preset], from_file), changes or {})
    try:
        return RunConfig(**merge(values, {"preset": preset}))
    except ValidationError as error:
        where = f"{file}: " if file is not None else ""
        problems = "; ".join(_problem(item) for item in error.errors())
        raise ConfigurationError(f"{where}{problems}.") from error


def to_toml(config: RunConfig) -> str:
    """The TOML file from which :func:`make_config` makes this configuration again: what its preset does not say.

    Raises
    ------
    ConfigurationError
        If it has a setting that only Python can express.
    """
    ours = config.model_dump(mode="json")
    preset = make_config(config.preset).model_dump(mode="json")
    lines = [f'preset = "{config.preset}"']
    lines += [f"seed = {config.seed}"] if ours["seed"] != preset["seed"] else []
    for section, values in ours.items():
        if not isinstance(values, dict):
            continue
        changed = {name: value for name, value in values.items() if value != preset[section][name]}
        lines += ["", f"[{section}]"] if changed else []
        lines += [f"{name} = {_toml_value(f'{section}.{name}', value)}" for name, value in changed.items()]
    return "\n".join(lines) + "\n"


def _toml_value(name: str, value: object) -> str:
    if value is None:
        raise ConfigurationError(f"{name} is None where its preset has a value, which a TOML file cannot say.")
    # TOML writes numbers, truth values, texts and lists of them as JSON does.
    return json.dumps(value)

"""The recipe `ugmcl`: a student and its average, labelled and unlabelled volumes, one phase."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from uml_kernels import signed_distance
from uml_shards.format.manifest import Manifest

from ...batch import Batch, Prediction
from ...distributed.global_batch import GlobalBatch
from ...errors import UmlError
from ...metrics.families import STANDARD, Surfaces
from ...nn.keyed_dropout import keyed_bits, use_rng_key
from ...telemetry import span
from ..recipe import Averaged, MicroBatchResult, Network, Opinions, Phase, Progress, Recipe, StreamContract, Trained
from .config import UgmclConfig
from .copy_paste import Pasting
from .methods import METHODS
from .network import VolumeNetwork, VolumeOutput, vacuity
from .objective import kl_weight, plan_of, ramp, threshold
from .teacher import Teacher
from .terms import Segmentation, Terms, Truth, agreement, voxels_of

STREAMS = ("labelled", "unlabelled")

LIVE = 10.0
"""Where |slope * distance| is smaller, the mask that is formed from the distance has a gradient in float32."""


class UgmclRecipe(Recipe[UgmclConfig]):
    """Uncertainty-guided mutual consistency learning (Zhang et al., Artificial Intelligence in Medicine 2022)."""

    name = "ugmcl"
    Config = UgmclConfig
    streams: ClassVar[Mapping[str, StreamContract]] = dict.fromkeys(
        STREAMS, StreamContract(labels=False, masks="exclusive")
    )
    families = (*STANDARD, Surfaces())
    dimensions = 3

    def __init__(self, config: UgmclConfig, manifests: Mapping[str, Manifest]) -> None:
        super().__init__(config, manifests)
        self.model, self.objective = config.model, config.objective
        self.evidential = self.objective.uncertainty == "evidential"
        self.plan = plan_of(self.objective, self.model.profile, self.model.resolved("head_mode") == "separate")
        self.manifest = manifests["labelled"]
        self._check_streams()

    @property
    def networks(self) -> Mapping[str, Network]:
        """The student and, for methods that need it, its average."""
        networks: dict[str, Network] = {"student": Trained(self._build)}
        if self.plan.needs_teacher:
            networks["teacher"] = Averaged("student", decay=self.objective.teacher_decay, stochastic=True)
        return networks

    @property
    def phases(self) -> tuple[Phase, ...]:
        """One phase, without the unlabelled volumes for methods that do not need them."""
        return (Phase("train", ("student",), STREAMS if self.plan.needs_unlabelled else STREAMS[:1]),)

    @property
    def notes(self) -> Sequence[str]:
        """The numbers of volumes, and the method if it is not the whole of UG-MCL."""
        numbers = f"{self.manifest.masked} labelled volumes"
        if self.plan.needs_unlabelled:
            numbers += f" and {self.manifests['unlabelled'].samples} unlabelled ones"
        method = self.objective.method
        return [numbers, *([] if method == "ugmcl" else [f"method {method}: {METHODS[method].summary}"])]

    @property
    def why_no_accumulation(self) -> str | None:
        """A Dice term over the global batch is a ratio of sums, and batch norm would see only a part of the batch."""
        if self.model.has_batch_norm:
            return 'batch norm would take the statistics of a part of the batch: set model.norm = "group"'
        if self.objective.dice_scope == "sample":
            return None
        return 'a Dice term over the global batch cannot be accumulated: set objective.dice_scope = "sample"'

    @property
    def side_multiple(self) -> int:
        """The trunk's divisor."""
        return self.model.divisor

    def targets(
        self, batches: Mapping[str, Batch], networks: Mapping[str, nn.Module], progress: Progress
    ) -> Mapping[str, Tensor]:
        """Return the distances of labelled masks, what the teacher tells of the volumes, and the boxes to paste.

        Of unlabelled samples, only images, keys and weights are read.
        """
        targets: dict[str, Tensor] = {}
        if self.plan.regresses:
            with span("distance_maps"):
                targets["distance_map"] = self._distance_map(batches["labelled"].mask)
        if not self.plan.needs_teacher or not self._rise(progress):
            return targets
        teacher = Teacher(networks["teacher"], self.objective)
        if self.plan.asks_teacher:
            targets |= self._taught(teacher, batches, threshold(self.objective, progress.fraction))
        if self.plan.copy_paste:
            labelled, unlabelled = (batches[name] for name in STREAMS)
            box = Pasting.draw(tuple(labelled.image.shape[2:]), self.objective.pasted_box, labelled.rng_key)
            targets |= {"box": box.inside, "labels": teacher.labels(unlabelled.image)}
        return targets

    def counts(self, batches: Mapping[str, Batch], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Count labelled voxels and samples, voxels that should agree, those that pass the gate, and pasted ones."""
        counts = _known(batches["labelled"]).counts()
        if self.plan.needs_unlabelled:
            sides = batches["labelled"].image.shape[2:]
            counts["matched"] = (self._matched(batches, "weight") > 0).sum() * sides.numel()
        if "gate" in targets:
            counts["gate"] = targets["gate"].sum()
        if "box" in targets:
            for truth in _pasted_truths(batches, targets):
                counts |= truth.counts()
        return counts

    def step(
        self,
        batches: Mapping[str, Batch],
        targets: Mapping[str, Tensor],
        networks: Mapping[str, nn.Module],
        progress: Progress,
        whole: GlobalBatch,
    ) -> MicroBatchResult:
        """Compute the weighted sum of the terms of labelled samples, of agreement, and of pasted patches."""
        rise = self._rise(progress)
        known, matched, pasted = self._call(networks["student"], batches, targets, rise)
        kl = kl_weight(self.objective, progress.fraction)
        segmentation = Segmentation(self.objective, whole, self.evidential, kl)
        supervised = self._supervised(segmentation, known, _known(batches["labelled"]), targets)
        terms = {"supervised": self._weighted(supervised)}
        loss = terms["supervised"]
        if matched is not None:
            weight = self._matched(batches, "weight")
            agreed = agreement(matched, targets, weight, whole, self.plan, self.objective.slope)
            loss = loss + rise * self._weighted(agreed)
            terms |= agreed
        if pasted is not None:
            own, taught = (segmentation.terms(pasted, truth) for truth in _pasted_truths(batches, targets))
            terms["pasted"] = self._weighted(own) + self.objective.weights.pasted * self._weighted(taught)
            loss = loss + terms["pasted"]
        parts = {f"supervised_{name}": term for name, term in supervised.items()}
        figures = self._figures(matched, targets, progress, whole)
        logits = known.logits.detach()
        opinions = {"pixel": Opinions(vacuity(logits), logits.shape[1])} if self.evidential else {}
        return MicroBatchResult({"student": loss}, {"loss": loss, **terms, **parts, **figures}, opinions)

    def predict(self, batch: Batch, networks: Mapping[str, nn.Module]) -> Prediction:
        """Predict the probability of each voxel's class, its vacuity if there is evidence, and the mask by distance."""
        output = networks["student"](batch.image)
        maps = {}
        if output.distance is not None:
            maps["mask by distance"] = output.soft_mask(self.objective.slope).amax(1)
        return Prediction(
            pixel_probability=output.probability,
            pixel_vacuity=vacuity(output.logits) if self.evidential else None,
            maps=maps,
        )

    def _build(self) -> VolumeNetwork:
        trunk = self.model.trunk(self.manifest.channels)
        distance = self.model.resolved("head_mode") if self.plan.distance else "none"
        return VolumeNetwork(trunk, len(self.manifest.mask_classes), distance, self.evidential)

    def _check_streams(self) -> None:
        """Check sizes and counts of the two streams.

        Raises:
            UmlError: patches differ in size or are not divisible, or there are no pairs to paste.
        """
        streams, default = self.config.streams, self.config.data.size
        sizes = {name: streams[name].size or default for name in STREAMS}
        if len({*sizes.values()}) > 1:
            raise UmlError(f"streams.labelled.size and streams.unlabelled.size differ ({sizes}): set data.size alone")
        size, divisor = sizes["labelled"], self.model.divisor
        if isinstance(size, tuple):
            if any(side % divisor for side in size):
                raise UmlError(f"data.size = {list(size)}: every side of a patch must be a multiple of {divisor}")
            if size == (divisor,) * 3 and self.model.resolved("norm") == "instance":
                raise UmlError(
                    f'data.size = {list(size)} leaves one voxel to normalise: enlarge it, or set model.norm = "group"'
                )
        if self.plan.copy_paste and len({streams[name].count for name in STREAMS}) > 1:
            raise UmlError(
                "copy-paste pairs labelled with unlabelled patches: set streams.labelled.count and "
                "streams.unlabelled.count to the same number"
            )

    def _rise(self, progress: Progress) -> float:
        """Return the share of their largest weight that the terms of agreement have; 0 in the warmup."""
        return ramp(self.objective, self.plan.ramp_every, progress)

    def _matched(self, batches: Mapping[str, Batch], name: Literal["image", "rng_key", "weight"]) -> Tensor:
        """Return images, keys or weights of the samples that should agree."""
        streams = STREAMS if self.plan.rows == "all" else STREAMS[1:]
        return torch.cat([getattr(batches[stream], name) for stream in streams])

    def _distance_map(self, mask: Tensor) -> Tensor:
        """Return the signed distances (B, D, *S) from the border of each class that the network has a distance of."""
        first = 1 if self.model.resolved("head_mode") == "separate" else 0
        return torch.stack(
            [signed_distance(mask == number) for number in range(first, len(self.manifest.mask_classes))], 1
        )

    def _taught(self, teacher: Teacher, batches: Mapping[str, Batch], limit: float) -> dict[str, Tensor]:
        """Return the teacher's probability and distance, its uncertainty, and the voxels that pass the gate."""
        image, rng_key = self._matched(batches, "image"), self._matched(batches, "rng_key")
        seen = teacher.opinion(image, rng_key)
        taught = {"probability": seen.probability}
        if seen.distance is not None:
            taught["distance"] = seen.distance
        counted = voxels_of(self._matched(batches, "weight"), image.shape[2:])
        taught["gate"] = counted
        if self.plan.gated:
            taught["uncertainty"], certain = teacher.certain(image, rng_key, seen, limit)
            taught["gate"] = certain & counted
        return taught

    def _call(
        self, student: nn.Module, batches: Mapping[str, Batch], targets: Mapping[str, Tensor], rise: float
    ) -> tuple[VolumeOutput, VolumeOutput | None, VolumeOutput | None]:
        """Call the student once; return its output for labelled, for matched and for pasted patches."""
        labelled, unlabelled = batches["labelled"], batches.get("unlabelled")
        images, keys = [labelled.image], [labelled.rng_key]
        agreeing = rise > 0 and self.plan.agrees
        if unlabelled is not None and agreeing:
            images.append(unlabelled.image)
            keys.append(unlabelled.rng_key)
        if unlabelled is not None and "box" in targets:
            images.append(Pasting(targets["box"]).exchange(labelled.image, unlabelled.image))
            keys += [keyed_bits(labelled.rng_key, "pasted", number) for number in range(2)]
        with use_rng_key(torch.cat(keys)):
            output = student(torch.cat(images))
        number = len(labelled)
        end = number + (len(unlabelled) if unlabelled is not None and agreeing else 0)
        matched = output.rows(0 if self.plan.rows == "all" else number, end) if agreeing else None
        return output.rows(0, number), matched, output.rows(end) if "box" in targets else None

    def _supervised(
        self, segmentation: Segmentation, output: VolumeOutput, truth: Truth, targets: Mapping[str, Tensor]
    ) -> Terms:
        """Return the terms of the labelled patches, those of their distances included."""
        terms = segmentation.terms(output, truth)
        if "distance_map" in targets:
            terms["distance"] = segmentation.distance_error(output, truth, targets["distance_map"])
        if self.plan.weights.distance_dice > 0:
            terms["distance_dice"] = segmentation.dice_loss(output.soft_mask(self.objective.slope), truth)
        return terms

    def _weighted(self, terms: Terms) -> Tensor:
        """Return the sum of terms times their weights."""
        return torch.stack([getattr(self.plan.weights, name) * term for name, term in terms.items()]).sum()

    def _figures(
        self, matched: VolumeOutput | None, targets: Mapping[str, Tensor], progress: Progress, whole: GlobalBatch
    ) -> Terms:
        """Return what is logged besides the terms: the ramp, the live share of distances, and the gate."""
        if matched is None:
            return {}
        figures = {"ramp_share": matched.logits.new_full((), self._rise(progress))}
        if matched.distance is not None:
            live = (self.objective.slope * matched.distance.detach()).abs() < LIVE
            figures["distance_live"] = whole.mean(live.float().mean(1).sum(), "matched")
        if "uncertainty" in targets:
            figures["gate_threshold"] = matched.logits.new_full((), threshold(self.objective, progress.fraction))
            figures["gate_share"] = whole.mean(targets["gate"].float().sum(), "matched")
            figures["gate_uncertainty"] = whole.mean(targets["uncertainty"].sum(), "matched")
        return figures


def _known(labelled: Batch) -> Truth:
    return Truth.of(labelled.mask, labelled.weight, "labelled")


def _pasted_truths(batches: Mapping[str, Batch], targets: Mapping[str, Tensor]) -> tuple[Truth, Truth]:
    """Return the truth of pasted patches: of their labelled voxels, and of those that the teacher has labelled."""
    labelled, unlabelled = (batches[name] for name in STREAMS)
    pasting = Pasting(targets["box"])
    known = _known(labelled)
    alive = voxels_of(unlabelled.weight, targets["labels"].shape[1:])
    target = pasting.exchange(known.target, targets["labels"])
    own = pasting.exchange(known.counted, torch.zeros_like(alive))
    taught = pasting.exchange(torch.zeros_like(known.counted), alive)
    return Truth(target, own, "pasted_masks"), Truth(target, taught, "pasted_labels")

"""The recipe `collab`: generator, discriminator and grader, images with masks and images with grades, five phases."""

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from uml_kernels import opinion
from uml_shards.format.manifest import Manifest

from ...batch import Batch, Prediction
from ...distributed.global_batch import GlobalBatch
from ...errors import UmlError
from ...metrics.families import STANDARD, Grades
from ...nn.frozen import frozen
from ...telemetry import span
from ..recipe import Frozen, MicroBatchResult, Network, Opinions, Phase, Progress, Recipe, StreamContract, Trained
from .adversary import Adversary
from .config import CollabConfig
from .evidence import EVIDENCE
from .grader import Grader, GraderFeatures, GraderOutput
from .heads import ordinal_probability
from .lesions import PRESENCE, LesionMaps
from .phases import ATTENTION, TOGETHER, learning, phases_of
from .terms import LesionLoss, PseudoMasks, Terms, counted_pixels, grade_loss

STREAMS = ("pixel", "image")


class CollabRecipe(Recipe[CollabConfig]):
    """Collaborative learning of lesion segmentation and disease grading (Zhou et al., CVPR 2019)."""

    name = "collab"
    Config = CollabConfig
    streams: ClassVar[Mapping[str, StreamContract]] = {
        "pixel": StreamContract(labels=False, masks="named"),
        "image": StreamContract(labels=True, masks="none"),
    }
    families = (*STANDARD, Grades())

    def __init__(self, config: CollabConfig, manifests: Mapping[str, Manifest]) -> None:
        super().__init__(config, manifests)
        self.model, self.objective = config.model, config.objective
        self.lesions, self.grades = manifests["pixel"].mask_names, manifests["image"].classes
        self.channels = manifests["pixel"].channels
        self.allowed = self.objective.allowed(self.grades, self.lesions)
        self.positive = self.objective.positive_weights(self.lesions)
        self._check()

    @property
    def networks(self) -> Mapping[str, Network]:
        """The networks that learn, and the copy of the grader whose features its attention uses."""
        networks: dict[str, Network] = {
            "generator": Trained(self._generator),
            "grader": Trained(self._grader, self._start_grader),
        }
        if self.objective.adversary:
            networks["discriminator"] = Trained(self._discriminator)
        if self.model.needs_features:
            networks["features"] = Frozen("grader")
        return networks

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Lesions alone, grades alone, the adversary, the attention, and all together; without those not needed."""
        return phases_of(self.model, self.objective)

    @property
    def notes(self) -> Sequence[str]:
        """The numbers of images, and the grades that no training image has."""
        pixel, image = (self.manifests[name] for name in STREAMS)
        lines = [f"{pixel.masked} images with masks of {', '.join(self.lesions)}; {image.labelled} images with grades"]
        if missing := [name for name, count in zip(self.grades, image.class_counts, strict=False) if not count]:
            lines.append(f"no training image has the grade {' or '.join(missing)}, so it is never learnt")
        return lines

    def check_start(self) -> None:
        """Compare the file of published weights with the grader's trunk."""
        self.model.check_weights(self.channels)

    @property
    def why_no_accumulation(self) -> str | None:
        """Batch norm would see only a part of the batch."""
        if self.model.has_batch_norm:
            return 'batch norm would take the statistics of a part of the batch: set model.norm = "group"'
        return None

    @property
    def side_multiple(self) -> int:
        """The generator's divisor."""
        return self.model.divisor

    @property
    def side_smallest(self) -> int:
        """The last feature of the grader has a side of one below it."""
        return 4 * self.model.divisor

    def targets(
        self, batches: Mapping[str, Batch], networks: Mapping[str, nn.Module], progress: Progress
    ) -> Mapping[str, Tensor]:
        """Return what the grader's attention needs, the pseudo masks, and how often the discriminator is right.

        Of images with grades, masks are never read.
        """
        turn, targets = learning(self.objective, progress), {}
        attending = self.model.attends and progress.phase in (ATTENTION, TOGETHER)
        teaching = progress.phase == TOGETHER and "generator" in turn and self.objective.semi_supervised
        if attending and ("grader" in turn or teaching):
            targets |= self._attended(batches["image"], networks)
        if teaching:
            with span("pseudo_masks"):
                targets |= self._pseudo_masks(batches["image"], networks, targets)
        if "discriminator" in turn and self.objective.skip_discriminator_above is not None:
            targets["judged_right"] = self._judged_right(batches, networks)
        return targets

    def counts(self, batches: Mapping[str, Batch], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Count pixels and images with masks, images with grades, the weight of pseudo masks, and right judgements."""
        counts: dict[str, Tensor] = {}
        if "pixel" in batches:
            pixel = batches["pixel"]
            counts |= {"lesion_pixels": counted_pixels(pixel).sum(), "masked": pixel.masked.sum()}
            counts["pixel_images"] = (pixel.weight > 0).sum()
        if "image" in batches:
            image = batches["image"]
            counts |= {"graded": image.labelled.sum(), "images": (image.weight > 0).sum()}
        if "pseudo_weight" in targets:
            counts["pseudo"] = targets["pseudo_weight"].sum()
        if "judged_right" in targets:
            counts["judged_right"] = targets["judged_right"]
        return counts

    def step(
        self,
        batches: Mapping[str, Batch],
        targets: Mapping[str, Tensor],
        networks: Mapping[str, nn.Module],
        progress: Progress,
        whole: GlobalBatch,
    ) -> MicroBatchResult:
        """Compute the losses of the networks whose turn it is."""
        turn = learning(self.objective, progress)
        losses: dict[str, Tensor] = {}
        terms: Terms = {}
        opinions: dict[str, Opinions] = {}
        if "generator" in turn:
            scores = self._scores(networks["generator"], batches, "discriminator" in turn or "presence" in targets)
            maps = {name: LesionMaps.of(each) for name, each in scores.items()}
            losses["generator"], more = self._generator_loss(scores, maps, batches, targets, networks, progress, whole)
            terms |= more
            if "discriminator" in turn and not self._skips(whole):
                seen = {name: each.probability.detach() for name, each in maps.items()}
                adversary = Adversary(self.objective, batches)
                losses["discriminator"] = adversary.loss(networks["discriminator"], seen, whole)
            if (vacuity := maps["pixel"].vacuity) is not None:
                opinions["pixel"] = Opinions(vacuity.detach(), PRESENCE)
        if "grader" in turn:
            image = batches["image"]
            graded = networks["grader"](image.image, targets.get("maps"), _features(targets))
            kl = self.objective.kl_weight(progress.fraction)
            losses["grader"] = grade_loss(graded.logits, image, whole, self._grade_loss, kl)
            probability, vacuity = self._grade(graded)
            if vacuity is not None:
                opinions["image"] = Opinions(vacuity.detach(), probability.shape[1])
        return MicroBatchResult(losses, {"loss": torch.stack([*losses.values()]).sum(), **losses, **terms}, opinions)

    def predict(self, batch: Batch, networks: Mapping[str, nn.Module]) -> Prediction:
        """Predict the probability of each lesion and grade, their vacuity if there is evidence, and the attention."""
        maps = LesionMaps.of(networks["generator"](batch.image))
        grader = networks["grader"]
        assert isinstance(grader, Grader)
        if self.model.attends and grader.attended:
            graded = grader(batch.image, maps.probability, self._features(batch.image, networks))
        else:
            graded = grader(batch.image)
        probability, vacuity = self._grade(graded)
        size = (batch.image.shape[2], batch.image.shape[3])
        titled = {} if graded.attention is None else {"attention": graded.attention_at(size).amax(1)}
        if maps.vacuity is not None:
            titled["lesion vacuity"] = maps.vacuity.mean(1)
        return Prediction(
            image_probability=probability, image_vacuity=vacuity, lesion_probability=maps.probability, maps=titled
        )

    def _generator(self) -> nn.Module:
        return self.model.generator(self.channels, len(self.lesions), self.objective.evidential)

    def _discriminator(self) -> nn.Module:
        image = self.channels if self.objective.discriminator_input == "maps_image" else 0
        return self.model.discriminator(len(self.lesions) + image)

    def _grader(self) -> nn.Module:
        return self.model.grader(self.channels, len(self.lesions), len(self.grades), self._grade_loss == "ordinal")

    def _start_grader(self, grader: nn.Module) -> Sequence[str]:
        assert isinstance(grader, Grader)
        return self.model.load_weights(grader)

    @property
    def _grade_loss(self) -> str:
        return "evidential" if self.objective.evidential else self.objective.grade_loss

    def _check(self) -> None:
        """Check the classes and sizes of the images, the optimisers and the terms of the objective.

        Raises:
            UmlError: the streams differ in classes or size, the size does not fit the networks, an optimiser would
                change what a phase does not use, or there is no attention to learn from.
        """
        classes = self.manifests["pixel"].classes
        if classes not in ((), self.grades):
            raise UmlError(
                f"the classes of stream pixel are {', '.join(classes)}, but the grades of stream image are "
                f"{', '.join(self.grades)}: make the shards of one of them again"
            )
        streams, default = self.config.streams, self.config.data.size
        pixel, image = (streams[name].size or default for name in STREAMS)
        if pixel != image:
            raise UmlError(f"streams.pixel.size = {pixel} and streams.image.size = {image} differ: set data.size alone")
        sides = (pixel, pixel) if isinstance(pixel, int) else self.manifests["pixel"].size
        divisor, smallest = self.model.divisor, self.model.smallest
        if sides and (any(side % divisor for side in sides) or min(sides) < smallest):
            raise UmlError(f"data.size = {pixel}: sides must be multiples of {divisor}, at least {smallest}")
        for name, network in self.networks.items():
            optimizer = self.config.optimizer_of(name)
            if isinstance(network, Trained) and optimizer.name == "adam" and optimizer.weight_decay:
                raise UmlError(
                    f"weight_decay = {optimizer.weight_decay} of {name} with adam would shrink weights that a phase "
                    'does not use by whole steps: set optimizer.name = "adamw"'
                )
        if self.objective.semi_supervised and not self.model.attends:
            raise UmlError(
                'model.attention = "none" gives no pseudo masks: set objective.weights.semi_supervised = 0 as well'
            )

    def _features(self, image: Tensor, networks: Mapping[str, nn.Module]) -> GraderFeatures | None:
        """Return the features of the frozen copy of the grader; None if the grader uses its own."""
        copy = networks.get("features")
        assert copy is None or isinstance(copy, Grader)
        return None if copy is None else copy.features(image)

    def _attended(self, image: Batch, networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        """Return the generator's maps, and the frozen features if the attention uses them."""
        maps = LesionMaps.of(frozen(networks["generator"])(image.image))
        targets = {"maps": maps.probability}
        if maps.vacuity is not None:
            targets["vacuity"] = maps.vacuity
        if (features := self._features(image.image, networks)) is not None:
            targets |= {"low": features.low, "vector": features.vector}
        return targets

    def _pseudo_masks(
        self, image: Batch, networks: Mapping[str, nn.Module], targets: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the masks that the grader's attention suggests for images with grades."""
        graded: GraderOutput = frozen(networks["grader"])(image.image, targets["maps"], _features(targets))
        attention = graded.attention_at((image.image.shape[2], image.image.shape[3]))
        certainty = None
        if self.objective.evidence_weighting:
            _, vacuity = self._grade(graded)
            assert vacuity is not None
            certainty = (1.0 - targets["vacuity"]) * (1.0 - vacuity)[:, None, None, None]
        hard = self.objective.pseudo_range if self.objective.pseudo == "hard" else None
        masks = PseudoMasks.of(attention, image, self.allowed, hard, certainty)
        return {"presence": masks.presence, "pseudo_weight": masks.weight}

    def _grade(self, graded: GraderOutput) -> tuple[Tensor, Tensor | None]:
        """Return the probability (B, K) of each grade, and the vacuity (B,) if there is evidence."""
        match self._grade_loss:
            case "evidential":
                seen = opinion(graded.logits, EVIDENCE)
                return seen.probability, seen.vacuity
            case "ordinal":
                return ordinal_probability(graded.logits), None
        return graded.logits.float().softmax(1), None

    def _scores(
        self, generator: Callable[[Tensor], Tensor], batches: Mapping[str, Batch], both: bool
    ) -> dict[str, Tensor]:
        """Call the generator once; return its scores of the images of each stream, those with grades if wanted."""
        names = STREAMS if both else STREAMS[:1]
        scores = generator(torch.cat([batches[name].image for name in names]))
        return dict(zip(names, scores.split([len(batches[name]) for name in names]), strict=True))

    def _generator_loss(
        self,
        scores: Mapping[str, Tensor],
        maps: Mapping[str, LesionMaps],
        batches: Mapping[str, Batch],
        targets: Mapping[str, Tensor],
        networks: Mapping[str, nn.Module],
        progress: Progress,
        whole: GlobalBatch,
    ) -> tuple[Tensor, Terms]:
        """Return the weighted sum of labelled masks, pseudo masks and deception, and these terms."""
        weights = self.objective.weights
        lesions = LesionLoss(whole, self.positive, self.objective.kl_weight(progress.fraction))
        pixel = batches["pixel"]
        terms = {"cross_entropy": lesions.labelled(scores["pixel"], pixel)}
        loss = terms["cross_entropy"]
        if weights.dice > 0:
            terms["dice"] = lesions.dice(maps["pixel"].probability, pixel)
            loss = loss + weights.dice * terms["dice"]
        if "presence" in targets:
            terms["pseudo"] = lesions.pseudo(scores["image"], targets["presence"], targets["pseudo_weight"])
            loss = loss + self.objective.semi_supervised_weight(progress) * terms["pseudo"]
        if "discriminator" in learning(self.objective, progress):
            adversary = Adversary(self.objective, batches)
            terms["deception"] = adversary.deception(
                frozen(networks["discriminator"]), maps["image"].probability, whole
            )
            loss = loss + weights.adversarial * terms["deception"]
        return loss, terms

    def _judged_right(self, batches: Mapping[str, Batch], networks: Mapping[str, nn.Module]) -> Tensor:
        """Return the number of images that the discriminator assigns to the right stream."""
        scores = self._scores(frozen(networks["generator"]), batches, both=True)
        maps = {name: LesionMaps.of(each).probability for name, each in scores.items()}
        return Adversary(self.objective, batches).right(frozen(networks["discriminator"]), maps)

    def _skips(self, whole: GlobalBatch) -> bool:
        """Whether the discriminator is so often right in a global batch that it does not learn from it."""
        limit = self.objective.skip_discriminator_above
        if limit is None:
            return False
        return bool(whole.count("judged_right") > limit * (whole.count("pixel_images") + whole.count("images")))


def _features(targets: Mapping[str, Tensor]) -> GraderFeatures | None:
    return GraderFeatures(targets["low"], targets["vector"]) if "low" in targets else None

"""The UML network learns by its objective: a synthetic disc and cup, and a small structure on a large background."""

import torch

from uml_dist.batch import Batch, Prediction
from uml_dist.distributed.global_batch import GlobalBatch
from uml_dist.nn.keyed_dropout import use_rng_key
from uml_dist.recipes.uml.network import UmlModel, UmlNetwork
from uml_dist.recipes.uml.objective import UmlObjective, counts, uml_terms

NOISE, RATE = 0.5, 5e-3


def ellipse(size: int, centre: tuple[float, float], radii: tuple[float, float]) -> torch.Tensor:
    """The inside of an ellipse, (size, size) bool."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return ((rows - centre[0]) / radii[0]) ** 2 + ((columns - centre[1]) / radii[1]) ** 2 <= 1


def batch_of(masks: list[torch.Tensor], labels: list[int]) -> Batch:
    """A batch of masks and of what they look like: brighter by 1 for each class, in noise."""
    mask, samples = torch.stack(masks).to(torch.uint8), len(masks)
    noise = torch.randn(samples, 3, *mask.shape[1:], generator=torch.Generator().manual_seed(0))
    return Batch(
        image=mask[:, None].float() + NOISE * noise,
        mask=mask,
        label=torch.tensor(labels),
        weight=torch.ones(samples),
        rng_key=torch.arange(samples),
        position=torch.arange(samples),
        keys=tuple(map(str, range(samples))),
    )


def disc_and_cup() -> Batch:
    """Background, rim and cup; the label is whether the cup is wider than half of the disc."""
    masks, labels = [], []
    for index in range(8):
        centre = (14.0 + index % 3, 15.0 + index % 2)
        tall, wide = 10.0 + index % 4, 11.0 - index % 3
        label = index // 4
        ratio = 0.35 if label == 0 else 0.7
        disc = ellipse(32, centre, (tall, wide))
        cup = ellipse(32, centre, (tall * ratio, wide * ratio))
        masks.append(disc.int() + cup.int())
        labels.append(label)
    return batch_of(masks, labels)


def small_squares() -> Batch:
    """A square of 7 x 7 on 48 x 48 pixels: 2 % of them; the label is the half that it is in."""
    masks = []
    for row, column in ((6, 30), (12, 9), (28, 33), (36, 14)):
        mask = torch.zeros(48, 48)
        mask[row : row + 7, column : column + 7] = 1
        masks.append(mask)
    return batch_of(masks, [0, 0, 1, 1])


def learn(batch: Batch, steps: int, pixel_classes: int, objective: UmlObjective = UmlObjective()) -> Prediction:  # noqa: B008 - immutable
    """The prediction for the batch of a network at full resolution, trained on it for so many steps."""
    torch.manual_seed(0)
    network = UmlNetwork(UmlModel(space_to_depth=1), 3, pixel_classes, 2)
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    whole = GlobalBatch([counts(batch)])
    for step in range(steps):
        with use_rng_key(batch.rng_key + len(batch) * step):
            output = network(batch.image)
        terms = uml_terms(output, batch, whole, objective, step / steps)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
    with torch.no_grad():
        return network.eval()(batch.image).prediction()


def dice(prediction: Prediction, batch: Batch) -> torch.Tensor:
    """Of each pixel class, over the whole batch."""
    found = prediction.pixel_probability.argmax(1)
    classes = range(prediction.pixel_probability.shape[1])
    pairs = [(found == one, batch.mask == one) for one in classes]
    return torch.stack([2 * (a & b).sum() / (a.sum() + b.sum()) for a, b in pairs])


def test_a_disc_and_its_cup_and_what_they_mean_are_learnt():
    batch = disc_and_cup()
    prediction = learn(batch, 240, pixel_classes=3)
    assert dice(prediction, batch).min() > 0.9
    assert torch.equal(prediction.image_probability.argmax(1), batch.label)


def test_two_per_cent_of_foreground_do_not_collapse_to_background():
    """By cross-entropy in place of Dice the same steps end at a Dice below 0.5."""
    batch = small_squares()
    assert batch.mask.float().mean() < 0.022
    prediction = learn(batch, 40, pixel_classes=2)
    assert dice(prediction, batch)[1] > 0.8

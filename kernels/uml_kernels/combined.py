"""The combined loss of several maps: weighted Dice losses, mean cross-entropies and mean KL divergences.

The sums come from `evidential_sums` and `level_sums`. Add the sums of several devices or ranks first, because a Dice
loss is a ratio of sums. One kernel computes the forward pass and one the backward pass.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from torch import Tensor

from uml_kernels.check import as_scalar
from uml_kernels.cpu import combined as cpu
from uml_kernels.operation import Operation

if TYPE_CHECKING:
    from uml_kernels.evidential import EvidentialSums
    from uml_kernels.levels import LevelSums

DiceKind = Literal["negative_log", "linear"]
MOST_MAPS = 8


class TermWeights(NamedTuple):
    """Weights of the terms of one map in the loss.

    Attributes:
        cross_entropy: weight of the mean cross-entropy.
        kl: weight of the mean KL divergence, times `kl_weight`.
        dice: weight of the Dice loss.
    """

    cross_entropy: float = 0.0
    kl: float = 0.0
    dice: float = 0.0


class CombinedLoss(NamedTuple):
    """The loss and its terms, float32 (float64 for float64 sums); all except the vacuity are differentiable.

    Attributes:
        loss: scalar.
        cross_entropy: (maps,), mean cross-entropy of each map.
        kl: (maps,), mean KL divergence, 0 for levels.
        vacuity: (maps,), mean vacuity, 0 for levels; without gradient.
        dice: (maps,), Dice loss, 0 if the sums have no Dice sums.
    """

    loss: Tensor
    cross_entropy: Tensor
    kl: Tensor
    vacuity: Tensor
    dice: Tensor


def combined_loss(
    evidential: "EvidentialSums | None" = None,
    levels: "LevelSums | None" = None,
    *,
    term_weights: Sequence[TermWeights],
    kl_weight: float | Tensor = 1.0,
    weight: Tensor | None = None,
    divisor: Tensor | None = None,
    dice: DiceKind = "negative_log",
    dice_per_sample: bool = False,
    dice_divisor: Tensor | None = None,
    smooth: float = 1e-5,
) -> CombinedLoss:
    """Compute the mean terms of each map and their weighted sum.

    The evidential maps come first, in their order, then the levels. With D = (2 I + smooth) / (P + T + smooth) for each
    class, the Dice loss is the mean over the classes of -ln D or 1 - D.

    Args:
        evidential: sums of B samples, for one map or several.
        levels: sums of the same B samples and classes.
        term_weights: one `TermWeights` for each map.
        kl_weight: a number or a 0-dimensional tensor; multiplies the KL weight of every map. A number is frozen in a
            captured CUDA graph and in a compiled function: pass a tensor if it changes between steps.
        weight: (B,), sample weights, which multiply the sums; 1 by default.
        divisor: scalar tensor, the denominator of the means; by default the weighted pixel count of each map, and the
            mean is 0 if there are no pixels.
        dice: "negative_log" for -ln D, "linear" for 1 - D.
        dice_per_sample: compute D for each sample and average the losses of the samples with at least one valid pixel.
            By default one D is computed for all samples together.
        dice_divisor: scalar tensor, the denominator of the mean over samples; by default their weighted number.
        smooth: smoothing term in the numerator and the denominator of D.

    Raises:
        ValueError: there are no sums, the number of `TermWeights` differs from the number of maps, a shape or device
            does not match, or the kind of Dice loss is unknown.
    """
    columns = [None if sums is None else sums.columns for sums in (evidential, levels)]
    map_sums, level_sums = (None if each is None else each.reshape(-1, *each.shape[-2:]) for each in columns)
    _check(map_sums, level_sums, term_weights, weight, dice)
    present = [each for each in (map_sums, level_sums) if each is not None]
    kl_weight = as_scalar("kl_weight", kl_weight, present[0])
    for name, each in (("divisor", divisor), ("dice_divisor", dice_divisor)):
        if each is not None and (each.dim() != 0 or each.device != present[0].device):
            raise ValueError(
                f"{name} has shape {tuple(each.shape)} on {each.device}; it must be a scalar tensor on "
                f"{present[0].device}, like the sums"
            )
    flat = [float(number) for weights in term_weights for number in weights]
    settings = (flat, dice == "negative_log", dice_per_sample, smooth)
    loss, terms = COMBINE(kl_weight, map_sums, level_sums, weight, divisor, dice_divisor, *settings)
    return CombinedLoss(loss, *terms.unbind(1))


def _check(
    evidential: Tensor | None,
    levels: Tensor | None,
    term_weights: Sequence[TermWeights],
    weight: Tensor | None,
    dice: str,
) -> None:
    present = [one for one in (evidential, levels) if one is not None]
    if not present:
        raise ValueError("there are no sums: pass evidential, levels or both")
    if dice not in ("negative_log", "linear"):
        raise ValueError(f"dice is {dice!r}; choose negative_log or linear")
    batch, maps = present[0].shape[1], sum(len(one) for one in present)
    if len(term_weights) != maps or maps > MOST_MAPS:
        raise ValueError(
            f"term_weights has {len(term_weights)} entries for {maps} maps; it needs one for each map, and the number "
            f"of maps must be 1 to {MOST_MAPS}"
        )
    if evidential is not None and levels is not None:
        if levels.shape[1] != batch:
            raise ValueError(f"the levels have {levels.shape[1]} samples and the evidential sums {batch}")
        if evidential.shape[2] > 4 and evidential.shape[2] - 4 != levels.shape[2] - 2:
            raise ValueError("the levels and the evidential sums have different numbers of classes; both need the same")
    if weight is not None and (tuple(weight.shape) != (batch,) or weight.device != present[0].device):
        raise ValueError(
            f"weight has shape {tuple(weight.shape)} on {weight.device}; it must have shape {(batch,)} on "
            f"{present[0].device}, like the sums"
        )


def _shapes(kl_weight: Tensor, evidential: Tensor | None, levels: Tensor | None, *others: Any) -> tuple[Tensor, Tensor]:
    present = [one for one in (evidential, levels) if one is not None]
    return present[0].new_empty(()), present[0].new_empty((sum(one.shape[0] for one in present), 4))


def _backward_shapes(
    kl_weight: Tensor,
    for_loss: Tensor | None,
    for_terms: Tensor | None,
    evidential: Tensor | None,
    levels: Tensor | None,
    *others: Any,
) -> tuple[Tensor, Tensor]:
    present = evidential if evidential is not None else levels
    assert present is not None
    one, two = (present.new_empty(0 if each is None else each.shape) for each in (evidential, levels))
    return one, two


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:6])
    ctx.settings = inputs[6:]


def _gradient(ctx: Any, for_loss: Tensor | None, for_terms: Tensor | None) -> tuple[Tensor | None, ...]:
    if for_loss is None and for_terms is None:
        return (None,) * 10
    kl_weight, *others = ctx.saved_tensors
    gradients = COMBINE_BACKWARD(kl_weight, for_loss, for_terms, *others, *ctx.settings)
    wanted = (None if sums is None else one for sums, one in zip(others, gradients, strict=False))
    return None, *wanted, *[None] * 7


_ARGUMENTS = (
    "Tensor? evidential, Tensor? levels, Tensor? weight, Tensor? divisor, Tensor? dice_divisor, float[] term_weights, "
    "bool negative_log, bool dice_per_sample, float smooth"
)
COMBINE_BACKWARD = Operation(
    f"combined_loss_backward(Tensor kl_weight, Tensor? for_loss, Tensor? for_terms, {_ARGUMENTS}) -> (Tensor, Tensor)",
    cpu=cpu.combined_loss_backward,
    gpu="combined.combined_loss_backward",
    shapes=_backward_shapes,
)
COMBINE = Operation(
    f"combined_loss(Tensor kl_weight, {_ARGUMENTS}) -> (Tensor, Tensor)",
    cpu=cpu.combined_loss,
    gpu="combined.combined_loss",
    shapes=_shapes,
).differentiable(_save, _gradient)

"""The methods that are special cases of one step: UG-MCL, the arms of its ablation, and its relatives."""

from typing import Literal, NamedTuple

MethodName = Literal[
    "ugmcl",
    "supervised",
    "supervised_distance",
    "segmentation_consistency",
    "task_consistency",
    "dtc",
    "mean_teacher",
    "ua_mt",
    "copy_paste",
]
Rows = Literal["all", "unlabelled"]


class Method(NamedTuple):
    """The terms of a method, besides cross-entropy and Dice of the labelled samples.

    Attributes:
        summary: one line on the method.
        distance: whether the network learns the distance to the border.
        intra: whether student and teacher should agree.
        cross: whether segmentation and distance should agree.
        gate: whether only voxels of which the teacher is certain count in the agreement with it.
        rows: the samples on which student and teacher should agree.
        copy_paste: whether labelled and unlabelled patches are pasted into one another.
    """

    summary: str
    distance: bool = False
    intra: bool = False
    cross: bool = False
    gate: bool = True
    rows: Rows = "all"
    copy_paste: bool = False


METHODS: dict[MethodName, Method] = {
    "ugmcl": Method("all terms of the paper", distance=True, intra=True, cross=True),
    "supervised": Method("labelled samples only"),
    "supervised_distance": Method("labelled samples only, with their distances", distance=True),
    "segmentation_consistency": Method("no distances: the third arm of the paper's ablation", intra=True),
    "task_consistency": Method("no agreement of segmentation and distance: the fourth arm", distance=True, intra=True),
    "dtc": Method(
        "no teacher: dual-task consistency (Luo et al., AAAI 2021), the fifth arm", distance=True, cross=True
    ),
    "mean_teacher": Method("agreement with the teacher (Tarvainen and Valpola, NeurIPS 2017)", intra=True, gate=False),
    "ua_mt": Method("agreement where the teacher is certain (Yu et al., MICCAI 2019)", intra=True, rows="unlabelled"),
    "copy_paste": Method("bidirectional copy-paste with a teacher (Bai et al., CVPR 2023)", copy_paste=True),
}

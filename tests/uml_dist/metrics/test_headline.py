"""The metrics that stand first."""

from uml_dist.metrics.families import STANDARD, Grades, Surfaces
from uml_dist.metrics.headline import HEADLINE, headline


def test_they_are_metrics():
    families = (*STANDARD, Grades(), Surfaces())
    assert set(HEADLINE) <= {name for family in families for name in family.definitions}


def test_they_have_an_order_of_their_own_and_one_area_under_the_curve():
    assert headline(["image_ece", "auroc_tasks", "auroc", "iou", "dice"]) == ["dice", "auroc", "image_ece"]
    assert headline(["auroc_tasks"]) == ["auroc_tasks"]

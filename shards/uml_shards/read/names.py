"""The names of classes and masks that a split states. A split that states none, by (), agrees with any."""

from ..format.manifest import Manifest


def differing_names(one: Manifest, other: Manifest, classes: bool = True, masks: bool = True) -> str | None:
    """Return the first field in which two manifests state different names; None if they agree.

    Args:
        one: a manifest.
        other: the manifest to compare it with.
        classes: whether to compare the image classes.
        masks: whether to compare the names of masks: classes of pixels, or named masks that may overlap.
    """
    fields = ["classes"] if classes and one.classes and other.classes else []
    fields += ["mask_classes", "mask_names"] if masks and states_masks(one) and states_masks(other) else []
    return next((field for field in fields if getattr(one, field) != getattr(other, field)), None)


def states_masks(manifest: Manifest) -> bool:
    """Whether a manifest states names of masks, of either kind."""
    return bool(manifest.mask_classes or manifest.mask_names)


def with_names_of(manifest: Manifest, other: Manifest, classes: bool = True, masks: bool = True) -> Manifest:
    """Return a manifest with the names of another one where it states none.

    Args:
        manifest: the manifest to complete.
        other: a manifest whose names agree with its own.
        classes: whether to complete the image classes.
        masks: whether to complete the names of masks.
    """
    names = {}
    if classes and other.classes and not manifest.classes:
        names |= {"classes": other.classes, "tasks": other.tasks, "class_counts": (0,) * len(other.classes)}
    if masks and states_masks(other) and not states_masks(manifest):
        names |= {"mask_classes": other.mask_classes, "mask_names": other.mask_names}
    return manifest.model_copy(update=names) if names else manifest

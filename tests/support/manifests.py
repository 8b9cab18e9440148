"""Manifests for tests that need no shards."""

from typing import Any

from uml_shards.format.manifest import Manifest, Shard, Statistics


def manifest_of(**changes: Any) -> Manifest:
    """Return the manifest of 8 RGB images of 4 x 4 with two classes and two pixel classes, with the given changes.

    Unless `class_counts` are given, the classes occur equally often.
    """
    zeros = "0" * 64
    shard = Shard(
        name="shard-000000.tar", bytes=1, sha256=zeros, samples=8, index="shard-000000.index.npy", index_sha256=zeros
    )
    fields = {
        "dataset": "made",
        "split": "train",
        "channels": 3,
        "size": (4, 4),
        "classes": ("benign", "malignant"),
        "mask_classes": ("background", "lesion"),
        "components": ("json", "mask.png", "png"),
        "labelled": 8,
        "masked": 8,
        "statistics": Statistics(mean=(0.2, 0.4, 0.6), std=(0.5, 0.25, 0.1)),
        "licence": "none",
        "source": "a test",
        "shards": (shard,),
    }
    fields |= changes
    classes, labelled = len(fields["classes"]), fields["labelled"] if fields["classes"] else 0
    counts = tuple(labelled // classes + (number < labelled % classes) for number in range(classes))
    return Manifest(**{"class_counts": counts, **fields, "labelled": labelled})

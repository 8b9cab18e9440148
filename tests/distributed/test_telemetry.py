"""What a training exports after a kill and a resume: seconds that counted, checkpoints, reading, skipped updates."""

import json
import math
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from runs import Trace, train, uml_tree
from uml_dist.run.history import read_history
from uml_dist.train.hooks import Hook
from worlds import run_world

pytestmark = pytest.mark.distributed

COUNT, SIDE = 8, 32
KILLED, SAVED, BAD, STEPS = 5, 4, 2, 6


class Spoil(Hook):
    """Makes the images of a step not a number."""

    def before_step(self, progress, batches):
        if progress.step == BAD:
            for streams in batches:
                for batch in streams.values():
                    batch.image.fill_(math.nan)


@pytest.fixture(scope="module")
def traces(partly_known, tmp_path_factory) -> tuple[Trace, list[dict], Trace, Path]:
    """A training that is killed one step after a checkpoint, with its records, and the one that resumes it."""
    run = tmp_path_factory.mktemp("run")
    tree = uml_tree(
        partly_known, zero__stage=1, train__steps=STEPS, checkpoint__every=2, data__workers=1, optimizer__clip=1.0
    )
    killed = run_world(1, train, tree, str(run), False, KILLED, [Spoil()])[0]
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    resumed = run_world(1, train, tree, str(run))[0]
    return killed, records, resumed, run


def values(trace: Trace, name: str) -> dict[tuple[str, ...], float]:
    """Return the values of a series by the values of its labels."""
    samples = (one for family in text_string_to_metric_families(trace.exported) for one in family.samples)
    return {tuple(one.labels.values()): one.value for one in samples if one.name == name}


def value(trace: Trace, name: str, *labels: str) -> float:
    return values(trace, name)[labels]


def test_seconds_of_repeated_steps_count_once(traces):
    killed, records, resumed, run = traces
    at = {record["step"]: record["productive_seconds"] for record in records}
    assert list(at) == [1, 2, 3, 4, 5]
    assert value(killed, "uml_productive_seconds_total") == pytest.approx(at[KILLED], abs=1e-4)
    own = value(resumed, "uml_step_seconds_sum")
    assert value(resumed, "uml_productive_seconds_total") == pytest.approx(at[SAVED] + own, abs=1e-4)
    history = read_history(run, STEPS, 0.0)
    assert history.attempt == 3
    assert history.productive == pytest.approx(at[SAVED] + own, abs=1e-4)
    starts = [json.loads(line) for line in (run / "starts.jsonl").read_text().splitlines()]
    assert [(one["attempt"], one["step"]) for one in starts] == [(1, 0), (2, SAVED)]
    # All the time since the first start counts, also that in which no process ran.
    first, second = (one["time"] for one in starts)
    ends = json.loads((run / "status.json").read_text())["time"]
    ratio = value(resumed, "uml_goodput_ratio")
    productive = at[SAVED] + own
    assert productive / (ends - first) * 0.999 < ratio < productive / (second - first + own) * 1.001


def test_progress_is_that_of_the_run(traces):
    killed, _, resumed, _ = traces
    assert [value(one, "uml_planned_steps") for one in (killed, resumed)] == [STEPS, STEPS]
    assert [value(one, "uml_global_step") for one in (killed, resumed)] == [KILLED, STEPS]
    assert value(killed, "uml_progress_ratio") == pytest.approx(KILLED / STEPS)
    assert value(killed, "uml_eta_seconds") > 0
    assert value(resumed, "uml_eta_seconds") == 0
    assert values(resumed, "uml_recipe_phase") == {("train",): 1}


def test_checkpoints_are_measured(traces):
    killed, _, resumed, run = traces
    assert values(killed, "uml_checkpoint_seconds_count") == {("save",): 2}
    assert values(resumed, "uml_checkpoint_seconds_count") == {("load",): 1, ("save",): 1}
    last = run / "checkpoints" / f"step-{STEPS:06d}"
    assert value(resumed, "uml_checkpoint_bytes") == sum(path.stat().st_size for path in last.iterdir())
    saved = value(resumed, "uml_checkpoint_last_success_timestamp_seconds")
    assert saved == pytest.approx((last / "MANIFEST.json").stat().st_mtime, abs=60)
    seconds = values(resumed, "uml_checkpoint_seconds_sum")
    # Training waits for the checkpoint that it starts from, and for the end of the last save.
    assert value(resumed, "uml_checkpoint_blocked_seconds_total") > seconds["load",]
    assert value(resumed, "uml_checkpoint_failures_total") == 0


def test_a_gradient_that_is_not_finite_skips_an_update_and_is_counted(traces):
    killed, records, resumed, _ = traces
    assert values(killed, "uml_optimizer_steps_skipped_total") == {("uml",): 1}
    assert value(killed, "uml_nonfinite_steps_total") == 1
    assert [math.isfinite(record["loss"]) for record in records] == [step != BAD + 1 for step in range(1, KILLED + 1)]
    assert values(resumed, "uml_optimizer_steps_skipped_total") == {("uml",): 0}


def test_workers_pass_on_what_they_have_read(traces):
    killed, _, resumed, _ = traces
    for trace in (killed, resumed):
        assert value(trace, "uml_shards_opened_total") > 0
        assert value(trace, "uml_shard_read_bytes_total") > 500 * COUNT
        assert values(trace, "uml_cache_hits_total") == {}, "the shards are local"


def test_opinions_of_all_images_and_pixels_of_logging_steps_are_binned(traces):
    killed, _, resumed, _ = traces
    finite = KILLED - 1
    assert values(killed, "uml_opinion_vacuity_count") == {
        ("image",): finite * COUNT,
        ("pixel",): finite * COUNT * SIDE * SIDE,
    }
    assert values(resumed, "uml_opinion_strength_count")[("image",)] == (STEPS - SAVED) * COUNT
    # The mean of the last step is in the distribution of the two steps of the second start.
    mean = value(resumed, "uml_opinion_vacuity_sum", "pixel") / value(resumed, "uml_opinion_vacuity_count", "pixel")
    logged = [record["vacuity_pixel"] for record in resumed.terms]
    assert mean == pytest.approx(sum(logged) / len(logged), rel=1e-5)

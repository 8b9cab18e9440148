"""The dashboard "run overview": how far runs are, what they learn, and whether something is wrong."""

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row

from dashboard_parts import Query, curve, new_dashboard, number, table

GOOD = ((None, "green"), (1, "red"))
"""Colours of numbers that should be 0."""

HIDDEN = ("Time", "Value", "__name__", "instance", "job")


def overview() -> Dashboard:
    """Return the dashboard."""
    builder = new_dashboard(
        "uml-run-overview",
        "Run overview",
        "How far the runs are, what they learn, and whether something is wrong.",
    )
    return health(checkpoints(throughput(learning(state(builder)))))


def state(builder: Dashboard) -> Dashboard:
    """Add the numbers of the top."""
    return (
        builder.with_row(Row("State"))
        .with_panel(
            number(
                "Progress",
                "Steps done, as a share of the planned ones.",
                "percentunit",
                Query("max by (run) (uml_progress_ratio{selected})", "{{run}}"),
                decimals=1,
            )
        )
        .with_panel(
            number(
                "Time left",
                "What the remaining steps take at the speed of the last ones.",
                "s",
                Query("max by (run) (uml_eta_seconds{selected})", "{{run}}"),
            )
        )
        .with_panel(
            number(
                "Since the last step",
                "A run that hangs keeps its last values, but this grows. It also grows in validations and checkpoints.",
                "s",
                Query("time() - max by (run) (uml_last_step_timestamp_seconds{selected})", "{{run}}"),
                steps=((None, "green"), (300, "orange"), (1800, "red")),
            )
        )
        .with_panel(
            number(
                "Goodput",
                "Wall time in steps that counted, as a share of the time since the run first started. Time between "
                "attempts, repeated steps, validations and checkpoints lower it.",
                "percentunit",
                Query("max by (run) (uml_goodput_ratio{selected})", "{{run}}"),
                decimals=1,
            )
        )
        .with_panel(
            number(
                "Attempt",
                "How often the run was started; 1 for a run without a restart.",
                "none",
                Query("max by (run) (uml_attempt{selected})", "{{run}}"),
            )
        )
        .with_panel(
            number(
                "Firing alerts",
                "Alerts of Prometheus that fire for the chosen runs. runbooks.md describes each.",
                "none",
                Query('sum(ALERTS{alertstate="firing", run=~"$run"}) or vector(0)', "alerts"),
                steps=GOOD,
            )
        )
        .with_panel(
            table(
                "Runs",
                "Recipe, data and ranks of the runs that Prometheus reaches now.",
                "group by (run, attempt, recipe, dataset, stage, world_size, device, node) (uml_run_info{selected})",
                HIDDEN,
            )
        )
        .with_panel(
            table(
                "Software",
                "Versions that the runs use.",
                "group by (run, attempt, version, python, torch, deepspeed, triton, driver) (uml_build_info{selected})",
                HIDDEN,
            )
        )
    )


def learning(builder: Dashboard) -> Dashboard:
    """Add losses, validation and optimisation."""
    return (
        builder.with_row(Row("Learning"))
        .with_panel(
            curve(
                "Loss",
                "Terms of the loss at logging steps, and their total.",
                "none",
                Query("max by (run, attempt, term) (uml_loss{selected})", "{{run}} {{term}}"),
                lowest=None,
            )
        )
        .with_panel(
            curve(
                "Validation",
                "Main metrics of the last validation: 1 is best. The dashboard on quality has all of them.",
                "percentunit",
                Query(
                    "max by (run, attempt, metric) (uml_validation{selected,"
                    ' metric=~"(.*[.])?(dice|iou|aupr|accuracy|auroc|quadratic_kappa)"})',
                    "{{run}} {{metric}}",
                ),
                lowest=None,
            )
        )
        .with_panel(
            curve(
                "Gradient norm",
                "Norm of each network's gradient before clipping. A sudden rise comes before a diverging loss.",
                "none",
                Query("max by (run, attempt, network) (uml_grad_norm{selected})", "{{run}} {{network}}"),
            )
        )
        .with_panel(
            curve(
                "Learning rate",
                "Learning rate of each network.",
                "none",
                Query("max by (run, attempt, network) (uml_learning_rate{selected})", "{{run}} {{network}}"),
            )
        )
        .with_panel(
            curve(
                "Steps",
                "Steps of the run, those before a resume included, and the planned ones.",
                "short",
                Query("max by (run, attempt) (uml_global_step{selected})", "{{run}} attempt {{attempt}}"),
                Query("max by (run) (uml_planned_steps{selected})", "{{run}} planned"),
            )
        )
        .with_panel(
            curve(
                "Epochs and phases",
                "Passes over the first stream, and the phases of the recipe: 1 while a phase lasts.",
                "none",
                Query("max by (run, attempt) (uml_epoch{selected})", "{{run}} epoch"),
                Query("max by (run, attempt, name) (uml_recipe_phase{selected})", "{{run}} {{name}}"),
            )
        )
    )


def throughput(builder: Dashboard) -> Dashboard:
    """Add speeds."""
    return (
        builder.with_row(Row("Throughput"))
        .with_panel(
            curve(
                "Images per second",
                "All ranks together.",
                "ops",
                Query("sum by (run, attempt) (rate(uml_images_total{selected}[$__rate_interval]))", "{{run}}"),
            )
        )
        .with_panel(
            curve(
                "Steps per second",
                "Mean over the ranks, which take the same steps.",
                "ops",
                Query("avg by (run, attempt) (rate(uml_steps_total{selected}[$__rate_interval]))", "{{run}}"),
            )
        )
        .with_panel(
            curve(
                "Productive time",
                "Share of the wall time that is spent in steps. Validations, checkpoints and repeated steps lower it.",
                "percentunit",
                Query(
                    "max by (run, attempt) (rate(uml_productive_seconds_total{selected}[$__rate_interval]))", "{{run}}"
                ),
                highest=1,
                interval="1m",
            )
        )
    )


def checkpoints(builder: Dashboard) -> Dashboard:
    """Add what is known of checkpoints."""
    return (
        builder.with_row(Row("Checkpoints"))
        .with_panel(
            curve(
                "Age of the last checkpoint",
                "What a crash would cost now.",
                "s",
                Query(
                    "time() - max by (run, attempt) (uml_checkpoint_last_success_timestamp_seconds{selected})",
                    "{{run}}",
                ),
            )
        )
        .with_panel(
            curve(
                "Duration of saving and loading",
                "Mean of the checkpoints of this start so far.",
                "s",
                Query(
                    "max by (run, attempt, kind)"
                    " (uml_checkpoint_seconds_sum{selected} / uml_checkpoint_seconds_count{selected})",
                    "{{run}} {{kind}}",
                ),
            )
        )
        .with_panel(
            curve(
                "Size of the last checkpoint",
                "Weights and optimiser state in the run folder.",
                "bytes",
                Query("max by (run, attempt) (uml_checkpoint_bytes{selected})", "{{run}}"),
            )
        )
    )


def health(builder: Dashboard) -> Dashboard:
    """Add what should be 0, and the disks."""
    return (
        builder.with_row(Row("Health"))
        .with_panel(
            number(
                "Non-finite steps",
                "Logging steps of the chosen time with a loss or gradient norm that is NaN or infinite.",
                "none",
                Query("max by (run) (increase(uml_nonfinite_steps_total{selected}[$__range]))", "{{run}}"),
                steps=GOOD,
                decimals=0,
            )
        )
        .with_panel(
            number(
                "Skipped updates",
                "Updates of the chosen time that left a network unchanged because its gradient was not finite.",
                "none",
                Query(
                    "max by (run, network) (increase(uml_optimizer_steps_skipped_total{selected}[$__range]))",
                    "{{run}} {{network}}",
                ),
                steps=GOOD,
                decimals=0,
            )
        )
        .with_panel(
            number(
                "Failed checkpoints",
                "Checkpoints of the chosen time that could not be written.",
                "none",
                Query("max by (run) (increase(uml_checkpoint_failures_total{selected}[$__range]))", "{{run}}"),
                steps=GOOD,
                decimals=0,
            )
        )
        .with_panel(
            number(
                "Free disk",
                "Free share of the disks with the run folder and with the cache of shards.",
                "percentunit",
                Query(
                    "min by (run, folder) (uml_disk_free_bytes{selected} / uml_disk_size_bytes{selected})",
                    "{{run}} {{folder}}",
                ),
                steps=((None, "red"), (0.05, "orange"), (0.2, "green")),
                width=6,
            )
        )
        .with_panel(
            number(
                "Ranks that answer",
                "Ranks that Prometheus scrapes, as a share of those of the run.",
                "percentunit",
                Query('avg by (run) (up{job="uml", run=~"$run", attempt=~"$attempt"})', "{{run}}"),
                steps=((None, "red"), (1, "green")),
                width=6,
            )
        )
    )

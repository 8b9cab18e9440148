"""The dashboard "quality and uncertainty": validation, and whether the opinions can be trusted."""

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row

from dashboard_parts import LOGGING_INTERVAL, Query, curve, heat_map, new_dashboard, number

SELECTIVE = "(.*[.])?(image|mask)_(augrc|aurc|error_at_80)_.*"
"""Metrics of the risk that is left if the most uncertain cases are referred."""

ERRORS = "(.*[.])?(loss|.*_nll|.*_ece(_border)?|.*_brier|(hd95|asd|assd)(_.*)?|surface_failures|cup_to_disc_error)"
"""Metrics that are better when they are lower, with or without the name of a validation before them."""

DETECTION = ".*_error_auroc_(vacuity|entropy)"
"""Metrics of how well a score finds errors."""


def quality() -> Dashboard:
    """Return the dashboard."""
    builder = new_dashboard(
        "uml-quality-and-uncertainty",
        "Quality and uncertainty",
        "What the validations measure, and whether the opinions can be trusted: a network that is certain of "
        "everything, or of nothing, cannot tell its errors apart.",
    )
    return faults(strength(vacuity(validation(builder))))


def validation(builder: Dashboard) -> Dashboard:
    """Add the metrics of validations."""
    by_metric = "max by (run, attempt, metric) (uml_validation{selected, MATCHER})"
    return (
        builder.with_row(Row("Validation"))
        .with_panel(
            curve(
                "Scores",
                "Metrics of the last validation for which 1 is best, such as Dice, AUROC and accuracy.",
                "percentunit",
                Query(
                    by_metric.replace("MATCHER", f'metric!~"{ERRORS}|{DETECTION}|{SELECTIVE}"'),
                    "{{run}} {{metric}}",
                ),
                lowest=None,
            )
        )
        .with_panel(
            curve(
                "Errors",
                "Metrics for which 0 is best: losses, calibration errors, Brier scores, and distances of surfaces.",
                "none",
                Query(by_metric.replace("MATCHER", f'metric=~"{ERRORS}"'), "{{run}} {{metric}}"),
            )
        )
        .with_panel(
            curve(
                "Errors found by uncertainty",
                "Metrics that say how well vacuity and entropy tell wrong predictions from right ones; an AUROC of 0.5 "
                "is chance.",
                "percentunit",
                Query(by_metric.replace("MATCHER", f'metric=~"{DETECTION}"'), "{{run}} {{metric}}"),
                lowest=None,
            )
        )
        .with_panel(
            curve(
                "Risk if the most uncertain cases are referred",
                "AUGRC, AURC and the error at 80 % coverage of images and masks; 0 is best.",
                "none",
                Query(by_metric.replace("MATCHER", f'metric=~"{SELECTIVE}"'), "{{run}} {{metric}}"),
            )
        )
    )


def vacuity(builder: Dashboard) -> Dashboard:
    """Add vacuity: its mean and distribution."""
    above = (
        "1 - sum by (run, level) (rate(uml_opinion_vacuity_bucket{selected,"
        ' le="0.5"}[$__rate_interval]))'
        " / sum by (run, level) (rate(uml_opinion_vacuity_count{selected}[$__rate_interval]))"
    )
    return (
        builder.with_row(Row("Vacuity"))
        .with_panel(
            number(
                "Mean vacuity now",
                "Mean over images or pixels of the last logging step: 1 without any evidence, near 0 if everything "
                "is certain.",
                "none",
                Query("max by (run, level) (uml_vacuity{selected})", "{{run}} {{level}}"),
                steps=((None, "red"), (0.01, "green"), (0.99, "red")),
                decimals=3,
                width=6,
            )
        )
        .with_panel(
            curve(
                "Mean vacuity",
                "It starts near 1 and falls as evidence grows. A fall to 0 is a collapse: the network is certain even "
                "where it is wrong.",
                "none",
                Query("max by (run, attempt, level) (uml_vacuity{selected})", "{{run}} {{level}}"),
                width=9,
                highest=1,
            )
        )
        .with_panel(
            curve(
                "Images and pixels that are mostly uncertain",
                "Share with a vacuity above 0.5.",
                "percentunit",
                Query(above, "{{run}} {{level}}"),
                width=9,
                highest=1,
                interval=LOGGING_INTERVAL,
            )
        )
        .with_panel(
            heat_map(
                "Vacuity of images",
                "Distribution over the images of logging steps. It should keep a spread: one band means that "
                "uncertainty no longer tells images apart.",
                "none",
                'sum by (le) (increase(uml_opinion_vacuity_bucket{selected, level="image"}[$__rate_interval]))',
            )
        )
        .with_panel(
            heat_map(
                "Vacuity of pixels",
                "Distribution over the pixels or voxels of logging steps.",
                "none",
                'sum by (le) (increase(uml_opinion_vacuity_bucket{selected, level="pixel"}[$__rate_interval]))',
            )
        )
    )


def strength(builder: Dashboard) -> Dashboard:
    """Add the Dirichlet strength."""
    return (
        builder.with_row(Row("Evidence"))
        .with_panel(
            curve(
                "Quantiles of the Dirichlet strength",
                "Strength is the number of classes plus all evidence. It may grow over the run, but not without end.",
                "none",
                *(
                    Query(
                        f"histogram_quantile({quantile}, sum by (run, level, le)"
                        " (rate(uml_opinion_strength_bucket{selected}[$__rate_interval])))",
                        f"{{{{run}}}} {{{{level}}}} {quantile * 100:g} %",
                    )
                    for quantile in (0.1, 0.5, 0.9)
                ),
                width=12,
                interval=LOGGING_INTERVAL,
            )
        )
        .with_panel(
            heat_map(
                "Dirichlet strength",
                "Distribution over the images and pixels of logging steps.",
                "none",
                "sum by (le) (increase(uml_opinion_strength_bucket{selected}[$__rate_interval]))",
            )
        )
    )


def faults(builder: Dashboard) -> Dashboard:
    """Add what makes a result worthless."""
    return (
        builder.with_row(Row("Faults"))
        .with_panel(
            curve(
                "Skipped samples",
                "Damaged samples that were replaced by placeholders, by reason.",
                "ops",
                Query(
                    "sum by (run, reason) (rate(uml_samples_skipped_total{selected}[$__rate_interval]))",
                    "{{run}} {{reason}}",
                ),
            )
        )
        .with_panel(
            curve(
                "Non-finite steps",
                "Logging steps with a loss or gradient norm that is NaN or infinite.",
                "short",
                Query("max by (run) (increase(uml_nonfinite_steps_total{selected}[$__rate_interval]))", "{{run}}"),
                interval=LOGGING_INTERVAL,
            )
        )
        .with_panel(
            curve(
                "Skipped updates",
                "Updates that left a network unchanged because its gradient was not finite.",
                "short",
                Query(
                    "max by (run, network) (increase(uml_optimizer_steps_skipped_total{selected}[$__rate_interval]))",
                    "{{run}} {{network}}",
                ),
                interval=LOGGING_INTERVAL,
            )
        )
    )

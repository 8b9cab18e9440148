"""The dashboard "why is it slow": where the time of a step goes, which rank is slow, and what the GPUs do."""

from grafana_foundation_sdk.builders.dashboard import Dashboard, Row

from dashboard_parts import LOGGING_INTERVAL, Query, curve, heat_map, new_dashboard, number

OWN = 'phase!~"counts|loss|backward|optimizer|average|hooks|validation|checkpoint"'
"""Phases in which a rank works by itself; a rule of rules/recording.yml has the same ones."""

BY_GPU = "{{node}} rank {{rank}}"


def slowness() -> Dashboard:
    """Return the dashboard."""
    builder = new_dashboard(
        "uml-why-is-it-slow",
        "Why is it slow",
        "Read from the top: what a step's time goes into, whether one rank holds up the others, whether the loaders "
        "keep up, and what the GPUs do.",
    )
    return devices(computing(loading(ranks(time(builder)))))


def time(builder: Dashboard) -> Dashboard:
    """Add the phases and durations of steps."""
    return (
        builder.with_row(Row("Where the time goes"))
        .with_panel(
            curve(
                "Phases",
                "Share of each phase in the time of the chosen ranks. `counts` waits for the slowest rank; `backward` "
                "contains the reduction of gradients over the ranks. On a GPU, phases are measured on the device.",
                "percentunit",
                Query(
                    "sum by (phase) (rate(uml_phase_seconds_total{selected}[$__rate_interval]))"
                    " / scalar(count(rate(uml_steps_total{selected}[$__rate_interval])))",
                    "{{phase}}",
                ),
                width=12,
                stacked=True,
                highest=1,
                interval=LOGGING_INTERVAL,
            )
        )
        .with_panel(
            heat_map(
                "Step time",
                "Steps by duration. Two bands are two kinds of steps, such as phases of a recipe; single slow cells "
                "are hiccups of a disk or of the network.",
                "s",
                "sum by (le) (increase(uml_step_seconds_bucket{selected}[$__rate_interval]))",
            )
        )
        .with_panel(
            curve(
                "Quantiles of the step time",
                "A 99 % quantile far above the median means rare stalls; both high mean that every step is slow.",
                "s",
                *(
                    Query(
                        f"histogram_quantile({quantile}, sum by (run, le)"
                        " (rate(uml_step_seconds_bucket{selected}[$__rate_interval])))",
                        f"{{{{run}}}} {quantile * 100:g} %",
                    )
                    for quantile in (0.5, 0.95, 0.99)
                ),
                width=12,
            )
        )
        .with_panel(
            curve(
                "Waiting for data",
                "Share of the step time in which a rank waits for its loader. Above 30 %, add readers or faster "
                "storage.",
                "percentunit",
                Query(
                    "sum by (run, rank) (rate(uml_data_wait_seconds_total{selected}[$__rate_interval]))"
                    " / sum by (run, rank) (rate(uml_step_seconds_sum{selected}[$__rate_interval]))",
                    "{{run}} rank {{rank}}",
                ),
                width=12,
            )
        )
    )


def ranks(builder: Dashboard) -> Dashboard:
    """Add the comparison of the ranks."""
    return (
        builder.with_row(Row("Stragglers"))
        .with_panel(
            curve(
                "A rank's own part of a step",
                "Seconds of a step in which a rank works by itself: reading, copying, augmenting, forward passes. The "
                "steps of all ranks take the same time, as they wait for each other; the highest line here is the "
                "rank that they wait for.",
                "s",
                Query(
                    f"sum by (run, rank) (rate(uml_phase_seconds_total{{selected, {OWN}}}[$__rate_interval]))"
                    " / sum by (run, rank) (rate(uml_steps_total{selected}[$__rate_interval]))",
                    "{{run}} rank {{rank}}",
                ),
                interval=LOGGING_INTERVAL,
            )
        )
        .with_panel(
            curve(
                "Waiting for the slowest rank",
                "Share of its time that a rank waits for the others when the global batch is counted. The rank that "
                "waits least is the slowest.",
                "percentunit",
                Query(
                    'sum by (run, rank) (rate(uml_phase_seconds_total{selected, phase="counts"}[$__rate_interval]))',
                    "{{run}} rank {{rank}}",
                ),
                interval=LOGGING_INTERVAL,
            )
        )
        .with_panel(
            curve(
                "Images per second by rank",
                "Ranks with the same share of the batch have the same speed.",
                "ops",
                Query(
                    "sum by (run, rank) (rate(uml_images_total{selected}[$__rate_interval]))", "{{run}} rank {{rank}}"
                ),
            )
        )
    )


def loading(builder: Dashboard) -> Dashboard:
    """Add what the loaders and checkpoints do."""
    return (
        builder.with_row(Row("Loader and checkpoints"))
        .with_panel(
            curve(
                "Bytes read",
                "Bytes of samples that the loaders read from shards.",
                "Bps",
                Query(
                    "sum by (run, rank) (rate(uml_shard_read_bytes_total{selected}[$__rate_interval]))",
                    "{{run}} rank {{rank}}",
                ),
                width=6,
            )
        )
        .with_panel(
            curve(
                "Shards opened",
                "Each shard that is opened costs a request, on remote storage a download.",
                "ops",
                Query(
                    "sum by (run, rank) (rate(uml_shards_opened_total{selected}[$__rate_interval]))",
                    "{{run}} rank {{rank}}",
                ),
                width=6,
            )
        )
        .with_panel(
            curve(
                "Cache of remote shards",
                "Shards that were found in the local cache, and shards that had to be copied to it. Misses after the "
                "first epoch mean that the cache is too small.",
                "ops",
                Query("sum by (run) (rate(uml_cache_hits_total{selected}[$__rate_interval]))", "{{run}} hits"),
                Query("sum by (run) (rate(uml_cache_misses_total{selected}[$__rate_interval]))", "{{run}} misses"),
                width=6,
            )
        )
        .with_panel(
            curve(
                "Waiting for checkpoints",
                "Share of the time in which training waits for a checkpoint to be written.",
                "percentunit",
                Query(
                    "max by (run) (rate(uml_checkpoint_blocked_seconds_total{selected}[$__rate_interval]))", "{{run}}"
                ),
                width=6,
            )
        )
    )


def computing(builder: Dashboard) -> Dashboard:
    """Add arithmetic and memory."""
    return (
        builder.with_row(Row("Computing"))
        .with_panel(
            curve(
                "Floating-point operations",
                "Of the forward and backward passes, by torch's counter, all ranks together.",
                "flops",
                Query("sum by (run) (rate(uml_flops_total{selected}[$__rate_interval]))", "{{run}}"),
            )
        )
        .with_panel(
            curve(
                "Model FLOPs utilisation",
                "Operations as a share of the device's published dense peak in the training's data type.",
                "percentunit",
                Query("avg by (run) (uml_mfu_ratio{selected})", "{{run}}"),
                Query(
                    "sum by (run) (rate(uml_flops_total{selected}[$__rate_interval]))"
                    " / sum by (run) (uml_peak_flops_per_second{selected})",
                    "{{run}} by rate",
                ),
            )
        )
        .with_panel(
            curve(
                "Memory of the processes",
                "Resident memory of each rank, without its loader workers.",
                "bytes",
                Query("max by (run, rank) (uml_resident_memory_bytes{selected})", "{{run}} rank {{rank}}"),
            )
        )
    )


def devices(builder: Dashboard) -> Dashboard:
    """Add the GPUs: use, clocks and power, errors."""
    return gpu_errors(gpu_clocks(gpu_use(builder.with_row(Row("GPUs")))))


def gpu_use(builder: Dashboard) -> Dashboard:
    """Add utilisation and memory of the GPUs."""
    return (
        builder.with_panel(
            curve(
                "GPU utilisation",
                "Share of time in which any kernel ran. A high value says that the GPU was busy, not that it was used "
                "well.",
                "percentunit",
                Query("max by (node, rank, gpu) (uml_gpu_utilization_ratio{selected})", BY_GPU),
                highest=1,
            )
        )
        .with_panel(
            curve(
                "GPU memory, all processes",
                "Used memory as a share of the GPU's.",
                "percentunit",
                Query(
                    "max by (node, rank, gpu)"
                    " (uml_gpu_memory_used_bytes{selected} / uml_gpu_memory_total_bytes{selected})",
                    BY_GPU,
                ),
                highest=1,
            )
        )
        .with_panel(
            curve(
                "GPU memory of torch",
                "In tensors now, in tensors at most, and held by the allocator. A large gap between the last two means "
                "fragmentation.",
                "bytes",
                Query("max by (run, rank) (uml_gpu_memory_allocated_bytes{selected})", "rank {{rank}} tensors"),
                Query("max by (run, rank) (uml_gpu_memory_peak_bytes{selected})", "rank {{rank}} peak"),
                Query("max by (run, rank) (uml_gpu_memory_reserved_bytes{selected})", "rank {{rank}} reserved"),
            )
        )
    )


def gpu_clocks(builder: Dashboard) -> Dashboard:
    """Add what sets the pace of the GPUs, and what they draw."""
    return (
        builder.with_panel(
            curve(
                "GPU temperature",
                "GPUs lower their clocks when they are hot.",
                "celsius",
                Query("max by (node, rank, gpu) (uml_gpu_temperature_celsius{selected})", BY_GPU),
                lowest=None,
            )
        )
        .with_panel(
            curve(
                "GPU clock",
                "Clock of the multiprocessors. One line below the others is a GPU that holds up all ranks.",
                "hertz",
                Query("max by (node, rank, gpu) (uml_gpu_sm_clock_hertz{selected})", BY_GPU),
            )
        )
        .with_panel(
            curve(
                "Reasons for lower clocks",
                "1 while a reason holds. Idle is harmless; heat and power are not.",
                "none",
                Query("max by (node, rank, reason) (uml_gpu_throttled{selected}) > 0", BY_GPU + " {{reason}}"),
                highest=1,
            )
        )
        .with_panel(
            curve(
                "GPU power",
                "What the GPUs draw.",
                "watt",
                Query("max by (node, rank, gpu) (uml_gpu_power_watts{selected})", BY_GPU),
            )
        )
        .with_panel(
            curve(
                "Energy per image",
                "Energy of all GPUs of the run, by their own counters, for an image that is trained on.",
                "joule",
                Query(
                    "sum by (run) (rate(uml_gpu_energy_joules_total{selected}[$__rate_interval]))"
                    " / sum by (run) (rate(uml_images_total{selected}[$__rate_interval]))",
                    "{{run}}",
                ),
            )
        )
    )


def gpu_errors(builder: Dashboard) -> Dashboard:
    """Add the errors that the GPUs report."""
    return builder.with_panel(
        number(
            "Memory errors of GPUs",
            "Errors of the chosen time. Corrected ones are harmless if they are few.",
            "none",
            Query("sum by (node, kind) (increase(uml_gpu_ecc_errors_total{selected}[$__range]))", "{{node}} {{kind}}"),
            steps=((None, "green"), (1, "orange")),
            decimals=0,
        )
    ).with_panel(
        number(
            "Xid errors of GPUs",
            "Xid events of the chosen time; NVIDIA's documentation has a table of their causes.",
            "none",
            Query("sum by (node) (increase(uml_gpu_xid_errors_total{selected}[$__range]))", "{{node}}"),
            steps=((None, "green"), (1, "red")),
            decimals=0,
        )
    )

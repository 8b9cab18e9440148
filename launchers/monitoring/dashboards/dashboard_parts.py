"""What the dashboards are made of: panels with a title, a description and a unit, variables, and annotations.

In expressions, `{selected}` stands for the chosen runs, attempts and ranks, and `{selected, phase="data"}` for those
with a further matcher.
"""

from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any, NamedTuple

from grafana_foundation_sdk.builders.common import (
    ReduceDataOptions,
    StackingConfig,
    VizLegendOptions,
    VizTooltipOptions,
)
from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DashboardLink,
    DatasourceVariable,
    QueryVariable,
    ThresholdsConfig,
)
from grafana_foundation_sdk.builders.heatmap import CellValues, HeatmapColorOptions, YAxisConfig
from grafana_foundation_sdk.builders.heatmap import Panel as Heatmap
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as Stat
from grafana_foundation_sdk.builders.table import Panel as Table
from grafana_foundation_sdk.builders.timeseries import Panel as TimeSeries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.common import (
    BigValueGraphMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode, HeatmapColorScale
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SELECTED = 'run=~"$run", attempt=~"$attempt", rank=~"$rank"'
DATASOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
TAG = "uml-dist"

LOGGING_INTERVAL = "1m"
"""Shortest step of panels whose series change at logging steps only, which can be further apart than scrapes."""


class Query(NamedTuple):
    """A query of a panel.

    Attributes:
        expression: PromQL, with `{selected}`.
        legend: name of its series, with labels as `{{label}}`.
    """

    expression: str
    legend: str = ""


def promql(expression: str) -> str:
    """Return an expression with the variables in the place of `{selected}`."""
    return expression.replace("{selected", "{" + SELECTED)


def request(expression: str, legend: str = "", letter: str = "A") -> Dataquery:
    """Return a query to the chosen data source; its letter tells it from others of the same panel."""
    return Dataquery().expr(promql(expression)).legend_format(legend).ref_id(letter).datasource(DATASOURCE)


def curve(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    width: int = 8,
    stacked: bool = False,
    highest: float | None = None,
    lowest: float | None = 0,
    interval: str | None = None,
) -> TimeSeries:
    """Return a panel of lines over time.

    Args:
        title: title.
        description: what it shows, and what to conclude.
        unit: Grafana's name of the unit.
        queries: the lines.
        width: columns of 24.
        stacked: whether the areas under the lines are stacked.
        highest: upper end of the axis.
        lowest: lower end of the axis.
        interval: shortest step of the queries.
    """
    panel = TimeSeries().title(title).description(description).unit(unit).span(width).height(8).datasource(DATASOURCE)
    panel = panel.line_width(1).fill_opacity(60 if stacked else 5).span_nulls(300_000)
    panel = panel.legend(
        VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM).show_legend(True)
    ).tooltip(VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    if stacked:
        panel = panel.stacking(StackingConfig().mode(StackingMode.NORMAL).group("A"))
    if lowest is not None:
        panel = panel.min(lowest)
    if highest is not None:
        panel = panel.max(highest)
    for letter, query in zip(ascii_uppercase, queries, strict=False):
        target = request(query.expression, query.legend, letter).range()
        panel = panel.with_target(target.interval(interval) if interval else target)
    return panel


def number(
    title: str,
    description: str,
    unit: str,
    query: Query,
    *,
    width: int = 4,
    steps: Sequence[tuple[float | None, str]] = ((None, "text"),),
    decimals: int | None = None,
) -> Stat:
    """Return a panel of the current value, one number for each series.

    Args:
        title: title.
        description: what it shows.
        unit: Grafana's name of the unit.
        query: the value.
        width: columns of 24.
        steps: lowest value, or None for all, and colour.
        decimals: digits after the point.
    """
    panel = Stat().title(title).description(description).unit(unit).span(width).height(4).datasource(DATASOURCE)
    panel = panel.graph_mode(BigValueGraphMode.NONE).reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
    panel = panel.thresholds(ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(thresholds(steps)))
    if decimals is not None:
        panel = panel.decimals(decimals)
    return panel.with_target(request(query.expression, query.legend).instant())


def heat_map(title: str, description: str, unit: str, expression: str, *, width: int = 12) -> Heatmap:
    """Return a panel of a histogram over time.

    Args:
        title: title.
        description: what it shows.
        unit: Grafana's name of the unit of the buckets.
        expression: the observations by `le`.
        width: columns of 24.
    """
    query = request(expression, "{{le}}").range()
    color = HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").scale(HeatmapColorScale.EXPONENTIAL)
    return (
        Heatmap()
        .title(title)
        .description(description)
        .span(width)
        .height(9)
        .datasource(DATASOURCE)
        .unit(unit)
        .calculate(False)
        .color(color.exponent(0.5).steps(64).reverse(False).fill("dark-orange"))
        .y_axis(YAxisConfig().unit(unit))
        .cell_values(CellValues().unit("short"))
        .cell_gap(1)
        .show_legend()
        .with_target(query.format(PromQueryFormat.HEATMAP).interval(LOGGING_INTERVAL))
    )


def table(title: str, description: str, expression: str, hidden: Sequence[str], *, width: int = 12) -> Table:
    """Return a panel of the labels of an information metric.

    Args:
        title: title.
        description: what it shows.
        expression: the series.
        hidden: columns to hide.
        width: columns of 24.
    """
    organize = models.DataTransformerConfig(
        id_val="organize", options={"excludeByName": {name: True for name in hidden}, "indexByName": {}}
    )
    query = request(expression).format(PromQueryFormat.TABLE).instant()
    panel = Table().title(title).description(description).unit("none").span(width).height(5).datasource(DATASOURCE)
    return panel.with_target(query).with_transformation(organize)


def thresholds(steps: Sequence[tuple[float | None, str]]) -> list[models.Threshold]:
    """Return thresholds of lowest values and colours."""
    return [models.Threshold(value=value, color=color) for value, color in steps]


class Event(models.AnnotationQuery):
    """An annotation at the times that a query's values name, in milliseconds, with options of the Prometheus plugin.

    The plugin reads three options that the SDK's type of annotations does not have.
    """

    def __init__(self, name: str, expression: str, title: str, color: str, value_is_time: bool) -> None:
        super().__init__(name=name, datasource=DATASOURCE, icon_color=color, expr=promql(expression))
        self.options = {"titleFormat": title, "textFormat": "{{run}}", "useValueForTime": value_is_time}

    def to_json(self) -> dict[str, object]:
        """Return the annotation as JSON has it."""
        return super().to_json() | self.options


class Annotation(Builder[models.AnnotationQuery]):
    """Builds an `Event`."""

    def __init__(self, name: str, expression: str, title: str, color: str, *, value_is_time: bool = False) -> None:
        self._event = Event(name, expression, title, color, value_is_time)

    def build(self) -> models.AnnotationQuery:
        """Return the annotation."""
        return self._event


def annotations() -> list[Annotation]:
    """Return the annotations of all dashboards: restarts, checkpoints and validations."""
    return [
        Annotation(
            "Starts and restarts",
            "max by (run, attempt) (uml_start_timestamp_seconds{selected}) * 1000",
            "attempt {{attempt}} starts",
            "purple",
            value_is_time=True,
        ),
        Annotation(
            "Checkpoints",
            "max by (run, attempt) (uml_checkpoint_last_success_timestamp_seconds{selected}) * 1000",
            "checkpoint",
            "green",
            value_is_time=True,
        ),
        Annotation(
            "Validations",
            'max by (run) (changes(uml_validation{run=~"$run", attempt=~"$attempt"}[1m])) > 0',
            "validation",
            "blue",
        ),
    ]


def variable(name: str, label: str, query: str, sort: models.VariableSort) -> QueryVariable:
    """Return a variable whose values are those of a label; all of them at first."""
    everything = models.VariableOption(selected=True, text=["All"], value=["$__all"])
    return (
        QueryVariable(name)
        .label(label)
        .query(query)
        .datasource(DATASOURCE)
        .multi(True)
        .include_all(True)
        .current(everything)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(sort)
    )


def new_dashboard(uid: str, title: str, description: str) -> Dashboard:
    """Return a dashboard without panels, with the variables, annotations and links that all of them have."""
    numbers = models.VariableSort.NUMERICAL_ASC
    builder = (
        Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .readonly()
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .time("now-1h", "now")
        .refresh("10s")
        .timezone("browser")
        .with_variable(DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(variable("run", "Run", "label_values(uml_run_info, run)", models.VariableSort.ALPHABETICAL_ASC))
        .with_variable(variable("attempt", "Attempt", 'label_values(uml_run_info{run=~"$run"}, attempt)', numbers))
        .with_variable(
            variable("rank", "Rank", 'label_values(uml_run_info{run=~"$run", attempt=~"$attempt"}, rank)', numbers)
        )
        .annotations(list[Builder[models.AnnotationQuery]](annotations()))
    )
    link = DashboardLink("uml-dist").type(models.DashboardLinkType.DASHBOARDS).tags([TAG]).as_dropdown(False)
    return builder.link(link.include_vars(True).keep_time(True))


def number_panels(built: models.Dashboard) -> models.Dashboard:
    """Give the panels the numbers by which links name them."""
    panels: list[Any] = list(built.panels or [])
    for index, panel in enumerate(panels, 1):
        panel.id_val = index
    return built

"""Write Grafana's dashboards as JSON: `python launchers/monitoring/dashboards/make_dashboards.py`.

The JSON is the classic model, which every Grafana since version 7 reads; newer ones convert it when they load it. It
needs grafana-foundation-sdk, which `make install` brings.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboard_parts import number_panels
from overview_dashboard import overview
from quality_dashboard import quality
from slowness_dashboard import slowness

FOLDER = Path(__file__).parents[1] / "grafana" / "dashboards"

DASHBOARDS: dict[str, Callable[[], Dashboard]] = {
    "run_overview": overview,
    "why_is_it_slow": slowness,
    "quality_and_uncertainty": quality,
}
"""Dashboards by the names of their files."""


def rendered(name: str) -> str:
    """Return the JSON of a dashboard."""
    built = number_panels(DASHBOARDS[name]().build())
    return json.dumps(built, cls=JSONEncoder, indent=1, sort_keys=True) + "\n"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the JSON files (that of the provisioning)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the dashboards; return the exit code."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in DASHBOARDS:
        path = options.out / f"{name}.json"
        path.write_text(rendered(name), encoding="utf-8")
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What the tests of the monitoring share."""

import pytest

from prometheus_programs import Programs, prometheus_programs


@pytest.fixture(scope="session")
def programs() -> Programs:
    """Prometheus and promtool; without them, the test is skipped."""
    return prometheus_programs()

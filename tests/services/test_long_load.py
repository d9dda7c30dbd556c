"""Ten minutes of eight clients who ask for everything: `make test-services`."""

import os

import numpy as np
import psutil
from support.load import loaded
from support.server import serving

SECONDS = float(os.environ.get("LOAD_SECONDS", "600"))


def test_ten_minutes_of_mixed_load_lose_and_leak_nothing(models, tmp_path):
    with serving(tmp_path, *models, "--context", 512) as server:
        process = psutil.Process(server.process.pid)
        handles = process.num_fds()
        failures, latencies, growth = loaded(server, 8, SECONDS)
        for kind, taken in sorted(latencies.items()):
            p50, p95, p99 = 1000 * np.percentile(taken, [50, 95, 99])
            print(
                f"{kind}: {len(taken)} times, {p50:.0f} / {p95:.0f} / {p99:.0f} ms (50, 95, 99 %)"
            )
        print(f"grown by {growth / 1e6:.1f} MB in the last two thirds; load {os.getloadavg()}")
        assert failures == []
        server.until(lambda: process.num_fds() <= handles + 3)
        assert growth < 60e6
        assert server.metric("llmkg_http_requests_total", status="500") == 0

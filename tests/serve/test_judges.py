"""Schemathesis as the judge, over the description that the server gives of itself."""

import pytest
from support.judges import schemathesis


@pytest.mark.slow
def test_schemathesis_breaks_nothing(server, tmp_path):
    """`make test-services` has two thousand requests; here are some hundred."""
    options = ("--phases", "fuzzing", "--max-examples", "30", "--seed", "1")
    assert schemathesis(server.url, tmp_path, *options) > 150
    assert server.metric("llmkg_http_requests_total", status="500") == 0
    assert server.json("/health") == {"status": "ok"}

"""What a server does, as Prometheus reads it. Names and labels hold no text of users and no keys."""

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from posttrain.serve.doors import Load

MEDIA = "text/plain; version=0.0.4; charset=utf-8"
FIRST_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
WHOLE_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class _Now(Collector):
    """What is asked at the moment of reading."""

    def __init__(self, load: Callable[[], Load], num_open: Callable[[], int]) -> None:
        self.load, self.num_open = load, num_open

    def collect(self) -> Iterator[GaugeMetricFamily]:
        found = self.load()
        for name, said, value in (
            ("running", "Answers that are being written.", found.running),
            ("waiting", "Answers that wait for a place.", found.waiting),
            ("held_positions", "Positions of keys and values that are held.", found.held_positions),
            ("open_requests", "Requests that are under way.", self.num_open()),
        ):
            yield GaugeMetricFamily(f"posttrain_{name}", said, value=value)


class Metrics:
    """Counters and times of one server, in a registry of their own."""

    def __init__(self) -> None:
        disable_created_metrics()  # a second series for each, which says when it began
        self.registry = CollectorRegistry()
        kept: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("posttrain_requests", "Requests, by route and status.", ["route", "status"], **kept)
        self.prompt_tokens = Counter("posttrain_prompt_tokens", "Tokens of prompts.", ["model"], **kept)
        self.completion_tokens = Counter("posttrain_completion_tokens", "Tokens written.", ["model"], **kept)
        self.finished = Counter("posttrain_answers", "Answers, by how they ended.", ["model", "finish"], **kept)
        self.votes = Counter("posttrain_votes", "Votes that were kept.", ["kind"], **kept)
        self.rulings = Counter("posttrain_rulings", "Decisions of the guard.", ["where", "action", "rule"], **kept)
        self.arms = Counter("posttrain_arm_answers", "Answers of the A/B test's arms.", ["arm"], **kept)
        self.not_kept = Counter("posttrain_exchanges_not_kept", "Exchanges that the store did not take.", **kept)
        self.first_s = Histogram(
            "posttrain_time_to_first_token_seconds", "From request to first token.", ["model"], buckets=FIRST_S, **kept
        )
        self.token_s = Histogram(
            "posttrain_time_per_output_token_seconds", "Per token after the first.", ["model"], buckets=TOKEN_S, **kept
        )
        self.whole_s = Histogram(
            "posttrain_request_seconds", "From request to the end of the answer.", ["route"], buckets=WHOLE_S, **kept
        )

    def watch(self, load: Callable[[], Load], num_open: Callable[[], int]) -> None:
        """Show how busy the engine is as well."""
        self.registry.register(_Now(load, num_open))

    def text(self) -> bytes:
        """Everything, in Prometheus' own format."""
        return generate_latest(self.registry)

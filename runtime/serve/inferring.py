"""One inference request in the workers: read, run, write."""

from __future__ import annotations

from collections.abc import Mapping

from ..telling import look, probes_of
from .answering import Reply, write_answer
from .asking import Asked, read_request
from .coding import inflate
from .counts import Spent, Stopwatch
from .datatypes import Array
from .engine import Ticket
from .served import Served
from .settings import Settings


class Inference:
    """headers: of the request, by lower-case name. spent: where its time went, as far as it has come."""

    def __init__(self, served: Served, settings: Settings, headers: Mapping[str, str]) -> None:
        self._served, self._settings, self._headers = served, settings, headers
        self._watch = Stopwatch()
        self.spent = Spent()

    def read(self, body: bytearray) -> Asked:
        self.spent.queue = self._watch.lap()
        limit, served = self._settings.max_body, self._served
        data = inflate(body, self._headers.get("content-encoding", ""), limit)
        length = self._headers.get("inference-header-content-length")
        asked = read_request(data, length, served.inputs, served.outputs, self._settings.max_batch)
        self.spent.rows, self.spent.compute_input = asked.rows, self._watch.lap()
        return asked

    def write(self, asked: Asked, outputs: Mapping[str, Array]) -> Reply:
        """Also ends the time of the run."""
        self.spent.compute_infer = self._watch.lap()
        accepted = self._headers.get("accept-encoding", "")
        served, card = self._served, self._served.card
        findings = () if card is None else look(outputs, card.outputs, probes_of(asked.feeds))
        reply = write_answer(served.name, asked, outputs, served.labels, accepted, findings)
        self.spent.compute_output = self._watch.lap()
        return reply

    def whole(self, body: bytearray, ticket: Ticket) -> Reply:
        asked = self.read(body)
        self._served.obey(ticket.options)
        return self.write(asked, self._served.run(asked.feeds))

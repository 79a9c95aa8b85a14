"""The addresses of the server and what each does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from ..compiling import package_version
from .answering import Reply
from .body import read_body, until_gone
from .coding import inflate
from .counts import Metrics, Record, Spent, Stopwatch
from .engine import Engine, Hold, Ticket
from .guard import Guard
from .inferring import Inference
from .joining import Joiner
from .openapi import document
from .picture import choose_media, describe_pictures, explain_picture
from .refusal import Refusal
from .served import Served
from .settings import Settings
from .telling import EXTENSIONS, config, metadata

Answer = Callable[[bytearray, Ticket, "asyncio.Future[None]", Hold], Awaitable[Reply]]


@dataclass
class Site:
    """What the handlers share. stopping: whether the server takes no more requests."""

    models: Mapping[str, Served]
    settings: Settings
    engine: Engine
    stopping: Callable[[], bool] = lambda: False
    metrics: Metrics = field(default_factory=Metrics)
    joiner: Joiner = field(init=False)
    records: dict[str, Record] = field(init=False)

    def __post_init__(self) -> None:
        self.joiner = Joiner(self.engine)
        self.records = {name: Record() for name in self.models}

    def find(self, request: Request) -> Served:
        """Raises Refusal (404) for an unknown model or version."""
        name, version = request.path_params["name"], request.path_params.get("version", "1")
        if name not in self.models:
            raise Refusal(404, f"no model is called {name[:100]!r}; POST /v2/repository/index lists them")
        if version != "1":
            raise Refusal(404, f"model {name!r} has no version {version[:20]!r}; it has 1")
        return self.models[name]

    async def live(self, request: Request) -> Response:
        return Response()

    async def ready(self, request: Request) -> Response:
        return self._readiness()

    async def model_ready(self, request: Request) -> Response:
        self.find(request)
        return self._readiness()

    def _readiness(self) -> Response:
        if self.stopping():
            raise Refusal(503, "the server is stopping")
        return Response()

    async def server(self, request: Request) -> Response:
        told = {"name": "onnxplain", "version": package_version(), "extensions": list(EXTENSIONS)}
        return JSONResponse(told)

    async def model(self, request: Request) -> Response:
        return JSONResponse(metadata(self.find(request)))

    async def model_config(self, request: Request) -> Response:
        return JSONResponse(config(self.find(request), self.settings))

    async def model_stats(self, request: Request) -> Response:
        name = self.find(request).name
        return JSONResponse({"model_stats": [self.records[name].statistics(name)]})

    async def all_stats(self, request: Request) -> Response:
        return JSONResponse(
            {"model_stats": [record.statistics(name) for name, record in self.records.items()]}
        )

    async def index(self, request: Request) -> Response:
        state = {"version": "1", "state": "READY", "reason": ""}
        return JSONResponse([{"name": name, **state} for name in self.models])

    async def description(self, request: Request) -> Response:
        return JSONResponse(document(tuple(self.models), bool(self.settings.keys)))

    async def expose(self, request: Request) -> Response:
        engine, joiner = self.engine, self.joiner
        gauges = {
            "onnxplain_requests_in_progress": engine.taken,
            "onnxplain_requests_waiting": engine.waiting,
            "onnxplain_request_bytes_held": engine.held,
            "onnxplain_joined_runs": joiner.runs,
            "onnxplain_joined_requests": joiner.joined,
        }
        text = self.metrics.text(self.records, gauges)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    async def infer(self, request: Request) -> Response:
        served = self.find(request)

        async def answer(body: bytearray, ticket: Ticket, gone: asyncio.Future[None], hold: Hold) -> Reply:
            return await self._infer(served, request, body, ticket, gone, hold)

        return await self._work(served, request, answer)

    async def explain(self, request: Request) -> Response:
        served = self.find(request)
        describe_pictures(served)
        media = choose_media(request.headers.get("accept"))
        unknown = set(request.query_params) - {"class"}
        if unknown:
            raise Refusal(400, f"unknown parameter {min(unknown)[:40]!r}; this takes class")
        wish = request.query_params.get("class", "top")

        async def answer(body: bytearray, ticket: Ticket, gone: asyncio.Future[None], hold: Hold) -> Reply:
            spent, watch = Spent(1), Stopwatch()

            def work() -> Reply:
                spent.queue = watch.lap()
                served.obey(ticket.options)
                data = inflate(body, request.headers.get("content-encoding", ""), self.settings.max_body)
                try:
                    return explain_picture(
                        served, data, wish, media, request.headers.get("accept-encoding", "")
                    )
                finally:
                    spent.compute_infer = watch.lap()

            reply = await self.engine.do(ticket, work, gone)
            self.records[served.name].succeed(spent, int((time.monotonic() - _start(request)) * 1e9))
            return reply

        return await self._work(served, request, answer)

    async def _work(self, served: Served, request: Request, answer: Answer) -> Response:
        """Read the body and answer it, within all bounds."""
        start = _start(request)
        ticket = Ticket(start, self.settings.deadline)
        self.engine.vet()  # before a body is read that nobody will work on
        try:
            with self.engine.hold() as hold:
                body = await read_body(request, self.settings, hold, ticket)
                gone = asyncio.ensure_future(until_gone(request))
                try:
                    with self.engine.slot(ticket):
                        reply = await answer(body, ticket, gone, hold)
                finally:
                    gone.cancel()
        except Exception:
            self.records[served.name].fail(int((time.monotonic() - start) * 1e9))
            raise
        return Response(reply.body, media_type=reply.media, headers=dict(reply.headers))

    async def _infer(
        self,
        served: Served,
        request: Request,
        body: bytearray,
        ticket: Ticket,
        gone: asyncio.Future[None],
        hold: Hold,
    ) -> Reply:
        job = Inference(served, self.settings, request.headers)
        if not self.settings.batching or not served.joinable:
            reply = await self.engine.do(ticket, lambda: job.whole(body, ticket), gone)
        else:
            asked = await self.engine.do(ticket, lambda: job.read(body), gone)
            hold.add(sum(array.nbytes for array in asked.feeds.values()))
            joined = self.joiner.join(served, asked.feeds, ticket)
            try:
                outputs = await self.engine.wait(ticket, joined, gone)
            finally:
                self.joiner.forget(joined)
            reply = await self.engine.do(ticket, lambda: job.write(asked, outputs), gone)
        self.records[served.name].succeed(job.spent, int((time.monotonic() - _start(request)) * 1e9))
        return reply

    def routes(self) -> list[Route]:
        """Every address; with and without the version, as the protocol has it."""
        found = [
            Route("/v2/health/live", self.live),
            Route("/v2/health/ready", self.ready),
            Route("/v2", self.server),
            Route("/v2/models/stats", self.all_stats),
            Route("/v2/repository/index", self.index, methods=["POST"]),
            Route("/openapi.json", self.description),
            Route("/metrics", self.expose),
        ]
        for prefix in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
            found += [
                Route(prefix, self.model),
                Route(f"{prefix}/ready", self.model_ready),
                Route(f"{prefix}/config", self.model_config),
                Route(f"{prefix}/stats", self.model_stats),
                Route(f"{prefix}/infer", self.infer, methods=["POST"]),
                Route(f"{prefix}/explain", self.explain, methods=["POST"]),
            ]
        return found


def _start(request: Request) -> float:
    found: float = request.scope["state"]["start"]
    return found


async def _refuse(request: Request, error: Exception) -> Response:
    """An address or a method that is not there."""
    assert isinstance(error, HTTPException)
    told = {404: "there is nothing at this address; /openapi.json lists what there is"}
    message = told.get(error.status_code, str(error.detail).lower())
    return JSONResponse({"error": message}, error.status_code, headers=error.headers)


def application(site: Site) -> Starlette:
    """The ASGI application."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(site.engine.close)

    guard = Middleware(Guard, settings=site.settings, metrics=site.metrics, names=frozenset(site.models))
    app = Starlette(
        routes=site.routes(),
        middleware=[guard],
        exception_handlers={HTTPException: _refuse},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return app

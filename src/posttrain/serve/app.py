"""The application: OpenAI's addresses, adapters, votes, health and metrics, and the pages where they are built in."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.middleware.cors import CORSMiddleware

from posttrain.errors import PosttrainError, StoreAway, StoreError
from posttrain.serve.chat import add_chat_routes
from posttrain.serve.completions import add_completion_routes
from posttrain.serve.doors import Served, UnknownExchange, UnknownModel, Vote
from posttrain.serve.failures import Refused, add_failures
from posttrain.serve.gate import Gate
from posttrain.serve.keys import hashed_user
from posttrain.serve.metrics import MEDIA
from posttrain.serve.protocol import FeedbackRequest, LoadAdapterRequest, UnloadAdapterRequest
from posttrain.serve.protocol_answers import ERRORS, FeedbackAnswer, HealthAnswer, ModelCard, ModelList, Unloaded
from posttrain.serve.service import AUTO, Service, caller, require_owner

AddRoutes = Callable[[FastAPI, Service], None]


def create_app(service: Service, pages: tuple[AddRoutes, ...] = ()) -> FastAPI:
    """The application. `pages`: what adds routes of its own."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.state = "stopping"
        service.scribe.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(
        title="posttrain serve", version="1", docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=life
    )
    add_failures(app)
    add_chat_routes(app, service)
    add_completion_routes(app, service)
    _add_models(app, service)
    _add_adapters(app, service)
    _add_feedback(app, service)
    _add_state(app, service)
    for add in pages:
        add(app, service)
    app.add_middleware(Gate, service=service)  # type: ignore[arg-type]
    if service.hosts.origins:
        # OpenAI's client for browsers sends headers of its own, and heeds these.
        told = ["Retry-After", "x-should-retry"]
        allowed = {"allow_methods": ["GET", "POST"], "allow_headers": ["*"], "expose_headers": told}
        app.add_middleware(CORSMiddleware, allow_origins=list(service.hosts.origins), **allowed)  # type: ignore[arg-type]
    return app


def _add_models(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models", response_model=ModelList, responses=ERRORS)
    async def models() -> Any:
        return {"object": "list", "data": [_card(served) for served in service.listed()]}

    @app.get("/v1/models/{model:path}", response_model=ModelCard, responses=ERRORS)
    async def one_model(model: str) -> Any:
        found = next((served for served in service.listed() if served.name == model), None)
        if found is None:
            raise UnknownModel(f"the model {model[:200]!r} does not exist here; /v1/models lists what does.")
        return _card(found)


def _add_adapters(app: FastAPI, service: Service) -> None:
    @app.post("/v1/load_lora_adapter", response_model=ModelCard, responses=ERRORS)
    async def load_adapter(body: LoadAdapterRequest, request: Request) -> Any:
        require_owner(service, request)
        folder = _adapter_folder(service, body.lora_path)
        if body.lora_name == AUTO:
            raise Refused(400, "lora_name: `auto` is the name of the A/B test.", param="lora_name")
        try:
            return _card(await asyncio.to_thread(service.engine.load_adapter, body.lora_name, str(folder)))
        except ValueError as error:
            raise Refused(400, f"lora_name: {error}", param="lora_name") from None
        except PosttrainError as error:
            raise Refused(400, f"lora_path: {error}", param="lora_path") from None

    @app.post("/v1/unload_lora_adapter", response_model=Unloaded, responses=ERRORS)
    async def unload_adapter(body: UnloadAdapterRequest, request: Request) -> Any:
        require_owner(service, request)
        _adapter_folder(service, "")
        if not service.engine.model(body.lora_name).parent:
            raise Refused(400, f"lora_name: {body.lora_name} is a model and no adapter.", param="lora_name")
        if service.split is not None and body.lora_name in service.split.arms:
            raise Refused(400, f"lora_name: {body.lora_name} is an arm of the A/B test.", param="lora_name")
        await asyncio.to_thread(service.engine.unload, body.lora_name)
        return {"id": body.lora_name, "object": "model", "deleted": True}


def _adapter_folder(service: Service, path: str) -> Path:
    """The folder that a request names, links followed. Raises Refused for every one that is not below the root, in
    the same words whether it is there or not."""
    root = service.adapters_root
    if root is None:
        raise Refused(
            403, "adapters cannot be loaded here; start the server with --adapters-root FOLDER.", code="adapters_off"
        )
    outside = Refused(400, "lora_path: no such folder below the one that adapters may come from.", param="lora_path")
    try:
        top = root.resolve(strict=True)
        found = (top / path).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):
        raise outside from None
    if not found.is_relative_to(top) or not found.is_dir():
        raise outside
    return found


def _card(served: Served) -> dict[str, Any]:
    """A model as OpenAI lists it. Where it lies on this machine is nobody's business but for its last name."""
    made = {"id": served.name, "object": "model", "created": served.created, "owned_by": "posttrain"}
    made |= {"max_model_len": served.context, "root": Path(served.root).name or served.name}
    return made | {"parent": Path(served.parent).name if served.parent else None}


def _add_feedback(app: FastAPI, service: Service) -> None:
    @app.post("/v1/feedback", response_model=FeedbackAnswer, responses=ERRORS)
    async def feedback(body: FeedbackRequest, request: Request) -> Any:
        keeper = service.keeper
        if keeper is None:
            raise Refused(404, "this server keeps no votes; start it with --store.", code="votes_not_kept")
        client = request.client.host if request.client else ""
        user = hashed_user(caller(request), body.safety_identifier or body.user or f"@{client}")
        about = {"text": body.text, "comment": body.comment}
        vote = Vote(body.key, user, body.kind, body.completion_id, body.answer, tuple(body.over), **about)
        try:
            outcomes = await asyncio.to_thread(keeper.vote, vote)
        except (StoreAway, UnknownExchange):
            raise
        except StoreError:
            raise Refused(409, "the store has no place for this vote.", code="not_kept") from None
        except ValueError as error:
            raise Refused(400, f"{error}") from None
        service.metrics.votes.labels(body.kind).inc()
        if service.split is not None and outcomes:
            await asyncio.to_thread(service.split.heard, outcomes)
        return {"kept": True}


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get("/health", response_model=HealthAnswer, responses={503: {"model": HealthAnswer}})
    async def health() -> Any:
        is_well = service.state == "ready"
        return JSONResponse({"status": "ok" if is_well else service.state}, 200 if is_well else 503)

    app.add_api_route("/health", health, methods=["HEAD"], include_in_schema=False)  # what load balancers ask

    @app.get("/metrics", response_class=Response, responses=_TEXT | ERRORS)
    async def metrics() -> Response:
        return Response(service.metrics.text(), headers={"Content-Type": MEDIA})


_TEXT: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}

__all__ = ["Service", "create_app"]

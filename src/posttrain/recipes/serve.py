"""`posttrain serve`: models over OpenAI's API, until Ctrl-C."""

import socket
from collections.abc import Callable
from contextlib import ExitStack, closing

from posttrain.recipes.serve_config import ServeConfig
from posttrain.recipes.serve_models import Loading, named_models
from posttrain.recipes.serve_setup import allowed_keys, engine_of, log_to_stderr, pages_of, service_of
from posttrain.serve.app import create_app
from posttrain.serve.running import Server, listen


def run(config: ServeConfig) -> int:
    """Listen, load the models, answer. The first Ctrl-C lets running answers end, the second ends at once."""
    say: Callable[[str], None] = lambda text: print(text, flush=True)  # noqa: E731
    models = named_models(config)
    allowed_keys(config)
    log_to_stderr(config.log_level)
    with ExitStack() as stack:
        listener = stack.enter_context(closing(listen(config.host, config.port)))
        engine = engine_of(config)
        stack.callback(engine.close)
        service = service_of(config, models, engine, stack, say)
        server = Server(create_app(service, pages_of(config)), service, grace_s=config.grace_s, say=say)

        def ready() -> None:
            service.state = "ready"
            place = _place(config.host, listener)
            page = f"; a page to chat: {place}/" if config.page else ""
            say(f"ready: {place}/v1{page}")

        loading = Loading(engine, models, ready=ready, failed=server.stop, say=say, follow=config.follow)
        loading.on_hangup()
        stack.callback(loading.close)
        loading.start()
        server.run(sockets=[listener])
    if loading.error is not None:
        raise loading.error
    return 0


def _place(host: str, listener: socket.socket) -> str:
    """How this server is reached: where all addresses are listened on, by the name of this machine."""
    shown = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listener.getsockname()[1]}"

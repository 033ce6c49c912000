"""The command that serves a database: serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from nas.cli.root import LOOK, PATH, StoreOption, app, natural, text


@app.command(group=LOOK)
def serve(
    *,
    store: StoreOption = None,
    jobs: Annotated[Path | None, PATH] = None,
    host: Annotated[str, text] = "127.0.0.1",
    port: Annotated[int, natural] = 8017,
    token: Annotated[Path | None, PATH] = None,
    read_only: bool = False,
    state: Annotated[Path | None, PATH] = None,
    prefix: Annotated[str, text] = "",
    create: bool = False,
) -> None:
    """Serve a page and an HTTP API on a database: look at every study, take part in it from any language, run jobs.

    Ctrl-C ends the server; jobs that it started go on, and the next one finds them.

    Args:
        jobs: folder whose job files may be started, stopped, and taken networks from; nothing else is ever run.
        host: address to bind to; one that other machines reach needs --token.
        port: to bind to; 0 takes a free one.
        token: file with a token, readable by you alone, which every request must then show.
        read_only: refuse every write.
        state: folder for logs of jobs and files of networks. [default: .serve in the jobs folder]
        prefix: path under which a proxy shows the server, where the proxy does not take it away, as in /nas.
        create: make the database if there is none.
    """
    from nas.cli.output import print_text
    from nas.cli.stores import url_of
    from nas.errors import NasError

    try:
        from nas.web.serving import Serving, run
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "uvicorn", "prometheus_client", "starlette", "pydantic"):
            raise
        raise NasError(f"nas serve needs {error.name}; pip install 'supernas[web]'") from None
    if create:
        from nas.store import open_store

        open_store(url_of(store)).close()
    run(
        Serving(url_of(store), host, port, token, jobs, state, read_only, prefix),
        lambda address: print_text(f"serving {address} until Ctrl-C"),
    )

"""`nas serve`: a page and an HTTP API on a results database.

- `create_app(store, …)` is the ASGI application, `run(Serving(…))` serves it.
- Reading needs the database alone; proposals come from studies that were declared in JSON, or by a job of the operator's folder.
- Nothing that comes over the network is a path, a command, or an object of Python.

Only the command line imports this package; it needs the extra `web`.
"""

from nas.web.app import create_app
from nas.web.serving import Serving, run

__all__ = ["Serving", "create_app", "run"]

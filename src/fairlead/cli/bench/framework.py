"""What the web framework alone costs: answers that are there already, given by FastAPI and uvicorn.

``python -m fairlead.cli.bench.framework PORT CERTIFICATE KEY FOLDER`` serves each file of FOLDER at its name, as a
dictionary that becomes JSON again with each request, with the same parser, event loop and TLS as the Controller.
"""

import json
import sys
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse


def application(folder: Path) -> FastAPI:
    """A route for each file."""
    app = FastAPI(openapi_url=None)
    for path in folder.iterdir():
        _serve(app, f"/{path.name}", json.loads(path.read_text()))
    return app


def _serve(app: FastAPI, url: str, value: Any) -> None:
    @app.get(url)
    async def answer() -> JSONResponse:
        return JSONResponse(value)


def main(port: str, certificate: str, key: str, folder: str) -> None:
    """Serve on loopback until a signal."""
    uvicorn.run(application(Path(folder)), host="127.0.0.1", port=int(port), http="h11", loop="uvloop",
                log_level="critical", access_log=False, ssl_certfile=certificate, ssl_keyfile=key)


if __name__ == "__main__":
    main(*sys.argv[1:])

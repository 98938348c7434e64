"""Who asks, as routes need it."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from kdrift_serve.auth import Caller
from kdrift_serve.ingress import Ingress


def service_of(request: Request) -> Ingress:
    """Return the service that answers."""
    service: Ingress = request.app.state.service
    return service


def caller_of(request: Request) -> Caller:
    """Return who asks; a `Problem` where nobody may."""
    return service_of(request).authenticate(request)


Asks = Annotated[Caller, Depends(caller_of)]
Serves = Annotated[Ingress, Depends(service_of)]

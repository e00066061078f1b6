"""External CAs without sockets: what `wire.outgoing.exchange` does, by address."""

import json

import msgspec

from swarmlet.core.errors import InvalidArgumentError, UnavailableError
from swarmlet.wire.outgoing import HttpsAnswer
from tests.ca.external_signer import Authority, RefusedError


class Switchboard:
    """`places`: what answers at an address, an Authority or one answer for everything. Whoever
    trusts another root than the authority's cannot reach it."""

    def __init__(self, places=None):
        self.places = dict(places or {})
        self.asked = []

    async def exchange(self, request):
        self.asked.append(request)
        if not request.url.startswith("https://"):
            raise InvalidArgumentError("no https address")
        place = self.places.get(request.url)
        if place is None:
            raise UnavailableError(f"{request.url} cannot be reached")
        if not isinstance(place, Authority):
            return place
        if request.credentials.root_pem != place.root.cert_pem:
            raise UnavailableError(f"{request.url} is not trusted")
        return _answered(place, request)


def _answered(place, request):
    if request.method == "GET":
        return HttpsAnswer(status=405, body=b'{"success": false}')
    try:
        certificate = place.sign(msgspec.json.decode(request.body))
    except RefusedError as error:
        said = {"success": False, "errors": [{"code": error.code, "message": error.message}]}
        return HttpsAnswer(status=error.status, body=json.dumps(said).encode())
    said = {"success": True, "result": {"certificate": certificate}, "errors": []}
    return HttpsAnswer(status=200, body=json.dumps(said).encode())

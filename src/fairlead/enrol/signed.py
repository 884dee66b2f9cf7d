"""Signed calls of a joined node to the portal: reading its trust again, leaving, announcing an address.

The request is signed with the node's user key and names one Controller; the answer counts only when that Controller's
pinned host key signed it, refusals too: nobody in between can tell a node that it was removed.

Join protocol, section 11.
"""

import contextlib
import itertools
import json
import re
import secrets
from typing import Any

from fairlead.base.clock import SECOND
from fairlead.base.errors import FairleadError, OperatorError, Refused
from fairlead.client.https import Outgoing, authority, request
from fairlead.enrol import exchange
from fairlead.enrol.trust import Trust
from fairlead.keys import http
from fairlead.keys.ssh import PrivateKey
from fairlead.keys.wire import from_b64
from fairlead.pki.verify import PortalTrust


class Answer(Refused):
    """A refusal that the Controller has signed. *created*: its time, seconds: a node with a wrong clock signs by it."""

    def __init__(self, code: str, message: str, remedy: str, created: int) -> None:
        super().__init__(code, message, remedy)
        self.created = created


async def call(trust: Trust, key: PrivateKey, now: int, operation: dict[str, Any]) -> dict[str, Any]:
    """The answer of the first Controller that can be asked. *now*: microseconds, as near store time as is known.

    Raises Refused with the Controller's own code (FL-NODE-REMOVED, FL-NODE-FROZEN, ...), or OperatorError when none
    answers.
    """
    failure: FairleadError = OperatorError("FL-PEER-UNREACHABLE", "no Controller is known")
    for controller, name in itertools.product(trust.controllers, trust.portal_names):
        try:
            try:
                return await _ask(trust, controller, key, now, operation, name)
            except Answer as stale:
                if stale.code != "FL-SIG-STALE":
                    raise
                return await _ask(trust, controller, key, stale.created * SECOND, operation, name)
        except Answer:
            raise
        except FairleadError as error:
            failure = error  # not the Controller's word: another address may reach it
    raise failure


async def reread(trust: Trust, key: PrivateKey, now: int) -> exchange.Core:
    """What the cluster knows of this node now. Raises as `call`."""
    return exchange.Core.model_validate(await call(trust, key, now, {"v": 1, "op": "read"}))


async def _ask(trust: Trust, controller: exchange.CoreController, key: PrivateKey, now: int,
               operation: dict[str, Any], name: str) -> dict[str, Any]:
    portal = PortalTrust([from_b64(der) for der in trust.ca_certificates])
    host = authority(name)
    url = f"https://{host}{exchange.PATH}"
    body = json.dumps(operation, separators=(",", ":")).encode()
    headers = http.sign_request("POST", url, body, "application/json", key=key,
                                to=http.recipient(trust.cluster_uuid, controller.node_id), created=now // SECOND,
                                nonce=secrets.token_bytes(16))

    def build(certificate: bytes) -> Outgoing:
        portal.check(certificate, name)
        return Outgoing("POST", exchange.PATH, {"host": host, **headers}, body)

    answer = await request(controller.address, controller.portal_port, portal.context(), name, build,
                           most=exchange.MOST_REPLY_BYTES)
    asked = http.Request("POST", url, list(headers.items()), body)
    response = http.Response(answer.status, list(answer.headers), answer.body)
    *others, last = controller.host_keys
    for host_key in others:
        with contextlib.suppress(Refused):
            http.verify_response(response, asked, host_key)
            break
    else:
        http.verify_response(response, asked, last)
    fields: dict[str, Any] = json.loads(answer.body)
    if answer.status != 200:
        created = re.search(r";created=([0-9]{1,12});", dict(answer.headers).get("signature-input", ""))
        raise Answer(str(fields.get("code", "FL-PEER-PROTOCOL")), str(fields.get("error", "refused")),
                     str(fields.get("remedy", "")), int(created[1]) if created else 0)
    return fields

"""An audit log as lines of JSON, whole, and its check without the store. Pure.

A line is a record with its ``event_id``, in the order of the chains, or at the end ``{"head", "host_key"}``: where a
chain ended, and the key that has signed it. Whoever wrote the file anew would need that key: compare its fingerprint.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

from fairlead.audit.head import SignedHead, check, decode, refused
from fairlead.audit.public import event_id
from fairlead.audit.record import GENESIS, AuditRecord, Head, broken, verify
from fairlead.audit.record import decode as decode_record
from fairlead.base import strict
from fairlead.keys.ssh import PublicKey


def lines(chains: Mapping[str, Sequence[AuditRecord]],
          heads: Iterable[tuple[SignedHead, PublicKey]]) -> Iterator[str]:
    """The lines of an export."""
    for _, records in sorted(chains.items()):
        for record in records:
            yield json.dumps(json.loads(record.encoded()) | {"event_id": event_id(record)}, sort_keys=True)
    for head, key in heads:
        yield json.dumps({"head": head.text(), "host_key": key.line}, sort_keys=True)


def verify_export(data: bytes) -> Mapping[str, tuple[Head, str]]:
    """By node, where its chain ends in an export, and the fingerprint of the key that says so; empty when none does.

    Raises Refused FL-AUDIT-BROKEN, FL-AUDIT-HEAD.
    """
    chains: dict[str, list[AuditRecord]] = {}
    signers: dict[str, str] = {}
    for number, line in enumerate(data.splitlines(), 1):
        try:
            fields = strict.loads(line)
            if "head" in fields:
                head, key = decode(fields["head"]), PublicKey.from_line(fields["host_key"])
            else:
                del fields["event_id"]
                text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
                record = decode_record(text, f"line {number}")
                chains.setdefault(record.node, []).append(record)
                continue
        except (ValueError, TypeError, KeyError, AttributeError):
            raise broken(f"line {number} is none of an export") from None
        check(head, key, cluster_uuid=head.cluster_uuid, node=head.node)
        held = chains.get(head.node, [])
        if head.seq > len(held) or held[head.seq - 1].head() != head.head:
            raise refused(f"record {head.seq} of {head.node} in the file is not the one that was signed, or is missing")
        signers[head.node] = key.fingerprint
    return {node: (verify(records, None, node) if records else GENESIS, signers.get(node, ""))
            for node, records in chains.items()}

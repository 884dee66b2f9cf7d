"""The demo's second part: it attacks itself."""

import json
import shutil
from collections.abc import Callable

from fairlead.cli.demo.report import Absent
from fairlead.cli.stage.machine import until
from fairlead.cli.stage.processes import Failed, Result
from fairlead.cli.stage.stage import Stage

DENIED = "Permission denied"
PROHIBITED = "administratively prohibited"


def used_token(stage: Stage) -> str:
    """Two machines prove one token: the second is refused, the first is frozen until somebody has compared its key."""
    path = stage.export("se-3", "--node", "se-3")
    stage.join(path, "se-3", "--keep-bundle").done()
    stage.run("se-3", "engine")
    stage.connected("se-3")
    stage.join(path, "se-3", on="thief").refused("FL-JOIN-CONFLICT")
    if (stage.node("thief").state / "trust.json").exists():
        raise Failed("the second machine has joined")
    alarms = [a for a in stage.node("ctl-1").events("alarm") if a.get("alarm") == "join.interception-late"]
    if not alarms:
        raise Failed("ctl-1 logged no alarm")
    until("se-3 knows that it is frozen", lambda: stage.node("se-3").events("node.frozen"))
    console, audit, tunnels, nodes = stage.at_once(
        lambda: stage.shown("status", on="se-3"), lambda: stage.shown("audit", "list", on="ctl-1"),
        lambda: stage.shown("tunnel", "list", on="ctl-1"), lambda: stage.shown("node", "list", on="ctl-1"))
    fingerprint, events, peers = console["fingerprint"], {r["event"] for r in audit}, {t["peer"] for t in tunnels}
    state = next(n["state"] for n in nodes if n["name"] == "se-3")
    if "join.interception-late" not in events:
        raise Failed("the audit has no record of it")
    if (state, console["state"]) != ("frozen", "frozen") or "se-3" in peers:
        raise Failed(f"se-3 is {state}, for itself {console['state']}; there are tunnels of {', '.join(peers)}")
    stage.fairlead("node", "release", "se-3", "--fingerprint", fingerprint, on="ctl-1").done()
    return ("a second machine with se-3's bundle was refused (FL-JOIN-CONFLICT), ctl-1 raised the alarm "
            f"{alarms[0]['alarm']} and froze se-3, without a tunnel; released by the fingerprint on its own console "
            f"({fingerprint[:19]}...)")


def expired_token(stage: Stage) -> str:
    """A token is worthless after its time."""
    path = stage.export("late", "--ttl", "1s")
    token = json.loads(stage.fairlead("bundle", "show", str(path), "--json").done().out)["token_id"]
    until("the token is expired", lambda: stage.shown("token", "show", token, on="ctl-1")["state"] == "expired")
    why = stage.join(path, "late").refused("FL-JOIN-EXPIRED")
    return f"token {token[:8]}... of one second: {why}"


def foreign_certificate(stage: Stage) -> str:
    """Another cluster's Controller answers where the bundle says; it is a real one, but of another CA."""
    stage.result("foreign")
    try:
        why = stage.join(stage.result("foreign bundle"), "lost").refused("FL-JOIN-PEER")
    finally:
        stage.stop("foreign")
    if "certificate" not in why:
        raise Failed(f"it was refused, but not for its certificate: {why}")
    if (stage.node("lost").state / "trust.json").exists() or stage.node("foreign").events("join.refused"):
        raise Failed("something joined, or asked to")
    return f"another cluster's Controller at ctl-1's port {stage.port('portal')} was sent nothing: {why}"


def forbidden_service(stage: Stage) -> str:
    """se-2 is not allowed to reach the database: there is no listener, and asking for it is refused."""
    db, web = stage.port("db"), stage.port("web")
    ports = {one.port for one in stage.node("se-2").listeners()}
    if db in ports or web not in ports:
        raise Failed(f"se-2 listens on {sorted(ports)}: {db} (db) should not be there, {web} (web) should")
    explained = stage.fairlead("policy", "explain", "se-2", "db", "--json", on="ctl-1")
    owner = json.loads(explained.out)["owners"][0]
    if explained.code != 1 or owner["allowed"]:
        raise Failed(f"`{explained.command}` ended with exit code {explained.code}: {owner['why']}")
    seen = f"no listener on se-2; policy explain: {owner['why']}"
    if not shutil.which("ssh"):
        return f"{seen}; OpenSSH client: not installed, not run"
    place = f"{owner['address']}:{db}"
    allowed, refused = stage.at_once(lambda: stage.ssh("aviseuser", "se-1", "-W", place),
                                     lambda: stage.ssh("aviseuser", "se-2", "-W", place))
    allowed.done()
    if refused.code == 0 or PROHIBITED not in refused.error:
        raise Failed(f"`ssh -W {place}` with se-2's key ended with exit code {refused.code}: {refused.last}")
    return f"{seen}; `ssh -W {place}` opens with se-1's key, with se-2's: {PROHIBITED}"


def strange_users(stage: Stage) -> str:
    """A node's key is good for the node's user only."""
    if not shutil.which("ssh"):
        raise Absent("OpenSSH client")
    users = ("root", "admin", "avictlruser", "nobody-knows-me")
    tries: list[Callable[[], Result]] = [lambda user=user: stage.ssh(user, "se-1") for user in users]  # type: ignore[misc]
    for user, found in zip(users, stage.at_once(*tries), strict=True):
        if found.code == 0 or DENIED not in found.error:
            raise Failed(f"{user}@ with se-1's key ended with {found.code}: {found.last}")
    return f"ssh with se-1's key as {', '.join(users)}: {DENIED}"

"""The demo of a cluster, its last part: the portal's certificate becomes an organisation's while everybody works.

The organisation's PKI is made with stock openssl, as `docs/organisation-pki.md` does it.
"""

import shutil
import socket
import ssl
import sys
import time
from contextlib import suppress
from pathlib import Path

from fairlead.cli.demo.report import Absent
from fairlead.cli.stage.machine import until
from fairlead.cli.stage.processes import Failed
from fairlead.cli.stage.town import CONTROLLERS, Town

NAME, ORGANISATION = "corporate", "Example Corp"
FOREVER_S = 30.0
ECHO = """
import hashlib, socket, sys
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as listener:
    while True:
        sock, _ = listener.accept()
        seen, size = hashlib.sha256(), 0
        while data := sock.recv(65536):
            seen.update(data)
            size += len(data)
            sock.sendall(data)
        sock.close()
        print(size, seen.hexdigest(), flush=True)
"""
NUMBERS = """
import hashlib, os, signal, socket, sys, threading
end = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: end.set())
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=30)
sent, came, size = hashlib.sha256(), hashlib.sha256(), 0
print("open", flush=True)
def read():
    while data := sock.recv(65536):
        came.update(data)
reader = threading.Thread(target=read)
reader.start()
while not end.wait(0.002):
    line = b"%019d\\n" % (size // 20)
    sock.sendall(line)
    sent.update(line)
    size += len(line)
sock.shutdown(socket.SHUT_WR)
reader.join()
print(size, sent.hexdigest(), came.hexdigest(), flush=True)
"""


def certificate(town: Town) -> str:
    """From our own certificate to the organisation's, with a stream between an engine and a Controller."""
    if shutil.which("openssl") is None:
        raise Absent("openssl")
    chain = _organisation(town)
    _bring(town, chain)
    log, port = town.folder / "numbers.log", town.port("numbers")
    there = town.folder / "echo.log"
    target = town.port("echo")
    town.processes.start("echo", [sys.executable, "-c", ECHO, str(target)], there, within=town.node("ctl-2").within)
    town.fairlead("service", "add", "numbers", "--node", "ctl-2", "--port", str(port), "--target",
                  f"127.0.0.1:{target}", "--allow", "engines", on="ctl-1").done()
    where = town.address("ctl-2", "se-1")
    until("se-1 listens for the service", lambda: any(
        (str(one.address), one.port) == (where, port) for one in town.node("se-1").listeners()))
    stream = town.processes.start("numbers", [sys.executable, "-c", NUMBERS, where, str(port)], log,
                                  within=town.node("se-1").within)
    until("the stream is open", lambda: "open" in log.read_text())
    began = time.monotonic()
    town.fairlead("rotate", "start", "secure-channel", "--to", NAME, "--wait", "--revoke-tokens", on="ctl-3").done()
    took = time.monotonic() - began
    issuers = [_issuer(town, name, chain) for name in CONTROLLERS]
    town.expect(set(issuers), {f"{ORGANISATION} Issuing CA"}, "who issued what the portals present")
    code = town.processes.end(stream, FOREVER_S)
    until("the other end has read it all", lambda: len(there.read_text().split()) > 1)
    size, sent, came = log.read_text().split()[1:4]
    if code != 0 or there.read_text().split()[:2] != [size, sent] or came != sent:
        raise Failed(f"the stream lost something: {log.read_text()!r}, at the other end {there.read_text()!r}")
    steps = [step["phase"] for step in town.control("ctl-1").get("/api/rotation")["past"][0]["steps"]]
    verified = town.fairlead("audit", "verify", on="ctl-1").done().last
    return (f"`rotate start secure-channel --to {NAME}` at ctl-3: {', '.join(steps)}, in {took:.1f} s; all portals "
            f"present what {issuers[0]} has issued; a stream from se-1 to ctl-2 went on meanwhile, {int(size) // 20} "
            f"numbered lines there and back, SHA-256 {sent[:16]}... at both ends; {verified}")


def _organisation(town: Town) -> Path:
    """A root and an issuing CA in a folder; the file with both certificates."""
    folder = town.folder / "organisation"
    folder.mkdir(mode=0o700)
    (folder / "issuing.ext").write_text("basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign\n")
    (folder / "leaf.ext").write_text("basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n"
                                     "extendedKeyUsage=serverAuth\n")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    _openssl(town, "req", "-x509", *key, "-days", "30", "-keyout", "root.key", "-out", "root.pem",
             "-subj", f"/O={ORGANISATION}/CN={ORGANISATION} Root", "-addext", "keyUsage=critical,keyCertSign")
    _openssl(town, "req", "-new", *key, "-keyout", "issuing.key", "-out", "issuing.csr",
             "-subj", f"/O={ORGANISATION}/CN={ORGANISATION} Issuing CA")
    _openssl(town, "x509", "-req", "-in", "issuing.csr", "-CA", "root.pem", "-CAkey", "root.key", "-days", "30",
             "-extfile", "issuing.ext", "-out", "issuing.pem")
    chain = folder / "chain.pem"
    chain.write_text((folder / "issuing.pem").read_text() + (folder / "root.pem").read_text())
    return chain


def _bring(town: Town, chain: Path) -> None:
    """A request of the cluster's, signed by the issuing CA, and imported."""
    folder = chain.parent
    portal = f"portal.{town.shown('status', on='ctl-1')['cluster_uuid']}.fairlead.internal"
    request = town.fairlead("cert", "csr", "--name", NAME, "--common-name", "portal", "--san", portal, on="ctl-1")
    (folder / "leaf.csr").write_text(request.done().out)
    _openssl(town, "x509", "-req", "-in", "leaf.csr", "-CA", "issuing.pem", "-CAkey", "issuing.key", "-days", "20",
             "-copy_extensions", "copy", "-extfile", "leaf.ext", "-out", "leaf.pem")
    town.fairlead("cert", "import", "--name", NAME, "--certificate", str(folder / "leaf.pem"), "--chain", str(chain),
                  on="ctl-1").done()


def _openssl(town: Town, *arguments: str) -> None:
    folder = str(town.folder / "organisation")
    town.processes.run(["env", "-C", folder, "openssl", *arguments]).done()


def _issuer(town: Town, name: str, chain: Path) -> str:
    """Who issued what the portal of a Controller presents, verified by the organisation's root alone."""
    context = ssl.create_default_context(cafile=str(chain))
    host = f"portal.{town.shown('status', on=name)['cluster_uuid']}.fairlead.internal"
    with suppress(OSError), town.network.hosts[name].inside(), socket.create_connection(
            (town.where(name), 8443), timeout=10) as plain, context.wrap_socket(plain, server_hostname=host) as tls:
        fields = dict(pair for part in (tls.getpeercert() or {})["issuer"] for pair in part)  # type: ignore[misc]
        return str(fields["commonName"])
    raise Failed(f"{name} presents nothing that the organisation's root vouches for")

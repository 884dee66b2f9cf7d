"""An organisation's small PKI, made with stock openssl as its people would: a root, and an intermediate CA below it."""

import subprocess
from pathlib import Path


class Organisation:
    """A root and an intermediate, in a folder."""

    def __init__(self, folder: Path, name: str = "Example Corp") -> None:
        folder.mkdir(mode=0o700)
        self._folder = folder
        self._count = 0
        self._openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
                      "-keyout", "root.key", "-out", "root.pem", "-subj", f"/O={name}/CN={name} Root",
                      "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign")
        self._openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                      "-keyout", "issuing.key", "-out", "issuing.csr", "-subj", f"/O={name}/CN={name} Issuing CA")
        (folder / "issuing.ext").write_text("basicConstraints=critical,CA:TRUE,pathlen:0\n"
                                            "keyUsage=critical,keyCertSign\n")
        self._openssl("x509", "-req", "-in", "issuing.csr", "-CA", "root.pem", "-CAkey", "root.key", "-days", "30",
                      "-extfile", "issuing.ext", "-out", "issuing.pem")
        self.chain = folder / "chain.pem"
        """The issuing CA, then the root."""
        self.chain.write_text((folder / "issuing.pem").read_text() + (folder / "root.pem").read_text())

    def signed(self, request: str, *, days: int = 20) -> Path:
        """The certificate of a server for a request, with the names that it asks for."""
        self._count += 1
        (self._folder / "leaf.csr").write_text(request)
        (self._folder / "leaf.ext").write_text("basicConstraints=critical,CA:FALSE\n"
                                               "keyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth\n")
        self._openssl("x509", "-req", "-in", "leaf.csr", "-CA", "issuing.pem", "-CAkey", "issuing.key", "-days",
                      str(days), "-copy_extensions", "copy", "-extfile", "leaf.ext", "-out", f"leaf-{self._count}.pem")
        return self._folder / f"leaf-{self._count}.pem"

    def _openssl(self, *arguments: str) -> None:
        done = subprocess.run(["openssl", *arguments], cwd=self._folder, capture_output=True, text=True, timeout=60,
                              check=False)
        assert done.returncode == 0, done.stderr

"""A certificate authority for tests."""

from __future__ import annotations

from pathlib import Path

import trustme

from servers import Tls


class Authority:
    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._ca, self._folder = trustme.CA(), folder
        self._ca.cert_pem.write_to_path(folder / "ca.pem")

    def issue(self, name: str) -> Tls:
        """For clients the name is the certificate's common name; servers are 127.0.0.1."""
        cert = self._ca.issue_cert("127.0.0.1", common_name=name)
        tls = Tls(*(self._folder / part for part in ("ca.pem", f"{name}.pem", f"{name}.key")))
        cert.cert_chain_pems[0].write_to_path(tls.cert)
        cert.private_key_pem.write_to_path(tls.key)
        return tls

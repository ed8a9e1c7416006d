"""A frontend that publishes keys and signs tokens with them, as Better Auth's jwt plugin does."""

import json
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tests.harness import token

RSA_KEY = rsa.generate_private_key(65537, 2048)
KEYS = {
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "ES512": ec.generate_private_key(ec.SECP521R1()),
    "RS256": RSA_KEY,
    "PS256": RSA_KEY,
}


def published(algorithm: str, **members: Any) -> dict[str, Any]:
    """Return the JWK that Better Auth would publish for a key; its kid is the algorithm's name."""
    public_key = KEYS[algorithm].public_key()
    key = jwt.get_algorithm_by_name(algorithm).to_jwk(public_key, as_dict=True)
    return key | {"kid": algorithm, "alg": algorithm} | members


class KeyServer(ThreadingHTTPServer):
    """Stands where the frontend publishes its keys; `body` is what it answers instead of them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.keys = [published(algorithm) for algorithm in KEYS]
        self.status = 200
        self.headers: dict[str, str] = {}
        self.body: bytes | None = None
        self.is_silent = False
        self.is_trickling = False  # a byte of the body at a time, without end
        self.asked: list[dict[str, str]] = []  # the headers of each request, with its path
        self.is_stopping = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.is_stopping.set()
        self.shutdown()
        self.server_close()

    def sign(self, user: str = "ada", algorithm: str = "EdDSA", **claims: Any) -> str:
        """Return a token of this frontend."""
        usual = {"key": KEYS.get(algorithm), "kid": algorithm, "iss": self.url, "aud": self.url}
        return token(user, algorithm=algorithm, **usual | claims)


class Answer(BaseHTTPRequestHandler):
    server: KeyServer

    def do_GET(self) -> None:
        server = self.server
        server.asked.append(dict(self.headers) | {"path": self.path})
        while server.is_silent and not server.is_stopping.is_set():
            time.sleep(0.01)
        with suppress(ConnectionError):  # The reader may have gone.
            self.send_response(server.status)
            for name, value in server.headers.items():
                self.send_header(name, value)
            self.end_headers()
            while server.is_trickling and not server.is_stopping.wait(0.02):
                self.wfile.write(b" ")
            keys = json.dumps({"keys": server.keys}).encode()
            self.wfile.write(keys if server.body is None else server.body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

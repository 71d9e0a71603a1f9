"""The enrolment server: HTTPS with bounded everything, and `Enrolment` behind it.

One thread accepts, WORKERS threads serve one connection each from handshake to answer, CONNECTIONS may wait
or be served at once, PER_ADDRESS of them from one address: fewer than there are workers, so that nobody alone
holds them all. Who comes beyond that is closed at once and counted. A connection has DEADLINE_S in all, of
that HANDSHAKE_S for the handshake and HEAD_S for the request's head: who connects and is silent is soon gone.

TLS checks a client's certificate against our TLS issuing authority, chain and purpose, but not its time and
not its revocation: those are judged for every request against wall time and the register, so that the
answer can say what to do. An alert of TLS could not.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from provisioning import est
from provisioning.ca import Purpose
from provisioning.errors import CaError, EstError, ProvisioningError, Refusal
from provisioning.runtime import est_codec
from provisioning.runtime.ca_admin import crls_due, write_crls
from provisioning.runtime.ca_files import CaFolder, load, renew_server
from provisioning.runtime.ca_metrics import CaMetrics
from provisioning.runtime.ca_service import Enrolment
from provisioning.runtime.est_codec import Head, bad
from provisioning.runtime.est_log import tell_answer, tell_refusal
from provisioning.runtime.kinds import say

DEADLINE_S: Final = 10.0
"""From accept to the last byte of the answer; a request over a slow mobile network takes two seconds."""
HANDSHAKE_S: Final = 2.0
"""From a worker's turn to the end of the handshake: two round trips, of 0.6 s over a slow mobile network."""
HEAD_S: Final = 2.0
"""From there to the end of the request's head, which our clients send at once."""
WORKERS: Final = 16
"""Connections served at once: most of a worker's time is waiting for the network."""
CONNECTIONS: Final = 128
"""Connections that wait or are served; beyond that the answer would come after the client's own time-out."""
PER_ADDRESS: Final = 12
"""Of one address: a yard's technicians share one behind their router. Below WORKERS: see above."""
MAX_TOLD: Final = 1024
"""Addresses that are told apart among those turned away in a second; the others are counted together."""
_NO_CHECK_TIME: Final = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which Python gives no name."""
_POSTS: Final = {
    est.enroll_path(purpose, again=again): (purpose, again) for purpose in Purpose for again in (False, True)
}
_CRLS: Final = {est.crl_path(purpose): purpose for purpose in Purpose}
_RELOADED: Final = ("ca.toml", "root.crt", "tls.crt", "event.crt", "tls.key", "event.key")


def tls_context(opened: CaFolder) -> ssl.SSLContext:
    """TLS 1.2 or newer, our certificate, a client's certificate asked for. Raises CaError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(opened.path / "est" / "tls.crt", opened.path / "est" / "tls.key")
    except (OSError, ssl.SSLError) as error:
        raise CaError(
            f"{opened.path / 'est'}: the server's key and certificate cannot be used: {error}"
        ) from error
    context.verify_mode = ssl.CERT_OPTIONAL
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT
    context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
    context.load_verify_locations(cadata=opened.tls.certificate.public_bytes(Encoding.PEM).decode())
    return context


class EstServer:
    """Serves `enrolment` until `stop`. `port` is known after `start`."""

    def __init__(self, enrolment: Enrolment, host: str, port: int) -> None:
        self._enrolment = enrolment
        self.metrics = CaMetrics(enrolment)
        self._context = tls_context(enrolment.opened)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=CONNECTIONS)
        self.port: int = self._socket.getsockname()[1]
        self._pool = ThreadPoolExecutor(WORKERS, "enrol")
        self._lock = threading.Lock()
        self._open: Counter[str] = Counter()
        self._turned_away: Counter[str] = Counter()
        self._stopping = threading.Event()
        self._acceptor = threading.Thread(target=self._accept, name="accept", daemon=True)
        self._seen = self._stamps()
        self._complaint = ""

    def start(self) -> None:
        """Begin to accept."""
        self._acceptor.start()

    def stop(self) -> None:
        """Take no more, finish what was begun."""
        self._stopping.set()
        self._socket.shutdown(socket.SHUT_RDWR)  # wakes the acceptor
        self._acceptor.join()
        self._socket.close()
        self._pool.shutdown()

    # --- keeping house -------------------------------------------------------------------------------

    def tick(self) -> None:
        """What is due: files that people changed, our own certificate, revocation lists. Call each second."""
        with self._lock:
            turned_away, self._turned_away = self._turned_away, Counter()
        if turned_away:
            say("turned_away", count=turned_away.total(), peer=turned_away.most_common(1)[0][0])
            self.metrics.refused("too_many_connections", turned_away.total())
        try:
            now = self._enrolment.now()
            changed = self._stamps() != self._seen
            if changed:
                self._seen = self._stamps()
                self._enrolment.opened = load(self._enrolment.opened.path)
            renewed = renew_server(self._enrolment.opened, now)
            if changed or renewed:
                self._context = tls_context(self._enrolment.opened)
                say("ca_reloaded")
            if crls_due(self._enrolment.opened, now):
                write_crls(self._enrolment.opened, self._enrolment.register, now)
                say("crl_written")
        except (ProvisioningError, OSError) as error:
            self._complain(f"{error}")

    def _complain(self, text: str) -> None:
        if text != self._complaint:  # once, not each second
            self._complaint = text
            say("housekeeping_failed", detail=text)

    def _stamps(self) -> list[int]:
        paths = [self._enrolment.opened.path / name for name in _RELOADED]
        return [path.stat().st_mtime_ns if path.exists() else 0 for path in paths]

    # --- connections ---------------------------------------------------------------------------------

    def _accept(self) -> None:
        self._socket.settimeout(1.0)
        while not self._stopping.is_set():
            try:
                connection, address = self._socket.accept()
            except TimeoutError:
                continue
            except OSError as error:
                if self._stopping.is_set():
                    break
                # out of file descriptors, or the client is gone: others come
                self._complain(f"accept: {error}")
                time.sleep(0.05)
                continue
            peer = str(address[0])
            with self._lock:
                full = self._open.total() >= CONNECTIONS or self._open[peer] >= PER_ADDRESS
                if full and (peer in self._turned_away or len(self._turned_away) < MAX_TOLD):
                    self._turned_away[peer] += 1
                elif full:
                    self._turned_away[""] += 1
                else:
                    self._open[peer] += 1
            if full:
                connection.close()
            else:
                served = self._pool.submit(self._serve, connection, peer, time.monotonic() + DEADLINE_S)
                served.add_done_callback(_tell_crash)

    def _serve(self, connection: socket.socket, peer: str, deadline: float) -> None:
        try:
            with connection:
                connection.settimeout(min(HANDSHAKE_S, _left(deadline)))
                with self._context.wrap_socket(connection, server_side=True) as secure:
                    answer = self._answer(_Wire(secure, deadline), peer)
                    secure.settimeout(_left(deadline))
                    secure.sendall(answer)
                    secure.settimeout(min(1.0, _left(deadline)))
                    secure.unwrap()  # says that this was all, and waits a moment for the client to agree
        except (OSError, ValueError) as error:  # time-outs, resets, failed handshakes: the client's affair
            say("connection_ended", peer=peer, error=error)
        finally:
            with self._lock:
                self._open[peer] -= 1
                if not self._open[peer]:
                    del self._open[peer]

    def _answer(self, wire: _Wire, peer: str) -> bytes:
        path = ""
        try:
            head = wire.head()
            path = head.path
            body = wire.body(head)
            return self._route(head, body, wire.client(), peer)
        except Refusal as refusal:
            tell_refusal(refusal, peer, path)
            self.metrics.refused(refusal.code)
            return est_codec.refusal_response(refusal)
        except (CaError, OSError) as error:
            if isinstance(error, TimeoutError):
                raise
            trouble = Refusal(
                503, "server_trouble", f"{error}", "the administrator sees why; send the same request again"
            )
            tell_refusal(trouble, peer, path)
            self.metrics.refused(trouble.code)
            return est_codec.refusal_response(trouble)

    # --- requests ------------------------------------------------------------------------------------

    def _route(self, head: Head, body: bytes, client: x509.Certificate | None, peer: str) -> bytes:
        posted = _POSTS.get(head.path)
        if posted is None and head.path not in (est.CACERTS, est.NODE, *_CRLS):
            raise bad(404, "not_found", "there is nothing at this address")
        wanted = "POST" if posted else "GET"
        if head.method != wanted:
            raise bad(405, "wrong_method", f"this address takes {wanted}")
        if posted:
            return self._certify(*posted, head, body, client, peer)
        if head.path == est.CACERTS:
            return self._cacerts()
        return self._node(client) if head.path == est.NODE else self._crl(_CRLS[head.path])

    def _certify(
        self,
        purpose: Purpose,
        again: bool,
        head: Head,
        body: bytes,
        client: x509.Certificate | None,
        peer: str,
    ) -> bytes:
        by_code = purpose is Purpose.TLS and not again
        # Who has no code learns nothing about requests.
        code = est.read_basic(head.headers.get("authorization")) if by_code else ""
        est_codec.check_csr_type(head)
        try:
            csr = est.decode_der(body)
        except EstError as error:
            raise bad(400, "bad_request", f"{error}") from error
        if by_code:
            answer = self._enrolment.enroll_tls(code, csr, peer)
        elif again:
            answer = self._enrolment.renew(purpose, client, csr)
        else:
            answer = self._enrolment.enroll_event(client, csr)
        tell_answer(answer, peer, again=again)
        self.metrics.gave(answer, again=again)
        return est_codec.der_response(est.CERTS_TYPE, est.encode_der(est.certs_only([answer.certificate])))

    def _cacerts(self) -> bytes:
        opened = self._enrolment.opened
        chain = [opened.root, opened.tls.certificate, opened.event.certificate]
        return est_codec.der_response(est.CACERTS_TYPE, est.encode_der(est.certs_only(chain)))

    def _node(self, client: x509.Certificate | None) -> bytes:
        return est_codec.response(200, est_codec.JSON_TYPE, est.node_json(*self._enrolment.node(client)))

    def _crl(self, purpose: Purpose) -> bytes:
        path = self._enrolment.opened.path / "crl" / f"{purpose.value}.crl"
        return est_codec.response(200, est.CRL_TYPE, path.read_bytes())


class _Wire:
    """One request, read within its deadline."""

    def __init__(self, secure: ssl.SSLSocket, deadline: float) -> None:
        self._secure = secure
        self._deadline = deadline
        self._held = b""

    def client(self) -> x509.Certificate | None:
        """The certificate of the client, or None where it showed none."""
        der = self._secure.getpeercert(binary_form=True)
        return x509.load_der_x509_certificate(der) if der else None

    def head(self) -> Head:
        """Up to the empty line, within HEAD_S. Raises Refusal, OSError."""
        deadline = min(self._deadline, time.monotonic() + HEAD_S)
        while (end := self._held.find(b"\r\n\r\n")) < 0:
            if len(self._held) > est_codec.MAX_HEAD:
                raise bad(431, "head_too_large", f"the head has more than {est_codec.MAX_HEAD} bytes")
            self._more(deadline)
        head, self._held = self._held[:end], self._held[end + 4 :]
        return est_codec.read_head(head)

    def body(self, head: Head) -> bytes:
        """As many bytes as the head says. Raises OSError."""
        if head.wants_continue and head.length > len(self._held):
            self._secure.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        while len(self._held) < head.length:
            self._more(self._deadline)
        return self._held[: head.length]

    def _more(self, deadline: float) -> None:
        self._secure.settimeout(_left(deadline))
        data = self._secure.recv(16 * 1024)
        if not data:
            raise ConnectionResetError("the client left")
        self._held += data


def _tell_crash(served: Future[None]) -> None:
    if (error := served.exception()) is not None:  # a fault of ours: this connection ends, others go on
        say("ca_fault", error=repr(error), exc_info=error)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the request took too long")
    return left

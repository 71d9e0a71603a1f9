"""The detector: readings in, verdicts out. Streaming, bounded, pure; see README.md for what it claims.

Every reading updates one summary of its sensor, then the rules look at the whole scene. Nothing is kept but
the summaries, so memory does not grow and a reading costs the same on the first day and in the last month.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from firmware_bridge.reading import (
    BoardHello,
    PortState,
    Position,
    PositionVoid,
    Power,
    Reading,
    Relay,
    SkyView,
    Tyre,
    Vibration,
    Wheel,
)
from models import jamming, silence, tamper, towing
from models.fence import Fence, FenceWatch
from models.incident import Book, Claim
from models.limits import Limits
from models.ports import Port
from models.scene import Scene
from models.track import Trust
from models.verdict import Cause, Verdict

_S = 1_000_000_000
_RULES_NS = _S // 2
"""Rules run at once on what can decide something, and else no more often than this."""


class Detector:
    """Incidents of one vehicle, or of one roadside node (no tyres, no fence)."""

    def __init__(
        self,
        limits: Limits,
        *,
        tyres: Mapping[Wheel, str] | None,
        fence: Fence | None,
        expects_board: bool,
    ) -> None:
        """`tyres`: enrolled sensor ids by wheel, None where there are none: then a tow is never claimed.
        `fence`: the region, None for anywhere. `expects_board`: a vibration and tyre board is configured."""
        self._scene = Scene(limits, tyres)
        self._book = Book(limits)
        self._fence = None if fence is None else FenceWatch(limits, fence)
        self._expects_board = expects_board
        self._now: int | None = None
        self._ruled = 0

    @property
    def suspects(self) -> int:
        """Fixes that were intact and that Doppler speed denies; none of them moved the vehicle."""
        return self._scene.track.suspects

    @property
    def estimated(self) -> int:
        """Dead-reckoned fixes seen; none of them moved the vehicle."""
        return self._scene.track.estimated

    def configured(self, ports: Collection[str], *, expects_board: bool) -> None:
        """The node's ports are now these: one that was taken away on purpose is not silent."""
        self._scene.ports.keep(ports)
        self._expects_board = expects_board

    def open_incidents(self) -> list[Verdict]:
        """The last verdict on each open incident, oldest incident first."""
        return self._book.verdicts()

    def observe(self, reading: Reading) -> list[Verdict]:
        """Take one reading. Time that goes back counts as the present. Never raises."""
        now = self._advance(reading.t_ns)
        if reading.t_ns != now:
            reading = replace(reading, t_ns=now)
        decisive = self._take(reading, now)
        if decisive or now - self._ruled >= _RULES_NS:
            return self._judge(now)
        return []

    def tick(self, t_ns: int) -> list[Verdict]:
        """Time went on without a reading: dwell and silence. Call it about once a second. Never raises."""
        return self._judge(self._advance(t_ns))

    def _advance(self, t_ns: int) -> int:
        if self._now is None:
            self._now = t_ns
        step = max(0, t_ns - self._now)
        self._scene.watch_s += min(step / _S, self._scene.limits.watch_step_s)
        self._now += step
        return self._now

    # -- sensors ---------------------------------------------------------------------------------------

    def _take(self, reading: Reading, now: int) -> bool:
        """Update the summaries; True where the rules should run at once."""
        scene = self._scene
        if isinstance(reading, PortState):
            scene.ports.condition(reading.port, reading.condition, now, scene.watch_s)
            return True
        if isinstance(reading, Relay):
            return False  # another vehicle's words
        port = scene.ports.heard(reading.port, now, scene.watch_s)
        if isinstance(reading, Position | PositionVoid | SkyView):
            if port is not None:
                port.gnss = True
            return self._take_gnss(reading, now)
        if port is not None:
            port.board = True
        return self._take_board(reading, port, now)

    def _take_gnss(self, reading: Position | PositionVoid | SkyView, now: int) -> bool:
        scene = self._scene
        if isinstance(reading, SkyView):
            scene.sky.view(reading)
            return False
        if isinstance(reading, PositionVoid):
            scene.sky.unfixed(now)
            return False
        trust = scene.track.fix(reading)
        if trust is Trust.ESTIMATED:
            scene.sky.unfixed(now)
            return False
        scene.sky.fixed(now)
        if trust is Trust.TRUSTED:
            self._follow()
        return True

    def _follow(self) -> None:
        """A trusted fix: parking and fence."""
        scene, parking = self._scene, self._scene.parking
        before = parking.moved_ns
        keep = Cause.MOVED_WITHOUT_WHEELS in self._book or scene.motion.tilted_ns is not None
        if parking.fix(scene.track, keep=keep):
            scene.motion.parked()
            scene.tyres.forget_mark()
            scene.rolls = 0
        elif before is None and parking.moved_ns is not None:
            scene.tyres.mark()
        self._settle_episode()
        if self._fence is not None:
            self._fence.fix(scene.track)

    def _take_board(
        self, reading: Tyre | Vibration | Power | BoardHello, port: Port | None, now: int
    ) -> bool:
        scene = self._scene
        if isinstance(reading, Vibration):
            scene.motion.take(reading)
            return False
        if isinstance(reading, Tyre):
            if scene.tyres.take(reading) and reading.rolling and scene.parking.parked:
                scene.rolls += 1
                self._settle_episode()
            return True
        if isinstance(reading, Power):
            scene.supply.take(reading)
            if port is not None:
                port.due_s = float(max(0, reading.next_report_s))
            return True
        return False

    def _settle_episode(self) -> None:
        """End the parked episode when the vehicle evidently drives by itself."""
        scene, parking = self._scene, self._scene.parking
        if not parking.parked or Cause.MOVED_WITHOUT_WHEELS in self._book:
            return  # an open incident ends first, with its reason
        tyres = scene.tyres
        needed = 1 if scene.motion.tilted_ns is None else 2
        moved = parking.moved_ns
        unknown = moved is not None and not tyres.judgeable() and parking.distance_m > scene.limits.tow_far_m
        if scene.rolls >= needed or tyres.warmed or unknown:
            self._end_episode()

    def _end_episode(self) -> None:
        scene = self._scene
        scene.parking.end()
        scene.motion.driven()
        scene.tyres.forget_mark()
        scene.rolls = 0

    # -- rules -----------------------------------------------------------------------------------------

    def _judge(self, now: int) -> list[Verdict]:
        self._ruled = now
        out: list[Verdict | None] = []
        self._judge_tow(now, out)
        self._judge_tamper(now, out)
        self._judge_fence(now, out)
        self._judge_jamming(now, out)
        self._judge_silence(now, out)
        return [verdict for verdict in out if verdict is not None]

    def _judge_tow(self, now: int, out: list[Verdict | None]) -> None:
        scene, cause = self._scene, Cause.MOVED_WITHOUT_WHEELS
        if cause not in self._book:
            self._claim(cause, towing.claim(scene, now), now, out)
            return
        why = towing.ending(scene, now)
        if why is not None:
            self._close(cause, why, now, out)
            self._end_episode()
        elif self._book.ask(cause, now):
            since = self._book.opened_ns(cause)
            self._claim(cause, towing.restate(scene, now, now if since is None else since), now, out)

    def _judge_tamper(self, now: int, out: list[Verdict | None]) -> None:
        scene, cause = self._scene, Cause.REMOVED_OR_OPENED
        opened = self._book.opened_ns(cause)
        if opened is None:
            found = tamper.claim(scene, now)
            self._claim(cause, found, now, out)
            if found is not None and Cause.SILENT in self._book:
                self._close(Cause.SILENT, "The silence belongs to the removal.", now, out)
            return
        why = tamper.ending(scene, now, opened)
        if why is not None:
            self._close(cause, why, now, out)
        elif self._book.ask(cause, now):
            self._claim(cause, tamper.claim(scene, now), now, out)

    def _judge_fence(self, now: int, out: list[Verdict | None]) -> None:
        cause, watch = Cause.LEFT_REGION, self._fence
        if watch is None:
            return
        if cause in self._book:
            if watch.outside is False:
                self._close(cause, "It is back in its region.", now, out)
            elif self._book.ask(cause, now):
                self._claim(cause, watch.claim(self._scene.track, now), now, out)
        elif watch.outside:
            self._claim(
                cause, watch.claim(self._scene.track, now), now, out, parents=(Cause.MOVED_WITHOUT_WHEELS,)
            )

    def _judge_jamming(self, now: int, out: list[Verdict | None]) -> None:
        scene, cause = self._scene, Cause.JAMMED
        if cause in self._book:
            why = jamming.ending(scene, now)
            if why is not None:
                self._close(cause, why, now, out)
            elif self._book.ask(cause, now):
                self._claim(cause, jamming.claim(scene, now), now, out)
            return
        parents = (Cause.REMOVED_OR_OPENED, Cause.MOVED_WITHOUT_WHEELS)
        self._claim(cause, jamming.claim(scene, now), now, out, parents=parents)

    def _judge_silence(self, now: int, out: list[Verdict | None]) -> None:
        cause = Cause.SILENT
        if Cause.REMOVED_OR_OPENED in self._book and cause not in self._book:
            return  # its own grounds tell of the silence
        found = silence.claim(self._scene, now, self._expects_board)
        if found is None and cause in self._book:
            self._close(cause, "All sources speak again.", now, out)
            return
        self._claim(cause, found, now, out)

    def _claim(
        self,
        cause: Cause,
        claim: Claim | None,
        now: int,
        out: list[Verdict | None],
        parents: tuple[Cause, ...] = (),
    ) -> None:
        """Open or update `cause`; where only a parent is open, the grounds join the parent's."""
        if claim is None:
            return
        place = self._scene.track.place
        if cause not in self._book:
            for parent in parents:
                if parent in self._book:
                    out.append(self._book.fold(parent, claim.grounds, now, place))
                    return
        out.append(self._book.claim(cause, claim, now, place))

    def _close(self, cause: Cause, why: str, now: int, out: list[Verdict | None]) -> None:
        out.append(self._book.close(cause, why, now, self._scene.track.place))

"""What the board says of itself: supply, case, and when it will speak again."""

from __future__ import annotations

from firmware_bridge.reading import Power, PowerState
from models.limits import Limits

_S = 1_000_000_000


class Supply:
    """Running state over power reports."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.heard_ns: int | None = None
        self.volts = 0.0
        self.state: PowerState | None = None
        self.engine_ns: int | None = None
        """Last report with a charging voltage."""
        self.case_open_ns: int | None = None
        """Begin of the present opening."""
        self.case_reports = 0
        """Reports in a row that say open."""
        self.cut_ns: int | None = None
        """Begin of the present cut; a supply seen before is needed for one."""
        self.sound_since_ns: int | None = None
        """Closed and supplied since."""
        self.next_report_s = 0
        self._supplied = False

    def take(self, report: Power) -> None:
        """One report."""
        now, limits = report.t_ns, self._limits
        self.heard_ns, self.volts, self.state = now, report.supply_v, report.state
        self.next_report_s = max(0, report.next_report_s)
        if report.supply_v >= limits.engine_v:
            self.engine_ns = now
        if report.case_open:
            self.case_reports += 1
            self.case_open_ns = now if self.case_open_ns is None else self.case_open_ns
        else:
            self.case_open_ns, self.case_reports = None, 0
        if report.supply_v < limits.cut_v:
            if self._supplied and self.cut_ns is None:
                self.cut_ns = now
        else:
            self._supplied, self.cut_ns = True, None
        if report.case_open or report.supply_v < limits.cut_v:
            self.sound_since_ns = None
        elif self.sound_since_ns is None:
            self.sound_since_ns = now

    def fresh(self, now: int) -> bool:
        """The voltage says something about now."""
        return self.heard_ns is not None and now - self.heard_ns <= self._limits.supply_fresh_s * _S

    def engine_since(self, t_ns: int) -> bool:
        """A charging voltage was reported at or after `t_ns`."""
        return self.engine_ns is not None and self.engine_ns >= t_ns

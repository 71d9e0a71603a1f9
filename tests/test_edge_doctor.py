"""`holdfast doctor` on real things: ptys, second openers, brokers with wrong names, expired certificates."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import time
import tty
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import serialx
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from edge_live import Live
from mqtt_lab import DEVICE, TENANT, broker, find_mosquitto, free_port, new_lab, start_mosquitto

from edge.__main__ import doctor as app
from edge.config import Config
from edge.runtime import doctor, doctor_keys, doctor_ports, doctor_store
from edge.runtime.doctor_ports import Who, service_user
from edge.runtime.load import load_config
from edge.runtime.outbox_look import look
from edge.status import ORDER, Finding, Level, exit_code
from provisioning import ca
from provisioning.ca import Revoked, Validity
from provisioning.enrolment import Wanted, settle
from provisioning.identity import Identity
from provisioning.runtime.lab import Lab, certificate_pem, key_pem


def host_time() -> datetime:
    return datetime.now(UTC)


def none() -> list[serialx.SerialPortInfo]:
    """No serial device is attached."""
    return []


def adapter(name: str, serial: str | None = None) -> serialx.SerialPortInfo:
    """A USB adapter as the system lists it."""
    return serialx.SerialPortInfo(
        device=name, resolved_device=name, vid=0x10C4, pid=0xEA60, serial_number=serial, manufacturer="Maker",
        product="CP2102", bcd_device=None, interface_description=None, interface_num=None, port_number=None,
    )  # fmt: skip


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return new_lab(tmp_path / "lab")


@pytest.fixture
def port() -> Iterator[tuple[int, str]]:
    master, slave = pty.openpty()
    tty.setraw(slave)
    name = os.ttyname(slave)
    os.close(slave)
    yield master, name
    os.close(master)


def node(lab: Lab, ports: str = "", broker_port: int = 0, more: str = "", server: str = "localhost") -> Path:
    """node.toml of the lab's car."""
    folder = lab.nodes[DEVICE]
    uplink = (
        f'[uplink]\nhost = "127.0.0.1"\nport = {broker_port}\nserver_name = "{server}"\n'
        if broker_port
        else ""
    )
    path = folder / "node.toml"
    path.write_text(
        f'[node]\ntenant = "{TENANT}"\ndevice = "{DEVICE}"\n[state]\ndir = "{folder}"\n{uplink}{more}{ports}'
    )
    return path


def gnss(path: str) -> str:
    return f'[[port]]\nname = "gnss"\npath = "{path}"\nprotocol = "nmea"\n'


def named(findings: list[Finding], check: str) -> list[Finding]:
    return [one for one in findings if one.check == check]


def only(findings: list[Finding], check: str) -> Finding:
    (found,) = named(findings, check)
    return found


def loaded(path: Path) -> Config:
    return load_config(path)


# ---- the whole ---------------------------------------------------------------------------------------


def test_a_good_node_has_no_error_and_nothing_is_changed(lab: Lab, port: tuple[int, str]) -> None:
    path = node(lab, gnss(port[1]))
    before = listing(lab.nodes[DEVICE])
    found = doctor.examine(path, host_time, none)
    assert exit_code(found) == 0, [one for one in found if one.level is Level.ERROR]
    assert {one.check for one in found} >= {
        "config", "clock", "disk", "ports", "trust", "tls_certificate", "event_certificate", "outbox", "edge",
    }  # fmt: skip
    assert only(found, "ports").level is Level.OK
    assert listing(lab.nodes[DEVICE]) == before


def listing(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Every file with its owner, size and time of change."""
    return {
        str(one): (one.lstat().st_uid, one.lstat().st_size, one.lstat().st_mtime_ns)
        for one in sorted(folder.rglob("*"))
    }


def test_every_finding_that_is_wrong_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text('[node]\ntenant = "fund"\ndevice = "car-1"\n' + gnss("/dev/absent"))
    found = doctor.examine(path, host_time, none)
    wrong = [one for one in found if one.level in (Level.WARNING, Level.ERROR)]
    assert len(wrong) >= 3 and all(one.next for one in wrong), wrong


def test_json_is_on_stdout_and_the_exit_code_is_in_it(
    lab: Lab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = node(lab, gnss("/dev/absent"))
    with pytest.raises(SystemExit) as ended:
        app(["--config", str(path), "--json"])
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert ended.value.code == told["exit_code"] == 10 and told["ok"] is False
    (absent,) = [one for one in told["findings"] if one["level"] == "error"]
    assert absent["check"] == "ports" and "/dev/absent is not there" in absent["text"] and absent["next"]
    assert "/dev/absent" in err and "1 errors" in err


def test_a_configuration_that_cannot_be_meant_is_exit_2(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text("[nood]\n")
    found = doctor.examine(path, host_time, none)
    assert exit_code(found) == 2 and "holdfast config check" in only(found, "config").next
    assert exit_code(doctor.examine(tmp_path / "absent.toml", host_time, none)) == 2


def test_the_exit_code_is_of_what_to_mend_first() -> None:
    def error(code: int) -> Finding:
        return Finding("x", Level.ERROR, "x", "x", code)

    assert exit_code([]) == 0
    assert exit_code([Finding("x", Level.WARNING, "x", "x", 40)]) == 0
    assert exit_code([error(31), error(10), error(40)]) == 10
    assert exit_code([error(1), error(2), error(13)]) == 2
    assert sorted(ORDER) == [1, 2, 10, 11, 12, 13, 31, 40]


# ---- ports -------------------------------------------------------------------------------------------


def test_a_second_opener_is_named(lab: Lab, port: tuple[int, str]) -> None:
    config = loaded(node(lab, gnss(port[1])))
    with open(port[1], "rb", buffering=0) as held:
        other = subprocess.Popen([shutil.which("sleep") or "sleep", "60"], stdin=held)
    try:
        found = taken(config)
        assert found.code == 12 and f"sleep (process {other.pid}) has {port[1]} open" in found.text
        assert f"kill {other.pid}" in found.next
    finally:
        other.kill()
        other.wait()
    assert only(doctor_ports.check_ports(config, service_user(Path("/")), none), "ports").level is Level.OK


def taken(config: Config) -> Finding:
    """The error of the port, once the other program is there."""
    end = time.monotonic() + 10
    while True:
        found = only(doctor_ports.check_ports(config, service_user(Path("/")), none), "ports")
        if found.level is Level.ERROR:
            return found
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("name", "then"), [("gpsd", "gpsd.socket"), ("ModemManager", "ModemManager.service")]
)
def test_gpsd_or_modemmanager_on_our_port_is_told_how_to_stop(
    lab: Lab, port: tuple[int, str], tmp_path: Path, name: str, then: str
) -> None:
    program = tmp_path / name
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    with open(port[1], "rb", buffering=0) as held:
        other = subprocess.Popen([program, "60"], stdin=held)
    try:
        found = taken(loaded(node(lab, gnss(port[1]))))
        assert found.code == 12 and found.text.startswith(f"port gnss: {name} ") and then in found.next
    finally:
        other.kill()
        other.wait()


def test_gpsd_that_is_configured_for_our_port_is_a_warning(
    lab: Lab, port: tuple[int, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults = tmp_path / "gpsd.default"
    defaults.write_text(f'DEVICES="{port[1]}"\nUSBAUTO="true"\n')
    monkeypatch.setattr(doctor_ports, "GPSD_DEFAULTS", defaults)
    config = loaded(node(lab, gnss(port[1])))
    assert only(doctor_ports.check_ports(config, service_user(Path("/")), none), "grabbers").level is Level.OK
    program = tmp_path / "gpsd"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    other = subprocess.Popen([program, "60"])
    try:
        end = time.monotonic() + 10
        while (
            found := only(doctor_ports.check_ports(config, service_user(Path("/")), none), "grabbers")
        ).next == "":
            assert time.monotonic() < end
            time.sleep(0.02)
        assert found.level is Level.WARNING and port[1] in found.text and "gpsd.socket" in found.next
    finally:
        other.kill()
        other.wait()


def test_the_running_edge_is_not_taken_for_a_stranger() -> None:
    live = Live()
    os.close(live._slave)  # this test's own hold on the port
    slave = -1
    try:
        live.start()
        config = loaded(live.config)
        assert doctor_ports.edge_process(config.path("facts.sock")) == live.process.pid  # type: ignore[union-attr]
        end = time.monotonic() + 10
        while not doctor_ports.openers(os.stat(config.ports[0].path).st_rdev):
            assert time.monotonic() < end
            time.sleep(0.02)
        found = only(doctor_ports.check_ports(config, service_user(live.folder), none), "ports")
        assert found.level is Level.OK and "the edge reads it" in found.text
        told = doctor.examine(live.config, host_time, none)
        assert exit_code(told) == 0 and not [one for one in named(told, "edge") if one.level is Level.WARNING]
        slave = os.open(config.ports[0].path, os.O_RDWR | os.O_NOCTTY)
    finally:
        live._slave = slave if slave >= 0 else os.open("/dev/null", os.O_RDONLY)
        live.close()


def test_who_may_open_a_port_is_judged_by_mode_and_groups(lab: Lab, tmp_path: Path) -> None:
    device = tmp_path / "port"
    device.write_bytes(b"")
    device.chmod(0o660)
    owner, group = device.stat().st_uid, device.stat().st_gid
    assert Who("a", owner + 1, frozenset({group})).may(device, 6)
    assert not Who("a", owner + 1, frozenset({group + 1})).may(device, 6)
    assert Who("a", owner, frozenset()).may(device, 6) and Who("root", 0, frozenset()).may(device, 7)
    device.chmod(0o640)
    assert not Who("a", owner + 1, frozenset({group})).may(device, 6)


def test_a_port_of_another_group_is_exit_13_and_names_usermod(lab: Lab, port: tuple[int, str]) -> None:
    os.chmod(port[1], 0o660)
    config = loaded(node(lab, gnss(port[1])))
    found = doctor_ports.check_ports(config, Who("holdfast", 54_321, frozenset()), none)
    denied = only(found, "dialout")
    assert denied.code == 13 and exit_code(found) == 13
    assert "sudo usermod -aG " in denied.next and "holdfast" in denied.next
    os.chmod(port[1], 0o600)
    assert (
        "chmod 660"
        in only(doctor_ports.check_ports(config, Who("h", 54_321, frozenset()), none), "dialout").next
    )


def test_what_is_no_serial_device_is_exit_2(lab: Lab) -> None:
    folder = lab.nodes[DEVICE]
    (folder / "file").write_text("")
    found = doctor_ports.check_ports(
        loaded(node(lab, gnss(str(folder / "file")))), service_user(folder), none
    )
    assert only(found, "ports").code == 2 and "no serial device" in only(found, "ports").text


@pytest.mark.parametrize("path", ["/dev/null", "/dev/urandom"])
def test_a_device_that_is_no_terminal_is_no_port_and_nobody_is_to_be_killed(lab: Lab, path: str) -> None:
    with Path(path).open("rb"), subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL) as other:
        try:
            found = doctor_ports.check_ports(
                loaded(node(lab, gnss(path))), service_user(lab.nodes[DEVICE]), none
            )
        finally:
            other.kill()
    assert only(found, "ports").code == 2 and "no serial device" in only(found, "ports").text
    assert not any("kill" in one.next for one in found)


def test_a_terminal_is_known_by_its_numbers(
    port: tuple[int, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert doctor_ports.is_tty(Path(port[1]).stat().st_rdev)
    listed = tmp_path / "drivers"
    listed.write_text(
        "cp210x               /dev/ttyUSB    188 0-511 serial\nserial /dev/ttyS 4 64-95 serial\nodd line\n"
    )
    monkeypatch.setattr(doctor_ports, "TTY_DRIVERS", listed)
    monkeypatch.setattr(doctor_ports, "SYS_CHAR", tmp_path / "char")
    assert doctor_ports.is_tty(os.makedev(188, 511)) and doctor_ports.is_tty(os.makedev(4, 64))
    assert not doctor_ports.is_tty(os.makedev(188, 512)) and not doctor_ports.is_tty(os.makedev(1, 3))
    (tmp_path / "tty").mkdir()
    (tmp_path / "char" / "204:64").mkdir(parents=True)
    (tmp_path / "char" / "204:64" / "subsystem").symlink_to(tmp_path / "tty")
    assert doctor_ports.is_tty(os.makedev(204, 64)), "of a driver that the list does not have"
    monkeypatch.setattr(doctor_ports, "TTY_DRIVERS", tmp_path / "absent")
    assert doctor_ports.is_tty(os.makedev(188, 0)) and not doctor_ports.is_tty(os.makedev(1, 3))


def test_an_absent_port_names_what_is_there(lab: Lab) -> None:
    config = loaded(node(lab, gnss("/dev/absent")))
    found = doctor_ports.check_ports(config, service_user(Path("/")), lambda: [adapter("/dev/ttyUSB9", "A7")])
    absent = only(found, "ports")
    assert absent.code == 10
    assert "/dev/ttyUSB9 (10c4:ea60, Maker, CP2102, serial A7)" in absent.next


def test_without_a_configured_port_none_one_and_several_devices_differ(lab: Lab) -> None:
    config, who = loaded(node(lab)), service_user(Path("/"))
    assert exit_code(doctor_ports.check_ports(config, who, none)) == 10
    one = doctor_ports.check_ports(config, who, lambda: [adapter("/dev/ttyUSB0", "A1")])
    assert exit_code(one) == 0 and "/dev/ttyUSB0" in one[0].text
    several = [adapter("/dev/ttyUSB0", "A1"), adapter("/dev/ttyUSB1", "A2")]
    two = doctor_ports.check_ports(config, who, lambda: several)
    assert exit_code(two) == 11 and "serial A1" in two[0].text and "serial A2" in two[0].text


def test_a_name_that_does_not_outlast_replugging_is_a_warning(
    lab: Lab, port: tuple[int, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_id, by_path = tmp_path / "by-id", tmp_path / "by-path"
    for folder in (by_id, by_path):
        folder.mkdir()
        (folder / "usb-adapter").symlink_to(port[1])
    monkeypatch.setattr(doctor_ports, "BY_ID", by_id)
    monkeypatch.setattr(doctor_ports, "BY_PATH", by_path)
    config = loaded(node(lab, gnss(str(by_id / "usb-adapter"))))
    unique = doctor_ports.check_ports(config, service_user(Path("/")), lambda: [adapter(port[1], "SN12345")])
    assert only(unique, "ports").level is Level.OK
    nameless = doctor_ports.check_ports(config, service_user(Path("/")), lambda: [adapter(port[1])])
    assert only(nameless, "ports").level is Level.WARNING
    assert only(nameless, "ports").next == f"set path to {by_path / 'usb-adapter'}"


# ---- clock, disk -------------------------------------------------------------------------------------


@pytest.mark.parametrize("year", [1970, 2020, 2099, 2500])
def test_a_clock_that_cannot_be_right_is_exit_40(lab: Lab, year: int) -> None:
    config = loaded(node(lab))
    (found,) = doctor_keys.check_clock(config, datetime(year, 1, 2, tzinfo=UTC))
    assert found.level is Level.ERROR and found.code == 40 and "timedatectl" in found.next
    assert doctor_keys.check_clock(config, host_time())[0].level is not Level.ERROR


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("mounting a small file system needs root")
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs", folder], capture_output=True
    )
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.decode()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_and_a_read_only_disk_are_told_apart(lab: Lab, small_disk: Path) -> None:
    path = node(lab)
    path.write_text(path.read_text().replace(str(lab.nodes[DEVICE]), str(small_disk)))
    config = loaded(path)
    who = service_user(small_disk)
    low = only(doctor_store.check_disk(config, who), "disk")
    assert low.level is Level.WARNING and "max_bytes" in low.next
    (small_disk / "filler").write_bytes(bytes(6 << 20))
    full = only(doctor_store.check_disk(config, who), "disk")
    assert full.level is Level.ERROR and full.code == 1 and "is full" in full.text
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    worn = only(doctor_store.check_disk(config, who), "disk")
    assert worn.level is Level.ERROR and "read-only" in worn.text and "card" in worn.next


def test_a_state_folder_of_somebody_else_is_exit_13_and_an_open_one_a_warning(lab: Lab) -> None:
    config = loaded(node(lab))
    found = doctor_store.check_disk(config, Who("holdfast", 54_321, frozenset()))
    assert exit_code(found) == 13 and "chown" in only(found, "state").next
    lab.nodes[DEVICE].chmod(0o755)
    warned = only(doctor_store.check_disk(config, service_user(lab.nodes[DEVICE])), "state")
    assert warned.level is Level.WARNING and "chmod 700" in warned.next


# ---- identity ----------------------------------------------------------------------------------------


def reissue(lab: Lab, first: timedelta, last: timedelta, device: str = DEVICE) -> None:
    """A TLS certificate for the key that is there, with another life or name."""
    keys, now = lab.nodes[DEVICE] / "keys", host_time()
    public = x509.load_pem_x509_certificate((keys / "tls.crt").read_bytes()).public_key()
    made = ca.issue_tls_client(
        lab.tls,
        public,
        Identity(TENANT, device),
        Validity(now + first, now + last),  # type: ignore[arg-type]
    )
    (keys / "tls.crt").write_bytes(certificate_pem(made, lab.tls.certificate))


@pytest.mark.parametrize(
    ("first", "last", "level", "text", "then"),
    [
        (-90, -1, Level.ERROR, "expired on", "claim code"),
        (1, 90, Level.ERROR, "is valid from", "clock"),
        (-85, 5, Level.WARNING, "4 days more", "renew now"),
        (-70, 20, Level.WARNING, "renewal is due", "holdfast-renew.timer"),
        (-10, 80, Level.OK, "79 days more", ""),
    ],
)
def test_the_life_of_a_certificate(
    lab: Lab, first: int, last: int, level: Level, text: str, then: str
) -> None:
    reissue(lab, timedelta(days=first), timedelta(days=last))
    found = only(doctor_keys.check_identity(loaded(node(lab)), host_time()), "tls_certificate")
    assert (found.level, found.code if level is Level.ERROR else 40) == (level, 40)
    assert text in found.text and then in found.next


def test_what_does_not_belong_together_is_exit_40(lab: Lab) -> None:
    config, keys = loaded(node(lab)), lab.nodes[DEVICE] / "keys"
    reissue(lab, timedelta(-1), timedelta(9), device="car-2")
    other = only(doctor_keys.check_identity(config, host_time()), "tls_certificate")
    assert other.code == 40 and "urn:holdfast:fund:car-2" in other.text
    (keys / "event.key").write_bytes(key_pem(ca.new_key()))
    found = only(doctor_keys.check_identity(config, host_time()), "event_certificate")
    assert found.code == 40 and "another key" in found.text
    (keys / "event.key").chmod(0o644)
    found = only(doctor_keys.check_identity(config, host_time()), "event_certificate")
    assert "0644" in found.text and "chmod 600" in found.next
    assert named(doctor_keys.check_identity(config, host_time()), "key_modes")
    stranger = ca.make_root("stranger root", ca.new_key(), Validity(host_time(), host_time() + timedelta(9)))
    (keys / "ca.crt").write_bytes(certificate_pem(stranger.certificate))
    swapped = doctor_keys.check_identity(config, host_time())
    assert exit_code(swapped) == 40 and "root" in only(swapped, "trust").text


def test_a_key_that_systemd_gives_to_the_service_is_not_missed(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, key = loaded(node(lab)), lab.nodes[DEVICE] / "keys" / "event.key"
    key.unlink()
    found = only(doctor_keys.check_identity(config, host_time()), "event_certificate")
    assert found.level is Level.ERROR and "event.key is not there" in found.text and found.next

    def unit(name: str, unit: str) -> str:
        given = name == "LoadCredential" and unit == "holdfast-edge.service"
        return "holdfast-event.key:/etc/holdfast/event.key" if given else ""

    monkeypatch.setattr(doctor_keys, "unit_property", unit)
    found = only(doctor_keys.check_identity(config, host_time()), "event_certificate")
    assert found.level is Level.OK, found
    key.write_text("no key")
    key.chmod(0o600)
    assert only(doctor_keys.check_identity(config, host_time()), "event_certificate").level is Level.ERROR


def test_a_node_that_is_not_enrolled_is_told_to_provision(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text('[node]\ntenant = "fund"\ndevice = "car-1"\n')
    found = only(doctor_keys.check_identity(loaded(path), host_time()), "identity")
    assert found.code == 2 and "not enrolled" in found.text and "provision" in found.next
    found = only(doctor_keys.check_broker(loaded(path), host_time()), "broker")
    assert found.level is Level.NOTE


def test_without_trust_no_receipt_is_believed(lab: Lab) -> None:
    (lab.nodes[DEVICE] / "trust.json").unlink()
    found = only(doctor_keys.check_identity(loaded(node(lab)), host_time()), "trust")
    assert found.code == 40 and "receipt" in found.text


# ---- the broker --------------------------------------------------------------------------------------


def test_the_broker_is_tried_up_to_its_name(lab: Lab) -> None:
    with broker(lab) as at:
        good = only(doctor_keys.check_broker(loaded(node(lab, broker_port=at)), host_time()), "broker")
        assert good.level is Level.OK and "takes our certificate" in good.text
        config = loaded(node(lab, broker_port=at, server="broker.example"))
        wrong = only(doctor_keys.check_broker(config, host_time()), "broker")
        assert wrong.code == 40 and "not for broker.example" in wrong.text
        assert "localhost" in wrong.text and "server_name" in wrong.next
        stranger = ca.make_root(
            "stranger root", ca.new_key(), Validity(host_time(), host_time() + timedelta(9))
        )
        (lab.nodes[DEVICE] / "keys" / "ca.crt").write_bytes(certificate_pem(stranger.certificate))
        unknown = only(doctor_keys.check_broker(loaded(node(lab, broker_port=at)), host_time()), "broker")
        assert unknown.code == 40 and "not by the authority" in unknown.text and unknown.next
    away = only(doctor_keys.check_broker(loaded(node(lab, broker_port=at)), host_time()), "broker")
    assert away.code == 31 and "cannot be reached" in away.text and "outbox keeps everything" in away.next


def test_a_broker_with_another_name_and_an_expired_one(lab: Lab, tmp_path: Path) -> None:
    """A real Mosquitto, with certificates made on the spot."""
    program, keys = find_mosquitto(), tmp_path / "broker"
    keys.mkdir()
    for hosts, life, told in (
        (["other.example"], timedelta(days=30), "has a certificate for other.example, not for localhost"),
        (["localhost"], timedelta(hours=-1), "not valid now"),
        (["localhost"], timedelta(days=3), "its own ends in 2 days"),
    ):
        key = ca.new_key()
        made = ca.issue_server(
            lab.tls, key.public_key(), hosts, Validity(host_time() - timedelta(days=9), host_time() + life)
        )
        (keys / "tls.key").write_bytes(key_pem(key))
        (keys / "tls.crt").write_bytes(certificate_pem(made, lab.tls.certificate))
        shutil.copy(lab.broker / "keys" / "ca.crt", keys / "ca.crt")
        found = with_mosquitto(program, keys, lab)
        assert found.level is (Level.WARNING if life.days == 3 else Level.ERROR) and told in found.text, found
        assert found.next and found.code == (1 if life.days == 3 else 40)


def test_a_broker_that_refuses_our_certificate(lab: Lab, tmp_path: Path) -> None:
    program, keys = find_mosquitto(), tmp_path / "broker"
    shutil.copytree(lab.broker / "keys", keys)
    reissue(lab, timedelta(days=-20), timedelta(days=-1))
    found = with_mosquitto(program, keys, lab)
    assert found.level is Level.ERROR and found.code == 40 and "may not accept" in found.text, found


def with_mosquitto(program: str, keys: Path, lab: Lab, more: str = "") -> Finding:
    """What doctor says of a Mosquitto with these keys."""
    at = free_port()
    config = keys / "mosquitto.conf"
    config.write_text(
        f"listener {at} 127.0.0.1\ncafile {keys}/ca.crt\ncertfile {keys}/tls.crt\nkeyfile {keys}/tls.key\n"
        f"require_certificate true\nuse_identity_as_username true\nuser root\n{more}"
    )
    server = start_mosquitto(program, config)
    try:
        end = time.monotonic() + 20
        while True:
            found = only(doctor_keys.check_broker(loaded(node(lab, broker_port=at)), host_time()), "broker")
            if "cannot be reached" not in found.text:
                return found
            assert time.monotonic() < end and server.poll() is None
            time.sleep(0.05)
    finally:
        server.terminate()
        server.wait()


def test_a_revoked_certificate_needs_a_new_claim_code(lab: Lab, tmp_path: Path) -> None:
    """A real Mosquitto with a revocation list: renewal would be refused, so it is not advised."""
    program, keys = find_mosquitto(), tmp_path / "broker"
    shutil.copytree(lab.broker / "keys", keys)
    now = host_time()
    client = x509.load_pem_x509_certificate((lab.nodes[DEVICE] / "keys" / "tls.crt").read_bytes())
    gone = Revoked(client.serial_number, now, x509.ReasonFlags.unspecified)
    valid = Validity(now - timedelta(days=1), now + timedelta(days=7))
    (keys / "crl.pem").write_bytes(ca.make_crl(lab.tls, [gone], 1, valid).public_bytes(Encoding.PEM))
    good = with_mosquitto(program, keys, lab)
    assert good.level is Level.OK, good
    found = with_mosquitto(program, keys, lab, f"crlfile {keys}/crl.pem\n")
    assert found.level is Level.ERROR and found.code == 40, found
    assert "new claim code" in found.next and "renew" not in found.next.replace("not renewed", "")


@pytest.mark.parametrize("place", ["unit", "journal"])
def test_a_sealed_key_is_the_services_alone_and_what_checks_the_broker_is_said(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    folder = lab.nodes[DEVICE]
    config = loaded(node(lab, broker_port=8883))
    (folder / "keys" / "tls.key").unlink()
    absent = only(doctor_keys.check_broker(config, host_time()), "broker")
    assert absent.level is Level.WARNING and "was not tried" in absent.text
    if place == "unit":
        monkeypatch.setattr(
            doctor_keys, "unit_property",
            lambda name, unit: (
                "holdfast-tls.key:/etc/creds/holdfast-tls.key holdfast-event.key:/x"
                if (name, unit) == ("LoadCredentialEncrypted", "holdfast-uplink.service")
                else ""
            ),
        )  # fmt: skip
    else:
        root = x509.load_pem_x509_certificate((folder / "keys" / "ca.crt").read_bytes())
        wanted = Wanted(DEVICE, TENANT, credentials="/etc/creds")
        (folder / "provision.json").write_bytes(settle(None, wanted, root).to_json())
    found = only(doctor_keys.check_broker(config, host_time()), "broker")
    assert found.level is Level.NOTE and "credential of holdfast-uplink alone" in found.text, found
    given = "LoadCredentialEncrypted=holdfast-tls.key:/etc/creds/holdfast-tls.key"
    assert f"{given} holdfast doctor" in found.next
    assert "enrol this node" not in found.text + found.next


def test_a_name_without_an_address_is_pending(lab: Lab) -> None:
    path = node(lab, broker_port=8883)
    path.write_text(path.read_text().replace("127.0.0.1", "broker.invalid"))
    found = only(doctor_keys.check_broker(loaded(path), host_time()), "broker")
    assert found.code == 31 and "broker.invalid" in found.text


# ---- outbox ------------------------------------------------------------------------------------------


@pytest.fixture
def stopped() -> Iterator[Live]:
    live = Live()
    live.start()
    live.drive(30)
    assert live.stop() == 0, live.logged()
    yield live
    live.close()


def test_an_outbox_is_looked_at_without_a_trace(stopped: Live) -> None:
    before = listing(stopped.folder)
    seen = look(stopped.folder)
    assert seen is not None and seen.segments == len(stopped.segments()) and not seen.damage
    assert listing(stopped.folder) == before


def test_a_killed_edge_leaves_an_outbox_that_is_read_with_its_wal(make_live: Callable[[], Live]) -> None:
    live = make_live()
    live.start()
    live.drive(30)
    live.call("seal")
    count = len(live.segments())
    live.kill()
    before = listing(live.folder)
    seen = look(live.folder)
    assert seen is not None and seen.segments == count
    after = listing(live.folder)
    assert set(after) == set(before) and all(after[name][0] == before[name][0] for name in before)


@pytest.fixture
def make_live() -> Iterator[Callable[[], Live]]:
    made: list[Live] = []

    def make() -> Live:
        made.append(Live())
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_damage_age_and_what_was_set_aside_are_findings(stopped: Live) -> None:
    config = loaded(stopped.config)
    file = stopped.folder / "outbox.db"
    (stopped.folder / "outbox.db.damaged-1").write_bytes(b"x")
    found = doctor_store.check_outbox(config, host_time())
    assert (
        only(found, "quarantine").level is Level.WARNING and "outbox export" in only(found, "quarantine").next
    )
    data = bytearray(file.read_bytes())
    data[4096 * 2 : 4096 * 4] = b"\xff" * 8192
    file.write_bytes(data)
    damaged = [one for one in doctor_store.check_outbox(config, host_time()) if one.level is Level.ERROR]
    assert damaged and "damaged" in damaged[0].text and "fsck" in damaged[0].next


def test_segments_that_wait_for_days_are_a_warning(stopped: Live) -> None:
    stopped.config.write_text(stopped.config.read_text() + "[uplink]\nhost = 'broker.example'\n")
    config = loaded(stopped.config)
    seen = look(stopped.folder)
    assert seen is not None and seen.oldest_ns is not None
    later = datetime.fromtimestamp(seen.oldest_ns / 1e9, UTC) + timedelta(days=3)
    found = only(doctor_store.judge_outbox(seen, config, later), "outbox")
    assert found.level is Level.WARNING and "the oldest for 3 d" in found.text
    fresh = only(doctor_store.judge_outbox(seen, config, later - timedelta(days=3)), "outbox")
    assert fresh.level is Level.OK


def test_units_are_asked_where_systemd_is(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[tuple[str, str], str] = {}

    def answer(name: str, unit: str = "holdfast-edge.service") -> str:
        return told.get((unit, name), "")

    monkeypatch.setattr(doctor_store, "unit_property", answer)
    assert doctor_store._unit("holdfast-edge.service").level is Level.WARNING
    told[("holdfast-edge.service", "LoadState")] = "loaded"
    told[("holdfast-edge.service", "ActiveState")] = "failed"
    told[("holdfast-edge.service", "Result")] = "watchdog"
    dead = doctor_store._unit("holdfast-edge.service")
    assert dead.level is Level.ERROR and "watchdog" in dead.text and "journalctl" in dead.next
    told[("holdfast-edge.service", "ActiveState")] = "active"
    told[("holdfast-edge.service", "NRestarts")] = "7"
    assert "restarted 7 times" in doctor_store._unit("holdfast-edge.service").text
    told[("holdfast-edge.service", "NRestarts")] = "0"
    assert doctor_store._unit("holdfast-edge.service").level is Level.OK

"""Reading the configuration file again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from swanroam.config import Config, load_config
from swanroam.daemon import service_manager
from swanroam.daemon.api import RequestError
from swanroam.daemon.configuration_changes import AT_START_ONLY, SECTIONS, changes, need_restart
from swanroam.daemon.counts import Counts, ReloadResult
from swanroam.daemon.reload import Ground, RefusedError, Reloading

FILE = """\
identity: mobile.example.org
timing:
  refresh: 30s
peers:
  - identity: server.example.org
    connection: server
    name: server
"""


class Desk:
    """A file, and a daemon that has read it once."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "swanroam.yaml"
        self.file.write_text(FILE)
        self.counts = Counts()
        self.adopted: list[Config] = []
        self.refusal: RefusedError | None = None
        self.reloading = Reloading(self.file, load_config(self.file), self.counts, self._adopt)

    async def _adopt(self, old: Config, new: Config) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.adopted.append(new)

    def edit(self, old: str, new: str) -> None:
        text = self.file.read_text()
        assert old in text
        self.file.write_text(text.replace(old, new))


def at(directory: Path, story: Callable[[Desk], Awaitable[None]]) -> Desk:
    desk = Desk(directory)

    async def run() -> None:
        await story(desk)

    asyncio.run(run())
    return desk


def test_what_has_changed_is_taken_over_and_told(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        desk.edit("refresh: 30s", "refresh: 45s")
        answer = await desk.reloading.answer({})

        assert answer["result"] == "applied"
        assert answer["lines"] == ["timing.refresh: 30s -> 45s"]
        assert answer["file"] == str(desk.file)
        assert [config.timing.refresh for config in desk.adopted] == [45.0]
        assert (await desk.reloading.document())["current"]

    desk = at(tmp_path, story)
    assert desk.counts.reloads == {ReloadResult.APPLIED: 1}


def test_a_file_that_says_the_same_changes_nothing(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        desk.file.write_text(f"# a comment\n{FILE}")
        outcome = await desk.reloading.reload()

        assert (outcome.result, outcome.lines, desk.adopted) == (ReloadResult.UNCHANGED, (), [])

    at(tmp_path, story)


def test_a_wrong_file_leaves_what_is_at_work_and_says_where_it_is_wrong(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        desk.edit("refresh: 30s", "refrech: 45s")
        with capture_logs() as logged:
            answer = await desk.reloading.answer({})

        assert (answer["result"], answer["ground"], desk.adopted) == ("refused", "file", [])
        (line,) = answer["lines"]
        assert line.startswith(f"{desk.file}:3:3: timing.refrech: is not a known key")
        assert "did you mean 'refresh'" in line
        (entry,) = [entry for entry in logged if entry["event"] == "configuration_refused"]
        assert entry["problems"] == (line,)
        assert "swanroam reload" in entry["remedy"]
        told = {"file": str(desk.file), "current": False, "wrong": [line], "refused": [line]}
        assert await desk.reloading.document() == told

        desk.edit("refrech: 45s", "refresh: 45s")
        assert (await desk.reloading.reload()).result is ReloadResult.APPLIED
        told = {"file": str(desk.file), "current": True, "wrong": [], "refused": []}
        assert await desk.reloading.document() == told

    at(tmp_path, story)


def test_who_means_another_file_is_told_so(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        desk.edit("refresh: 30s", "refresh: 45s")
        with pytest.raises(RequestError, match=f"this daemon reads {desk.file}, and not /etc/other.yaml"):
            await desk.reloading.answer({"file": "/etc/other.yaml"})
        assert desk.adopted == []

        link = tmp_path / "link.yaml"
        link.symlink_to(desk.file)
        assert (await desk.reloading.answer({"file": str(link)}))["result"] == "applied"

    at(tmp_path, story)


def test_a_file_that_is_not_there_is_wrong(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        desk.file.unlink()
        outcome = await desk.reloading.reload()

        assert outcome.ground is Ground.FILE
        assert "cannot be read" in outcome.lines[0]
        assert not (await desk.reloading.document())["current"]

    at(tmp_path, story)


def test_what_is_the_daemon_itself_needs_a_restart_and_nothing_else_is_taken_over(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        desk.edit("identity: mobile.example.org", "identity: other.example.org\nstate_directory: /var/elsewhere")
        desk.edit("refresh: 30s", "refresh: 45s\ncontrol: {port: 4600}")
        outcome = await desk.reloading.reload()

        assert outcome.ground is Ground.RESTART
        assert outcome.lines == (
            "identity: mobile.example.org -> other.example.org: needs a restart",
            "control.port: 4510 -> 4600: needs a restart",
            "state_directory: /var/lib/swanroam -> /var/elsewhere: needs a restart",
        )
        assert desk.adopted == []

    at(tmp_path, story)


def test_what_this_host_cannot_do_now_is_refused_until_it_can(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        desk.edit("refresh: 30s", "refresh: 45s")
        desk.refusal = RefusedError(Ground.HOST, ("metrics.listen: another program has that port: choose another one",))
        assert (await desk.reloading.reload()).ground is Ground.HOST
        assert desk.reloading.refused

        desk.refusal = None
        assert (await desk.reloading.reload()).result is ReloadResult.APPLIED
        assert not desk.reloading.refused

    at(tmp_path, story)


def test_a_refused_change_that_is_taken_back_is_no_news_any_more(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        desk.edit("identity: mobile", "identity: other")
        await desk.reloading.reload()
        assert (await desk.reloading.document())["refused"]

        desk.edit("identity: other", "identity: mobile")
        told = {"file": str(desk.file), "current": True, "wrong": [], "refused": []}
        assert await desk.reloading.document() == told

    at(tmp_path, story)


def test_a_file_that_was_edited_and_not_read_yet_is_told_and_one_with_another_comment_is_not(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        assert (await desk.reloading.document())["current"]
        desk.edit("name: server", "name: server  # the old one")
        assert (await desk.reloading.document())["current"]
        desk.edit("name: server", "name: office")
        assert not (await desk.reloading.document())["current"]

    at(tmp_path, story)


def test_the_signal_does_the_same_as_the_command_and_a_failure_of_it_is_not_the_end(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        running = asyncio.create_task(desk.reloading.run())
        desk.edit("refresh: 30s", "refresh: 45s")
        desk.refusal = ZeroDivisionError("a bug")  # type: ignore[assignment]
        with capture_logs() as logged:
            desk.reloading.signal()
            async with asyncio.timeout(10):
                while not logged:
                    await asyncio.sleep(0.001)
        assert [entry["event"] for entry in logged] == ["reload_failed"]

        desk.refusal = None
        desk.reloading.signal()
        async with asyncio.timeout(10):
            while not desk.adopted:
                await asyncio.sleep(0.001)
        running.cancel()

    at(tmp_path, story)


def test_the_service_manager_hears_when_it_begins_and_ends_and_what_became_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(service_manager, "tell", told.append)

    async def story(desk: Desk) -> None:
        await desk.reloading.reload()
        desk.edit("refresh", "refrech")
        await desk.reloading.reload()

        begin = [text.split("\n")[0] for text in told[::2]]
        assert begin == ["RELOADING=1", "RELOADING=1"]
        stamp = told[0].split("\n")[1]
        assert stamp.startswith("MONOTONIC_USEC=")
        assert abs(int(stamp.partition("=")[2]) / 1e6 - asyncio.get_running_loop().time()) < 60
        assert told[1] == "READY=1\nSTATUS="
        assert told[3] == f"READY=1\nSTATUS={desk.file} was refused at the last reload"

    at(tmp_path, story)


def test_two_reloads_at_once_come_one_after_the_other(tmp_path: Path) -> None:
    async def story(desk: Desk) -> None:
        desk.edit("refresh: 30s", "refresh: 45s")
        outcomes = await asyncio.gather(desk.reloading.reload(), desk.reloading.reload())

        assert [outcome.result for outcome in outcomes] == [ReloadResult.APPLIED, ReloadResult.UNCHANGED]

    at(tmp_path, story)


# --- what is different ------------------------------------------------------------------------------------------------


def loaded(directory: Path, text: str) -> Config:
    path = directory / "other.yaml"
    path.write_text(text)
    return load_config(path)


def test_every_key_of_the_file_either_needs_a_restart_or_is_compared(tmp_path: Path) -> None:
    config = loaded(tmp_path, FILE)

    assert {*AT_START_ONLY, *SECTIONS, "peers"} == set(type(config).__dataclass_fields__)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("control: {port: 4600}", "control.port: 4510 -> 4600: needs a restart"),
        ("carrier: {table: 6000}", "carrier.table: 5353 -> 6000: needs a restart"),
        ("vici_socket: /run/other.vici", "vici_socket: /run/charon.vici -> /run/other.vici: needs a restart"),
        ("swanctl_file: /etc/other.conf", "swanctl_file: none -> /etc/other.conf: needs a restart"),
        ("api_group: admins", "api_group: none -> admins: needs a restart"),
    ],
)
def test_changes_that_need_a_restart_are_told_one_by_one(tmp_path: Path, line: str, said: str) -> None:
    assert need_restart(loaded(tmp_path, FILE), loaded(tmp_path, f"{line}\n{FILE}")) == [said]


def test_other_changes_are_told_as_they_stand_in_the_file(tmp_path: Path) -> None:
    old = loaded(tmp_path, FILE)
    new = loaded(
        tmp_path,
        FILE.replace("name: server", "name: server\n    moves: peer")
        + "  - {identity: a.example.org, connection: a}\nlog: {level: debug}\nmetrics: {listen: 9510}\n",
    )

    assert need_restart(old, new) == []
    assert changes(old, new) == [
        "log.level: info -> debug",
        "metrics.listen: none -> 127.0.0.1:9510",
        "peer a.example.org: added",
        "peer server moves: both -> peer",
    ]
    assert "peer a.example.org: removed" in changes(new, old)

"""Who is next, how far a job is, and who is woken: the parts of planner and ingress that need no Ray."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from kdrift.recon.chunks import Chunk
from kdrift_serve.job_progress import Progress, SliceProgress
from kdrift_serve.job_table import JobTable
from kdrift_serve.job_watch import Watch
from kdrift_serve.lanes import Lanes, Work
from kdrift_serve.problems import Problem
from kdrift_serve.quota import Quota
from test_job_table import ME, queued


class Samplers:
    """Lanes whose work takes some time; what each call did, in order."""

    def __init__(self, count: int, seconds: float = 0.01) -> None:
        self.seconds, self.calls = seconds, list[list[str]]()
        self.lanes = Lanes(count, self.run)

    async def run(self, works: list[Work]) -> None:
        self.calls.append([work.call for work in works])
        await asyncio.sleep(self.seconds)
        for work in works:
            work.settle(work.call)

    def ask(self, key: str, rank: float, **values: Any) -> asyncio.Task[Any]:
        return asyncio.create_task(self.lanes.do(Work(key, (rank,), f"{key}{rank:g}", **values)))


def served(asked: list[tuple[str, float]], count: int) -> list[str]:
    """The order in which work (key, rank), all asked for at once, is begun on so many samplers."""

    async def all_of_it() -> list[str]:
        samplers = Samplers(count)
        first = samplers.ask("first", 0)
        await asyncio.sleep(0)  # so that all the others wait
        assert await asyncio.gather(*[samplers.ask(*each) for each in asked]) == [f"{k}{r:g}" for k, r in asked]
        await first
        return [name for (name,) in samplers.calls[1:]]

    return asyncio.run(all_of_it())


def test_keys_take_turns_whatever_they_asked_for() -> None:
    many = [("a", float(number)) for number in range(6)]
    assert served([*many, ("b", 0.0), ("b", 1.0)], 1) == ["a0", "b0", "a1", "b1", "a2", "a3", "a4", "a5"]


def test_a_key_alone_has_all_samplers_and_its_work_in_order() -> None:
    assert served([("a", 3.0), ("a", 1.0), ("a", 2.0)], 1) == ["a1", "a2", "a3"]
    assert set(served([("a", 1.0), ("a", 2.0), ("a", 3.0)], 3)) == {"a1", "a2", "a3"}


def together(asked: list[tuple[str, float, int, str | None]], count: int, room: int = 8) -> list[list[str]]:
    """The calls that do work (key, rank, images, share) that is asked for at once, on so many samplers."""

    async def all_of_it() -> list[list[str]]:
        samplers = Samplers(count, 0.05)
        await asyncio.gather(
            *[samplers.ask(key, rank, images=images, share=share, room=room) for key, rank, images, share in asked]
        )
        return samplers.calls

    return asyncio.run(all_of_it())


def test_equal_work_shares_calls_as_large_as_a_batch() -> None:
    equal = [("a", float(number), 2, "equal") for number in range(6)]
    assert together(equal, 1) == [["a0", "a1", "a2", "a3"], ["a4", "a5"]]
    other = [("a", 6.0, 2, "other"), ("a", 7.0, 2, None), ("a", 8.0, 8, "equal")]
    assert sorted(together([*equal, *other], 1)) == [["a0", "a1", "a2", "a3"], ["a4", "a5"], ["a6"], ["a7"], ["a8"]]


def test_equal_work_is_spread_over_free_samplers_before_it_shares() -> None:
    equal = [("a", float(number), 1, "equal") for number in range(4)]
    assert sorted(together(equal, 2)) == [["a0", "a1"], ["a2", "a3"]]
    assert sorted(together(equal, 4)) == [["a0"], ["a1"], ["a2"], ["a3"]]
    many = [("a", float(number), 1, "equal") for number in range(10)]
    assert sorted(map(len, together(many, 2, room=3))) == [1, 3, 3, 3]


def test_keys_have_equal_parts_of_a_shared_call() -> None:
    many = [("a", float(number), 1, "equal") for number in range(8)]
    held = ("d", 0.0, 1, None)
    calls = together([held, *many, ("b", 0.0, 1, "equal"), ("c", 0.0, 1, "equal")], 1, room=4)
    assert [sorted(each) for each in calls[:2]] == [["d0"], ["a0", "a1", "b0", "c0"]]


def test_who_is_cancelled_leaves_its_place_and_a_call_ends_when_nobody_waits_for_it() -> None:
    async def cancelled() -> None:
        samplers = Samplers(1, 0.1)
        alone = samplers.ask("a", 0)
        await asyncio.sleep(0)
        waits, goes_on = samplers.ask("a", 1), samplers.ask("a", 2)
        await asyncio.sleep(0)
        waits.cancel()
        alone.cancel()  # its call ends at once
        assert await goes_on == "a2"
        assert samplers.calls[-1] == ["a2"]
        assert samplers.calls == [["a0"], ["a2"]]
        two = [samplers.ask("a", number, share="equal", room=4) for number in (3, 4)]
        await asyncio.sleep(0.07)
        two[0].cancel()
        assert await two[1] == "a4", "a call goes on for those that are left"
        samplers.lanes.count = 2
        assert (samplers.lanes.waiting, samplers.lanes.busy) == (0, 0)

    asyncio.run(cancelled())


def test_what_a_call_raises_is_told_to_all_of_it() -> None:
    async def raised() -> list[Any]:
        async def fails(works: list[Work]) -> None:
            works[0].settle("done before")
            raise RuntimeError("the sampler is gone")

        lanes = Lanes(1, fails)
        works = [Work("a", (number,), None, "equal", room=4) for number in range(3)]
        return await asyncio.gather(*map(lanes.do, works), return_exceptions=True)

    first, *others = asyncio.run(raised())
    assert first == "done before"
    assert [str(each) for each in others] == ["the sampler is gone"] * 2


def test_progress_is_of_all_slices_and_chunks() -> None:
    progress = Progress(num_slices=2)
    assert progress.view()["seconds_left"] is None
    assert progress.view()["evaluations_total"] is None
    samples, mean, check = Chunk((0, 8)), Chunk((0, 6), part="mean"), Chunk((0, 2), part="check")
    here = SliceProgress({samples: 120, mean: 240, check: 70}, {samples: 1.0, mean: 0.25})
    progress.began, progress.running, progress.evaluations = time.monotonic() - 10, {0: here}, here.total
    view = progress.view()
    assert (view["evaluations_done"], view["evaluations_total"]) == (180, 860)
    assert view["fraction"] == pytest.approx(180 / 860, abs=1e-4)
    assert view["seconds_left"] == pytest.approx(10 * 680 / 180, rel=0.01)
    progress.slices_done, progress.running = 2, {}
    assert progress.view()["seconds_left"] == 0
    classical = Progress(num_slices=2, slices_done=1, began=time.monotonic() - 10)
    assert (classical.view()["fraction"], classical.view()["evaluations_total"]) == (0.5, None)
    resumed = Progress(num_slices=4, began_with=2, slices_done=3, began=time.monotonic() - 10)
    assert resumed.view()["seconds_left"] == pytest.approx(10, rel=0.01), "slices that another had done took no time"


def test_a_key_asks_so_often_and_another_as_well() -> None:
    now = [0.0]
    quota = Quota(60, 2, clock=lambda: now[0])
    for _ in range(10):
        quota.take("a")
    with pytest.raises(Problem, match="more than 60 requests a minute: try again in 1 s") as error:
        quota.take("a")
    assert error.value.headers == {"Retry-After": "1"}
    quota.take("b")
    now[0] = 3.0
    for _ in range(3):
        quota.take("a")
    with pytest.raises(Problem):
        quota.take("a")
    with quota.wait("a"), quota.wait("a"):
        quota.wait("b").__enter__()
        with pytest.raises(Problem, match="2 requests of this key wait already"), quota.wait("a"):
            pass
    with quota.wait("a"):
        pass


def test_many_wait_by_few_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = JobTable(f"sqlite:///{tmp_path / 'jobs.sqlite'}")
    one, other = queued(table, 1), queued(table, 2)
    looks: list[int] = []
    asked = table.changes
    monkeypatch.setattr(table, "changes", lambda ids: looks.append(len(list(ids))) or asked(ids))

    async def wait() -> float:
        watch, began = Watch(table), time.monotonic()
        waiting = [asyncio.create_task(watch.end(one.id, 20)) for _ in range(300)]
        moved = asyncio.create_task(watch.change(other.id, other.changed, 20))
        await asyncio.sleep(0.6)
        table.tell_progress({other.id: {"fraction": 0.5}})
        await moved
        assert not any(task.done() for task in waiting)
        assert table.ask_to_cancel(one.id)
        found = table.get(one.id)
        assert found is not None
        table.write(type(found)(**{**vars(found), "state": "cancelled"}))
        await asyncio.gather(*waiting)
        before = time.monotonic()
        await watch.end(other.id, 0.3)
        assert 0.25 < time.monotonic() - before < 2
        return before - began

    assert asyncio.run(wait()) < 5
    assert len(looks) < 30
    assert ME
    table.close()

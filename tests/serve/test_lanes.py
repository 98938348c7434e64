"""Who is next, how far a job is, and who is woken: the parts of planner and ingress that need no Ray."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from kdrift.recon.chunks import Chunk
from kdrift_serve.job_progress import Progress, SliceProgress
from kdrift_serve.job_table import JobTable
from kdrift_serve.job_watch import Watch
from kdrift_serve.lanes import Lanes
from kdrift_serve.problems import Problem
from kdrift_serve.quota import Quota
from test_job_table import ME, queued


def served(asked: list[tuple[str, float]], count: int, seconds: float = 0.01) -> list[str]:
    """The order in which work (key, rank), all asked for at once, is begun on so many samplers."""
    order: list[str] = []

    async def work(lanes: Lanes, key: str, rank: float) -> None:
        async with lanes.turn(key, (rank,)):
            order.append(f"{key}{rank:g}")
            await asyncio.sleep(seconds)

    async def all_of_it() -> None:
        lanes = Lanes(count)
        async with lanes.turn("first", (0,)):  # so that all the others wait
            tasks = [asyncio.create_task(work(lanes, *each)) for each in asked]
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)

    asyncio.run(all_of_it())
    return order


def test_keys_take_turns_whatever_they_asked_for() -> None:
    many = [("a", float(number)) for number in range(6)]
    assert served([*many, ("b", 0.0), ("b", 1.0)], 1) == ["a0", "b0", "a1", "b1", "a2", "a3", "a4", "a5"]


def test_a_key_alone_has_all_samplers_and_its_work_in_order() -> None:
    assert served([("a", 3.0), ("a", 1.0), ("a", 2.0)], 1) == ["a1", "a2", "a3"]
    assert set(served([("a", 1.0), ("a", 2.0), ("a", 3.0)], 3)) == {"a1", "a2", "a3"}


def test_who_is_cancelled_leaves_its_place() -> None:
    async def cancelled() -> int:
        lanes = Lanes(1)
        entered = 0

        async def work() -> None:
            nonlocal entered
            async with lanes.turn("a", (0,)):
                entered += 1

        async with lanes.turn("b", (0,)):
            tasks = [asyncio.create_task(work()) for _ in range(4)]
            await asyncio.sleep(0)
            tasks[0].cancel()  # waits
            tasks[1].cancel()
        tasks[2].cancel()  # its turn may have come in this moment
        await asyncio.gather(*tasks, return_exceptions=True)
        async with asyncio.timeout(1), lanes.turn("c", (0,)):
            return entered

    assert asyncio.run(cancelled()) >= 1


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

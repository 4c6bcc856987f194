"""Measure bursar next to nginx and LiteLLM, in one run, taking turns: python bench/run.py [--quick] [--only NAME]."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import statistics
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import uvloop
from load import SlowStreams, Target, closed_loop, generator, open_loop, percentile, streams
from machine import cpu_microseconds, describe, open_many_files, resident_megabytes
from report import Figures, table, write
from stacks import WORK, Stack, books, bursar, free_port, litellm, nginx, upstream


@dataclass(frozen=True)
class Plan:
    rounds: int = 3
    connections: int = 64
    closed_seconds: float = 8
    open_per_second: int = 20
    open_seconds: float = 15
    streams: int = 64
    events: int = 200
    pause_ms: int = 20
    slow_streams: int = 1000


QUICK = Plan(rounds=1, closed_seconds=3, open_seconds=4, slow_streams=1000)


@dataclass
class Samples:
    """What one stack gave, round by round."""

    rates: list[float] = field(default_factory=list)
    cpu_per_call: list[float] = field(default_factory=list)
    cpu_per_event: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)


async def cpu_of(stack: Stack, work: Callable[[], Awaitable[float]]) -> float:
    """Give the CPU microseconds of the stack per unit of work."""
    before = cpu_microseconds(stack.pid)
    units = await work()
    return (cpu_microseconds(stack.pid) - before) / units


async def one_round(stack: Stack, plan: Plan, samples: Samples) -> None:
    target = stack.target

    async def calls() -> float:
        answered, seconds = await closed_loop(target, plan.connections, plan.closed_seconds)
        samples.rates.append(answered / seconds)
        return answered

    async def events() -> float:
        return await streams(target, plan.streams, plan.events, plan.pause_ms)

    samples.latencies += await open_loop(target, plan.open_per_second, plan.open_seconds)
    samples.cpu_per_call.append(await cpu_of(stack, calls))
    samples.cpu_per_event.append(await cpu_of(stack, events))


async def warm_up(target: Target) -> None:
    await open_loop(target, 10, 1)
    await streams(target, 4, 10, 0)


async def memory_under_streams(stack: Stack, count: int) -> tuple[float, int]:
    async with SlowStreams(stack.target, count) as streaming:
        await asyncio.sleep(5)
        return resident_megabytes(stack.pid), streaming.opened


async def measure(stacks: list[Stack], plan: Plan) -> list[Figures]:
    idle: dict[str, float] = {}
    ready: dict[str, float] = {}
    for stack in stacks:
        if stack.process is None:
            stack.start()
        ready[stack.target.name] = await stack.ready()
        idle[stack.target.name] = resident_megabytes(stack.pid)
    stopped = {s.target.name: await s.calls_until_refused() for s in stacks if s.capped_key}
    samples = {stack.target.name: Samples() for stack in stacks}
    for stack in stacks:
        await warm_up(stack.target)
    for number in range(1, plan.rounds + 1):
        for stack in stacks:
            print(f"round {number} of {plan.rounds}: {stack.target.name}", flush=True)
            got = samples[stack.target.name]
            await one_round(stack, plan, got)
            print(
                f"  {got.rates[-1]:,.0f} calls/s, {got.cpu_per_call[-1]:,.0f} us per call,"
                f" {got.cpu_per_event[-1]:,.0f} us per event",
                flush=True,
            )
    figures = []
    direct = samples["direct"].latencies
    for stack in stacks:
        name, got = stack.target.name, samples[stack.target.name]
        under, opened = 0.0, 0
        if name != "direct":
            print(f"{plan.slow_streams} slow streams: {name}", flush=True)
            under, opened = await memory_under_streams(stack, plan.slow_streams)
        figures.append(
            Figures(
                name=name,
                version=stack.version,
                what_is_on=stack.what_is_on,
                calls_per_second=statistics.median(got.rates),
                cpu_us_per_call=statistics.median(got.cpu_per_call),
                cpu_us_per_event=statistics.median(got.cpu_per_event),
                added_ms_p50=percentile(got.latencies, 50) - percentile(direct, 50),
                added_ms_p99=percentile(got.latencies, 99) - percentile(direct, 99),
                idle_megabytes=idle[name],
                streaming_megabytes=under,
                slow_streams_opened=opened,
                ready_seconds=ready[name],
                calls_past_a_cap_of_one=stopped.get(name),
                has_cap=bool(stack.capped_key),
                rounds={"calls_per_second": got.rates, "cpu_call": got.cpu_per_call, "cpu_event": got.cpu_per_event},
            )
        )
    return figures


async def run(plan: Plan, only: list[str]) -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # else the stacks would run on
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    stub = upstream(free_port())
    stub.start()
    stacks, left_out = [stub], []
    makers = {"nginx": nginx, "bursar": bursar, "litellm": litellm}
    for name in only or makers:
        stack = makers[name](stub.target.port)
        if stack is None:
            left_out.append(name)
            print(f"{name} is left out: it is not installed and could not be installed", flush=True)
        else:
            stacks.append(stack)
    try:
        figures = await measure(stacks, plan)
    finally:
        for stack in reversed(stacks):
            stack.stop()
    after = books() if "bursar" in (only or makers) else ""
    print("\n".join(["", *table(figures), "", after]))
    if plan != QUICK and not only:
        write(
            figures, {**describe(), "load": generator(), "left_out": ", ".join(left_out), "books": after, **vars(plan)}
        )
    shutil.rmtree(WORK, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it works; writes nothing")
    parser.add_argument("--only", nargs="+", choices=["nginx", "bursar", "litellm"], default=[], help="writes nothing")
    arguments = parser.parse_args()
    open_many_files()
    uvloop.run(run(QUICK if arguments.quick else Plan(), arguments.only))


if __name__ == "__main__":
    main()

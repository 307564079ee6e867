"""Cycle model: replays a program as events and says when each descriptor starts and ends. No RTL, no data.

Descriptors are fetched and handed out in order to the queues of their units, wait for the completed counts that they
name, and take the cycles of hw/unit_cycles.py; units that want the same port at the same time share it evenly.
Alone, every unit takes exactly the cycles of the RTL; sharing is an average over the steady part of a descriptor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hw.config import AccelConfig
from hw.isa import DESCRIPTOR_BYTES, UNIT_OF, Descriptor, Opcode, Unit
from hw.memory_model import MemoryModel
from hw.program import Program
from hw.timing import MAX_RUNNING, QUEUE_DEPTH, READ_BLOCKS
from hw.unit_cycles import Port, Tokens, Work, gemm_steps, unit_work

EPSILON = 1e-6
"""Times closer than this are the same cycle."""

FETCHED_AHEAD = READ_BLOCKS + 1
"""Descriptors between the bus and the queues: the buffer of the reader, and the one being put together."""


@dataclass(frozen=True)
class UnitCycles:
    """Cycles of one unit between the start of the run and its last done.

    waits: the next descriptor waited for another unit; starved: it had not come yet, because the fetch or a full queue
    of another unit held it back. contention: those of the busy cycles that shared ports have cost.
    """

    busy: int
    waits: dict[Unit, int]
    starved: int
    contention: int

    @property
    def wait(self) -> int:
        """Cycles in which the next descriptor waited for another unit."""
        return sum(self.waits.values())


@dataclass(frozen=True)
class Span:
    """When a descriptor was issued to its unit and when it was done, in cycles since the start of the run."""

    issue: float
    done: float


@dataclass(frozen=True)
class CycleEstimate:
    """What a run takes.

    macs: products that the results need, with channels padded to the depth of the array. layers adds up to cycles: a
    layer has the cycles by which its descriptors moved the last completion on, in program order. LOADs do not count,
    because they run ahead: time spent on weights is that of the layer that waits for them.
    spans follow the descriptors; END, which no unit executes, has none.
    """

    cycles: int
    macs: int
    layers: dict[str, int]
    units: dict[Unit, UnitCycles]
    spans: tuple[Span, ...]


def estimate(program: Program, token_counts: Sequence[int], memory: MemoryModel) -> CycleEstimate:
    """Estimate one run. token_counts[i] is the live count after COMPACT i, package included: those of picture 0 first.

    Raises ValueError if there are not as many counts as COMPACTs, or one is impossible.
    """
    config = program.config
    spans, cycles, units = replay(program.descriptors, token_counts, config, memory)
    tokens = live_tokens(program.descriptors, token_counts)
    macs = sum(_macs(each, at.live, config) for each, at in zip(program.descriptors, tokens, strict=False))
    layers: dict[str, int] = dict.fromkeys(program.layers, 0)
    last = 0
    for descriptor, layer, span in zip(program.descriptors, program.layers, spans, strict=False):  # END has no span
        end = last if descriptor.opcode == Opcode.LOAD else max(last, round(span.done))
        layers[layer] += end - last
        last = end
    layers[program.layers[-1]] += cycles - last
    return CycleEstimate(cycles, macs, layers, units, spans)


def _macs(descriptor: Descriptor, live: int, config: AccelConfig) -> int:
    """Return the products of a GEMM; 0 for every other opcode."""
    if descriptor.opcode != Opcode.GEMM:
        return 0
    return (
        descriptor.covered_rows(live, config.rows)
        * (descriptor.cols or live)
        * gemm_steps(descriptor, live, config)
        * config.depth
    )


def replay(
    descriptors: Sequence[Descriptor], token_counts: Sequence[int], config: AccelConfig, memory: MemoryModel
) -> tuple[tuple[Span, ...], int, dict[Unit, UnitCycles]]:
    """Replay descriptors that end with END; return their spans, all cycles and those of each unit."""
    jobs = [
        unit_work(descriptor, tokens, config, memory)
        for descriptor, tokens in zip(descriptors[:-1], live_tokens(descriptors, token_counts), strict=True)
    ]
    return _Replay(descriptors, jobs, config, memory).run()


def live_tokens(descriptors: Sequence[Descriptor], token_counts: Sequence[int]) -> list[Tokens]:
    """Return the tokens that each descriptor but END meets.

    A COMPACT merges if the count changes or a package is there. One pruned patch and no package before gives the same
    count as none pruned; it is taken as none. Raises ValueError for counts that no picture can have.
    """
    compacts = sum(descriptor.opcode == Opcode.COMPACT for descriptor in descriptors)
    if len(token_counts) != compacts:
        raise ValueError(f"token_counts must have one count for each of {compacts} selectors, not {len(token_counts)}")
    result = []
    lives: dict[int, int] = {}
    packages: dict[int, bool] = {}
    for descriptor in descriptors[:-1]:
        picture = descriptor.picture
        live = lives.get(picture, 0)
        is_merging = False
        if descriptor.opcode == Opcode.COMPACT:
            after = token_counts[descriptor.index]
            if not min(2, live) <= after <= live:
                raise ValueError(f"token_counts must be in 2..{live} after {live} tokens, not {after!r}")
            is_merging = packages[picture] or after < live
            lives[picture], packages[picture] = after, is_merging
        elif descriptor.opcode == Opcode.BEGIN:
            lives[picture], packages[picture] = descriptor.rows, False
        result.append(Tokens(live, is_merging))
    return result


@dataclass
class _Activity:
    """A descriptor in work, or the fetch of one: parts that are left, as (cycles at full speed, demand)."""

    parts: list[tuple[float, dict[Port, float]]]

    @classmethod
    def of(cls, work: Work) -> _Activity:
        """Return the parts of a descriptor's work before the unit takes the next one."""
        parts: list[tuple[float, dict[Port, float]]] = [(work.lead, {}), (work.steady, dict(work.demand))]
        return cls(parts if work.drain else [*parts, (work.tail, {})])

    @property
    def demand(self) -> dict[Port, float]:
        """The demand of the part in work."""
        return self.parts[0][1]


@dataclass
class _UnitState:
    """Queue and progress of one unit."""

    queue: list[int] = field(default_factory=list)
    running: int = -1
    activity: _Activity | None = None
    free: float = 0.0  # first cycle in which the unit may take the next descriptor
    draining: list[tuple[float, int]] = field(default_factory=list)  # when descriptors behind the activity are done
    done_times: list[float] = field(default_factory=list)
    busy: float = 0.0
    starved: float = 0.0
    contention: float = 0.0
    waits: dict[Unit, float] = field(default_factory=lambda: dict.fromkeys(Unit, 0.0))


class _Replay:
    """The state of a run; time is the cycle since START, as hw/rtl/sequencer.py counts it."""

    def __init__(
        self, descriptors: Sequence[Descriptor], jobs: list[Work], config: AccelConfig, memory: MemoryModel
    ) -> None:
        self._descriptors, self._jobs = descriptors, jobs
        self._now = 0.0
        self._units = {unit: _UnitState() for unit in Unit}
        self._beats = DESCRIPTOR_BYTES // config.axi_bytes
        self._fetch_demand = {Port.BUS: 1.0, Port.DDR: min(1.0, memory.bus_share(config))}
        self._fetch: _Activity | None = self._fetch_next(3.0 + memory.first_beat_cycles)
        self._arrivals: list[float] = []
        self._dispatches: list[float] = []
        self._queue_free = dict.fromkeys(Unit, 0.0)  # first cycle in which a queue that was full takes a descriptor
        self._issues: list[float] = [0.0] * len(jobs)
        self._dones: list[float] = [0.0] * len(jobs)

    def run(self) -> tuple[tuple[Span, ...], int, dict[Unit, UnitCycles]]:
        """Replay until END has been handed out and every unit is idle."""
        while len(self._dispatches) < len(self._descriptors) or any(
            state.queue or state.activity or state.draining for state in self._units.values()
        ):
            self._step()
        cycles = max([self._dispatches[-1], *self._dones]) + 2
        units = {
            unit: UnitCycles(
                round(state.busy),
                {other: round(value) for other, value in state.waits.items()},
                round(state.starved),
                round(state.contention),
            )
            for unit, state in self._units.items()
        }
        return tuple(map(Span, self._issues, self._dones)), round(cycles), units

    def _step(self) -> None:
        """Go to the next event and handle everything that happens then."""
        active = [state.activity for state in self._units.values() if state.activity] + (
            [self._fetch] if self._fetch else []
        )
        speeds = share_ports([activity.demand for activity in active])
        times = [self._now + activity.parts[0][0] / speed for activity, speed in zip(active, speeds, strict=True)]
        times += [time for time in (self._dispatch_time(), *map(self._issue_time, Unit)) if time is not None]
        times += [state.draining[0][0] for state in self._units.values() if state.draining]
        if not times:
            raise ValueError(f"the program waits forever at descriptor {self._oldest()}")
        now = max(min(times), self._now)
        for activity, speed in zip(active, speeds, strict=True):
            left, demand = activity.parts[0]
            activity.parts[0] = (left - (now - self._now) * speed, demand)
            while activity.parts and activity.parts[0][0] <= EPSILON:
                activity.parts.pop(0)
        self._now = now
        self._complete()
        for unit in Unit:
            time = self._issue_time(unit)
            if time is not None and time <= now + EPSILON:
                self._issue(unit)
        time = self._dispatch_time()
        if time is not None and time <= now + EPSILON:
            self._dispatch()

    def _complete(self) -> None:
        """Finish what has no part left."""
        for state in self._units.values():
            if state.activity and not state.activity.parts:
                job = self._jobs[state.running]
                done = self._now
                state.contention += done - self._issues[state.running] - (job.cycles - job.tail * bool(job.drain))
                if job.drain:
                    state.free = self._now
                    before = [time for time, _ in state.draining[-1:]] or state.done_times[-1:]
                    done = max([done + job.tail, *(time + job.drain for time in before)])
                state.draining.append((done, state.running))
                state.activity = None
            while state.draining and state.draining[0][0] <= self._now + EPSILON:
                done, index = state.draining.pop(0)
                state.busy += done - max([self._issues[index], *state.done_times[-1:]])
                self._dones[index] = done
                state.done_times.append(done)
                state.free = state.free if self._jobs[index].drain else done + 1
        if self._fetch and not self._fetch.parts:
            self._arrivals.append(self._now)
            self._fetch = None
        has_room = len(self._arrivals) - len(self._dispatches) < FETCHED_AHEAD
        if self._fetch is None and len(self._arrivals) < len(self._descriptors) and has_room:
            self._fetch = self._fetch_next(0.0)

    def _fetch_next(self, lead: float) -> _Activity:
        return _Activity([(lead, {})] * (lead > 0) + [(float(self._beats), self._fetch_demand)])

    def _dispatch_time(self) -> float | None:
        """Return when the next descriptor goes to its queue; None if that waits for another event."""
        index = len(self._dispatches)
        if index >= len(self._arrivals):
            return None
        times = [self._arrivals[index], *(time + 1 for time in self._dispatches[-1:])]
        opcode = Opcode(self._descriptors[index].opcode)
        if opcode != Opcode.END:
            unit = UNIT_OF[opcode]
            if len(self._units[unit].queue) == QUEUE_DEPTH:
                return None
            times.append(self._queue_free[unit])
        return max(times)

    def _dispatch(self) -> None:
        index = len(self._dispatches)
        self._dispatches.append(self._now)
        opcode = Opcode(self._descriptors[index].opcode)
        if opcode != Opcode.END:
            self._units[UNIT_OF[opcode]].queue.append(index)

    def _due(self, index: int) -> tuple[float, Unit] | None:
        """Return in which cycle a descriptor's waits hold, and the unit that it waited for last; None if not yet."""
        last = (0.0, Unit.LOAD)
        for unit, count in zip(Unit, self._descriptors[index].waits, strict=True):
            done_times = self._units[unit].done_times
            if len(done_times) < count:
                return None
            if count and done_times[count - 1] + 1 > last[0]:
                last = (done_times[count - 1] + 1, unit)
        return last

    def _issue_time(self, unit: Unit) -> float | None:
        """Return when the unit takes the head of its queue; None if that waits for another event."""
        state = self._units[unit]
        if state.activity or not state.queue or len(state.draining) == MAX_RUNNING - 1:
            return None
        due = self._due(state.queue[0])
        if due is None:
            return None
        # The queue shows a descriptor one cycle after its dispatch; the release of a due one is registered.
        return max(self._dispatches[state.queue[0]] + 2, due[0] + 1, state.free)

    def _issue(self, unit: Unit) -> None:
        state = self._units[unit]
        if len(state.queue) == QUEUE_DEPTH:
            self._queue_free[unit] = self._now + 1
        index = state.queue.pop(0)
        due = self._due(index)
        assert due is not None
        idle_from = 0.0 if not state.done_times else state.done_times[-1] + 1
        if not state.draining:
            state.starved += max(0.0, self._dispatches[index] + 1 - idle_from)
            state.waits[due[1]] += max(0.0, due[0] - max(self._dispatches[index] + 1, idle_from))
        self._issues[index] = self._now
        state.running, state.activity = index, _Activity.of(self._jobs[index])

    def _oldest(self) -> int:
        """Return the first descriptor that has not been issued."""
        waiting = [state.queue[0] for state in self._units.values() if state.queue]
        return min(waiting, default=len(self._dispatches))


def share_ports(demands: Sequence[dict[Port, float]]) -> list[float]:
    """Return the speed, 0..1, of each activity: a port that is wanted more than once a cycle is shared by turns.

    Who wants less than its turn gets all it wants; the others get equal parts of the rest.
    """
    speeds = [1.0] * len(demands)
    for port in Port:
        wanted = sorted((demand[port], index) for index, demand in enumerate(demands) if demand.get(port))
        free = 1.0
        for position, (uses, index) in enumerate(wanted):
            granted = min(uses, free / (len(wanted) - position))
            free -= granted
            speeds[index] = min(speeds[index], granted / uses)
    return speeds

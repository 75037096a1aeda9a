"""Newest run wins: order, counts, coalescing, cancellation, errors; no absolute times."""

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lab_cases import PATIENCE, Document, specs

from andersonn_core import PROBLEMS, Anderson, Picard, SolveSpec, Status
from andersonn_core.driver import SolveKnobs
from andersonn_core.problems import Problem
from lab import pool, runner
from lab.pool import Pool, Slots, Ticket
from lab.runner import COUNTS, POOL, Runner, Update
from lab.tasks import NO_MEMORY, sentence
from lab.wire import presence


class Gate:
    """A map that can be held: f(z) = 1 - z, where plain steps go to and fro for ever."""

    def __init__(self, open: bool = True) -> None:
        self.calls, self.inside, self.together = 0, 0, 0
        self.event = threading.Event()
        if open:
            self.event.set()

    def __call__(self, z: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.inside += 1
        self.together = max(self.together, self.inside)
        assert self.event.wait(PATIENCE)
        self.inside -= 1
        return 1 - z

    def problem(self) -> Problem:
        return Problem(name="gate", f=self, z0=torch.zeros(2, 3))


def endless(number: int = 0, max_iter: int = 10**6) -> dict[str, SolveSpec]:
    """Solves that plain steps never end; `number` makes the second method another one."""
    knobs = dict(problem=PROBLEMS["rotation"](batch_size=2), rtol=0.0, max_iter=max_iter)
    plain = Anderson(window=0, delay=number)
    methods = {"picard": Picard(), "anderson": plain}
    return {name: SolveSpec(method=method, **knobs) for name, method in methods.items()}


def rows_of(updates: list[Update], method: str) -> np.ndarray:
    parts = [u.rows.evaluation for u in updates if u.method == method and u.rows is not None]
    return np.concatenate(parts)


# -- what is published ----------------------------------------------------------------------------


def test_rows_and_results_are_those_of_the_solve(lab, document):
    updates = document.run_until_ended(lab.submit(specs()))
    assert [u.reset for u in updates] == [True] + [False] * (len(updates) - 1)
    for method, spec in specs().items():
        mine = [u for u in updates if u.method == method]
        alone = spec.run()
        result = mine[-1].result
        assert [u.ended for u in mine] == [False] * (len(mine) - 1) + [True]
        assert result.num_evals == alone.num_evals
        assert torch.equal(result.z, alone.z)
        assert result.history.clock == "thread CPU time"
        assert result.card.spec == spec.to_dict()
        rows = [u.rows for u in mine if u.rows is not None]
        assert rows_of(mine, method).tolist() == list(range(1, alone.num_evals + 1))
        residual = np.concatenate([row.relative_residual for row in rows])
        np.testing.assert_array_equal(residual, alone.history.relative_residual.numpy())
        seconds = np.concatenate([row.seconds for row in rows])
        np.testing.assert_allclose(seconds, result.history.seconds.numpy())
        assert rows[-1].status.tolist() == alone.status.tolist()
        assert mine[-1].problem.name == "tanh"


def test_after_a_burst_exactly_the_last_run_ends_and_no_older_one_is_shown(lab, document):
    generation = 0
    for number in range(40):
        generation = lab.submit(endless(number, max_iter=300))
        if number % 7 == 0:
            document.run_until(lambda g=generation: document.shows(g))
    document.run_until_ended(generation)
    ends = [u for u in document.updates if u.ended and u.method == "anderson"]
    assert [u.generation for u in ends] == [generation]
    shown = [u.generation for u in document.updates]
    assert shown == sorted(shown)
    resets = [u.generation for u in document.updates if u.reset]
    assert resets == sorted(set(shown))
    assert document.most_pending == 1


def test_a_superseded_run_stops_after_its_present_evaluation(lab, document):
    gate = Gate(open=False)
    lab.submit_map(gate.problem(), {"anderson": Anderson()}, SolveKnobs(rtol=0.0, max_iter=10**6))
    document.run_until(lambda: gate.calls == 1)
    stopped = COUNTS.stopped
    generation = lab.submit(specs())
    gate.event.set()
    updates = document.run_until_ended(generation)
    document.run_until(lambda: COUNTS.stopped == stopped + 1)
    assert gate.calls == 1
    assert updates[0].reset


def test_cancel_publishes_what_there_is(lab, document):
    gate = Gate()
    knobs = SolveKnobs(rtol=0.0, max_iter=10**6)
    generation = lab.submit_map(gate.problem(), {"picard": Picard()}, knobs)
    document.run_until(lambda: len(document.updates) > 1)
    assert lab.running
    lab.cancel()
    updates = document.run_until_ended(generation, methods=1)
    result = updates[-1].result
    assert (result.status == Status.CANCELLED).all()
    assert rows_of(updates, "picard").tolist() == list(range(1, result.num_evals + 1))
    assert updates[-1].error is None
    assert not lab.running


def test_a_known_run_comes_back_in_one_update(lab, document):
    first = document.run_until_ended(lab.submit(specs()))
    document.run_until_ended(lab.submit(specs(window=4)))
    started = COUNTS.started
    again = document.run_until_ended(lab.submit(specs()))
    assert COUNTS.started == started
    assert [u.method for u in again] == ["anderson"]  # what did not change stays as it is shown
    update = again[0]
    assert update.ended and update.reset and update.kept == ("picard",)
    np.testing.assert_array_equal(update.rows.evaluation, rows_of(first, "anderson"))
    assert update.result is [u.result for u in first if u.method == "anderson"][-1]


def test_a_run_that_is_no_longer_asked_for_is_gone_although_nothing_else_changed(lab, document):
    third = specs(window=4)["anderson"]
    document.run_until_ended(lab.submit(specs() | {"restart": third}), methods=3)
    started = COUNTS.started
    generation = lab.submit(specs())
    document.run_until(lambda: document.shows(generation))
    update = document.updates[-1]
    assert update.generation == generation and update.reset and update.ended
    assert update.kept == ("picard", "anderson") and update.result is not None
    assert COUNTS.started == started


def test_another_visitor_shares_known_runs_but_not_another_seed(lab, document):
    document.run_until_ended(lab.submit(specs()))
    other_document = Document()
    other = Runner(other_document.publish, other_document.add_next_tick_callback)
    started = COUNTS.started
    other_document.run_until_ended(other.submit(specs()))
    assert COUNTS.started == started
    other_document.run_until_ended(other.submit(specs(seed=1)))
    assert COUNTS.started == started + 2
    other.close()


def test_a_method_that_did_not_change_goes_on_and_each_row_is_shown_once(lab, document):
    first = lab.submit(endless(0, max_iter=800))
    document.run_until(lambda: sum(u.method == "picard" for u in document.updates) > 2)
    started = COUNTS.started
    second = lab.submit(endless(1, max_iter=800))
    updates = document.run_until_ended(second)
    assert COUNTS.started == started + 1
    assert rows_of(document.updates, "picard").tolist() == list(range(1, 801))
    assert updates[0].reset and updates[0].kept == ("picard",)
    assert not any(u.ended for u in document.updates if u.generation == first)


def test_a_stopped_run_is_not_remembered(lab, document):
    generation = lab.submit(endless(max_iter=1000))
    document.run_until(lambda: len(document.updates) > 1)
    lab.cancel()
    document.run_until_ended(generation)
    updates = document.run_until_ended(lab.submit(endless(max_iter=1000)))
    ends = [u.result.num_evals for u in updates if u.ended]
    assert ends == [1000, 1000]


# -- errors ---------------------------------------------------------------------------------------


class Oddity(Exception):
    """Two lines, and markup."""

    def __str__(self) -> str:
        return "the third call is one too many\nTraceback: no"


@pytest.mark.parametrize("error", [Oddity(), SystemExit("bye"), KeyboardInterrupt(), MemoryError()])
def test_an_error_is_one_sentence_with_the_rows_before_and_harms_nobody(lab, document, error):
    calls = []

    def breaks(z):
        calls.append(1)
        if len(calls) == 3:
            raise error
        return z / 2 + 1

    neighbor_document = Document()
    neighbor = Runner(neighbor_document.publish, neighbor_document.add_next_tick_callback)
    theirs = neighbor.submit(endless(max_iter=500))
    problem = Problem(name="breaks", f=breaks, z0=torch.zeros(2, 3))
    updates = document.run_until_ended(lab.submit_map(problem, {"picard": Picard()}), methods=1)
    assert rows_of(updates, "picard").tolist() == [1, 2]
    assert updates[-1].result.num_evals == 2
    words = updates[-1].error
    assert words.endswith(".") and "\n" not in words and "Traceback" not in words
    after = document.run_until_ended(lab.submit(specs()))
    assert all(u.error is None for u in after)
    ends = [u for u in neighbor_document.run_until_ended(theirs) if u.ended]
    assert [u.result.num_evals for u in ends] == [500, 500]
    neighbor.close()


def test_sentences_for_errors_name_the_cause():
    assert sentence(ValueError("f changed\nthe shape")) == "The map raised ValueError: f changed."
    assert sentence(RuntimeError()) == "The map raised RuntimeError."
    assert sentence(MemoryError()) == NO_MEMORY
    assert len(sentence(ValueError("x" * 10_000))) < 400


def test_a_problem_that_cannot_be_built_says_why(lab, document, monkeypatch):
    monkeypatch.setattr("andersonn_core.memory.available_bytes", lambda device: 10)
    updates = document.run_until_ended(lab.submit(specs(seed=99)))
    assert all("batch_size" in u.error and u.result is None for u in updates)


def test_a_run_that_takes_too_long_is_stopped_and_says_so(lab, document, monkeypatch):
    monkeypatch.setattr(runner, "WALL_LIMIT", 0.05)
    updates = document.run_until_ended(lab.submit(endless()))
    for update in updates:
        if update.ended:
            assert update.error == runner.OVERTIME
            assert (update.result.status == Status.CANCELLED).all()


def test_too_many_runs_are_turned_away(document):
    lab = Runner(document.publish, document.add_next_tick_callback, pool=Pool(most_jobs=1))
    gate = Gate(open=False)
    held = lab.submit_map(gate.problem(), {"picard": Picard(), "anderson": Anderson()})
    updates = document.run_until_ended(held, methods=1)
    assert [u.error for u in updates if u.ended] == [runner.BUSY]
    gate.event.set()
    document.run_until_ended(held)
    updates = document.run_until_ended(lab.submit_map(gate.problem(), {"picard": Picard()}), 1)
    assert updates[-1].error is None
    lab.close()


# -- leaving --------------------------------------------------------------------------------------


def test_nothing_is_published_after_close_and_the_run_stops(lab, document):
    gate = Gate()
    stopped = COUNTS.stopped
    knobs = SolveKnobs(rtol=0.0, max_iter=10**6)
    lab.submit_map(gate.problem(), {"picard": Picard()}, knobs)
    document.run_until(lambda: bool(document.updates))
    lab.close()
    shown = len(document.updates)
    document.run_until(lambda: COUNTS.stopped == stopped + 1)
    assert lab.submit(specs()) == 1
    while not document.queue.empty():
        document.queue.get()()
    assert len(document.updates) == shown


def test_a_closed_websocket_stops_the_run(document, monkeypatch):
    monkeypatch.setattr(runner, "PRESENCE_SECONDS", 0.0)
    session = SimpleNamespace(connection_count=0)
    document.session_context = SimpleNamespace(session=session)
    lab = Runner(document.publish, document.add_next_tick_callback, presence(document))
    gate, stopped = Gate(), COUNTS.stopped
    lab.submit_map(gate.problem(), {"picard": Picard()}, SolveKnobs(rtol=0.0, max_iter=10**7))
    document.run_until(lambda: gate.calls > 50)  # not connected yet: the page is being loaded
    assert COUNTS.stopped == stopped
    session.connection_count = 1
    calls = gate.calls
    document.run_until(lambda: gate.calls > calls + 50)
    session.connection_count = 0
    document.run_until(lambda: COUNTS.stopped == stopped + 1)
    lab.close()
    assert not lab.running


def test_outside_a_server_somebody_is_always_present():
    assert presence(SimpleNamespace(session_context=None))()
    assert presence(SimpleNamespace(session_context=SimpleNamespace()))()


def test_a_document_that_is_gone_ends_the_publishing_not_the_thread(document):
    def gone(_callback):
        raise RuntimeError("document destroyed")

    lab = Runner(document.publish, gone)
    finished = COUNTS.finished
    lab.submit(specs(seed=5))
    document.run_until(lambda: COUNTS.finished >= finished + 2)
    assert document.updates == []
    lab.close()


# -- threads --------------------------------------------------------------------------------------


def test_anybodys_own_map_is_called_by_one_thread_at_a_time(lab, document):
    gate = Gate()
    methods = {"picard": Picard(), "anderson": Anderson(window=0), "more": Picard(mixing=0.9)}
    knobs = SolveKnobs(rtol=0.0, max_iter=200)
    document.run_until_ended(lab.submit_map(gate.problem(), methods, knobs), methods=3)
    assert gate.calls > 200 and gate.together == 1


def test_the_callers_torch_threads_stay_as_they_are(lab, document):
    torch.set_num_threads(2)
    document.run_until_ended(lab.submit(specs(seed=11)))
    assert torch.get_num_threads() == 2


def queued(slots: Slots, tickets: list[Ticket]) -> list[str]:
    """Three threads that wait for a slot; returns the names in the order of being called."""
    order: list[str] = []

    def work(name: str, new: bool, ticket: Ticket) -> None:
        slots.take(ticket, new)
        order.append(name if ticket.granted else f"{name} left")
        if ticket.granted:
            slots.give(ticket)

    for name, new in (("old", False), ("new", True), ("stopped", False)):
        tickets.append(Ticket())
        threading.Thread(target=work, args=(name, new, tickets[-1]), daemon=True).start()
        while len(slots._new) + len(slots._waiting) < len(tickets):
            time.sleep(0.001)
    return order


def test_new_jobs_overtake_jobs_that_have_shown_something_and_stopped_ones_leave(monkeypatch):
    monkeypatch.setattr(pool, "PATIENCE", 10 * PATIENCE)
    slots, mine, tickets = Slots(1), Ticket(), []
    slots.take(mine, new=False)
    order = queued(slots, tickets)
    assert slots.wanted(mine, held=0.0)
    slots.withdraw(tickets[2])
    Document().run_until(lambda: order == ["stopped left"])
    slots.give(mine)
    Document().run_until(lambda: order == ["stopped left", "new", "old"])
    assert not slots.wanted(mine, held=10.0)
    assert slots._free == 1
    slots.withdraw(mine)
    slots.take(mine, new=True)
    assert not mine.granted and slots._free == 1


def test_a_job_that_waited_too_long_computes_beside_a_slow_one(document):
    slow, gate = Gate(open=False), Gate()
    pages = [document, Document()]
    labs = [Runner(page.publish, page.add_next_tick_callback) for page in pages]
    held = labs[0].submit_map(slow.problem(), {"picard": Picard()}, SolveKnobs(max_iter=3))
    document.run_until(lambda: slow.calls == 1)
    theirs = labs[1].submit_map(gate.problem(), {"picard": Picard()}, SolveKnobs(max_iter=30))
    pages[1].run_until_ended(theirs, methods=1)
    assert slow.calls == 1
    slow.event.set()
    document.run_until_ended(held, methods=1)
    document.run_until(lambda: POOL.slots._free == 1)
    for lab in labs:
        lab.close()


def test_jobs_take_turns_when_there_are_more_than_slots(document):
    """Four visitors, two slots: all see their first point while the others still run."""
    documents = [Document() for _ in range(4)]
    gates = [Gate() for _ in documents]
    knobs = SolveKnobs(rtol=0.0, max_iter=10**6)
    labs = [Runner(page.publish, page.add_next_tick_callback) for page in documents]
    for lab, gate in zip(labs, gates, strict=True):
        lab.submit_map(gate.problem(), {"picard": Picard()}, knobs)
    for page in documents:
        page.run_until(lambda page=page: bool(page.updates))
    counts = [gate.calls for gate in gates]
    for page, gate, count in zip(documents, gates, counts, strict=True):
        page.run_until(lambda gate=gate, count=count: gate.calls > count + 20)
    assert all(lab.running for lab in labs)
    for lab in labs:
        lab.close()

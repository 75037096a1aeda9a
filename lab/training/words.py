"""The sentences of the Train page: plain text, escaped where shown."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from andersonn_core.words import percent_text, ratio_text, residual_text, seconds_text
from lab.training.setup import METHODS, REGIMES

if TYPE_CHECKING:
    from lab.training.lane import Lane, Reading
    from lab.training.probe import Point
    from lab.training.race import Pair, Race

QUESTION = "What does a faster equilibrium buy while a model learns?"
THEORY = (
    "The network repeats one layer until its state no longer changes; its gradient solves a second "
    "equilibrium of the same stiffness. While it learns, the layer contracts less and less: "
    "forward iteration needs more and more evaluations for every batch; Anderson needs fewer. Both "
    "begin with the same weights and see the same batches; they take turns, and the seconds of "
    "each are its own CPU time."
)
INVITATION = "Press Start: both methods train here, side by side"
START = 0.25  # epochs
ALIKE = 0.05  # of the seconds: less is no difference
NAMES = {"anderson": "Anderson", "picard": "forward iteration"}
BEGINS = "The first batches are on their way ..."
LOST = "This training is not kept any more: it ended more than a week ago, or the link has a typo."


def headline(race: Race | None) -> str:
    """What came out so far."""
    if race is None:
        return (
            "The same network learns to read digits twice: by forward iteration, and by Anderson."
        )
    lanes = race.lanes
    if len(lanes) < len(METHODS) or not all(lane.steps for lane in lanes.values()):
        return BEGINS
    anderson, forward = lanes["anderson"], lanes["picard"]
    if race.setup.regime == "time":
        return _equal_time(anderson, forward)
    epochs = min(len(anderson.tests), len(forward.tests))
    if not epochs:
        return BEGINS if race.pair is None else _batches(race.pair)
    return _tested(epochs, anderson.tests[epochs - 1], forward.tests[epochs - 1])


def _batches(pair: Pair) -> str:
    batches = "the first batch" if pair.steps == 1 else f"{pair.steps} batches"
    return (
        f"After {batches} Anderson has taken {seconds_text(pair.anderson)}, "
        f"forward iteration {seconds_text(pair.forward)}."
    )


def _tested(epochs: int, anderson: Reading, forward: Reading) -> str:
    start = (
        f"After {_epochs(epochs)} Anderson reads {_reads(anderson.accuracy)} of the test digits, "
        f"forward iteration {_reads(forward.accuracy)}"
    )
    took = f"it took {seconds_text(anderson.seconds)}"
    if abs(anderson.seconds / forward.seconds - 1) < ALIKE:
        return f"{start}; {took}, as long as forward iteration: {seconds_text(forward.seconds)}."
    if anderson.seconds <= forward.seconds:
        saved = percent_text(1 - anderson.seconds / forward.seconds)
        ending = f"instead of {seconds_text(forward.seconds)}: {saved} of the compute saved."
        return f"{start}; {took} {ending}"
    return f"{start}; {took}, and forward iteration wins with {seconds_text(forward.seconds)}."


def _equal_time(anderson: Lane, forward: Lane) -> str:
    parts = []
    for name, lane in (("Anderson", anderson), ("forward iteration", forward)):
        read = f" and reads {_reads(lane.accuracy)}" if lane.tests else ""
        parts.append(f"{name} {lane.passes:.1f} epochs{read}")
    seconds = seconds_text(min(anderson.seconds, forward.seconds))
    return f"After {seconds} of computing each, {parts[0]}; {parts[1]}."


def verdict(race: Race | None) -> str:
    """Why, and what is compared."""
    if race is None:
        return ""
    parts = []
    if len(race.lanes) == len(METHODS) and all(lane.steps for lane in race.lanes.values()):
        parts += [_why(race), _unconverged(race)]
    parts.append(stiffness(race))
    return " ".join(part for part in parts if part)


def _why(race: Race) -> str:
    anderson, forward = race.lanes["anderson"], race.lanes["picard"]
    fewer = forward.evals / forward.steps / (anderson.evals / anderson.steps)
    dearer = (anderson.seconds / anderson.evals) / (forward.seconds / forward.evals)
    speedup = race.speedup()
    regime = REGIMES[race.setup.regime].label.capitalize()
    factor = f", S = {ratio_text(speedup)}" if math.isfinite(speedup) else ""
    return (
        f"{regime}{factor}: Anderson needs {ratio_text(1 / fewer)} the evaluations, and one of "
        f"them costs {ratio_text(dearer)} the seconds."
    )


def _unconverged(race: Race) -> str:
    """Where the cap cuts solves off, the gradients are not what they claim to be."""
    if race.setup.regime != "cap":
        return ""
    shares = {name: lane.unconverged / max(lane.samples, 1) for name, lane in race.lanes.items()}
    return (
        f"Cut off before the tolerance: {percent_text(shares['picard'])} of forward iteration's "
        f"solves, {percent_text(shares['anderson'])} of Anderson's."
    )


def stiffness(race: Race) -> str:
    """How the network that Anderson trains has stiffened."""
    points = race.points.get("anderson", [])
    if len(points) < 2 or not points[-1].radius > points[0].radius + 0.005:
        return ""
    first, last = points[0], points[-1]
    before, now = _speedup(first), _speedup(last)
    factor = f"is {now}" if before == now else f"went from {before} to {now}"
    return (
        f"The model stiffens: its spectral radius went from {first.radius:.2f} to "
        f"{last.radius:.2f}; S on one batch {factor}."
    )


def point_words(name: str, point: Point) -> str:
    """One point of the phase diagram."""
    where = f"{NAMES[name].capitalize()}'s network {epoch_words(point.passes)}"
    ahead = {
        "at": f"Anderson is ahead after {seconds_text(point.seconds)}, "
        f"{point.evaluations:.0f} evaluations, from {residual_text(point.residual)} on",
        "from the start": "Anderson is ahead from the start",
        "only the challenger converges": "only Anderson converges",
    }.get(point.kind, "forward iteration is not overtaken")
    return (
        f"{where}: spectral radius {point.radius:.3f}, S {_speedup(point)}; {ahead}. "
        f"On these weights both read {percent_text(point.agreement)} of the digits alike."
    )


def epoch_words(passes: float) -> str:
    """When: "at the start", "after 2 epochs"."""
    return "at the start" if passes < START else f"after {_epochs(passes)}"


def _speedup(point: Point) -> str:
    ratio = ratio_text(point.speedup)
    return f"at least {ratio} (forward iteration was cut off)" if point.bound else ratio


def status(race: Race | None, mine: bool, notice: str = "") -> str:
    """The line beside the buttons."""
    if race is None:
        return notice or "About a minute an epoch on a laptop; it goes on if you close this tab."
    words = {
        "waiting": "Waiting for the processor.",
        "running": _running(race),
        "paused": f"Paused after {_amount(race)}.",
        "stopped": race.sentence or f"Stopped after {_amount(race)}; its checkpoints are kept.",
        "finished": _finished(race),
        "failed": "Ended with an error.",
        "interrupted": f"The server was restarted. {_amount(race).capitalize()} are kept: go on?",
    }[race.state]
    whose = "" if mine or race.state == "interrupted" else "You watch somebody else's training. "
    return f"{notice} {whose}{words}".strip()


def _running(race: Race) -> str:
    left = race.seconds_left
    rest = ""
    if math.isfinite(left):
        rest = f", about {_rough(left)} left"
    head = "Pausing after this batch" if race.pausing else f"Training, {race.progress:.0%} done"
    if race.coming:
        return f"{head}{rest}. From the next batch on: {race.coming}."
    return f"{head}{rest}. It goes on if you close this tab; the address finds it again."


def _finished(race: Race) -> str:
    return f"Finished: {_amount(race)}. Kept for a week under this address."


def _amount(race: Race) -> str:
    passes = min((lane.passes for lane in race.lanes.values()), default=0.0)
    return _epochs(passes) if passes else "no epochs"


def _epochs(count: float) -> str:
    text = f"{count:.3g}" if count >= 10 else f"{count:.1f}".removesuffix(".0")
    return "1 epoch" if text == "1" else f"{text} epochs"


def _rough(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds > 90 else f"{math.ceil(seconds / 10) * 10:.0f} s"


def _reads(part: float) -> str:
    return f"{100 * part:.1f} %" if math.isfinite(part) else "an unknown part"


def failures(race: Race | None) -> list[str]:
    """What went wrong, a sentence each."""
    if race is None:
        return []
    found = [
        f"{NAMES[name].capitalize()}: {lane.failure}"
        for name, lane in race.lanes.items()
        if lane.failure
    ]
    return found or ([race.sentence] if race.state == "failed" and race.sentence else [])


def angles(race: Race) -> str:
    """How far the newest gradients are from the implicit one."""
    found = {
        name: points[-1].angle
        for name, points in race.points.items()
        if points and math.isfinite(points[-1].angle)
    }
    if not found:
        return ""
    shown = ", ".join(f"{NAMES[name]} {angle:.1f}\N{DEGREE SIGN}" for name, angle in found.items())
    return f"Angle to the implicit gradient, solved to 1e-5, on 16 digits: {shown}."

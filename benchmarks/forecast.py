"""Forecast of BERT-base to 4 layers of 312 on 3.3 billion words, 3 times: on 1, 8 and 64 GPUs, and what breaks first.

    python -m benchmarks.forecast
    python -m benchmarks.forecast --rows 256,1024 --peak 312

The first command prints the tables of docs/scaling.md. They follow from the cost model of a stage
(stages/preflight/scale.py) and from the assumptions of the first table, each with a best and a worst value. No GPU was
there to measure any of them. `benchmarks.speed.cost_model` compares the same model with what was measured on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, NamedTuple

import typer

from schemas.recipe.student import StudentShape
from stages.preflight.scale import SUMS_IN_A_STEP, Link, Sizes, operations_per_token, token_bytes

TEACHER = StudentShape(num_layers=12, hidden_size=768, num_attention_heads=12, intermediate_size=3072)
STUDENT = StudentShape(num_layers=4, hidden_size=312, num_attention_heads=12, intermediate_size=1200)
SIZES = Sizes(student=14_350_248, projections=5 * (312 + 1) * 768, teachers=109_482_240)
"""TinyBERT's: a projection for the embedding and for each block."""
LENGTH = 128
WORDS, EPOCHS, WORD_BYTES = 3.3e9, 3, 6
PASS_TOKENS = 8192
"""`execution.microbatch_tokens`."""
PASS_OPERATIONS = 1100
"""Operations that torch starts for a forward pass of teacher and student, with losses and gradient; counted on a CPU
(tests/unit/test_forecast.py)."""
_NCCL_MESSAGE = 10e-6
"""Seconds of a message of NCCL without content, assumed; hardly anything beside the others."""
GPUS = (1, 8, 64)
MACHINE_GPUS = 8


class Range(NamedTuple):
    """A number that is not known better than this."""

    best: float
    worst: float

    def times(self, factor: float) -> Range:
        """Return both ends, multiplied."""
        return Range(self.best * factor, self.worst * factor)

    def over(self, rate: Range) -> Range:
        """Return the time of an amount at a rate."""
        return Range(self.best / rate.best, self.worst / rate.worst)

    def shown(self) -> str:
        """Write both ends with two digits; one of them if they look alike."""
        best, worst = map(two_digits, self)
        return best if best == worst else f"{best} to {worst}"


def summed(ranges: Iterable[Range]) -> Range:
    """Return the range of a sum."""
    best, worst = zip(*ranges, strict=True)
    return Range(sum(best), sum(worst))


def two_digits(number: float) -> str:
    """Write a number with two digits, and whole thousands with commas."""
    if number == 0:
        return "0"
    digits = 1 - math.floor(math.log10(abs(number)))
    rounded = round(number, digits)
    return f"{rounded:,.{max(0, digits)}f}"


class Assumption(NamedTuple):
    """A number of machines that are not here."""

    name: str
    value: Range
    unit: str
    basis: str

    def shown(self) -> str:
        """Write the value with its unit, exactly if it is a small number or known exactly."""
        ends = dict.fromkeys(f"{end:,.0f}" if end >= 100 else f"{end:g}" for end in self.value)
        return f"{' to '.join(ends)} {self.unit}".rstrip()


class Assumed(NamedTuple):
    """All of them, in the order of the table."""

    word: Assumption
    peak: Assumption
    teacher: Assumption
    student: Assumption
    start: Assumption
    batch: Assumption
    nvlink: Assumption
    network: Assumption
    inside: Assumption
    between: Assumption
    tokenizing: Assumption
    sending: Assumption


def assumed(peak: float) -> Assumed:
    """Return the assumptions, with the TFLOP/s of a GPU."""
    per_core = 49.6 / 26 * 60
    return Assumed(
        Assumption("tokens of a word", Range(1.2, 1.4), "", "assumed: English, BERT's vocabulary"),
        Assumption(
            "matrix products of a GPU, bf16", Range(peak, peak), "TFLOP/s", "data sheet: H100 SXM 989, A100 312"
        ),
        Assumption("share of it in the teacher", Range(0.5, 0.25), "", "assumed"),
        Assumption("share of it in student and losses", Range(0.15, 0.05), "", "assumed: narrow, bound by memory"),
        Assumption("start of an operation", Range(5, 15), "µs", "assumed: PyTorch without compiling"),
        Assumption("making a batch", Range(25, 150), "ns a token", "measured: `benchmarks.speed.batching`"),
        Assumption("GPU to GPU in a machine", Range(300, 100), "GB/s", "assumed: NVLink, by its data sheet 450"),
        Assumption("machine to machine", Range(100, 25), "Gbit/s", "assumed: Ethernet"),
        Assumption("message of a sum in a machine", Range(30, 250), "µs", "gloo: assumed; measured, 4 on 2 cores"),
        Assumption("message of a sum between machines", Range(30, 100), "µs", "assumed: gloo over TCP"),
        Assumption("text to tokens", Range(16 * per_core, 165), "MB/min", "16 times a core's; measured on two cores"),
        Assumption("sending to an object store", Range(1, 0.1), "GB/s", "assumed"),
    )


def objective_operations() -> float:
    """Return operations per token of TinyBERT's losses: projections, and attention scores of both models."""
    scores = STUDENT.num_layers * 2 * LENGTH * (3 * STUDENT.hidden_size + TEACHER.hidden_size)
    return 3 * 2 * SIZES.projections * STUDENT.hidden_size / (STUDENT.hidden_size + 1) + scores


class Step(NamedTuple):
    """Seconds of the parts of a step."""

    teacher: Range
    student: Range
    start: Range
    batch: Range
    gradients: Range
    sums: Range

    @property
    def computing(self) -> Range:
        """Until all operations have ended, which takes at least the time to start them."""
        models = summed([self.teacher, self.student])
        return Range(max(models.best, self.start.best), max(models.worst, self.start.worst))

    @property
    def seconds(self) -> Range:
        """The whole step; the loop hides none of these behind another."""
        return summed([self.computing, self.batch, self.gradients, self.sums])

    @property
    def first_loss(self) -> str:
        """Largest part of what more GPUs do not shorten, where things are worst."""
        models = summed([self.teacher, self.student])
        losses = {
            "start of operations": max(0.0, self.start.worst - models.worst),
            "gradients": self.gradients.worst,
            "sums": self.sums.worst,
        }
        name = max(losses, key=lambda name: losses[name])
        return name if losses[name] else "–"


def step_of(rows: int, gpus: int, by: Assumed) -> Step:
    """Return the parts of a step of `rows` rows on a number of GPUs, eight of them in a machine."""
    tokens = rows * LENGTH / gpus
    rate = by.peak.value.times(1e12)
    of_teacher, of_student = (
        Range(rate.best * share.value.best, rate.worst * share.value.worst) for share in (by.teacher, by.student)
    )
    teacher = tokens * operations_per_token(TEACHER, LENGTH)
    student = tokens * (3 * operations_per_token(STUDENT, LENGTH) + objective_operations())
    operations = math.ceil(tokens / PASS_TOKENS) * PASS_OPERATIONS
    message = (by.inside if gpus <= MACHINE_GPUS else by.between).value.times(1e-6)
    bandwidth = by.nvlink.value.times(1e9) if gpus <= MACHINE_GPUS else by.network.value.times(1e9 / 8)
    links = [Link(end, _NCCL_MESSAGE) for end in bandwidth]
    return Step(
        teacher=Range(teacher, teacher).over(of_teacher),
        student=Range(student, student).over(of_student),
        start=by.start.value.times(1e-6 * operations),
        batch=by.batch.value.times(1e-9 * tokens),
        gradients=Range(*(link.sum_seconds(SIZES.gradient_bytes, gpus) for link in links)),
        sums=Range(*(SUMS_IN_A_STEP * Link(1e9, seconds).sum_seconds(16, gpus) for seconds in message)),
    )


def steps_of(rows: int, by: Assumed) -> Range:
    """Return the optimizer steps of all epochs."""
    return by.word.value.times(WORDS * EPOCHS / (rows * LENGTH))


def hours_of(rows: int, gpus: int, by: Assumed) -> Range:
    """Return the hours of all steps."""
    steps, step = steps_of(rows, by), step_of(rows, gpus, by).seconds
    return Range(steps.best * step.best / 3600, steps.worst * step.worst / 3600)


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table."""
    for cells in (header, ["---"] * len(header), *rows):
        yield f"| {' | '.join(cells)} |"


def assumption_lines(by: Assumed) -> Iterator[str]:
    """Yield the table of assumptions."""
    header = ("assumption", "best to worst", "basis")
    yield from markdown(header, ([x.name, x.shown(), x.basis] for x in by))


def step_lines(rows: int, by: Assumed) -> Iterator[str]:
    """Yield the table of a step on each number of GPUs, and of the whole stage."""
    steps = {gpus: step_of(rows, gpus, by) for gpus in GPUS}
    hours = {gpus: hours_of(rows, gpus, by) for gpus in GPUS}

    def milliseconds(name: str, of: str) -> list[str]:
        return [name, *(getattr(step, of).times(1e3).shown() for step in steps.values())]

    def share(gpus: int) -> str:
        ends = [100 * hours[1][end] / gpus / hours[gpus][end] for end in (0, 1)]
        return Range(*ends).shown() + " %"

    machines = [f"{gpus} GPU{'s' * (gpus > 1)}" for gpus in GPUS]
    table = [
        ["tokens of each", *(f"{rows * LENGTH // gpus:,}" for gpus in GPUS)],
        milliseconds("teacher forward", "teacher"),
        milliseconds("student forward and backward, losses", "student"),
        milliseconds("starting these operations, meanwhile", "start"),
        milliseconds("making the batch", "batch"),
        milliseconds("gradients", "gradients"),
        milliseconds("sums of a few numbers", "sums"),
        milliseconds("**a step, ms**", "seconds"),
        [f"**{steps_of(rows, by).shown()} steps, hours**", *(hours[gpus].shown() for gpus in GPUS)],
        ["of the ideal", *(share(gpus) for gpus in GPUS)],
        ["largest loss", *(step.first_loss for step in steps.values())],
    ]
    yield from markdown([f"{rows:,} rows a step", *machines], table)


def other_lines(by: Assumed) -> Iterator[str]:
    """Yield the table of what is beside the steps."""
    tokens = by.word.value.times(WORDS)
    text = WORDS * WORD_BYTES
    sequences = tokens.times(1 / LENGTH)
    answers = tokens.times(13 * 2 * TEACHER.hidden_size)
    state = SIZES.state_bytes
    reading = [tokens.worst * EPOCHS * 5 / (3600 * hours_of(4096, gpus, by).best) for gpus in GPUS]
    sizes = Range(token_bytes(tokens.best, sequences.best), token_bytes(tokens.worst, sequences.worst))
    minutes = Range(text / 1e6, text / 1e6).over(by.tokenizing.value)
    table = [
        ["text to tokens, before the first step", f"{minutes.times(1 / 60).shown()} h on every machine"],
        ["tokens on the disk of every machine", f"{sizes.times(1e-9).shown()} GB"],
        ["reading them, 4,096 rows a step", f"at most {', '.join(two_digits(x / 1e6) for x in reading)} MB/s in all"],
        ["order of an epoch, in every process", f"{sequences.times(43e-9).shown()} GB"],
        ["the teacher's answers, once", f"{answers.times(1e-12).shown()} TB: no disk holds them, the teacher runs"],
        ["a state, every two minutes", f"{state / 1e6:.0f} MB, sent in {by_rate(state, by).shown()} s beside training"],
        ["a checkpoint, at the end", f"{SIZES.checkpoint_bytes / 1e6:.0f} MB"],
        ["evaluation, in the first process alone", "with reading and writing about 10 s on two cores, measured"],
        ["models, gradient and moments on a GPU", f"{SIZES.process_bytes(2) / 1e9:.2f} GB, without activations"],
    ]
    yield from markdown(("beside the steps", "1, 8 and 64 GPUs alike, if not said"), table)


def by_rate(num_bytes: float, by: Assumed) -> Range:
    """Return the seconds of sending."""
    return Range(num_bytes, num_bytes).over(by.sending.value.times(1e9))


def forecast(rows: Sequence[int], peak: float = 989) -> str:
    """Return the tables, as docs/scaling.md has them."""
    by = assumed(peak)
    parts = [assumption_lines(by), *(step_lines(each, by) for each in rows), other_lines(by)]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


ROWS = (256, 4096)


def main(
    rows: Annotated[str, typer.Option(help="Rows of 128 tokens in a step, a table for each.")] = "256,4096",
    peak: Annotated[float, typer.Option(help="Matrix products of a GPU in bf16, in TFLOP/s.")] = 989,
) -> None:
    """Print the forecast."""
    typer.echo(forecast([int(each) for each in rows.split(",")], peak), nl=False)


if __name__ == "__main__":
    typer.run(main)

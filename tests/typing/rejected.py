"""What a type checker must reject. An ignored line that is no error is itself an error, so each one is proved."""

from queuecast import Context, Queuecast

qc = Queuecast()
exports = qc.queue("exports")


@exports.task
def export(ctx: Context, report_id: int) -> str:
    return f"/files/{report_id}.csv"


async def reject() -> None:
    await export.submit("seven")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await export.submit(report=7)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await export.submit()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await export.options(delay="soon").submit(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    ref = await export.submit(7)
    n: int = await ref.result()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    print(n)

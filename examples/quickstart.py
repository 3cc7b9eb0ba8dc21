from queuecast import Context, Queuecast

qc = Queuecast("sqlite:///work.db")
reports = qc.queue("reports")


@reports.task(retries=3, timeout=600)
def render(ctx: Context, pages: int) -> str:
    for page in range(pages):
        ctx.progress(page + 1, pages, "pages")
    return f"/files/report-{pages}.pdf"

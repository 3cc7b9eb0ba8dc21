"""Token streaming, resumable, with stop."""

from collections.abc import AsyncIterator

from queuecast import Context, Queuecast

qc = Queuecast()
chat = qc.queue("chat")


@chat.task(timeout=120)
async def answer(ctx: Context, prompt: str) -> AsyncIterator[str]:
    for token in prompt.split():
        yield token


@chat.task
async def title(prompt: str) -> str:
    return prompt[:40]


async def stream(prompt: str, user: str) -> AsyncIterator[str]:
    ref = await answer.options(owner=user).submit(prompt)
    async for token in ref.outputs():
        yield token


async def headline(prompt: str) -> str:
    return await (await title.submit(prompt)).result()


async def stop(id: str) -> None:
    await answer.ref(id).cancel()

"""Images that kill the process that reads them: found by bisection in child processes, and rejected one by one."""

import multiprocessing
import signal
import traceback
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from pipeline.corpus import Item
from pipeline.errors import UserError
from pipeline.runs import REJECT_SCHEMA

Tables = tuple[pa.Table, pa.Table]  # masks and rejects
Answerer = Callable[[list[Item]], Tables]


def answer_in_children(make: Callable[[], Answerer], items: list[Item], schema: pa.Schema) -> Tables:
    """Mask rows and reject rows of items, where some may kill the process that works on them.

    A child answers all of them; if it dies, two children answer a half each, and so on: k deadly images among n cost about
    2 k log2(n) children. An image that kills a child of its own becomes a reject `worker_crash`.

    Args:
        make: called in the child (so it must be picklable), gives the function that answers items.
        schema: of the mask rows.
    """
    done = _in_child(make, items)
    if isinstance(done, tuple):
        return done
    if len(items) == 1:
        return schema.empty_table(), _crashed(items[0], done)
    middle = len(items) // 2
    halves = [answer_in_children(make, part, schema) for part in (items[:middle], items[middle:])]
    masks, rejects = (pa.concat_tables(tables) for tables in zip(*halves, strict=True))
    return masks, rejects


def _in_child(make: Callable[[], Answerer], items: list[Item]) -> Tables | str:
    """The child's tables, or how it died."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_work, args=(sender, make, items), daemon=True)
    child.start()
    sender.close()  # ours: when the child's end closes too, recv raises
    try:
        answer: Any = receiver.recv()
    except EOFError:
        answer = None
    child.join()
    if isinstance(answer, BaseException):
        raise answer
    if answer is None:
        code = child.exitcode or 0
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    masks, rejects = (pa.ipc.open_stream(data).read_all() for data in answer)
    return masks, rejects


def _work(sender: Any, make: Callable[[], Answerer], items: list[Item]) -> None:
    try:
        sender.send([_serialised(table) for table in make()(items)])
    except Exception as error:  # a fault of the run, not of one image: the parent raises it
        sender.send(_sendable(error))


def _sendable(error: Exception) -> Exception:
    """An error as another process can raise it: not every type can be made again from what pickle keeps of it."""
    if isinstance(error, UserError):
        return error
    plain = OSError(*error.args) if isinstance(error, OSError) else RuntimeError(f"{type(error).__name__}: {error}")
    plain.add_note("".join(traceback.format_exception(error)))
    return plain


def _serialised(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _crashed(item: Item, how: str) -> pa.Table:
    row = {
        "image_id": item.image_id,
        "uri": item.image.uri,
        "member": item.image.member,
        "stage": "worker",
        "error": "worker_crash",
        "message": f"{item.image_id}: the process that worked on it died ({how}), alone and beside others; look at the image, "
        "or give the worker more memory and run `maskmill retry-rejects`",
        "attempts": 2,
    }
    return pa.Table.from_pylist([row], schema=REJECT_SCHEMA)

"""Find images on which the code raises, or that kill its process, by bisection, and reject them."""

import multiprocessing
import signal
import traceback
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from pipeline.corpus import Item
from pipeline.errors import Reject, UserError
from pipeline.predict.out_of_memory import memory_is_full
from pipeline.runs import REJECT_SCHEMA
from pipeline.segment.loading import NO_MEMORY
from pipeline.segment.rows import reject_row

WORKER_ERROR = "worker_error"
Tables = tuple[pa.Table, pa.Table]  # masks and rejects
Answer = Callable[[list[Item]], Tables]


def isolate_errors(answer: Answer, items: list[Item], schema: pa.Schema) -> Tables:
    """Return mask rows and reject rows of items when `answer` may raise on some of them.

    After an error, each half is answered by itself, and so on. An image that raises an error on its own becomes a reject
    `worker_error`, or `out_of_memory`. `UserError`, which concerns the whole run, is raised.

    Args:
        schema: of the mask rows.
    """
    try:
        return answer(items)
    except UserError:
        raise
    except Exception as error:
        if len(items) == 1:
            return _rejected(items[0], NO_MEMORY if memory_is_full(error) else _worker_error(items[0], error), schema)
    return _in_halves(lambda half: isolate_errors(answer, half, schema), items)


def isolate_crashes(make: Callable[[], Answer], items: list[Item], schema: pa.Schema) -> Tables:
    """Return mask rows and reject rows of items when some may kill the process that works on them.

    A child process answers all of them; if it dies, two children answer half of them each, and so on: k deadly images among n
    cost about 2 k log2(n) children. An image that kills a child on its own becomes a reject `worker_crash`.

    Args:
        make: called in the child (so it must be picklable); returns the function that answers items.
        schema: of the mask rows.
    """
    tables = _in_child(make, items)
    if isinstance(tables, tuple):
        return tables
    if len(items) == 1:
        return _rejected(items[0], _worker_crash(items[0], tables), schema)
    return _in_halves(lambda half: isolate_crashes(make, half, schema), items)


def _in_halves(answer: Answer, items: list[Item]) -> Tables:
    middle = len(items) // 2
    masks, rejects = zip(answer(items[:middle]), answer(items[middle:]), strict=True)
    return pa.concat_tables(masks), pa.concat_tables(rejects)


def _rejected(item: Item, reject: Reject, schema: pa.Schema) -> Tables:
    row = reject_row(item, reject) | {"attempts": 2}
    return schema.empty_table(), pa.Table.from_pylist([row], schema=REJECT_SCHEMA)


def _worker_error(item: Item, error: Exception) -> Reject:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    words = " ".join(str(error).split())
    return Reject(
        "worker",
        WORKER_ERROR,
        f"{item.image_id}: {type(error).__name__}: {words} ({frame.filename}:{frame.lineno}, in {frame.name}); the code "
        "failed on this image, alone and beside others: report it with the image, then run `maskmill retry-rejects`",
    )


def _in_child(make: Callable[[], Answer], items: list[Item]) -> Tables | str:
    """Answer items in a child process; return its tables, or how it died."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_work, args=(sender, make, items), daemon=True)
    child.start()
    sender.close()  # the parent's copy: once the child's closes too, recv raises
    try:
        answer: Any = receiver.recv()
    except (EOFError, OSError):  # it died before it answered, or in the middle of its answer
        answer = None
    child.join()
    if isinstance(answer, BaseException):
        raise answer
    if answer is None:
        code = child.exitcode or 0
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    masks, rejects = (pa.ipc.open_stream(data).read_all() for data in answer)
    return masks, rejects


def _work(sender: Any, make: Callable[[], Answer], items: list[Item]) -> None:
    try:
        sender.send([_serialised(table) for table in make()(items)])
    except Exception as error:  # a fault of the run, not of one image: the parent raises it
        sender.send(_sendable(error))


def _sendable(error: Exception) -> Exception:
    """Return an error that another process can raise: not every type of exception can be unpickled."""
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


def _worker_crash(item: Item, how: str) -> Reject:
    return Reject(
        "worker",
        "worker_crash",
        f"{item.image_id}: the process that worked on it died ({how}), alone and beside others; look at the image, "
        "or give the worker more memory and run `maskmill retry-rejects`",
    )

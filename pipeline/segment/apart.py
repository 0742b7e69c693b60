"""Images on which the code itself fails, by an exception of no known meaning: found by bisection, and rejected one by one."""

import traceback
from collections.abc import Callable

import pyarrow as pa

from pipeline.corpus import Item
from pipeline.errors import Reject, UserError
from pipeline.predict.out_of_memory import memory_is_full
from pipeline.runs import REJECT_SCHEMA
from pipeline.segment.loading import NO_MEMORY
from pipeline.segment.rows import reject_row

WORKER_ERROR = "worker_error"

Tables = tuple[pa.Table, pa.Table]  # masks and rejects


def answer_apart(answer: Callable[[list[Item]], Tables], items: list[Item], schema: pa.Schema) -> Tables:
    """Mask rows and reject rows of items, where `answer` may raise on some of them.

    After an error each half is answered by itself, and so on. An image on which an error is raised when it is alone becomes
    a reject `worker_error`, or `out_of_memory`. What concerns the whole run, `UserError`, is raised.

    Args:
        schema: of the mask rows.
    """
    try:
        return answer(items)
    except UserError:
        raise
    except Exception as error:
        if len(items) == 1:
            row = reject_row(items[0], NO_MEMORY if memory_is_full(error) else _reject(items[0], error)) | {
                "attempts": 2
            }
            return schema.empty_table(), pa.Table.from_pylist([row], schema=REJECT_SCHEMA)
    middle = len(items) // 2
    halves = [answer_apart(answer, part, schema) for part in (items[:middle], items[middle:])]
    masks, rejects = (pa.concat_tables(tables) for tables in zip(*halves, strict=True))
    return masks, rejects


def _reject(item: Item, error: Exception) -> Reject:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    words = " ".join(str(error).split())
    return Reject(
        "worker",
        WORKER_ERROR,
        f"{item.image_id}: {type(error).__name__}: {words} ({frame.filename}:{frame.lineno}, in {frame.name}); the code "
        "failed on this image, alone and beside others: report it with the image, then run `maskmill retry-rejects`",
    )

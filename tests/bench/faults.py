"""Faults in a nightly run, simulated for Maskmill, plain Ray Data, Ray Data with its checkpoints and Daft with its own.

python -m tests.bench.faults [--seeds 1] [--daft FOLDER]    about half an hour on 2 busy cores for one seed

Every side computes the same small network over the same images of a real S3 store behind a proxy, eight images a commit, one
worker. A fault strikes the first start at a random moment; a start that did not end with 0 is started again, at most twice,
without the fault (a deadly image stays in the corpus). What counts is the output after the last start.
Daft takes part if `--daft` names a folder with it, since it needs an older Ray than this package:
pip install --target FOLDER --no-deps daft==0.7.26 deltalake==1.6.6 ray==2.59.0
"""

import argparse
import json
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline import labels, models, storage
from pipeline.config import parse_model
from pipeline.models import checkpoint
from tests.bench import fault_counts, fault_step
from tests.bench.fault_sides import SIDES, TOGETHER, as_png, write_manifest
from tests.bench.rows import record
from tests.bench.turns import show
from tests.faulty_store import Asked, FaultyStore, answers, resets, truncates
from tests.s3_server import S3Server

ROOT = Path(__file__).parent.parent.parent
IMAGES, STARTS = 96, 3
LIMIT_S = 400.0  # of a start, for a machine on which much else runs; an unbroken one takes 20 s on a quiet one
OURS, DAFT = "maskmill segment", "Daft, checkpoints"
TWICE = "none, started twice"
FAULTS = {
    TWICE: "the finished job is started again",
    "driver killed": "kill -9 of the process that the user started; its Ray goes with it",
    "worker killed": "kill -9 of the process that computes",
    "deadly image": "one image kills every process that computes it, as a decoder with a fault does",
    "store fails": "a quarter of the requests to images and output: 503, a reset, or a body that breaks off",
    "bodies cut": "a quarter of the images arrive half, once, and the header says that this was all",
}
STORE = ("store fails", "bodies cut")


@dataclass
class World:
    """Where everything lies, and how it is reached."""

    folder: Path
    server: S3Server
    proxy: FaultyStore
    bucket: str
    daft: str | None

    def environment(self, side: str) -> dict[str, str]:
        paths = [str(ROOT), *([self.daft] if side == DAFT and self.daft else [])]
        return os.environ | self.server.environment(self.proxy.url) | {
            "PYTHONPATH": os.pathsep.join(reversed(paths)), "OMP_NUM_THREADS": "1",
        }  # fmt: skip

    def corpus(self, deadly: int | None) -> tuple[str, str]:
        """URIs of the images and of their manifest; written where they are not there yet."""
        name = f"images-{deadly}"
        images, manifest = storage.join(self.bucket, name), storage.join(self.bucket, f"{name}-manifest")
        if not storage.list_files(manifest):
            paths = []
            for number in range(IMAGES):
                paths.append(storage.join(images, f"{number:04d}.png"))
                storage.put(paths[-1], as_png(fault_step.draw(number, deadly == number)))
            write_manifest(manifest, paths, storage.put)
        return images, manifest


@dataclass
class Started:
    """One start of a side, seen from outside."""

    process: subprocess.Popen[bytes]
    said: Path
    began: float = field(default_factory=time.monotonic)

    def over(self) -> bool:
        return self.process.poll() is not None or time.monotonic() - self.began > LIMIT_S

    def end(self) -> str:
        """How it ended, or that it had to be ended, and the last thing it said."""
        try:
            while not self.over():
                time.sleep(0.05)
        finally:
            code = self.process.poll()
            self.process.kill()
            self.process.wait()
            end_session(self.process.pid)
        words = [line for line in self.said.read_text(errors="replace").splitlines() if line.strip()]
        how = f"never ended ({LIMIT_S:.0f} s)" if code is None else f"exit {code}"
        return f"{how}; {len(words)} lines: {words[-1].strip()[:300] if words else 'nothing said'}"


@dataclass(frozen=True)
class Played:
    counts: fault_counts.Counts
    again: int  # images computed more than once: times beyond the first
    starts: list[str]  # how each ended
    finished: bool
    seconds: float
    struck: int  # requests that the store's fault was laid on


def end_session(leader: int) -> None:
    """kill -9 of what is left of a session that this process began, so that no play disturbs the next."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader:
                os.kill(int(process.name), signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError, IndexError):
            continue


def start(world: World, side: str, play: dict[str, object]) -> Started:
    said = Path(str(play["log"]) + f".said-{time.monotonic_ns()}")
    command = [sys.executable, "-m", "tests.bench.fault_sides", side, json.dumps(play)]
    with said.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, cwd=ROOT, env=world.environment(side), start_new_session=True
        )
    return Started(process, said)


def strike(fault: str, chance: random.Random, started: Started, log: str) -> None:
    """Kill at a random moment, counted in images begun; nothing where the job is over before."""
    moment, more_s = chance.randint(IMAGES // 8, IMAGES * 3 // 4), chance.random() * 0.3
    while len(found := fault_step.computed(log)) < moment and not started.over():
        time.sleep(0.01)
    time.sleep(more_s)
    victim = started.process.pid if fault == "driver killed" else found[-1][1]
    if not started.over():
        os.kill(victim, signal.SIGKILL)


@contextmanager
def store_fault(fault: str, chance: random.Random, world: World, play: dict[str, object]) -> Iterator[None]:
    """Inside the block the proxy misbehaves as the fault says."""
    images, written = (str(play[name]).removeprefix("s3://") for name in ("images", "base"))

    def struck(asked: Asked) -> bool:
        image = asked.method == "GET" and asked.key.startswith(f"{images}/")
        if fault == "bodies cut":
            return image and asked.first and chance.random() < 0.25
        return (image or asked.key.startswith(written)) and chance.random() < 0.25

    async def fails(store: FaultyStore, asked: Asked, request: object) -> object:
        kinds = [answers(503, "SlowDown"), resets, *([truncates(0.5, honest=False)] if asked.method == "GET" else [])]
        return await chance.choice(kinds)(store, asked, request)  # type: ignore[arg-type, misc]

    with world.proxy.fault(truncates(0.5, honest=True) if fault == "bodies cut" else fails, struck):
        yield


def expected(deadly: int | None) -> dict[str, np.ndarray]:
    step = fault_step.build(fault_step.CLASSES, os.devnull).eval()
    drawn = {f"{n:04d}": fault_step.draw(n) for n in range(IMAGES) if n != deadly}
    return {name: fault_step.mask(step.head, image) for name, image in drawn.items()}


def counted(side: str, output: str, deadly: int | None) -> fault_counts.Counts:
    match side:
        case "maskmill segment":
            files = fault_counts.parquet_files(storage.join(output, "masks"))
        case "Daft, checkpoints":
            files = fault_counts.delta_files(output)
        case _:
            files = fault_counts.parquet_files(output)
    return fault_counts.count(files, expected(deadly), fault_counts.rejects(output) if side == OURS else ())


def play_one(world: World, side: str, fault: str, seed: int) -> Played:
    chance = random.Random(f"{fault} {seed}")
    deadly = chance.randrange(IMAGES) if fault == "deadly image" else None
    images, manifest = world.corpus(deadly)
    name = f"{list(SIDES).index(side)}-{list(FAULTS).index(fault)}-{seed}"
    base, log = storage.join(world.bucket, f"out-{name}"), str(world.folder / name)
    play = {
        "images": images, "manifest": manifest, "base": base, "output": storage.join(base, "masks"),
        "state": storage.join(base, "state"), "log": log, "checkpoint": str(world.folder / f"model-{name}"),
        "code": str(world.folder / "code"), "bad_images": deadly is not None, "count": IMAGES,
    }  # fmt: skip
    save_checkpoint(world.folder, str(play["checkpoint"]), log)
    began, ends = time.monotonic(), []
    with ExitStack() as over:
        over.enter_context(store_fault(fault, chance, world, play) if fault in STORE else nullcontext())
        started = start(world, side, play)
        if fault in ("driver killed", "worker killed"):
            strike(fault, chance, started, log)
        ends.append(started.end())
    twice = fault == TWICE
    while len(ends) < STARTS and (not done(side, ends[-1]) or (twice and len(ends) == 1)):
        ends.append(start(world, side, play).end())
    seconds = time.monotonic() - began
    times = Counter(number for number, _ in fault_step.computed(log) if number != deadly)
    again = sum(times.values()) - len(times)
    struck = len(world.proxy.struck) if fault in STORE else 0
    return Played(counted(side, str(play["output"]), deadly), again, ends, done(side, ends[-1]), seconds, struck)


def save_checkpoint(folder: Path, uri: str, log: str) -> None:
    """The network as a user's own code, in Maskmill's checkpoint."""
    code = folder / "code"
    code.mkdir(exist_ok=True)
    (code / "fault_step.py").write_bytes(Path(fault_step.__file__).read_bytes())
    cfg = parse_model(
        {"name": "python", "build": "fault_step:build", "path": str(code), "arguments": {"log": log},
         "mean": [0, 0, 0], "std": [1, 1, 1]}, where="bench",
    )  # fmt: skip
    checkpoint.save(uri, models.build(cfg, fault_step.CLASSES), cfg, labels.space("cityscapes19"), {})


def done(side: str, how: str) -> bool:
    """Whether a start ended as one that has nothing left to do; Maskmill's 2 is done with rejects."""
    return how.startswith("exit 0;") or (side == OURS and how.startswith("exit 2;"))


def joined(played: list[Played], of: Callable[[Played], object]) -> str:
    """A number a seed; one where they are all the same."""
    found = [str(of(one)) for one in played]
    return found[0] if len(set(found)) == 1 else " ".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1, help="random moments of each fault")
    parser.add_argument("--sides", nargs="*", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--faults", nargs="*", default=list(FAULTS), choices=list(FAULTS))
    parser.add_argument("--daft", help="folder with daft, deltalake and the Ray that it wants")
    args = parser.parse_args()
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(143)
    )  # so that the store and what is played end with this process
    sides = [side for side in args.sides if side != DAFT or args.daft]
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # of connections that the proxy breaks on purpose
    played: dict[tuple[str, str], list[Played]] = {(fault, side): [] for fault in args.faults for side in sides}
    try:
        with world(args.daft) as here:
            for seed in range(args.seeds):
                for fault, side in played:
                    if seed == 0 or fault != TWICE:
                        played[fault, side].append(play_one(here, side, fault, seed))
                        tell(fault, side, seed, played[fault, side][-1])
    finally:  # what was played is shown, even where the rest was not
        header = ["fault", "side", "plays", "lost", "doubled", "wrong", "unreadable", "computed again", "starts", "finished",
                  "s"]  # fmt: skip
        rows = [row(fault, side, found) for (fault, side), found in played.items() if found]
        show(f"{IMAGES} images, {TOGETHER} a commit; one number a play where they differ", header, rows)
        print("\n" + "\n".join(f"- {fault}: {FAULTS[fault]}" for fault in args.faults), flush=True)
    for fault in args.faults:
        keep_rows(fault, {side: played[fault, side] for side in sides})
    if amiss := [key for key, found in played.items() if key[1] == OURS and any(one.counts.spoilt for one in found)]:
        sys.exit(f"{OURS} lost, doubled or spoilt images: {amiss}")


def keep_rows(fault: str, played: dict[str, list[Played]]) -> None:
    """Rows of the book."""
    spoilt = {side: [float(one.counts.spoilt) for one in found] for side, found in played.items()}
    seconds = {side: [one.seconds for one in found] for side, found in played.items()}
    if OURS in played:
        record(f"{fault}: images lost, doubled or wrong", f"of {IMAGES}", spoilt.pop(OURS), spoilt, "0")
        why = f"starts of Ray, and {IMAGES * fault_step.SECONDS:.0f} s that the network sleeps"
        record(f"{fault}: from the first start to the end", "s wall", seconds.pop(OURS), seconds, why)


@contextmanager
def world(daft: str | None) -> Iterator[World]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, ExitStack() as ends:
        server = S3Server(Path(folder))
        ends.callback(server.stop)
        os.environ |= server.environment()
        bucket = server.make_bucket("maskmill")
        yield World(Path(folder), server, ends.enter_context(FaultyStore(server.url)), bucket, daft)


def tell(fault: str, side: str, seed: int, played: Played) -> None:
    struck = f", {played.struck} requests struck" if fault in STORE else ""
    print(f"{fault}, {side}, seed {seed}: {played.counts}, again {played.again}{struck}", flush=True)
    for how in played.starts:
        print(f"    {how}", flush=True)


def row(fault: str, side: str, played: list[Played]) -> list[object]:
    return [
        fault, side, len(played), joined(played, lambda one: one.counts.lost), joined(played, lambda one: one.counts.doubled),
        joined(played, lambda one: one.counts.wrong), joined(played, lambda one: one.counts.unreadable),
        joined(played, lambda one: one.again), joined(played, lambda one: len(one.starts)),
        joined(played, lambda one: "yes" if one.finished else "no"), joined(played, lambda one: round(one.seconds)),
    ]  # fmt: skip


if __name__ == "__main__":
    main()

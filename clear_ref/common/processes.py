"""The same work on several cores, one process each, one thread in each: small models gain from this what threads cannot give.

What a part computes does not depend on how many processes or threads there are: each part has one thread, for their number
changes the last bits of matrix products. Results travel as JSON.
"""

import json
import os
import signal

import torch

from .errors import RunFailed, UserError

ERRORS = {error.__name__: error for error in (UserError, RunFailed)}


def processes(device: torch.device) -> int:
    """How many processes share work on a device: on the CPU as many as torch has threads, elsewhere one."""
    return torch.get_num_threads() if device.type == "cpu" else 1


def share(compute, parts: list, n_processes: int) -> list:
    """[compute(part) for part in parts], the parts dealt out in turn to this process and n_processes - 1 forks of it, in one
    thread each, a lone part too.

    compute  returns what JSON can hold; in a fork, anything else that it changes in memory is lost
    raises   UserError or RunFailed as compute raised it, in whichever process; RunFailed if a fork dies
    """
    n_processes = max(1, min(n_processes, len(parts)))
    threads, children, results = torch.get_num_threads(), [], [None] * len(parts)
    torch.set_num_threads(1)
    try:
        for number in range(1, n_processes):
            children.append(start(compute, parts[number::n_processes]))
        results[0::n_processes] = [compute(part) for part in parts[0::n_processes]]
        for number in range(1, n_processes):
            results[number::n_processes] = collect(*children.pop(0))
    finally:
        torch.set_num_threads(threads)
        for child, pipe in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(pipe)
    return results


def start(compute, parts) -> tuple[int, int]:
    """Fork a child that computes the parts; returns its process and the pipe its answer will come through."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        return child, reader
    status = 1
    try:
        os.close(reader)
        try:
            answer = {"results": [compute(part) for part in parts]}
        except (UserError, RunFailed) as error:
            answer = {
                "error": next(name for name, kind in ERRORS.items() if isinstance(error, kind)),
                "message": str(error),
            }
        with os.fdopen(writer, "w", encoding="utf-8") as pipe:
            json.dump(answer, pipe)
        status = 0
    finally:
        os._exit(status)  # nothing of the parent's is to be cleaned up twice


def collect(child: int, pipe: int) -> list:
    """The child's results, once it has ended."""
    with os.fdopen(pipe, encoding="utf-8", closefd=False) as stream:
        text = stream.read()
    _, status = os.waitpid(child, 0)
    os.close(pipe)
    if status:
        raise RunFailed(
            f"a process that shared the work ended with status {status}; is memory short?"
        )
    answer = json.loads(text)
    if "error" in answer:
        raise ERRORS[answer["error"]](answer["message"])
    return answer["results"]

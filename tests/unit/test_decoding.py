"""Types may be read for the first time in many threads at once."""

from __future__ import annotations

import ast
import subprocess
import sys

import msgspec
import pytest

from backend.decoding import convert, read_json, read_msgpack
from tests.unit.test_layers import BACKEND, name_of, tree

# msgspec's own functions end this with SIGSEGV.
MANY_THREADS = """
import sys, threading, msgspec
from backend.decoding import convert, read_json, read_msgpack
sys.setswitchinterval(1e-6)

def new_type():
    names = {"msgspec": msgspec}
    for number in range(20):
        inner = f"list[T{number - 1}]" if number else "list[int]"
        exec(f"class T{number}(msgspec.Struct): a: {inner}; b: dict[str, {inner}]", names)
    return names["T19"]

value = []
for _ in range(20):
    value = [{"a": value, "b": {}}]
value = value[0]
packed, text = msgspec.msgpack.encode(value), msgspec.json.encode(value)
for _ in range(40):
    kind, failures, start = new_type(), [], threading.Barrier(6)
    def read(number):
        start.wait()
        try:
            (read_json, read_msgpack, convert)[number % 3]((text, packed, value)[number % 3], kind)
        except Exception as error:
            failures.append(error)
    threads = [threading.Thread(target=read, args=(number,)) for number in range(6)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert not failures, failures
"""


def test_a_new_type_is_read_in_many_threads_at_once():
    done = subprocess.run([sys.executable, "-c", MANY_THREADS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1000:]


def test_what_has_another_form_is_refused():
    with pytest.raises(msgspec.ValidationError, match="Expected `int`"):
        read_json(b'["a"]', list[int])
    with pytest.raises(msgspec.ValidationError, match="Expected `int`"):
        read_msgpack(msgspec.msgpack.encode(["a"]), list[int])
    with pytest.raises(msgspec.ValidationError, match="Expected `int`"):
        convert(["a"], list[int])


def test_a_raw_part_of_a_message_is_read():
    assert read_json(msgspec.Raw(b"[1, 2]"), list[int]) == [1, 2]
    assert read_msgpack(memoryview(msgspec.msgpack.encode([3])), list[int]) == [3]


def test_all_types_of_the_backend_are_read_there():
    def is_reading(node):
        """Whether it is `msgspec.convert`, a Decoder, or `msgspec.json.decode` into a type."""
        match node:
            case ast.Call(func=ast.Attribute(attr="decode", value=ast.Attribute(attr=form))):
                return form in {"json", "msgpack"} and bool(node.keywords)
            case ast.Attribute(attr="convert" | "Decoder", value=value):
                return "msgspec" in ast.unparse(value)
        return False

    found = {name_of(path) for path in BACKEND if any(map(is_reading, ast.walk(tree(path))))}
    assert found == {"backend/decoding.py"}

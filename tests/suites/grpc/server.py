"""A gRPC service without generated code: every message is bytes. Prints its port, and ends with standard input.

It listens on a free port of loopback, or on the ADDRESS that it is given.
"""

import sys
import threading
from concurrent import futures

import grpc

ended = []


def unary(request, context):
    asked = dict(context.invocation_metadata())
    context.send_initial_metadata((("x-asked", asked.get("x-ask", "")), ("x-raw-bin", asked.get("x-raw-bin", b""))))
    context.set_trailing_metadata((("x-last", "word"), ("x-last-bin", b"\x00\xff")))
    return request


def fail(request, context):
    context.set_trailing_metadata((("x-why", "test"),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now: 50 % of Zürich is closed")


def third_time(request, context):
    """Is available at the gateway's third try alone, and says which one it saw."""
    attempt = dict(context.invocation_metadata())["x-envoy-attempt-count"]
    if attempt != "3":
        context.abort(grpc.StatusCode.UNAVAILABLE, f"try {attempt}")
    return b""


def count(request, context):
    for number in range(int(request)):
        yield str(number).encode()


def count_and_fail(request, context):
    yield from count(request, context)
    context.abort(grpc.StatusCode.DATA_LOSS, "no more")


def add(requests, context):
    return str(sum(int(number) for number in requests)).encode()


def chat(requests, context):
    for request in requests:
        yield b"re: " + request


def wait(request, context):
    """Says that it began, then waits for the end of the call, whatever brings it."""
    over = threading.Event()
    context.add_callback(over.set)
    yield str(context.time_remaining()).encode()
    over.wait()
    ended.append(request)


def has_ended(request, context):
    return b"yes" if request in ended else b"no"


HANDLERS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "ThirdTime": grpc.unary_unary_rpc_method_handler(third_time),
    "Count": grpc.unary_stream_rpc_method_handler(count),
    "CountAndFail": grpc.unary_stream_rpc_method_handler(count_and_fail),
    "Add": grpc.stream_unary_rpc_method_handler(add),
    "Chat": grpc.stream_stream_rpc_method_handler(chat),
    "Wait": grpc.unary_stream_rpc_method_handler(wait),
    "HasEnded": grpc.unary_unary_rpc_method_handler(has_ended),
}

server = grpc.server(
    futures.ThreadPoolExecutor(max_workers=32),
    handlers=[grpc.method_handlers_generic_handler("test.Test", HANDLERS)],
    options=[("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)],
)
print(server.add_insecure_port(sys.argv[1] if sys.argv[1:] else "127.0.0.1:0"), flush=True)
server.start()
sys.stdin.read()
server.stop(grace=None)

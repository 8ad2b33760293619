"""Every kind of gRPC call through the gateway: ADDRESS [CA]. It ends with an error when an answer is not as expected.

With `status METHOD` behind the address it makes one call and prints the status it ends with.
"""

import queue
import sys
import time

import grpc

address, *more = sys.argv[1:]
unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
if more and more[0].endswith(".pem"):
    with open(more[0], "rb") as file:
        credentials = grpc.ssl_channel_credentials(file.read())
    channel = grpc.secure_channel(address, credentials, unlimited + [("grpc.ssl_target_name_override", "grpc.example")])
else:
    channel = grpc.insecure_channel(address, unlimited)

SECONDS = 30
unary = channel.unary_unary("/test.Test/Unary")
fail = channel.unary_unary("/test.Test/Fail")
count = channel.unary_stream("/test.Test/Count")
count_and_fail = channel.unary_stream("/test.Test/CountAndFail")
add = channel.stream_unary("/test.Test/Add")
chat = channel.stream_stream("/test.Test/Chat")
wait = channel.unary_stream("/test.Test/Wait")
has_ended = channel.unary_unary("/test.Test/HasEnded")


def status_of(call):
    try:
        call()
        return grpc.StatusCode.OK, ""
    except grpc.RpcError as error:
        return error.code(), error.details()


def eventually(what, condition):
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, f"not in time: {what}"
        time.sleep(0.01)


def metadata_and_trailers_pass_both_ways():
    answer, call = unary.with_call(b"hello", timeout=SECONDS, metadata=(("x-ask", "me"), ("x-raw-bin", b"\x01\xfe")))
    assert answer == b"hello"
    first, last = dict(call.initial_metadata()), dict(call.trailing_metadata())
    assert (first["x-asked"], first["x-raw-bin"]) == ("me", b"\x01\xfe"), first
    assert (last["x-last"], last["x-last-bin"]) == ("word", b"\x00\xff"), last
    assert unary(b"", timeout=SECONDS) == b""


def an_error_comes_with_its_message_and_metadata():
    try:
        fail(b"", timeout=SECONDS)
        raise AssertionError("the call must fail")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
        assert error.details() == "not now: 50 % of Zürich is closed", error
        assert ("x-why", "test") in error.trailing_metadata(), error
    assert status_of(lambda: channel.unary_unary("/test.Test/Missing")(b"", timeout=SECONDS))[0] == (
        grpc.StatusCode.UNIMPLEMENTED
    )


def a_server_streams():
    answers = [int(answer) for answer in count(b"1000", timeout=SECONDS)]
    assert answers == list(range(1000))
    got = []
    status, _ = status_of(lambda: got.extend(count_and_fail(b"3", timeout=SECONDS)))
    assert (status, len(got)) == (grpc.StatusCode.DATA_LOSS, 3), (status, got)


def a_client_streams():
    assert add((str(number).encode() for number in range(1000)), timeout=SECONDS) == b"499500"
    assert add(iter(()), timeout=SECONDS) == b"0"


def both_stream_in_turns():
    # Each message is sent only after the answer to the one before: nothing may wait for an end.
    questions = queue.Queue()
    call = chat(iter(questions.get, None), timeout=SECONDS)
    for number in range(100):
        questions.put(b"%d" % number)
        assert next(call) == b"re: %d" % number
    questions.put(None)
    assert list(call) == [] and call.code() == grpc.StatusCode.OK


def large_messages_pass():
    large = bytes(range(256)) * (6 << 12)
    assert unary(large, timeout=SECONDS) == large
    assert list(chat(iter([large, large]), timeout=SECONDS)) == [b"re: " + large] * 2


def a_deadline_reaches_the_server():
    call = wait(b"deadline", timeout=1)
    remaining = float(next(call))
    assert 0 < remaining < 2, remaining
    assert status_of(lambda: next(call))[0] == grpc.StatusCode.DEADLINE_EXCEEDED
    eventually("the call ends at the server", lambda: has_ended(b"deadline", timeout=SECONDS) == b"yes")


def a_cancellation_reaches_the_server():
    call = wait(b"cancelled", timeout=SECONDS)
    next(call)
    assert has_ended(b"cancelled", timeout=SECONDS) == b"no"
    call.cancel()
    eventually("the call ends at the server", lambda: has_ended(b"cancelled", timeout=SECONDS) == b"yes")
    # Before any answer, and with the client's stream still open.
    questions = queue.Queue()
    call = chat(iter(questions.get, None), timeout=SECONDS)
    call.cancel()
    questions.put(None)
    assert call.code() == grpc.StatusCode.CANCELLED
    # The connection lives on.
    assert unary(b"after", timeout=SECONDS) == b"after"


def many_calls_share_a_connection():
    calls = [unary.future(b"%d" % number, timeout=SECONDS) for number in range(200)]
    assert [call.result() for call in calls] == [b"%d" % number for number in range(200)]


if more[:1] == ["status"]:
    code, details = status_of(lambda: channel.unary_unary(more[1])(b"", timeout=SECONDS))
    print(code.name, details)
else:
    for test in (
        metadata_and_trailers_pass_both_ways,
        an_error_comes_with_its_message_and_metadata,
        a_server_streams,
        a_client_streams,
        both_stream_in_turns,
        large_messages_pass,
        a_deadline_reaches_the_server,
        a_cancellation_reaches_the_server,
        many_calls_share_a_connection,
    ):
        test()
        print(test.__name__, flush=True)
channel.close()

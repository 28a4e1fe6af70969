"""A gRPC server and client for tests/grpc.rs, on the real grpcio, without generated code: messages are bytes.

  grpc_interop.py serve [CERT KEY]       serves on a free port, prints it, and ends when its input does
  grpc_interop.py call ADDRESS [CA NAME] makes every kind of call and prints one JSON object: the outcome of each case

With CERT and KEY, or CA and NAME, over TLS.

The outcomes depend on the server alone, so that those through a gateway can be compared with those without one.
"""

import json
import sys
import threading
import time
from concurrent import futures

import grpc

SERVICE = "interop.Test"
LARGE = 4 * 1024 * 1024
OPTIONS = [("grpc.max_receive_message_length", 2 * LARGE), ("grpc.max_send_message_length", 2 * LARGE)]
# Nothing in a passing test takes as long.
LONGEST = 60


class Server:
    """Each method does what its name says; what was cancelled is told by `Cancelled`."""

    def __init__(self):
        self.cancelled = threading.Event()
        self.released = threading.Event()

    def unary(self, request, context):
        seen = dict(context.invocation_metadata())
        context.send_initial_metadata((("x-initial", seen.get("x-request", "")),))
        context.set_trailing_metadata(
            (("x-trailing", "after"), ("x-trailing-bin", seen.get("x-request-bin", b"")))
        )
        return request

    def large(self, request, _context):
        return b"l" * LARGE if request == b"send" else str(len(request)).encode()

    def failing(self, request, context):
        code, message = request.split(b" ", 1)
        context.set_trailing_metadata((("grpc-status-details-bin", b"\x08\x05\x00\xff details"),))
        context.abort(list(grpc.StatusCode)[int(code)], message.decode())

    def server_streaming(self, request, _context):
        for number in range(int(request)):
            yield b"%d" % number

    def failing_stream(self, request, context):
        for number in range(int(request)):
            yield b"%d" % number
        context.abort(grpc.StatusCode.DATA_LOSS, "the rest is lost")

    def held_stream(self, _request, _context):
        """The second message comes after `Release`, and only then."""
        yield b"first"
        released = self.released.wait(LONGEST)
        self.released.clear()
        yield b"released" if released else b"never released"

    def release(self, _request, _context):
        self.released.set()
        return b""

    def client_streaming(self, requests, _context):
        count = size = 0
        for request in requests:
            count, size = count + 1, size + len(request)
        return b"%d %d" % (count, size)

    def early_answer(self, _requests, context):
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now")

    def bidirectional(self, requests, _context):
        yield from requests

    def sleeping(self, _request, context):
        context.add_callback(self.cancelled.set)
        remaining = context.time_remaining()
        # A call without a deadline has one that is years away.
        bounded = remaining is not None and remaining < LONGEST
        while context.is_active():
            time.sleep(0.01)
        return b"bounded" if bounded else b""

    def deadline(self, _request, context):
        remaining = context.time_remaining()
        return b"none" if remaining is None or remaining > 10 * LONGEST else b"within %d" % LONGEST

    def cancelled_since(self, _request, _context):
        seen = self.cancelled.wait(LONGEST)
        self.cancelled.clear()
        return b"cancelled" if seen else b"not cancelled"


def content(path):
    with open(path, "rb") as file:
        return file.read()


def serve(*pair):
    service = Server()
    unary, stream = grpc.unary_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler
    handlers = {
        "Unary": unary(service.unary),
        "Large": unary(service.large),
        "Failing": unary(service.failing),
        "Sleeping": unary(service.sleeping),
        "Deadline": unary(service.deadline),
        "Cancelled": unary(service.cancelled_since),
        "ServerStreaming": grpc.unary_stream_rpc_method_handler(service.server_streaming),
        "HeldStream": grpc.unary_stream_rpc_method_handler(service.held_stream),
        "Release": unary(service.release),
        "FailingStream": grpc.unary_stream_rpc_method_handler(service.failing_stream),
        "ClientStreaming": grpc.stream_unary_rpc_method_handler(service.client_streaming),
        "EarlyAnswer": grpc.stream_unary_rpc_method_handler(service.early_answer),
        "Bidirectional": stream(service.bidirectional),
    }
    server = grpc.server(futures.ThreadPoolExecutor(128), options=OPTIONS)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    if pair:
        cert, key = (content(path) for path in pair)
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, cert)]))
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    server.stop(None)


def outcome(call):
    """What became of a call, as far as the server decides it."""
    try:
        return {"ok": call()}
    except grpc.RpcError as error:
        details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
        return {
            "code": error.code().name,
            "message": error.details(),
            "details": details.hex() if details else None,
        }


def without_message(result):
    """For failures that the client itself words, or that either end may notice first."""
    return {key: value for key, value in result.items() if key == "code"} or result


class Client:
    def __init__(self, channel):
        self.channel = channel

    def path(self, method, service=SERVICE):
        return f"/{service}/{method}"

    def unary(self, method, request, **options):
        options.setdefault("timeout", LONGEST)
        return self.channel.unary_unary(self.path(method))(request, **options)

    def unary_with_metadata(self):
        metadata = (("x-request", "hello"), ("x-request-bin", b"\x00\x01\xfe\xff"))
        call = self.channel.unary_unary(self.path("Unary")).with_call
        answer, call = call(b"message", timeout=LONGEST, metadata=metadata)
        initial, trailing = dict(call.initial_metadata()), dict(call.trailing_metadata())
        return [
            answer.decode(),
            initial["x-initial"],
            trailing["x-trailing"],
            trailing["x-trailing-bin"].hex(),
            call.code().name,
        ]

    def empty(self):
        return self.unary("Unary", b"").decode()

    def large_request(self):
        return self.unary("Large", b"r" * LARGE).decode()

    def large_response(self):
        return len(self.unary("Large", b"send"))

    def server_streaming(self):
        stream = self.channel.unary_stream(self.path("ServerStreaming"))(b"10000", timeout=LONGEST)
        return [int(message) for message in stream] == list(range(10000))

    def client_streaming(self):
        stream = self.channel.stream_unary(self.path("ClientStreaming"))
        return stream((b"m%d" % number for number in range(10000)), timeout=LONGEST).decode()

    def bidirectional(self):
        stream = self.channel.stream_stream(self.path("Bidirectional"))
        answers = stream((b"%d" % number for number in range(10000)), timeout=LONGEST)
        return [int(message) for message in answers] == list(range(10000))

    def ping_pong(self):
        """Each message only after the answer to the one before."""
        turn = threading.Semaphore(1)

        def requests():
            for number in range(100):
                turn.acquire()
                yield b"%d" % number

        count = 0
        for _ in self.channel.stream_stream(self.path("Bidirectional"))(requests(), timeout=LONGEST):
            count += 1
            turn.release()
        return count

    def empty_stream(self):
        return list(self.channel.stream_stream(self.path("Bidirectional"))(iter(()), timeout=LONGEST))

    def failing_stream(self):
        received = []
        try:
            for message in self.channel.unary_stream(self.path("FailingStream"))(b"3", timeout=LONGEST):
                received.append(int(message))
        except grpc.RpcError as error:
            return [received, error.code().name, error.details()]
        return received

    def early_answer(self):
        """The server answers while the client is still to send."""
        done = threading.Event()

        def requests():
            yield b"first"
            done.wait(LONGEST)

        try:
            return self.channel.stream_unary(self.path("EarlyAnswer"))(requests(), timeout=LONGEST).decode()
        finally:
            done.set()

    def early_answer_to_many(self):
        stream = self.channel.stream_unary(self.path("EarlyAnswer"))
        return stream((b"x" * 1000 for _ in range(1000)), timeout=LONGEST).decode()

    def cancellation(self):
        """The server hears of it."""
        call = self.channel.unary_unary(self.path("Sleeping")).future(b"", timeout=LONGEST)
        # It has arrived once another that was sent later was answered.
        self.unary("Unary", b"")
        time.sleep(0.2)
        call.cancel()
        return self.unary("Cancelled", b"").decode()

    def server_hears_of_deadline(self):
        result = without_message(outcome(lambda: self.unary("Sleeping", b"", timeout=0.3).decode()))
        return [result, self.unary("Cancelled", b"").decode()]

    def unimplemented_stream(self):
        stream = self.channel.stream_stream(self.path("Nothing"))
        return len(list(stream((b"x" * 1000 for _ in range(100)), timeout=LONGEST)))

    def concurrent(self):
        method = self.channel.unary_unary(self.path("Unary"))
        calls = [method.future(b"%d" % number, timeout=LONGEST) for number in range(100)]
        return [int(call.result()) for call in calls] == list(range(100))


def channel_to(address, ca=None, name=None):
    if ca is None:
        return grpc.insecure_channel(address, options=OPTIONS)
    named = [*OPTIONS, ("grpc.ssl_target_name_override", name)]
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(content(ca)), options=named)


def call(*server):
    with channel_to(*server) as channel:
        client = Client(channel)
        results = {
            name: outcome(getattr(client, name))
            for name in (
                "unary_with_metadata",
                "empty",
                "large_request",
                "large_response",
                "server_streaming",
                "client_streaming",
                "bidirectional",
                "ping_pong",
                "empty_stream",
                "failing_stream",
                "early_answer",
                "early_answer_to_many",
                "cancellation",
                "server_hears_of_deadline",
                "unimplemented_stream",
                "concurrent",
            )
        }
        results["statuses"] = [
            outcome(lambda: client.unary("Failing", b"%d why: \xe2\x82\xac 100%%\n" % number).decode())
            for number in range(1, 17)
        ]
        results["deadline"] = outcome(lambda: client.unary("Deadline", b"").decode())
        results["no_deadline"] = outcome(lambda: client.unary("Deadline", b"", timeout=None).decode())
        results["unimplemented_method"] = outcome(lambda: client.unary("Nothing", b"x").decode())
        other = channel.unary_unary(client.path("Unary", "interop.Nobody"))
        results["unimplemented_service"] = outcome(lambda: other(b"x", timeout=LONGEST).decode())
    print(json.dumps(results))


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"] and len(sys.argv) in (2, 4):
        serve(*sys.argv[2:])
    elif sys.argv[1:2] == ["call"] and len(sys.argv) in (3, 5):
        call(*sys.argv[2:])
    else:
        sys.exit(__doc__)
